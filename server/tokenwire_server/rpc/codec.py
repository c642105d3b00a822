"""Conversion of events to protobuf messages, and of events to complete answers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import cast

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from tokenwire.v1 import chat_pb2, event_pb2, usage_pb2

from ..events import (
    CaughtUp,
    Citation,
    DrainNotice,
    Finished,
    Heartbeat,
    InvalidToolCall,
    JsonResult,
    JsonValue,
    Logprobs,
    Notice,
    ReaderEvent,
    ReasoningDelta,
    Started,
    TextDelta,
    TextInfo,
    Timings,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)
from ..streams.handle import StreamHandle

MAX_ANSWER_BYTES = 64 * 2**20
"""The largest bound on the answer of Chat that the settings allow."""
UNCOUNTED_ITEMS = 1000
ITEM_BYTES = 512
"""Size that is counted for each block, citation and invalid call of an answer, after the first
UNCOUNTED_ITEMS. It takes that much memory, even if its content is one character."""


def encode(sequence: int, event: ReaderEvent) -> bytes:
    """Return a serialized TokenEvent."""
    return to_proto(sequence, event).SerializeToString()


def to_proto(sequence: int, event: ReaderEvent) -> event_pb2.TokenEvent:
    """Return a TokenEvent."""
    match event:
        case TextDelta():
            return event_pb2.TokenEvent(
                sequence=sequence,
                text=event_pb2.TextDelta(text=_utf8(event.text), index=event.index),
            )
        case ReasoningDelta():
            return event_pb2.TokenEvent(
                sequence=sequence,
                reasoning=event_pb2.ReasoningDelta(
                    text=_utf8(event.text),
                    signature=event.signature,
                    index=event.index,
                    provider_state=event.provider_state,
                ),
            )
        case ToolCallStarted():
            return event_pb2.TokenEvent(
                sequence=sequence,
                tool_call_started=event_pb2.ToolCallStarted(
                    index=event.index, id=event.id, name=event.name
                ),
            )
        case ToolCallDelta():
            return event_pb2.TokenEvent(
                sequence=sequence,
                tool_call_delta=event_pb2.ToolCallDelta(
                    index=event.index, arguments_json=_utf8(event.arguments_json)
                ),
            )
        case ToolCall():
            return event_pb2.TokenEvent(
                sequence=sequence,
                tool_call=event_pb2.ToolCallDone(index=event.index, tool_call=_tool_call(event)),
            )
        case TextInfo():
            return event_pb2.TokenEvent(
                sequence=sequence,
                text=event_pb2.TextDelta(
                    index=event.index,
                    phase=event_pb2.TextPhase.ValueType(event.phase),
                    provider_state=event.provider_state,
                ),
            )
        case InvalidToolCall():
            return event_pb2.TokenEvent(
                sequence=sequence, invalid_tool_call=_invalid_tool_call(event)
            )
        case Citation():
            return event_pb2.TokenEvent(sequence=sequence, citation=_citation(event))
        case Logprobs():
            return event_pb2.TokenEvent(sequence=sequence, logprobs=_logprobs(event))
        case JsonValue():
            return event_pb2.TokenEvent(
                sequence=sequence,
                json_value=event_pb2.JsonValue(
                    index=event.index,
                    pointer=_utf8(event.pointer),
                    value_json=_utf8(event.value_json),
                    is_omitted=event.is_omitted,
                ),
            )
        case JsonResult():
            return event_pb2.TokenEvent(sequence=sequence, json_result=_json_result(event))
        case Notice():
            return event_pb2.TokenEvent(
                sequence=sequence,
                notice=event_pb2.Notice(
                    kind=event_pb2.NoticeKind.ValueType(event.kind),
                    model=event.model,
                    provider=event.provider,
                    attempt=event.attempt,
                    delay=duration(event.delay_s) if event.attempt else None,
                ),
            )
        case Started():
            return event_pb2.TokenEvent(
                sequence=sequence,
                started=event_pb2.Started(
                    stream_id=event.stream_id,
                    request_id=event.request_id,
                    model=event.model,
                    provider=event.provider,
                    created_time=timestamp(event.created_time),
                    estimated_input_tokens=event.estimated_input_tokens,
                    estimated_cost_microusd=event.estimated_cost_microusd,
                    from_cache=event.from_cache,
                ),
            )
        case Finished():
            return event_pb2.TokenEvent(sequence=sequence, finished=_finished(event))
        case Usage():
            return event_pb2.TokenEvent(sequence=sequence, usage=usage_message(event))
        case Heartbeat():
            return event_pb2.TokenEvent(sequence=sequence, heartbeat=event_pb2.Heartbeat())
        case CaughtUp():
            return event_pb2.TokenEvent(
                sequence=sequence,
                notice=event_pb2.Notice(kind=event_pb2.NOTICE_KIND_CAUGHT_UP),
            )
        case DrainNotice():
            return event_pb2.TokenEvent(
                sequence=sequence,
                notice=event_pb2.Notice(
                    kind=event_pb2.NOTICE_KIND_DRAINING, delay=duration(event.left_s)
                ),
            )


class AnswerBuilder:
    """Builds a ChatResponse from a stream's events: one part for each content block, in order.

    Content beyond `max_bytes` is counted, not kept.
    """

    def __init__(self, max_bytes: int = MAX_ANSWER_BYTES) -> None:
        self._max_bytes = max_bytes
        self._text: dict[int, bytearray] = {}  # UTF-8
        self._parts: dict[int, chat_pb2.Part] = {}
        self._besides = chat_pb2.ChatResponse()  # what the answer has besides its message
        self._items = 0
        self.content_bytes = 0
        """Size of the content so far, with that of ITEM_BYTES. The message of a usual answer is larger."""

    @property
    def is_too_large(self) -> bool:
        """Whether the content exceeds `max_bytes`. There is no response then."""
        return self.content_bytes > self._max_bytes

    def add(self, events: Iterable[ReaderEvent]) -> None:
        """Add the next events."""
        for event in events:
            match event:
                case TextDelta():
                    self._append(event.index, event.text)
                case TextInfo():
                    part = self._part(event.index)
                    part.provider_state = event.provider_state or part.provider_state
                    self.content_bytes += len(event.provider_state)
                case ReasoningDelta():
                    reasoning = self._part(event.index, is_reasoning=True).reasoning
                    self._append(event.index, event.text)
                    reasoning.signature = event.signature or reasoning.signature
                    reasoning.provider_state = event.provider_state or reasoning.provider_state
                    self.content_bytes += len(event.signature) + len(event.provider_state)
                case ToolCall():
                    part = chat_pb2.Part(tool_call=_tool_call(event))
                    self._parts[event.index] = part
                    self._count_item(part.ByteSize())
                case InvalidToolCall():  # the provider would refuse it in the next request
                    invalid = _invalid_tool_call(event)
                    self._besides.invalid_tool_calls.append(invalid)
                    self._count_item(invalid.ByteSize())
                case Citation():
                    citation = _citation(event)
                    self._besides.citations.append(citation)
                    self._count_item(citation.ByteSize())
                case Logprobs():
                    logprobs = _logprobs(event)
                    self._besides.logprobs.append(logprobs)
                    self.content_bytes += logprobs.ByteSize()
                case JsonResult():
                    result = _json_result(event)
                    self._besides.json_result.CopyFrom(result)
                    self.content_bytes += result.ByteSize()
                case Started():
                    self._besides.stream_id = event.stream_id
                case Finished():
                    self._besides.finished.CopyFrom(_finished(event))
                case ToolCallStarted() | ToolCallDelta():
                    pass  # the complete call follows, unless the answer was cut off
                case JsonValue():
                    pass  # the text has it
                case Notice() | Usage() | Heartbeat() | CaughtUp() | DrainNotice():
                    pass  # not part of the answer
        if self.is_too_large:
            self._text.clear()
            self._parts.clear()
            self._besides.Clear()

    def response(self) -> chat_pb2.ChatResponse:
        """Return the complete answer of a finished stream. Empty blocks are left out."""
        for index, text in self._text.items():
            part = self._parts[index]
            # protobuf accepts bytes for a string, but its stubs do not.
            if part.WhichOneof("content") == "text":
                part.text = cast("str", bytes(text))
            else:
                part.reasoning.text = cast("str", bytes(text))
        response = chat_pb2.ChatResponse(
            message=chat_pb2.Message(
                role=chat_pb2.ROLE_ASSISTANT,
                parts=[part for _, part in sorted(self._parts.items()) if not _is_empty(part)],
            ),
        )
        response.MergeFrom(self._besides)
        return response

    def _part(self, index: int, *, is_reasoning: bool = False) -> chat_pb2.Part:
        part = self._parts.get(index)
        if part is None:
            part = (
                chat_pb2.Part(reasoning=chat_pb2.Reasoning())
                if is_reasoning
                else chat_pb2.Part(text="")
            )
            self._parts[index] = part
            self._count_item(0)
        return part

    def _count_item(self, byte_count: int) -> None:
        self._items += 1
        self.content_bytes += byte_count + (ITEM_BYTES if self._items > UNCOUNTED_ITEMS else 0)

    def _append(self, index: int, text: str) -> None:
        self._part(index)
        utf8 = text.encode()
        self._text.setdefault(index, bytearray()).extend(utf8)
        self.content_bytes += len(utf8)


def stream_info(stream: StreamHandle) -> chat_pb2.StreamInfo:
    """Return the state of a stream."""
    log = stream.log
    info = chat_pb2.StreamInfo(
        stream_id=stream.id,
        request_id=stream.request_id,
        state=chat_pb2.STREAM_STATE_RUNNING,
        last_sequence=log.last_sequence,
        earliest_sequence=log.earliest_sequence,
        reader_count=stream.reader_count,
        usage=usage_message(stream.usage()),
        created_time=timestamp(stream.created_time),
    )
    if stream.end_time is not None:
        info.end_time.CopyFrom(timestamp(stream.end_time))
        info.expire_time.CopyFrom(timestamp(stream.end_time + stream.retention.log_ttl_s))
    if log.finished is not None:
        info.state = chat_pb2.STREAM_STATE_FINISHED
        info.finish_reason = event_pb2.FinishReason.ValueType(log.finished.reason)
    elif log.failure is not None:
        info.state = chat_pb2.STREAM_STATE_FAILED
        info.error_reason = log.failure.reason
    return info


def _is_empty(part: chat_pb2.Part) -> bool:
    match part.WhichOneof("content"):
        case "text":
            return not part.text and not part.provider_state
        case "reasoning":
            return not part.reasoning.ByteSize()
    return False


def _utf8(text: str) -> str:
    """Return a text for a protobuf field, as bytes if it is not ASCII.

    Otherwise protobuf would make CPython cache the UTF-8 form in the string of the log: the content would
    be in memory twice, but counted once.
    """
    # protobuf accepts bytes for a string, but its stubs do not.
    return text if text.isascii() else cast("str", text.encode())


def _tool_call(call: ToolCall) -> event_pb2.ToolCall:
    return event_pb2.ToolCall(
        id=call.id,
        name=call.name,
        arguments_json=_utf8(call.arguments_json),
        provider_state=call.provider_state,
    )


def _invalid_tool_call(event: InvalidToolCall) -> event_pb2.InvalidToolCall:
    return event_pb2.InvalidToolCall(
        index=event.index,
        id=event.id,
        name=event.name,
        arguments_text=_utf8(event.arguments_text),
        problem=event.problem,
    )


def _citation(event: Citation) -> event_pb2.Citation:
    return event_pb2.Citation(
        index=event.index,
        kind=event_pb2.CitationKind.ValueType(event.kind),
        start=event.start,
        end=event.end,
        cited_text=_utf8(event.cited_text),
        url=_utf8(event.url),
        title=_utf8(event.title),
        document_index=event.document_index,
    )


def _logprobs(event: Logprobs) -> event_pb2.Logprobs:
    return event_pb2.Logprobs(
        index=event.index, tokens=[_token_logprob(token) for token in event.tokens]
    )


def _token_logprob(token: TokenLogprob) -> event_pb2.TokenLogprob:
    return event_pb2.TokenLogprob(
        token=_utf8(token.token),
        logprob=token.logprob,
        raw_bytes=token.token_bytes,
        top=[_token_logprob(other) for other in token.top],
    )


def _json_result(event: JsonResult) -> event_pb2.JsonResult:
    return event_pb2.JsonResult(
        is_valid=event.is_valid,
        is_unchecked=event.is_unchecked,
        violations=[
            event_pb2.JsonViolation(
                pointer=_utf8(violation.pointer), description=_utf8(violation.description)
            )
            for violation in event.violations
        ],
    )


def _finished(event: Finished) -> event_pb2.Finished:
    return event_pb2.Finished(
        reason=event_pb2.FinishReason.ValueType(event.reason),
        model=event.model,
        provider=event.provider,
        usage=usage_message(event.usage),
        timings=_timings(event.timings),
        provider_response_id=event.provider_response_id,
        provider_finish_reason=event.provider_finish_reason,
        refusal=None
        if event.refusal is None
        else event_pb2.Refusal(
            category=event.refusal.category, explanation=event.refusal.explanation
        ),
    )


def usage_message(usage: Usage) -> usage_pb2.Usage:
    return usage_pb2.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        cost_microusd=usage.cost_microusd,
        estimated=usage.estimated,
        long_cache_write_tokens=usage.long_cache_write_tokens,
        server_tool_counts=dict(usage.server_tools),
        service_tier=usage.service_tier,
    )


def _timings(timings: Timings) -> event_pb2.Timings:
    return event_pb2.Timings(
        ttft=duration(timings.ttft_s),
        duration=duration(timings.duration_s),
        itl_p50=duration(timings.itl_p50_s),
        itl_p99=duration(timings.itl_p99_s),
        output_tokens_per_second=timings.output_tokens_per_second,
    )


def duration(seconds: float | None) -> Duration | None:
    if seconds is None:
        return None
    fraction, whole = math.modf(seconds)
    return Duration(seconds=int(whole), nanos=int(fraction * 1e6) * 1000)


def timestamp(seconds: float) -> Timestamp:
    fraction, whole = math.modf(seconds)
    return Timestamp(seconds=int(whole), nanos=int(fraction * 1e6) * 1000)
