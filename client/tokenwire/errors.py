"""What can go wrong, as one tree.

    TokenwireError                 `reason` and `code` say what; an unknown reason is this class
    +-- InvalidRequest             fields of the request are wrong: see `violations`
    +-- UnknownModel               no such provider, alias or model
    +-- Unauthenticated            no key, or one that is not taken
    +-- PermissionDenied           the key may not call this model
    +-- LimitExceeded              a limit of the caller's: see `limit`, `allowed`, `remaining`
    |   +-- RateLimited                too much in a minute: see `retry_after_s`
    |   +-- TooManyStreams             too many at once
    |   +-- QuotaExhausted             too much in one request, or spent in a day or month
    +-- BudgetExceeded             the request would take more than its own budget
    +-- Overloaded                 the server is full: see `retry_after_s`
    +-- StoreUnavailable           the server cannot reach its database: see `retry_after_s`
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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import grpc

from tokenwire.v1.usage_pb2 import Usage

from ._int64 import parse_count, parse_int64


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


class Unauthenticated(TokenwireError):
    """No key, or one that is unknown, expired or revoked. The message never holds it."""


class PermissionDenied(TokenwireError):
    """The key may not call this model."""

    @property
    def model(self) -> str:
        """The model's name."""
        return self.metadata.get("model", "")


class LimitExceeded(TokenwireError):
    """More than this caller may have. Without `retry_after_s` it does not help to wait."""

    @property
    def limit(self) -> str:
        """Its name, such as `requests_per_minute`. "": not said."""
        return self.metadata.get("limit", "")

    @property
    def scope(self) -> str:
        """Who shares it: `key` or `tenant`. "": not said."""
        return self.metadata.get("scope", "")

    @property
    def allowed(self) -> int | None:
        """The limit's size. None: not said."""
        return parse_int64(self.metadata.get("allowed"))

    @property
    def remaining(self) -> int | None:
        """What was left of it; below 0 when answers took more than was estimated. None: not said."""
        return parse_int64(self.metadata.get("remaining"))

    @property
    def asked(self) -> int | None:
        """What the request needed of it. None: not said."""
        return parse_int64(self.metadata.get("asked"))


class RateLimited(LimitExceeded):
    """Too many requests or tokens in a minute."""


class TooManyStreams(LimitExceeded):
    """Too many streams that generate at once."""


class QuotaExhausted(LimitExceeded):
    """Too much in one request, or spent in a day or month (UTC)."""


class BudgetExceeded(TokenwireError):
    """The request is estimated to take more than its own budget. Nothing was sent to a provider."""

    @property
    def limit(self) -> str:
        """Which part of the budget: `max_cost_microusd` or `max_input_tokens`. "": not said."""
        return self.metadata.get("limit", "")

    @property
    def allowed(self) -> int | None:
        """What the budget allows. None: not said."""
        return parse_int64(self.metadata.get("allowed"))

    @property
    def estimated(self) -> int | None:
        """What the request's input alone is estimated to take. None: not said."""
        return parse_int64(self.metadata.get("estimated"))


class Overloaded(TokenwireError):
    """The server is full."""


class StoreUnavailable(TokenwireError):
    """The server cannot reach the database of its keys."""


class StreamNotFound(TokenwireError):
    """No such stream: unknown, expired, deleted, or somebody else's."""


class ResumePointError(TokenwireError):
    """The stream cannot be read from that cursor."""

    @property
    def earliest_sequence(self) -> int:
        """Sequence of the oldest event that can be read: resume after the one before it. 0: not said."""
        return parse_count(self.metadata.get("earliest_sequence")) or 0

    @property
    def latest_sequence(self) -> int:
        """Sequence of the newest event. 0: not said."""
        return parse_count(self.metadata.get("latest_sequence")) or 0


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
