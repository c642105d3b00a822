"""The answers of OpenAI Chat Completions, whole and streamed. `chat_completions` has the sources.

    data: {..., "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, ...}]}
    data: {..., "choices": [{"index": 0, "delta": {"content": "Hello"}, "finish_reason": null}]}
    data: {..., "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    data: {..., "choices": [], "usage": {...}}        only with stream_options.include_usage
    data: [DONE]

All chunks of an answer have the same id, time and model. Events have no name. Reasoning is an addition of
compatible servers, each with its own shape; OpenAI only counts it. With
`stream_options.continuous_usage_stats` (vLLM) every chunk has the usage so far.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .answer import Answer
from .chat_completions_state import (
    after_reasoning,
    of_call,
    of_message,
    of_reasoning,
    of_text,
)
from .citations import chat_annotations, chat_references
from .errors import openai_error
from .logprobs import token_logprob, top_count
from .usage import chat_usage
from .wire import NUMBER, TEXT, ProviderRequest, data_event, template
from .words import escape

STOP_REASONS: Mapping[str, str] = {
    "stop": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "refusal": "stop",  # identified by `refusal` in place of `content`
}
CITATIONS = frozenset({"url", "reference"})

_THINK = ("<think>\n", "\n</think>\n\n")


def whole(answer: Answer, request: ProviderRequest) -> dict[str, Any]:
    """https://platform.openai.com/docs/api-reference/chat/object"""
    message: dict[str, Any] = {
        "role": "assistant",
        "content": _content(answer),
        "refusal": "".join(answer.refusal) if answer.refusal else None,
        "annotations": chat_annotations(answer),
    }
    field = answer.scenario.reasoning_field
    if answer.seals is not None:
        message |= of_message(answer) | of_text(answer)
    elif answer.reasoning and field not in ("think", "thinking"):
        message |= _reasoning(field, "".join(answer.reasoning))
    if answer.tool_calls:
        message["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
                **of_call(answer, ordinal, call),
            }
            for ordinal, call in enumerate(answer.tool_calls)
        ]
    tokens = None
    if request.body.get("logprobs"):
        top = top_count(request.body.get("top_logprobs"))
        tokens = [token_logprob(token, i, top) for i, token in enumerate(answer.text)]
    payload: dict[str, Any] = {
        "id": answer.id,
        "object": "chat.completion",
        "created": answer.created,
        "model": request.model,
        "choices": [
            {
                "index": 0,
                "message": message,
                "logprobs": None if tokens is None else {"content": tokens, "refusal": None},
                **_ending(answer),
            }
        ],
        "service_tier": answer.scenario.service_tier or "default",
        "system_fingerprint": "fp_simulator",
    }
    usage = chat_usage(answer)
    if usage is not None:
        owner = payload["choices"][0] if answer.scenario.usage_place == "choice" else payload
        owner["usage"] = usage
    return payload


def stream(answer: Answer, request: ProviderRequest) -> ChatCompletionStream:
    return ChatCompletionStream(answer, request)


class ChatCompletionStream:
    """The chunks of one answer."""

    def __init__(self, answer: Answer, request: ProviderRequest) -> None:
        options = request.body.get("stream_options") or {}
        self._answer = answer
        self._body = request.body
        self._model = request.model
        place = answer.scenario.usage_place
        is_reported = place != "alone" or bool(options.get("include_usage"))
        self._usage = chat_usage(answer) if is_reported else None
        self._given = 0 if self._usage is None else self._usage["prompt_tokens"]
        self._has_null_usage = self._usage is not None and place == "alone"
        self._is_continuous = self._has_null_usage and bool(options.get("continuous_usage_stats"))
        self._sent = 0

    def opening(self) -> bytes:
        nothing = {"refusal": None} if not self._answer.refusal else {"refusal": ""}
        content = None if self._answer.refusal or not self._answer.text else ""
        chunk = self._chunk({"role": "assistant", "content": content, **nothing}, **self._so_far())
        count = self._answer.scenario.prompt_progress
        progress = (data_event(chunk | _progress(i, count)) for i in range(1, count + 1))
        return b"".join(progress) or data_event(chunk)

    def deltas(self) -> Iterator[bytes]:
        answer = self._answer
        if answer.reasoning:
            yield from self._reasoned()
        if self._body.get("logprobs") and not answer.is_endless:
            yield from self._with_logprobs()
        else:
            texts = self._texts(answer.escaped_text(), escape(self._content_before_text()))
            yield from self._strings({"content": TEXT}, texts)
        yield from self._strings({"refusal": TEXT}, map(escape, answer.refusal))
        begun = b""
        for round_, (ordinal, fragment) in enumerate(self._fragments()):
            if round_ < len(answer.tool_calls):
                begun = self._call_event(_beginning(ordinal, answer))
            self._sent += 1
            call = {"index": ordinal, "function": {"arguments": fragment}}
            yield begun + self._call_event(call)
            begun = b""

    def closing(self) -> bytes:
        end = b""
        if annotations := chat_annotations(self._answer):
            end += data_event(self._chunk({"annotations": annotations}))
        if references := chat_references(self._answer):
            end += data_event(self._chunk({"content": references}))
        if signature := of_text(self._answer):
            end += data_event(self._chunk({"role": "assistant", **signature}))
        chunk = self._chunk({}, **self._so_far())
        chunk["choices"][0] |= _ending(self._answer)
        match self._answer.scenario.usage_place:
            case "choice" if self._usage is not None:
                chunk["choices"][0]["usage"] = self._usage
            case "finish" if self._usage is not None:
                chunk["usage"] = self._usage
        if self._answer.scenario.prompt_progress:
            chunk |= {"timings": _timings(self._answer.scenario.prompt_progress)}
        end += data_event(chunk)
        if self._has_null_usage:
            end += data_event(self._envelope() | {"choices": [], "usage": self._usage})
        return end + b"data: [DONE]\n\n" if self._answer.scenario.end_marker else end

    def ping(self) -> bytes:
        return b": ping\n\n"

    def unknown(self) -> bytes:
        # Azure sends an empty `choices` in mid-stream to report its content filter.
        return data_event(
            self._envelope() | {"choices": [], "prompt_filter_results": []}
        ) + data_event(self._chunk({"simulated_field": {"nested": [1, 2]}}))

    def error(self) -> bytes:
        message = "The simulated server had an error."
        return data_event(openai_error(500, message, failure=self._answer.failure))

    def _reasoned(self) -> Iterator[bytes]:
        tokens: Iterable[bytes] = self._answer.escaped_reasoning()
        field = self._answer.scenario.reasoning_field
        if field == "think":
            tokens = itertools.chain([escape(_THINK[0])], tokens, [escape(_THINK[1])])
        tokens = self._texts(tokens)
        if self._answer.seals is None:
            yield from self._strings(_reasoning(field, TEXT), tokens)
            return
        parts = template(self._chunk(of_reasoning(self._answer.scenario.state, TEXT)))
        for token in tokens:
            yield token.join(parts)
        for delta in after_reasoning(self._answer):
            yield data_event(self._chunk(delta))

    def _texts(self, tokens: Iterable[bytes], before: bytes = b"") -> Iterable[bytes]:
        """Return the text of each delta. With `cumulative`, it repeats `before` and all earlier tokens."""
        if not self._answer.scenario.cumulative:
            return tokens
        return itertools.islice(itertools.accumulate(tokens, initial=before), 1, None)

    def _content_before_text(self) -> str:
        is_tagged = self._answer.reasoning and self._answer.scenario.reasoning_field == "think"
        return "".join(self._answer.reasoning).join(_THINK) if is_tagged else ""

    def _fragments(self) -> Iterator[tuple[int, str]]:
        """Yield the fragments of all calls, each with the ordinal of its call."""
        sent = [""] * len(self._answer.tool_calls)
        for ordinal, fragment in self._answer.interleaved_fragments():
            if self._answer.scenario.cumulative:
                sent[ordinal] += fragment
                yield ordinal, sent[ordinal]
            else:
                yield ordinal, fragment

    def _with_logprobs(self) -> Iterator[bytes]:
        top = top_count(self._body.get("top_logprobs"))
        so_far = self._content_before_text()
        for position, token in enumerate(self._answer.text):
            self._sent += 1
            so_far += token
            content = so_far if self._answer.scenario.cumulative else token
            chunk = self._chunk({"content": content}, **self._so_far())
            tokens = [token_logprob(token, position, top)]
            chunk["choices"][0]["logprobs"] = {"content": tokens, "refusal": None}
            yield data_event(chunk)

    def _strings(self, delta: dict[str, Any], tokens: Iterable[bytes]) -> Iterator[bytes]:
        if self._is_continuous:
            given = self._given
            numbers = {"completion_tokens": NUMBER, "total_tokens": NUMBER}
            before, middle, total, after = template(
                self._chunk(delta, usage={"prompt_tokens": given, **numbers})
            )
            for token in tokens:
                self._sent += 1
                sent = self._sent
                yield b"%b%b%b%d%b%d%b" % (
                    before, token, middle, sent, total, given + sent, after,
                )  # fmt: skip
            return
        before, after = template(self._chunk(delta))
        for token in tokens:
            yield before + token + after

    def _call_event(self, call: dict[str, Any]) -> bytes:
        return data_event(self._chunk({"tool_calls": [call]}, **self._so_far()))

    def _so_far(self) -> dict[str, Any]:
        if not self._is_continuous:
            return {}
        return {
            "usage": {
                "prompt_tokens": self._given,
                "completion_tokens": self._sent,
                "total_tokens": self._given + self._sent,
            }
        }

    def _chunk(self, delta: dict[str, Any], **extra: Any) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
        chunk = self._envelope() | {"choices": [choice]}
        if self._has_null_usage:
            chunk["usage"] = None
        return chunk | extra

    def _envelope(self) -> dict[str, Any]:
        return {
            "id": self._answer.id,
            "object": "chat.completion.chunk",
            "created": self._answer.created,
            "model": self._model.replace(TEXT, "@"),
            "service_tier": self._answer.scenario.service_tier or "default",
            "system_fingerprint": "fp_simulator",
        }


def _content(answer: Answer) -> str | list[dict[str, Any]] | None:
    """Return the content of a whole message."""
    text = "".join(answer.text)
    reasoning = "".join(answer.reasoning)
    field = answer.scenario.reasoning_field
    if reasoning and field == "think":
        return reasoning.join(_THINK) + text
    parts = _reasoning(field, reasoning)["content"] if reasoning and field == "thinking" else []
    references = chat_references(answer)
    if parts or references:
        return [*parts, {"type": "text", "text": text}, *references]
    return text if answer.text or not (answer.refusal or answer.tool_calls) else None


def _reasoning(field: str, text: str) -> dict[str, Any]:
    """Return the fields of a delta or of a message that contain reasoning."""
    match field:
        case "think":
            return {"content": text}
        case "thinking":
            part = {"type": "thinking", "thinking": [{"type": "text", "text": text}]}
            return {"content": [part]}
        case "reasoning_details":
            detail = {"type": "reasoning.text", "text": text, "format": "unknown", "index": 0}
            return {"content": "", "reasoning_details": [detail]}
        case _:
            return {field: text}


def _ending(answer: Answer) -> dict[str, Any]:
    """Return the fields of a choice that report the end."""
    scenario = answer.scenario
    ending = {"finish_reason": scenario.finish_reason or STOP_REASONS[answer.stop_reason]}
    if scenario.native_finish_reason:
        ending["native_finish_reason"] = scenario.native_finish_reason
    return ending


def _beginning(ordinal: int, answer: Answer) -> dict[str, Any]:
    call = answer.tool_calls[ordinal]
    return {
        "index": ordinal,
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": ""},
        **of_call(answer, ordinal, call),
    }


def _progress(done: int, total: int) -> dict[str, Any]:
    """Return the fields of a chunk of llama.cpp that reports the progress with the prompt.

    https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md, `return_progress`.
    """
    progress = {"total": total, "cache": 0, "processed": done, "time_ms": done}
    return {"timings": _timings(done), "prompt_progress": progress}


def _timings(prompt_n: int) -> dict[str, Any]:
    return {
        "cache_n": 0,
        "prompt_n": prompt_n,
        "prompt_ms": float(prompt_n),
        "prompt_per_token_ms": 1.0,
        "prompt_per_second": 1000.0,
        "predicted_n": 0,
        "predicted_ms": 0.0,
    }
