"""The answers of Anthropic Messages, whole and streamed. `messages` has the sources.

    event: message_start        the message, empty; its output_tokens is a placeholder
    event: content_block_start  one block after the other, never interleaved
    event: content_block_delta  text_delta, thinking_delta, signature_delta (once, last of its
                                block) or input_json_delta
    event: content_block_stop
    event: message_delta        stop_reason, and the final usage
    event: message_stop

`ping` may occur anywhere. An error after the start is `event: error`, under HTTP 200. `input_tokens` excludes
tokens read from or written to the cache.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from .answer import SIGNATURE, Answer
from .citations import messages_citations
from .errors import anthropic_error
from .messages_state import redacted_data, signature, tool_id
from .scenario import ScenarioError
from .usage import messages_terms, messages_usage
from .wire import TEXT, ProviderRequest, named_event, template
from .words import escape

STOP_REASONS: Mapping[str, str] = {
    "stop": "end_turn",
    "stop_sequence": "stop_sequence",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "refusal": "refusal",
    "pause": "pause_turn",
}
CITATIONS = frozenset({"url", "document", "search_result"})


def whole(answer: Answer, request: ProviderRequest) -> dict[str, Any]:
    """Return a whole message. Raises ScenarioError if a tool's arguments are invalid: a message cannot
    contain them.
    """
    content: list[dict[str, Any]] = []
    if answer.reasoning:
        thinking = "".join(answer.reasoning)
        content.append(
            {"type": "thinking", "thinking": thinking, "signature": _signature(answer, thinking)}
        )
    if answer.seals is not None and answer.reasoning:
        content.append({"type": "redacted_thinking", "data": redacted_data(answer.seals)})
    if answer.text or answer.refusal:
        said = answer.text or answer.refusal
        if answer.scenario.fallback_model:
            declined = "".join(said[: answer.scenario.fallback_after])
            content.append({"type": "text", "text": declined, "citations": None})
            content.append(_fallback(answer, request))
            said = said[answer.scenario.fallback_after :]
        text = "".join(said)
        citations = messages_citations(answer) or None
        content.append({"type": "text", "text": text, "citations": citations})
    for call in answer.tool_calls:
        try:
            msgspec.json.decode(call.arguments, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise ScenarioError("scenario: invalid `arguments` require a streamed answer") from None
        # Raw, because decoding would change large numbers.
        arguments = msgspec.Raw(call.arguments.encode())
        content.append(
            {"type": "tool_use", "id": tool_id(call.id), "name": call.name, "input": arguments}
        )
    return _message(answer, request) | {"content": content} | _stop(answer)


def stream(answer: Answer, request: ProviderRequest) -> MessageStream:
    return MessageStream(answer, request)


class MessageStream:
    """The events of one answer."""

    def __init__(self, answer: Answer, request: ProviderRequest) -> None:
        self._answer = answer
        self._request = request
        self._index = 0
        self._pending = b""
        """Events that are sent with the next token, or with the end."""

    def opening(self) -> bytes:
        message = _message(self._answer, self._request)
        if self._answer.usage is not None:
            message["usage"] |= {"output_tokens": 1, "server_tool_use": None}
            message["usage"].pop("iterations", None)
        return named_event("message_start", {"type": "message_start", "message": message})

    def deltas(self) -> Iterator[bytes]:
        answer = self._answer
        if answer.reasoning:
            block = {"type": "thinking", "thinking": "", "signature": ""}
            delta = {"type": "thinking_delta", "thinking": TEXT}
            yield from self._block(block, delta, answer.escaped_reasoning())
            signed = _signature(answer, "".join(answer.reasoning))
            self._stop_block(self._delta_event({"type": "signature_delta", "signature": signed}))
        if answer.seals is not None and answer.reasoning:
            block = {"type": "redacted_thinking", "data": redacted_data(answer.seals)}
            self._pending += self._start_event(block)
            self._stop_block()
        if answer.text or answer.refusal:
            said = answer.escaped_text() if answer.text else map(escape, answer.refusal)
            yield from self._text(said)
        for call in answer.tool_calls:
            self._pending += self._start_event(
                {"type": "tool_use", "id": tool_id(call.id), "name": call.name, "input": {}}
            )
            # The provider begins with an empty fragment.
            self._pending += self._delta_event({"type": "input_json_delta", "partial_json": ""})
            delta = {"type": "input_json_delta", "partial_json": TEXT}
            yield from self._tokens(delta, map(escape, call.fragments))
            self._stop_block()

    def closing(self) -> bytes:
        stop = _stop(self._answer)
        delta: dict[str, Any] = {"type": "message_delta", "delta": stop}
        if self._answer.usage is not None:
            delta["usage"] = messages_usage(self._answer, self._request.model)
        end = self._pending + named_event("message_delta", delta)
        if self._answer.scenario.end_marker:
            end += named_event("message_stop", {"type": "message_stop"})
        return end

    def ping(self) -> bytes:
        return named_event("ping", {"type": "ping"})

    def unknown(self) -> bytes:
        return named_event("simulated_note", {"type": "simulated_note", "nested": {"index": 7}})

    def error(self) -> bytes:
        return named_event(
            "error", anthropic_error(529, "Overloaded", failure=self._answer.failure)
        )

    def _text(self, tokens: Iterator[bytes]) -> Iterator[bytes]:
        scenario = self._answer.scenario
        block = {"type": "text", "text": ""}
        delta = {"type": "text_delta", "text": TEXT}
        if scenario.fallback_model:
            yield from self._block(block, delta, itertools.islice(tokens, scenario.fallback_after))
            self._stop_block()
            self._pending += self._start_event(_fallback(self._answer, self._request))
            self._stop_block()
        yield from self._block(block, delta, tokens)
        cited = [
            self._delta_event({"type": "citations_delta", "citation": citation})
            for citation in messages_citations(self._answer)
        ]
        self._stop_block(b"".join(cited))

    def _block(
        self, block: dict[str, Any], delta: dict[str, str], tokens: Iterator[bytes]
    ) -> Iterator[bytes]:
        self._pending += self._start_event(block)
        return self._tokens(delta, tokens)

    def _tokens(self, delta: dict[str, str], tokens: Iterator[bytes]) -> Iterator[bytes]:
        before, after = template(self._delta(delta), name="content_block_delta")
        for token in tokens:
            structure, self._pending = self._pending, b""
            yield structure + before + token + after

    def _start_event(self, block: dict[str, Any]) -> bytes:
        event = {"type": "content_block_start", "index": self._index, "content_block": block}
        return named_event("content_block_start", event)

    def _delta(self, delta: dict[str, Any]) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": self._index, "delta": delta}

    def _delta_event(self, delta: dict[str, Any]) -> bytes:
        return named_event("content_block_delta", self._delta(delta))

    def _stop_block(self, last: bytes = b"") -> None:
        stop = {"type": "content_block_stop", "index": self._index}
        self._pending += last + named_event("content_block_stop", stop)
        self._index += 1


def _message(answer: Answer, request: ProviderRequest) -> dict[str, Any]:
    message: dict[str, Any] = {
        "id": answer.id,
        "type": "message",
        "role": "assistant",
        "model": request.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "stop_details": None,
    }
    usage = messages_usage(answer, request.model)
    if usage is not None:
        message["usage"] = usage | messages_terms(answer)
    return message


def _signature(answer: Answer, thinking: str) -> str:
    return SIGNATURE if answer.seals is None else signature(answer.seals, thinking)


def _fallback(answer: Answer, request: ProviderRequest) -> dict[str, Any]:
    """`anthropic.types.beta.BetaFallbackBlock`"""
    scenario = answer.scenario
    return {
        "type": "fallback",
        "from": {"model": request.model},
        "to": {"model": scenario.fallback_model},
        "trigger": {"type": "refusal", "category": scenario.refusal_category or None},
    }


def _stop(answer: Answer) -> dict[str, Any]:
    scenario = answer.scenario
    reason = scenario.finish_reason or STOP_REASONS[answer.stop_reason]
    refusal = {
        "type": "refusal",
        "category": scenario.refusal_category or None,
        "explanation": scenario.refusal_explanation or None,
    }
    return {
        "stop_reason": reason,
        "stop_sequence": answer.stop_sequence if reason == "stop_sequence" else None,
        "stop_details": refusal if reason == "refusal" else None,
    }
