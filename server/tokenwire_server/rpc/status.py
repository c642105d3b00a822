"""The table from errors to gRPC statuses, each with exactly one ErrorInfo."""

from __future__ import annotations

import asyncio
import functools
import json
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any as AnyValue
from typing import NoReturn, TypeVar

import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from ..errors import (
    InvalidRequest,
    LimitExceeded,
    StreamFailed,
    StreamPosition,
    TokenwireError,
)
from ..request import Violation
from .writer import Context

DOMAIN = "tokenwire"

CODES: dict[str, grpc.StatusCode] = {
    "INVALID_REQUEST": grpc.StatusCode.INVALID_ARGUMENT,
    "UNKNOWN_MODEL": grpc.StatusCode.NOT_FOUND,
    "CONTEXT_TOO_LONG": grpc.StatusCode.INVALID_ARGUMENT,
    "UNAUTHENTICATED": grpc.StatusCode.UNAUTHENTICATED,
    "PERMISSION_DENIED": grpc.StatusCode.PERMISSION_DENIED,
    "RATE_LIMITED": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "TOO_MANY_STREAMS": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "QUOTA_EXHAUSTED": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "BUDGET_EXCEEDED": grpc.StatusCode.FAILED_PRECONDITION,
    "MODERATION_UNAVAILABLE": grpc.StatusCode.UNAVAILABLE,
    "OVERLOADED": grpc.StatusCode.UNAVAILABLE,
    "STREAM_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "RESUME_POINT_EXPIRED": grpc.StatusCode.OUT_OF_RANGE,
    "RESUME_POINT_AHEAD": grpc.StatusCode.OUT_OF_RANGE,
    "RESUME_DISABLED": grpc.StatusCode.UNIMPLEMENTED,
    "REQUEST_ID_REUSED": grpc.StatusCode.ALREADY_EXISTS,
    "UPSTREAM_REJECTED": grpc.StatusCode.INVALID_ARGUMENT,
    "UPSTREAM_AUTH": grpc.StatusCode.FAILED_PRECONDITION,
    "UPSTREAM_RATE_LIMITED": grpc.StatusCode.UNAVAILABLE,
    "UPSTREAM_UNAVAILABLE": grpc.StatusCode.UNAVAILABLE,
    "UPSTREAM_BROKEN": grpc.StatusCode.ABORTED,
    "UPSTREAM_STALLED": grpc.StatusCode.ABORTED,
    "PRODUCER_LOST": grpc.StatusCode.ABORTED,
    "STORE_UNAVAILABLE": grpc.StatusCode.UNAVAILABLE,
    "SLOW_READER": grpc.StatusCode.UNAVAILABLE,
    "ANSWER_TOO_LARGE": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "ANSWER_UNCHECKED": grpc.StatusCode.ABORTED,
    "INVALID_ANSWER": grpc.StatusCode.ABORTED,
    "DRAINING": grpc.StatusCode.UNAVAILABLE,
    "SERVER_STOPPED": grpc.StatusCode.UNAVAILABLE,
    "INTERNAL": grpc.StatusCode.INTERNAL,
}

MAX_TEXT_CHARS = 256
MAX_PROVIDER_MESSAGE_CHARS = 1024
"""`public_text` limits the text to as many bytes."""
MAX_VIOLATIONS_BYTES = 4096
"""Bounds that keep the trailers below 8 KiB, where gRPC begins to refuse them at random."""

MAX_PUSHBACK_S = 60.0
"""Longest delay that `grpc-retry-pushback-ms` requests. For a longer one it is -1: the gRPC library then does
not retry, and the program gets the error at once."""

_DETAILS_KEY = "grpc-status-details-bin"
_PUSHBACK_KEY = "grpc-retry-pushback-ms"
_NO_RETRY = "-1"

Answer = TypeVar("Answer")


def without_cycle(
    behaviour: Callable[[AnyValue, Context], Awaitable[Answer]],
) -> Callable[[AnyValue, Context], Awaitable[Answer]]:
    """Wrap a behaviour that gRPC calls, so that an abort leaves no reference cycle.

    gRPC keeps the AbortError on the RPC's state. The traceback of the error refers to the frames of the
    handler, which refer to the request and, through the context, back to that state.
    """

    @functools.wraps(behaviour)
    async def released(request: AnyValue, context: Context) -> Answer:
        try:
            return await behaviour(request, context)
        except grpc.aio.AbortError as aborted:
            aborted.__context__ = None  # the original error, with its frames
            raise aborted.with_traceback(None)  # noqa: B904  # it is the same error
        finally:
            del request, context

    return released


async def abort(context: Context, error: TokenwireError) -> NoReturn:
    """End the RPC with the error's status. Nothing else is sent, so a refusal is trailers only."""
    status = to_status(error)
    trailers: list[tuple[str, str | bytes]] = [(_DETAILS_KEY, status.SerializeToString())]
    pushback = pushback_ms(error, context.time_remaining())
    if pushback is not None:
        trailers.append((_PUSHBACK_KEY, pushback))
    try:
        await context.abort(CODES[error.reason], status.message, tuple(trailers))
    except grpc.aio.InternalError:  # the caller is gone or has a status; gRPC would log it as a bug
        raise asyncio.CancelledError from None


def to_status(error: TokenwireError) -> status_pb2.Status:
    """Return the error as google.rpc.Status, small enough for trailers."""
    return status_pb2.Status(
        code=CODES[error.reason].value[0],
        message=_bounded(str(error)),
        details=[_any(detail) for detail in _details(error)],
    )


def pushback_ms(error: TokenwireError, left_s: float | None) -> str | None:
    """Return the value of `grpc-retry-pushback-ms` for a refused call, or None if the error needs none.

    A gRPC library with a retry policy for the status obeys it: it retries after these milliseconds, or not
    at all if the value is negative. It is negative if the delay is longer than MAX_PUSHBACK_S or than
    `left_s`, the rest of the call's deadline, or if waiting does not help. The error of a stream has none,
    because no library retries a call after its initial metadata.

    https://github.com/grpc/proposal/blob/master/A6-client-retries.md#pushback
    """
    if isinstance(error, StreamFailed):
        return None
    delay_s = error.retry_after_s
    if delay_s is None:
        return _NO_RETRY if isinstance(error, LimitExceeded) else None
    if delay_s > MAX_PUSHBACK_S or (left_s is not None and delay_s >= left_s):
        return _NO_RETRY
    return str(math.ceil(delay_s * 1000))


def refuse(context: Context, error: TokenwireError) -> None:
    """Set the error's status as the end of the RPC. The handler must return next.

    For handlers that read their requests themselves. Other handlers use `abort`, which raises.
    """
    status = to_status(error)
    context.set_code(CODES[error.reason])
    context.set_details(status.message)
    context.set_trailing_metadata(((_DETAILS_KEY, status.SerializeToString()),))


def _details(error: TokenwireError) -> list[Message]:
    facts = {
        key: value[:MAX_PROVIDER_MESSAGE_CHARS] if key == "provider_message" else _bounded(value)
        for key, value in error.facts().items()
    }
    if error.at is not None:
        facts |= _position_facts(error.at)
    details: list[Message] = [
        error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=facts)
    ]
    if error.retry_after_s is not None:
        fraction, whole = math.modf(error.retry_after_s)
        details.append(
            error_details_pb2.RetryInfo(
                retry_delay=Duration(seconds=int(whole), nanos=int(fraction * 1e9))
            )
        )
    if isinstance(error, InvalidRequest):
        details.append(
            _bad_request(error.violations, error.unlisted_count, all_found=error.all_found)
        )
    if isinstance(error, LimitExceeded):
        failure = error_details_pb2.QuotaFailure()
        failure.violations.add(
            subject=f"{error.scope}:{error.subject}", description=_bounded(str(error))
        )
        details.append(failure)
        if error.field is not None:  # empty for the whole request
            details.append(_bad_request([Violation(error.field, str(error))]))
    return details


def _bad_request(
    violations: Sequence[Violation], unlisted_count: int = 0, *, all_found: bool = True
) -> error_details_pb2.BadRequest:
    """Return the violations that fit. A last entry without a field says that there are more."""
    bad_request = error_details_pb2.BadRequest()
    for position, violation in enumerate(violations):
        if bad_request.ByteSize() > MAX_VIOLATIONS_BYTES:
            unlisted_count += len(violations) - position
            break
        bad_request.field_violations.add(
            field=_bounded(violation.field), description=_bounded(violation.description)
        )
    if unlisted_count and all_found:
        bad_request.field_violations.add(
            field="", description=f"{unlisted_count} more violations are not listed"
        )
    elif not all_found:
        bad_request.field_violations.add(
            field="", description="checking stopped here: there may be more violations"
        )
    return bad_request


def _position_facts(at: StreamPosition) -> dict[str, str]:
    usage = at.usage
    facts = {
        "stream_id": at.stream_id,
        "last_sequence": str(at.last_sequence),
        "input_tokens": str(usage.input_tokens),
        "output_tokens": str(usage.output_tokens),
        "usage_estimated": "true" if usage.estimated else "false",
    }
    optional = {
        "reasoning_tokens": usage.reasoning_tokens,
        "cache_read_tokens": usage.cache_read_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
        "long_cache_write_tokens": usage.long_cache_write_tokens,
        "cost_microusd": usage.cost_microusd,
    }
    facts |= {key: str(count) for key, count in optional.items() if count is not None}
    if usage.service_tier:
        facts["service_tier"] = _bounded(usage.service_tier)
    tool_counts = json.dumps(dict(usage.server_tools))
    if usage.server_tools and len(tool_counts) <= MAX_TEXT_CHARS:
        facts["server_tool_counts"] = tool_counts
    return facts


def _bounded(text: str) -> str:
    return text if len(text) <= MAX_TEXT_CHARS else text[: MAX_TEXT_CHARS - 3] + "..."


def _any(message: Message) -> Any:
    packed = Any()
    packed.Pack(message)
    return packed
