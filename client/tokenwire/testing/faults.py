"""The errors of the fake service, with the statuses of a real server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from ..wire.status import DOMAIN

CODES: Mapping[str, grpc.StatusCode] = {
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
"""The status code of each ErrorReason."""

OF_ONE_READER = frozenset({"DRAINING", "SLOW_READER", "STORE_UNAVAILABLE"})
"""Reasons that end a reader, and not the stream: it can be resumed."""


class RpcStatus(NamedTuple):
    """A status for `ServicerContext.abort_with_status`."""

    code: grpc.StatusCode
    details: str
    trailing_metadata: tuple[tuple[str, bytes], ...]


@dataclass(frozen=True)
class Fault:
    """An error that ends a call. Without a reason, it is a broken connection."""

    reason: str
    message: str
    retry_after_s: float | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    violations: tuple[tuple[str, str], ...] = ()
    """Path and description of each invalid field."""

    def status(self, facts: Mapping[str, str] | None = None) -> RpcStatus:
        """Return the status. `facts` are added to the metadata, unless the fault has its own."""
        if not self.reason:
            return RpcStatus(grpc.StatusCode.UNAVAILABLE, self.message, ())
        code = CODES[self.reason]
        status = status_pb2.Status(code=code.value[0], message=self.message)
        info = error_details_pb2.ErrorInfo(
            reason=self.reason, domain=DOMAIN, metadata={**(facts or {}), **self.metadata}
        )
        details = [_packed(info)]
        if self.retry_after_s is not None:
            delay = Duration()
            delay.FromNanoseconds(round(self.retry_after_s * 1e9))
            details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
        if self.violations:
            violations = [
                error_details_pb2.BadRequest.FieldViolation(field=path, description=description)
                for path, description in self.violations
            ]
            details.append(_packed(error_details_pb2.BadRequest(field_violations=violations)))
        status.details.extend(details)
        return RpcStatus(
            code, self.message, (("grpc-status-details-bin", status.SerializeToString()),)
        )


CUT = Fault("", "recvmsg:Connection reset by peer")
"""The error that a caller sees when a connection breaks."""


def fault(
    reason: str,
    message: str = "",
    *,
    retry_after_s: float | None = None,
    metadata: Mapping[str, str] | None = None,
    violations: Mapping[str, str] | None = None,
) -> Fault:
    """Return the fault for an ErrorReason.

    Raises:
        ValueError: the reason is unknown, or the time to wait is negative.
    """
    if reason not in CODES:
        raise ValueError(f"unknown reason {reason!r}; the reasons are {', '.join(CODES)}")
    if retry_after_s is not None and retry_after_s < 0:
        raise ValueError(f"retry_after_s is negative: {retry_after_s!r}")
    message = message or f"scripted by the test: {reason}"
    return Fault(
        reason, message, retry_after_s, dict(metadata or {}), tuple((violations or {}).items())
    )


def _packed(detail: error_details_pb2.ErrorInfo) -> Any:
    packed = Any()
    packed.Pack(detail)
    return packed
