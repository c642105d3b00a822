"""The errors of the clients, as one tree.

    TokenwireError                 see `reason` and `code`; also the class for an unknown reason
    +-- InvalidRequest             fields of the request are invalid: see `violations`
    +-- UnknownModel               the provider, alias or model is unknown
    +-- Unauthenticated            the key is missing or not accepted
    +-- PermissionDenied           the key may not call this model
    +-- LimitExceeded              a limit of the caller: see `limit`, `allowed`, `remaining`
    |   +-- RateLimited                too much in a minute: see `retry_after_s`
    |   +-- TooManyStreams             too many streams at once
    |   +-- QuotaExhausted             too much in one request, or spent in a day or month
    +-- BudgetExceeded             the request would exceed its own budget
    +-- ModerationUnavailable      the request could not be checked: see `retry_after_s`
    +-- Overloaded                 the server is full: see `retry_after_s`
    +-- StoreUnavailable           the server cannot reach a store: see `retry_after_s`
    +-- StreamNotFound             the stream is unknown or expired
    +-- ResumePointError           the stream cannot be read from there: see `earliest_sequence`
    |   +-- ResumePointExpired         the events after the cursor are no longer stored
    |   +-- ResumePointAhead           the cursor is after the newest event
    +-- ResumeDisabled             the setting `resume` of the server is off
    +-- RequestIdReused            another request has used the request_id: see `request_id`
    +-- UpstreamError              the provider, or the connection to it
    |   +-- UpstreamRejected           it refused the request
    |   +-- ContextTooLong             the request does not fit into the model's context window
    |   +-- UpstreamAuth               it refused the operator's key or account
    |   +-- UpstreamRateLimited        its rate limit is reached: see `retry_after_s`
    |   +-- UpstreamUnavailable        it is unreachable, or failed before the first token
    |   +-- UpstreamBroken             it failed after the first token: the answer is incomplete
    |   +-- UpstreamStalled            it sent nothing for too long after the first token
    +-- ProducerLost               the server that generated it is gone: the answer is incomplete
    +-- DeadlineExceeded           the deadline (`timeout=`) passed, here or at the server
    +-- SlowReader                 the events were not read fast enough: resume
    +-- Draining                   this server is about to stop: use another
    +-- AnswerTooLarge             the answer does not fit into the response of `chat`
    +-- AnswerUnchecked            the rest of the answer could not be checked: it is incomplete
    +-- InvalidAnswer              the JSON answer does not follow the schema: see `violations`
    +-- ServerStopped              the stream ended because its server stopped
    +-- InternalError              a bug in Tokenwire; `metadata["error_id"]` is in the server's log
    +-- ConnectionLost             the server is unreachable, or the connection broke
    +-- Cancelled                  the call was cancelled, by `stream.cancel()` or by the server
    +-- IncompleteStream           the stream ended without `finished`: do not use it as an answer

The reasons are those of `tokenwire.v1.ErrorReason`. The last three have none, because no server sends
them. `asyncio.CancelledError` and `KeyboardInterrupt` are not part of the tree and pass through.
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
    """One invalid field of a request, or one invalid value of a JSON answer."""

    field: str
    """Path of the field, such as `messages[0].parts[2].image.media_type`. For an answer: a JSON Pointer."""
    description: str


class TokenwireError(Exception):
    """Base class of the errors of a call.

    `str(error)` is one line: the reason, or the code if there is no reason, and the message.
    """

    default_code: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN

    code: grpc.StatusCode
    reason: str
    """Name of an ErrorReason without its prefix. Empty if no Tokenwire server sent one."""
    message: str
    metadata: Mapping[str, str]
    """Facts for programs. ErrorReason documents them for each reason."""
    stream_id: str
    """Id of the stream that failed. Empty if none had started."""
    last_sequence: int
    """Sequence of the last known event of the stream. 0: none. If the error ends this reader but not the
    stream, it is the last event that this reader got: the cursor to resume after."""
    usage: Usage | None
    """Usage of the stream until it failed. None: unknown, or no stream had started."""
    retry_after_s: float | None
    """Seconds to wait before another attempt. None: not reported."""
    violations: tuple[Violation, ...]
    """Every invalid field of the request, if the request is invalid. See also `InvalidAnswer`."""

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
    """Fields of the request are invalid. `violations` lists all of them."""


class UnknownModel(TokenwireError):
    """The provider, alias or model is unknown. `metadata["nearest"]` has the most similar known names."""


class Unauthenticated(TokenwireError):
    """The key is missing, unknown, expired or revoked. The message never contains it."""


class PermissionDenied(TokenwireError):
    """The key may not call this model."""

    @property
    def model(self) -> str:
        """Name of the model."""
        return self.metadata.get("model", "")


class LimitExceeded(TokenwireError):
    """The request exceeds a limit of the caller. Without `retry_after_s`, waiting does not help."""

    @property
    def limit(self) -> str:
        """Name of the limit, such as `requests_per_minute`. Empty: not reported."""
        return self.metadata.get("limit", "")

    @property
    def scope(self) -> str:
        """Owner of the limit: `key` or `tenant`. Empty: not reported."""
        return self.metadata.get("scope", "")

    @property
    def allowed(self) -> int | None:
        """Size of the limit. None: not reported."""
        return parse_int64(self.metadata.get("allowed"))

    @property
    def remaining(self) -> int | None:
        """What remained of the limit. Negative if answers took more than estimated. None: not reported."""
        return parse_int64(self.metadata.get("remaining"))

    @property
    def asked(self) -> int | None:
        """What the request needed. None: not reported."""
        return parse_int64(self.metadata.get("asked"))


class RateLimited(LimitExceeded):
    """Too many requests or tokens in a minute."""


class TooManyStreams(LimitExceeded):
    """Too many streams at once."""


class QuotaExhausted(LimitExceeded):
    """Too much in one request, or in a day or month (UTC)."""


class BudgetExceeded(TokenwireError):
    """The estimate for the request exceeds its own budget. Nothing was sent to a provider."""

    @property
    def limit(self) -> str:
        """Exceeded field of the budget: `max_cost_microusd` or `max_input_tokens`. Empty: not reported."""
        return self.metadata.get("limit", "")

    @property
    def allowed(self) -> int | None:
        """Value of that field. None: not reported."""
        return parse_int64(self.metadata.get("allowed"))

    @property
    def estimated(self) -> int | None:
        """Estimate for the input of the request alone. None: not reported."""
        return parse_int64(self.metadata.get("estimated"))


class ModerationUnavailable(TokenwireError):
    """The server could not check the request with a moderation service. Nothing was sent to a provider."""


class Overloaded(TokenwireError):
    """The server has no capacity left."""


class StoreUnavailable(TokenwireError):
    """The server cannot reach its database, or the log of streams that servers share."""


class StreamNotFound(TokenwireError):
    """The stream is unknown, expired, deleted, or belongs to another tenant."""


class ResumePointError(TokenwireError):
    """The stream cannot be read from this cursor."""

    @property
    def earliest_sequence(self) -> int:
        """Sequence of the oldest stored event: resume after the one before it. 0: not reported."""
        return parse_count(self.metadata.get("earliest_sequence")) or 0

    @property
    def latest_sequence(self) -> int:
        """Sequence of the newest event. 0: not reported."""
        return parse_count(self.metadata.get("latest_sequence")) or 0


class ResumePointExpired(ResumePointError):
    """The events after the cursor are no longer stored."""


class ResumePointAhead(ResumePointError):
    """The cursor is after the newest event of the stream."""


class ResumeDisabled(TokenwireError):
    """The call needs the id of a stream, and the setting `resume` of the server is off."""


class RequestIdReused(TokenwireError):
    """Another request has started a stream with this request_id."""

    @property
    def request_id(self) -> str:
        """The request_id."""
        return self.metadata.get("request_id", "")


class UpstreamError(TokenwireError):
    """The provider, or the connection to it, failed. `metadata["provider"]` names the provider."""

    @property
    def provider_message(self) -> str:
        """The provider's own text, at most 1 KiB. Empty unless the provider refused the request."""
        return self.metadata.get("provider_message", "")


class UpstreamRejected(UpstreamError):
    """The provider refused the request."""


class ContextTooLong(UpstreamError):
    """The request does not fit into the model's context window. Shorten it and try again."""

    @property
    def input_tokens(self) -> int | None:
        """Tokens of the request. None: not reported."""
        return parse_count(self.metadata.get("input_tokens"))

    @property
    def limit_tokens(self) -> int | None:
        """Size of the context window, in tokens. None: not reported."""
        return parse_count(self.metadata.get("limit_tokens"))


class UpstreamAuth(UpstreamError):
    """The provider refused the operator's key or account."""


class UpstreamRateLimited(UpstreamError):
    """The provider's rate limit is reached."""


class UpstreamUnavailable(UpstreamError):
    """The provider is unreachable, or failed before the first token.

    If `retry_after_s` is None, a retry does not help: the operator of the server must act.
    """


class UpstreamBroken(UpstreamError):
    """The provider failed after the first token. The answer is incomplete."""


class UpstreamStalled(UpstreamError):
    """The provider sent nothing for too long after the first token. The answer is incomplete."""


class ProducerLost(TokenwireError):
    """The server that generated the stream is gone. The answer is incomplete."""


class DeadlineExceeded(TokenwireError):
    """The deadline passed, at the server, or here (then there is no reason)."""

    default_code = grpc.StatusCode.DEADLINE_EXCEEDED


class SlowReader(TokenwireError):
    """The events were not read fast enough. The stream's retention decides whether it goes on."""


class AnswerTooLarge(TokenwireError):
    """The answer does not fit into the response of `chat`. Resume the stream `stream_id` to read it."""

    @property
    def earliest_sequence(self) -> int:
        """Sequence of the oldest stored event. Above 1: the beginning is lost. 0: not reported."""
        return parse_count(self.metadata.get("earliest_sequence")) or 0


class AnswerUnchecked(TokenwireError):
    """The server could not check the rest of the answer with a moderation service. The answer is incomplete,
    and billed.
    """


class InvalidAnswer(TokenwireError):
    """The answer is not one JSON document, or does not follow the request's schema.

    `violations` lists what is wrong, with the place in the answer as a JSON Pointer. The error of `chat` has
    neither violations nor the text: `resume(error.stream_id)` reads the answer.
    """

    text: str = ""
    """The answer, if it was read from its beginning."""


class Draining(TokenwireError):
    """This server is about to stop. A refused request was not started: send it to another server. A stream
    that was open goes on: resume it on another server.
    """


class ServerStopped(TokenwireError):
    """The stream ended because its server stopped."""


class InternalError(TokenwireError):
    """A bug in Tokenwire. `metadata["error_id"]` is in the server's log."""


class ConnectionLost(TokenwireError):
    """The server is unreachable, or the connection to it broke."""

    default_code = grpc.StatusCode.UNAVAILABLE


class Cancelled(TokenwireError):
    """The call was cancelled, by `stream.cancel()`, by closing the client, or by the server."""

    default_code = grpc.StatusCode.CANCELLED


class IncompleteStream(TokenwireError):
    """The stream ended without `finished` and without an error. It may be incomplete."""
