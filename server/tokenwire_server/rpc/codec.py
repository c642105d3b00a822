"""Conversion of events and of the state of streams to protobuf messages."""

from __future__ import annotations

import math
from functools import lru_cache
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

MAX_SHORT_CHARS = 64
"""Deltas of at most this many characters are serialized without protobuf's messages, see `_encode_delta`."""
_SEQUENCE_KEY = event_pb2.TokenEvent.SEQUENCE_FIELD_NUMBER << 3
_SHORT_SEQUENCES = [bytes((_SEQUENCE_KEY, sequence)) for sequence in range(128)]
"""The serialized field of each sequence below 128."""
_LOW_DIGITS = [bytes((_SEQUENCE_KEY, digit | 128)) for digit in range(128)]
_HIGH_DIGITS = [bytes((digit,)) for digit in range(128)]
"""The parts of the serialized field of a longer sequence, by its digits to the base of 128."""

_Delta = TextDelta | ToolCallDelta | ReasoningDelta


def encode(sequence: int, event: ReaderEvent) -> bytes:
    """Return a serialized TokenEvent."""
    if isinstance(event, TextDelta):
        return _encode_delta(sequence, event, event.text)
    if isinstance(event, ToolCallDelta):
        return _encode_delta(sequence, event, event.arguments_json)
    if isinstance(event, ReasoningDelta) and not event.signature and not event.provider_state:
        return _encode_delta(sequence, event, event.text)
    return to_proto(sequence, event).SerializeToString()


def _encode_delta(sequence: int, delta: _Delta, text: str) -> bytes:
    """Return a serialized TokenEvent with a delta that has only a text. Every token takes this path.

    If the text is short, the messages are not built, which would take four times as long.
    """
    if not 0 < len(text) <= MAX_SHORT_CHARS:
        return to_proto(sequence, delta).SerializeToString()
    utf8 = text.encode()
    before, after = _around(type(delta), delta.index, len(utf8))
    if 128 <= sequence < 128**2:  # a varint of two bytes, the lower digit first
        low, high = _LOW_DIGITS[sequence & 127], _HIGH_DIGITS[sequence >> 7]
        return b"".join((low, high, before, utf8, after))
    if 0 < sequence < 128:
        position = _SHORT_SEQUENCES[sequence]
    else:
        position = event_pb2.TokenEvent(sequence=sequence).SerializeToString()
    return b"".join((position, before, utf8, after))


@lru_cache(maxsize=1024)
def _around(kind: type[_Delta], index: int, utf8_bytes: int) -> tuple[bytes, bytes]:
    """Return what a TokenEvent has before and after a text of this length, without its sequence."""
    text = "\0" * utf8_bytes  # no other byte is 0
    if issubclass(kind, ToolCallDelta):
        delta: _Delta = kind(index, text)
    else:
        delta = kind(text, index)
    before, after = to_proto(0, delta).SerializeToString().split(text.encode())
    return before, after


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
                tool_call=event_pb2.ToolCallDone(
                    index=event.index, tool_call=tool_call_message(event)
                ),
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
                sequence=sequence, invalid_tool_call=invalid_tool_call_message(event)
            )
        case Citation():
            return event_pb2.TokenEvent(sequence=sequence, citation=citation_message(event))
        case Logprobs():
            return event_pb2.TokenEvent(sequence=sequence, logprobs=logprobs_message(event))
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
            return event_pb2.TokenEvent(sequence=sequence, json_result=json_result_message(event))
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
            return event_pb2.TokenEvent(sequence=sequence, finished=finished_message(event))
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


def _utf8(text: str) -> str:
    """Return a text for a protobuf field, as bytes if it is not ASCII.

    Otherwise protobuf would make CPython cache the UTF-8 form in the string of the log: the content would
    be in memory twice, but counted once.
    """
    # protobuf accepts bytes for a string, but its stubs do not.
    return text if text.isascii() else cast("str", text.encode())


def tool_call_message(call: ToolCall) -> event_pb2.ToolCall:
    return event_pb2.ToolCall(
        id=call.id,
        name=call.name,
        arguments_json=_utf8(call.arguments_json),
        provider_state=call.provider_state,
    )


def invalid_tool_call_message(event: InvalidToolCall) -> event_pb2.InvalidToolCall:
    return event_pb2.InvalidToolCall(
        index=event.index,
        id=event.id,
        name=event.name,
        arguments_text=_utf8(event.arguments_text),
        problem=event.problem,
    )


def citation_message(event: Citation) -> event_pb2.Citation:
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


def logprobs_message(event: Logprobs) -> event_pb2.Logprobs:
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


def json_result_message(event: JsonResult) -> event_pb2.JsonResult:
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


def finished_message(event: Finished) -> event_pb2.Finished:
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
