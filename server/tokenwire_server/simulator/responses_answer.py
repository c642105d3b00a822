"""The answers of OpenAI Responses, whole and streamed. `responses` has the sources.

    response.created, response.in_progress         the response, empty
    response.output_item.added                     a reasoning item, a message or a function call
      response.reasoning_summary_part.added / _text.delta / _text.done / _part.done
      response.content_part.added, response.output_text.delta / .done (or response.refusal.*),
      response.content_part.done
      response.function_call_arguments.delta / .done
    response.output_item.done
    response.completed | response.incomplete | response.failed

Every event has a `sequence_number` from 0. There is no `[DONE]`; the last event is the end. Items may be
interleaved; `output_index` identifies the item.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from .answer import SIGNATURE, Answer, ToolCall
from .citations import responses_annotations
from .logprobs import token_logprob, top_count
from .responses_state import encrypted_content, phase, reasoning_id
from .usage import responses_usage
from .wire import NUMBER, TEXT, ProviderRequest, named_event, template
from .words import escape

ID_PREFIX = "resp_"
LOGPROBS = "message.output_text.logprobs"
"""The element of `include` that requests log probabilities."""
STOP_REASONS: Mapping[str, str] = {
    "stop": "completed",
    "length": "max_output_tokens",
    "tool_calls": "completed",
    "content_filter": "content_filter",
    "refusal": "completed",
}
"""`completed`, or the reason of an incomplete response."""
CITATIONS = frozenset({"url", "document"})


def whole(answer: Answer, request: ProviderRequest) -> dict[str, Any]:
    items = ResponseStream(answer, request).finished_items()
    return _finished(answer, request, items)


def stream(answer: Answer, request: ProviderRequest) -> ResponseStream:
    return ResponseStream(answer, request)


class ResponseStream:
    """The events of one answer."""

    def __init__(self, answer: Answer, request: ProviderRequest) -> None:
        self._answer = answer
        self._request = request
        self._sequence = 0
        self._pending = b""
        """Events that are sent with the next token, or with the end."""
        suffix = answer.id.removeprefix(ID_PREFIX)
        has_message = bool(answer.text or answer.refusal)
        is_asked = LOGPROBS in (request.body.get("include") or [])
        self._has_logprobs = is_asked and not answer.is_endless
        seals = answer.seals
        self._reasoning_id = f"rs_{suffix}" if seals is None else reasoning_id(seals)
        self._encrypted = SIGNATURE if seals is None else encrypted_content(seals)
        self._phase: str = answer.scenario.phase
        if seals is not None:
            self._phase = phase(calls_tools=bool(answer.tool_calls))
        self._message_id = f"msg_{suffix}"
        self._message_index = 1 if answer.reasoning else 0
        self._first_call_index = self._message_index + has_message

    def opening(self) -> bytes:
        response = _response(self._answer, self._request)
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    def deltas(self) -> Iterator[bytes]:
        if self._answer.reasoning:
            yield from self._reasoning()
        if self._answer.text or self._answer.refusal:
            yield from self._message()
        if self._answer.tool_calls:
            yield from self._calls()

    def closing(self) -> bytes:
        response = _finished(self._answer, self._request, self.finished_items())
        return self._pending + self._event(f"response.{response['status']}", response=response)

    def ping(self) -> bytes:
        return b": ping\n\n"

    def unknown(self) -> bytes:
        return self._event("response.simulated_note", nested={"output_index": 7})

    def error(self) -> bytes:
        words = self._answer.failure
        failure = {
            "code": words.code or "server_error",
            "message": words.message or "The simulated server had an error.",
        }
        if self._answer.scenario.error_event == "error":
            return self._event("error", **failure, param=None)
        failed = {"status": "failed", "error": failure}
        response = _response(self._answer, self._request) | failed
        return self._event("response.failed", response=response)

    def finished_items(self) -> list[dict[str, Any]]:
        """Return the complete items of the output."""
        answer = self._answer
        items = []
        if answer.reasoning:
            items.append(self._reasoning_item("".join(answer.reasoning)))
        if answer.text or answer.refusal:
            items.append(self._message_item([self._part()]))
        items += [_call_item(call, call.arguments, "completed") for call in answer.tool_calls]
        return items

    def _reasoning(self) -> Iterator[bytes]:
        place = {"item_id": self._reasoning_id, "output_index": 0}
        empty = {"id": self._reasoning_id, "type": "reasoning", "summary": []}
        self._pend("response.output_item.added", output_index=0, item=empty)
        place_of_part = place | {"summary_index": 0}
        part = {"type": "summary_text", "text": ""}
        self._pend("response.reasoning_summary_part.added", **place_of_part, part=part)
        tokens = self._answer.escaped_reasoning()
        yield from self._tokens("response.reasoning_summary_text.delta", place_of_part, tokens)
        text = "".join(self._answer.reasoning)
        self._pend("response.reasoning_summary_text.done", **place_of_part, text=text)
        part = {"type": "summary_text", "text": text}
        self._pend("response.reasoning_summary_part.done", **place_of_part, part=part)
        item = self._reasoning_item(text)
        self._pend("response.output_item.done", output_index=0, item=item)

    def _message(self) -> Iterator[bytes]:
        answer = self._answer
        index = self._message_index
        place = {"item_id": self._message_id, "output_index": index, "content_index": 0}
        item = self._message_item([], status="in_progress")
        self._pend("response.output_item.added", output_index=index, item=item)
        empty = _refusal_part("") if answer.refusal else _text_part("", [], [])
        self._pend("response.content_part.added", **place, part=empty)
        if answer.refusal:
            yield from self._tokens("response.refusal.delta", place, map(escape, answer.refusal))
            self._pend("response.refusal.done", **place, refusal="".join(answer.refusal))
        else:
            if self._has_logprobs:
                yield from self._with_logprobs(place)
            else:
                tokens = answer.escaped_text()
                kind = "response.output_text.delta"
                yield from self._tokens(kind, place, tokens, logprobs=[])
            for ordinal, annotation in enumerate(responses_annotations(answer)):
                self._pend(
                    "response.output_text.annotation.added",
                    **place,
                    annotation_index=ordinal,
                    annotation=annotation,
                )
            text = "".join(answer.text)
            logprobs = self._logprobs()
            self._pend("response.output_text.done", **place, text=text, logprobs=logprobs)
        self._pend("response.content_part.done", **place, part=self._part())
        item = self._message_item([self._part()])
        self._pend("response.output_item.done", output_index=index, item=item)

    def _calls(self) -> Iterator[bytes]:
        answer = self._answer
        for round_, (ordinal, fragment) in enumerate(answer.interleaved_fragments()):
            call = answer.tool_calls[ordinal]
            index = self._first_call_index + ordinal
            if round_ < len(answer.tool_calls):
                item = _call_item(call, "", "in_progress")
                self._pend("response.output_item.added", output_index=index, item=item)
            place = {"item_id": _call_item_id(call), "output_index": index}
            yield from self._tokens(
                "response.function_call_arguments.delta", place, iter([escape(fragment)])
            )
        for ordinal, call in enumerate(answer.tool_calls):
            index = self._first_call_index + ordinal
            self._pend(
                "response.function_call_arguments.done",
                item_id=_call_item_id(call),
                output_index=index,
                name=call.name,
                arguments=call.arguments,
            )
            item = _call_item(call, call.arguments, "completed")
            self._pend("response.output_item.done", output_index=index, item=item)

    def _with_logprobs(self, place: dict[str, Any]) -> Iterator[bytes]:
        for token, logprobs in zip(self._answer.text, self._logprobs(), strict=True):
            self._pend("response.output_text.delta", **place, delta=token, logprobs=[logprobs])
            event, self._pending = self._pending, b""
            yield event

    def _logprobs(self) -> list[dict[str, Any]]:
        """Return the log probabilities of the text, if the request asks for them."""
        if not self._has_logprobs:
            return []
        top = top_count(self._request.body.get("top_logprobs"))
        return [token_logprob(token, i, top) for i, token in enumerate(self._answer.text)]

    def _tokens(
        self, kind: str, place: dict[str, Any], tokens: Iterator[bytes], **extra: Any
    ) -> Iterator[bytes]:
        payload = {"type": kind, "sequence_number": NUMBER, **place, "delta": TEXT, **extra}
        before, middle, after = template(payload, name=kind)
        for token in tokens:
            structure, self._pending = self._pending, b""
            sequence, self._sequence = self._sequence, self._sequence + 1
            yield b"%b%b%d%b%b%b" % (structure, before, sequence, middle, token, after)

    def _event(self, kind: str, **fields: Any) -> bytes:
        event = named_event(kind, {"type": kind, "sequence_number": self._sequence, **fields})
        self._sequence += 1
        return event

    def _pend(self, kind: str, **fields: Any) -> None:
        self._pending += self._event(kind, **fields)

    def _part(self) -> dict[str, Any]:
        if self._answer.refusal:
            return _refusal_part("".join(self._answer.refusal))
        annotations = responses_annotations(self._answer)
        return _text_part("".join(self._answer.text), annotations, self._logprobs())

    def _reasoning_item(self, text: str) -> dict[str, Any]:
        return {
            "id": self._reasoning_id,
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": text}],
            "encrypted_content": self._encrypted,
        }

    def _message_item(self, content: list[dict[str, Any]], status: str = "") -> dict[str, Any]:
        end = "completed" if _incomplete_reason(self._answer) is None else "incomplete"
        item = {
            "id": self._message_id,
            "type": "message",
            "status": status or end,
            "role": "assistant",
            "content": content,
        }
        return {**item, "phase": self._phase} if self._phase else item


def _text_part(
    text: str, annotations: list[dict[str, Any]], logprobs: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "type": "output_text",
        "text": text,
        "annotations": annotations,
        "logprobs": logprobs,
    }


def _refusal_part(text: str) -> dict[str, Any]:
    return {"type": "refusal", "refusal": text}


def _call_item_id(call: ToolCall) -> str:
    return "fc_" + str(call.id).removeprefix("call_")


def _call_item(call: ToolCall, arguments: str, status: str) -> dict[str, Any]:
    return {
        "id": _call_item_id(call),
        "type": "function_call",
        "status": status,
        "call_id": call.id,
        "name": call.name,
        "arguments": arguments,
    }


def _incomplete_reason(answer: Answer) -> str | None:
    """Return why the model did not complete the answer, or None if it did."""
    word = answer.scenario.finish_reason or STOP_REASONS[answer.stop_reason]
    return None if word == "completed" else word


def _finished(
    answer: Answer, request: ProviderRequest, items: list[dict[str, Any]]
) -> dict[str, Any]:
    reason = _incomplete_reason(answer)
    is_complete = reason is None
    return _response(answer, request) | {
        "status": "completed" if is_complete else "incomplete",
        "completed_at": int(time.time()) if is_complete else None,
        "incomplete_details": None if is_complete else {"reason": reason},
        "output": items,
        "usage": responses_usage(answer),
    }


def _response(answer: Answer, request: ProviderRequest) -> dict[str, Any]:
    """Return the response before its first item. Fields that the request does not set have their defaults."""
    body = request.body
    echoed: dict[str, Any] = {
        "background": False,
        "instructions": None,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": True,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 1.0,
        "truncation": "disabled",
        "user": None,
    }
    given = {name: body[name] for name in echoed if body.get(name) is not None}
    return {
        "id": answer.id,
        "object": "response",
        "created_at": answer.created,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "model": request.model,
        "output": [],
        "service_tier": answer.scenario.service_tier or "default",
        "usage": None,
        **echoed,
        **given,
    }
