"""The answers of OpenAI Chat Completions, whole and streamed. `chat_completions` has the sources.

    data: {..., "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, ...}]}
    data: {..., "choices": [{"index": 0, "delta": {"content": "Hello"}, "finish_reason": null}]}
    data: {..., "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    data: {..., "choices": [], "usage": {...}}        only with stream_options.include_usage
    data: [DONE]

All chunks of an answer have the same id, time and model. Events have no name. Reasoning is an addition of
compatible servers; OpenAI only counts it. With `stream_options.continuous_usage_stats` (vLLM) every chunk has
the usage so far.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .answer import Answer, ToolCall, Usage
from .errors import openai_error
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


def whole(answer: Answer, request: ProviderRequest) -> dict[str, Any]:
    """https://platform.openai.com/docs/api-reference/chat/object"""
    has_content = bool(answer.text) or not (answer.refusal or answer.tool_calls)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": "".join(answer.text) if has_content else None,
        "refusal": "".join(answer.refusal) if answer.refusal else None,
        "annotations": [],
    }
    if answer.reasoning:
        message[answer.reasoning_field] = "".join(answer.reasoning)
    if answer.tool_calls:
        message["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in answer.tool_calls
        ]
    payload: dict[str, Any] = {
        "id": answer.id,
        "object": "chat.completion",
        "created": answer.created,
        "model": request.model,
        "choices": [
            {
                "index": 0,
                "message": message,
                "logprobs": None,
                **_ending(answer),
            }
        ],
        "service_tier": "default",
        "system_fingerprint": "fp_simulator",
    }
    if answer.usage is not None:
        payload["usage"] = _usage(answer.usage)
    return payload


def stream(answer: Answer, request: ProviderRequest) -> ChatCompletionStream:
    return ChatCompletionStream(answer, request)


class ChatCompletionStream:
    """The chunks of one answer."""

    def __init__(self, answer: Answer, request: ProviderRequest) -> None:
        options = request.body.get("stream_options") or {}
        self._answer = answer
        self._model = request.model
        self._usage = answer.usage if options.get("include_usage") else None
        self._is_continuous = self._usage is not None and bool(
            options.get("continuous_usage_stats")
        )
        self._sent = 0

    def opening(self) -> bytes:
        nothing = {"refusal": None} if not self._answer.refusal else {"refusal": ""}
        content = None if self._answer.refusal or not self._answer.text else ""
        return data_event(
            self._chunk({"role": "assistant", "content": content, **nothing}, **self._so_far())
        )

    def deltas(self) -> Iterator[bytes]:
        answer = self._answer
        yield from self._strings({answer.reasoning_field: TEXT}, answer.escaped_reasoning())
        yield from self._strings({"content": TEXT}, answer.escaped_text())
        yield from self._strings({"refusal": TEXT}, map(escape, answer.refusal))
        begun = b""
        for round_, (ordinal, fragment) in enumerate(answer.interleaved_fragments()):
            if round_ < len(answer.tool_calls):
                begun = self._call_event(_beginning(ordinal, answer.tool_calls[ordinal]))
            self._sent += 1
            call = {"index": ordinal, "function": {"arguments": fragment}}
            yield begun + self._call_event(call)
            begun = b""

    def closing(self) -> bytes:
        chunk = self._chunk({}, **self._so_far())
        chunk["choices"][0] |= _ending(self._answer)
        end = data_event(chunk)
        if self._usage is not None:
            end += data_event(self._envelope() | {"choices": [], "usage": _usage(self._usage)})
        return end + b"data: [DONE]\n\n" if self._answer.has_end_marker else end

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

    def _strings(self, delta: dict[str, str], tokens: Iterator[bytes]) -> Iterator[bytes]:
        if self._is_continuous and self._usage is not None:
            given = self._usage.input_tokens
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
        if not self._is_continuous or self._usage is None:
            return {}
        given = self._usage.input_tokens
        return {
            "usage": {
                "prompt_tokens": given,
                "completion_tokens": self._sent,
                "total_tokens": given + self._sent,
            }
        }

    def _chunk(self, delta: dict[str, Any], **extra: Any) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
        chunk = self._envelope() | {"choices": [choice]}
        if self._usage is not None:
            chunk["usage"] = None
        return chunk | extra

    def _envelope(self) -> dict[str, Any]:
        return {
            "id": self._answer.id,
            "object": "chat.completion.chunk",
            "created": self._answer.created,
            "model": self._model.replace(TEXT, "@"),
            "service_tier": "default",
            "system_fingerprint": "fp_simulator",
        }


def _ending(answer: Answer) -> dict[str, Any]:
    """Return the fields of a choice that report the end."""
    ending = {"finish_reason": answer.finish_reason or STOP_REASONS[answer.stop_reason]}
    if answer.native_finish_reason:
        ending["native_finish_reason"] = answer.native_finish_reason
    return ending


def _beginning(ordinal: int, call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": ""}
    return {"index": ordinal, "id": call.id, "type": "function", "function": function}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cache_read_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
            "audio_tokens": 0,
        },
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
