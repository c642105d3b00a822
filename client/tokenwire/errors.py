"""What can go wrong, as one tree.

    TokenwireError                 `reason` and `code` say what; an unknown reason is this class
    +-- InvalidRequest             fields of the request are wrong: see `violations`
    +-- UnknownModel               no such provider, alias or model
    +-- Overloaded                 the server is full: see `retry_after_s`
    +-- StreamNotFound             no such stream, or no more
    +-- ResumePointError           the stream cannot be read from there: see `earliest_sequence`
    |   +-- ResumePointExpired         what follows there is no longer kept
    |   +-- ResumePointAhead           the stream has not come that far
    +-- RequestIdReused            the request_id belongs to another request: see `request_id`
    +-- UpstreamError              the provider, or the way to it
    |   +-- UpstreamRejected           it refused the request
    |   +-- UpstreamAuth               it refused the operator's key
    |   +-- UpstreamRateLimited        it is at its rate limit: see `retry_after_s`
    |   +-- UpstreamUnavailable        it cannot be reached, or failed before the first token
    |   +-- UpstreamBroken             it failed after the first token: the answer is incomplete
    |   +-- UpstreamStalled            it fell silent after the first token
    +-- DeadlineExceeded           the deadline (`timeout=`) passed, here or at the server
    +-- SlowReader                 the events were not read fast enough: resume
    +-- Draining                   this server sends its readers away: resume, elsewhere
    +-- ServerStopped              the stream ended with its server
    +-- InternalError              a fault of Tokenwire; `metadata["error_id"]` is in the server's log
    +-- ConnectionLost             the server cannot be reached, or the connection to it broke
    +-- Cancelled                  the call was cancelled: by `stream.cancel()`, or by the server
    +-- IncompleteStream           the stream ended without saying how: never take it for an answer

The reasons are those of `tokenwire.v1.ErrorReason`; the last three have none, because no server
sent them. `asyncio.CancelledError` and `KeyboardInterrupt` are not among them and pass through.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from tokenwire.v1.usage_pb2 import Usage

DOMAIN = "tokenwire"
"""`ErrorInfo.domain` of every error that Tokenwire itself reports."""

_DETAILS_KEY = "grpc-status-details-bin"
_OPTIONAL_COUNTS = ("reasoning_tokens", "cache_read_tokens", "cache_write_tokens")


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that is wrong in a request."""

    field: str
    """Path of the field, such as `messages[0].parts[2].image.media_type`."""
    description: str


class TokenwireError(Exception):
    """Base of everything that a call can end with, other than an answer.

    `str(error)` is one line: the reason (or the code, without one) and the message.
    """

    default_code: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN

    code: grpc.StatusCode
    reason: str
    """Name of an ErrorReason without its prefix; "" when no Tokenwire server gave one."""
    message: str
    metadata: Mapping[str, str]
    """Facts of the error, for programs; which ones, ErrorReason says for each reason."""
    stream_id: str
    """The stream that failed. "" when none had begun."""
    last_sequence: int
    """Sequence of the last event of that stream, as far as known. 0: none. Of an error that ends one
    reader, and not the stream, the last that this reader got: where to resume."""
    usage: Usage | None
    """What the stream had used when it failed. None: unknown, or nothing had begun."""
    retry_after_s: float | None
    """Seconds after which it makes sense to come back. None: not said."""
    violations: tuple[Violation, ...]
    """Everything that is wrong with the request, where that is the error."""

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode | None = None,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        stream_id: str = "",
        last_sequence: int = 0,
        usage: Usage | None = None,
        retry_after_s: float | None = None,
        violations: Sequence[Violation] = (),
    ) -> None:
        super().__init__(message)
        self.code = self.default_code if code is None else code
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata or {})
        self.stream_id = stream_id
        self.last_sequence = last_sequence
        self.usage = usage
        self.retry_after_s = retry_after_s
        self.violations = tuple(violations)

    def __str__(self) -> str:
        return f"{self.reason or self.code.name}: {self.message}"


class InvalidRequest(TokenwireError):
    """Fields of the request are wrong; `violations` has all of them."""


class UnknownModel(TokenwireError):
    """No such provider, alias or model; `metadata["nearest"]` has the nearest known names."""


class Overloaded(TokenwireError):
    """The server is full."""


class StreamNotFound(TokenwireError):
    """No such stream: unknown, expired, deleted, or somebody else's."""


class ResumePointError(TokenwireError):
    """The stream cannot be read from that cursor."""

    @property
    def earliest_sequence(self) -> int:
        """Sequence of the oldest event that can be read: resume after the one before it. 0: not said."""
        return _count(self.metadata.get("earliest_sequence")) or 0

    @property
    def latest_sequence(self) -> int:
        """Sequence of the newest event. 0: not said."""
        return _count(self.metadata.get("latest_sequence")) or 0


class ResumePointExpired(ResumePointError):
    """The stream's log no longer holds what follows the cursor."""


class ResumePointAhead(ResumePointError):
    """The cursor lies beyond the stream's newest event."""


class RequestIdReused(TokenwireError):
    """The request's id belongs to a stream that another request started."""

    @property
    def request_id(self) -> str:
        """The id."""
        return self.metadata.get("request_id", "")


class UpstreamError(TokenwireError):
    """The provider, or the way to it; `metadata["provider"]` names it."""


class UpstreamRejected(UpstreamError):
    """The provider refused the request."""


class UpstreamAuth(UpstreamError):
    """The provider refuses the operator's key."""


class UpstreamRateLimited(UpstreamError):
    """The provider is at its rate limit."""


class UpstreamUnavailable(UpstreamError):
    """The provider cannot be reached, or failed before the first token."""


class UpstreamBroken(UpstreamError):
    """The provider failed after the first token. The answer is incomplete."""


class UpstreamStalled(UpstreamError):
    """The provider fell silent after the first token. The answer is incomplete."""


class DeadlineExceeded(TokenwireError):
    """The deadline passed; noticed by the server, or here (then without a reason)."""

    default_code = grpc.StatusCode.DEADLINE_EXCEEDED


class SlowReader(TokenwireError):
    """The events were not read fast enough. Whether the stream goes on, its retention says."""


class Draining(TokenwireError):
    """This server is going away and sends its readers to another; the stream goes on."""


class ServerStopped(TokenwireError):
    """The stream ended with its server."""


class InternalError(TokenwireError):
    """A fault of Tokenwire; `metadata["error_id"]` stands in the server's log."""


class ConnectionLost(TokenwireError):
    """The server cannot be reached, or the connection to it broke."""

    default_code = grpc.StatusCode.UNAVAILABLE


class Cancelled(TokenwireError):
    """The call was cancelled: by `stream.cancel()`, by closing the client, or by the server."""

    default_code = grpc.StatusCode.CANCELLED


class IncompleteStream(TokenwireError):
    """The stream ended without `finished` and without an error, so nobody knows how it ended."""


_BY_REASON: Mapping[str, type[TokenwireError]] = {
    "INVALID_REQUEST": InvalidRequest,
    "UNKNOWN_MODEL": UnknownModel,
    "OVERLOADED": Overloaded,
    "STREAM_NOT_FOUND": StreamNotFound,
    "RESUME_POINT_EXPIRED": ResumePointExpired,
    "RESUME_POINT_AHEAD": ResumePointAhead,
    "REQUEST_ID_REUSED": RequestIdReused,
    "UPSTREAM_REJECTED": UpstreamRejected,
    "UPSTREAM_AUTH": UpstreamAuth,
    "UPSTREAM_RATE_LIMITED": UpstreamRateLimited,
    "UPSTREAM_UNAVAILABLE": UpstreamUnavailable,
    "UPSTREAM_BROKEN": UpstreamBroken,
    "UPSTREAM_STALLED": UpstreamStalled,
    "DEADLINE": DeadlineExceeded,
    "SLOW_READER": SlowReader,
    "DRAINING": Draining,
    "SERVER_STOPPED": ServerStopped,
    "INTERNAL": InternalError,
}

_BY_CODE: Mapping[grpc.StatusCode, type[TokenwireError]] = {
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.UNAVAILABLE: ConnectionLost,
}

# gRPC makes these codes of most RST_STREAM frames, which come from what stands between and not from a
# server: that one ends its calls with trailers.
_CODES_OF_RESETS = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED})
_RESET = "RST_STREAM"


def from_status(
    code: grpc.StatusCode,
    message: str,
    trailing_metadata: Iterable[tuple[str, str | bytes]] = (),
    *,
    stream_id: str = "",
    last_sequence: int = 0,
) -> TokenwireError:
    """The error that a call's status stands for.

    The status details are read as AIP-193 describes them: a google.rpc.Status in the trailing
    metadata, with one ErrorInfo. Details that cannot be read, or are another domain's, count as
    missing; the code decides then, or the frame that gRPC names. `stream_id` and `last_sequence` are
    what the reader knows itself, for errors that do not bear them.
    """
    info = error_details_pb2.ErrorInfo()
    retry_after_s: float | None = None
    violations: list[Violation] = []
    for detail in _details(trailing_metadata):
        retry, bad_request = error_details_pb2.RetryInfo(), error_details_pb2.BadRequest()
        try:
            if detail.Is(info.DESCRIPTOR):
                detail.Unpack(info)
            elif detail.Unpack(retry):
                retry_after_s = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
            elif detail.Unpack(bad_request):
                violations += (
                    Violation(violation.field, violation.description)
                    for violation in bad_request.field_violations
                )
        except DecodeError:
            continue
    if info.domain != DOMAIN:
        info.Clear()
    kind: type[TokenwireError]
    if info.reason:
        kind = _BY_REASON.get(info.reason, TokenwireError)
    elif code in _CODES_OF_RESETS and _RESET in message:
        kind = ConnectionLost
    else:
        kind = _BY_CODE.get(code, TokenwireError)
    facts = dict(info.metadata)
    told_sequence = _count(facts.get("last_sequence")) or last_sequence
    if kind in (SlowReader, Draining):
        # Not what the server had sent when it gave this reader up: that may never have arrived.
        told_sequence = last_sequence
    return kind(
        message,
        code=code,
        reason=info.reason,
        metadata=facts,
        stream_id=facts.get("stream_id") or stream_id,
        last_sequence=told_sequence,
        usage=_usage(facts),
        retry_after_s=retry_after_s,
        violations=violations,
    )


def _details(
    trailing_metadata: Iterable[tuple[str, str | bytes]],
) -> Iterable[any_pb2.Any]:
    for key, value in trailing_metadata:
        if key == _DETAILS_KEY and isinstance(value, bytes):
            status = status_pb2.Status()
            try:
                status.ParseFromString(value)
            except DecodeError:
                return ()
            details: Iterable[any_pb2.Any] = status.details
            return details
    return ()


def _usage(facts: Mapping[str, str]) -> Usage | None:
    """The usage among an error's facts. A count that is missing there stays absent, not 0."""
    input_tokens, output_tokens = (
        _count(facts.get("input_tokens")),
        _count(facts.get("output_tokens")),
    )
    if input_tokens is None or output_tokens is None:
        return None
    usage = Usage(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        estimated=facts.get("usage_estimated") == "true",
    )
    for name in _OPTIONAL_COUNTS:
        count = _count(facts.get(name))
        if count is not None:
            setattr(usage, name, count)
    return usage


def _count(text: str | None) -> int | None:
    """A non-negative int64 as decimal text, or None."""
    if text is None or not text.isascii() or not text.isdecimal() or len(text) > 18:
        return None
    return int(text)
