"""The errors that callers can receive, as one tree. Pure values: one module maps them to gRPC statuses.

    TokenwireError
    +-- InvalidRequest          fields of the request are invalid
    +-- UnknownModel            the provider or alias is not configured, or the provider answered 404
    +-- Unauthenticated         the key is missing or invalid
    +-- PermissionDenied        the key may not call this model, or the tenant needs its own provider key
    +-- LimitExceeded           a limit of the caller was reached
    |   +-- RateLimited             too many requests or tokens in a minute
    |   +-- TooManyStreams          too many concurrent streams
    |   +-- QuotaExhausted          the request is too large, or the spend limit was reached
    +-- BudgetExceeded          the estimate for the request exceeds its budget
    +-- Overloaded              this server is full
    |   +-- ProviderBusy            all connections to the provider are in use
    +-- StoreUnavailable        the database, or the log that servers share, is unavailable
    +-- StreamNotFound          the stream is unknown, expired or deleted, or belongs to another tenant
    +-- ResumePointExpired      the entries after the cursor were dropped from the log
    +-- ResumePointAhead        the cursor is beyond the newest entry
    +-- RequestIdReused         a different request used the request_id
    +-- UpstreamError           the request to the provider failed
    |   +-- UpstreamRejected        the provider refused the request
    |   +-- ContextTooLong          the request does not fit into the model's context window
    |   +-- UpstreamAuth            the provider refused the operator's or the tenant's key or account
    |   +-- UpstreamRateLimited     the provider's rate limit was reached
    |   +-- UpstreamUnavailable     it cannot be reached, or failed before the first token
    |   +-- UpstreamBroken          it failed after the first token
    |   +-- UpstreamStalled         it sent nothing for too long
    +-- ProducerLost            the server that generated the stream is gone
    +-- SlowReader              the reader fell behind the log, or accepted no data for too long
    +-- AnswerTooLarge          the answer does not fit into one response
    +-- Draining                this server is about to stop and starts no new stream
    +-- ServerStopped           the server stopped before the stream ended
    +-- StreamFailed            the stream ended with one of these errors; each of its readers gets it
    +-- InternalFault           a bug in Tokenwire, described only in the log

`str(error)` is for the caller: it contains nothing that a provider or a database wrote. Their text is in
`provider_text` and `StoreUnavailable.detail`, for the operator only.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import msgspec

from .events import Usage
from .request import Violation


class StreamPosition(msgspec.Struct, frozen=True):
    """The position and the usage of a stream when an error was raised."""

    stream_id: str
    last_sequence: int
    usage: Usage


class TokenwireError(Exception):
    """Base class of all errors that reach a caller with a reason."""

    reason: str
    retry_after_s: float | None = None
    """Delay before a retry makes sense. If it is set, the caller gets a RetryInfo."""
    limit_name: str = ""
    """Name of the limit of the server that was reached, as in the settings. Empty: it was none."""
    at: StreamPosition | None = None
    """Set if the call had opened or joined a stream. Callers get it in the metadata of the error."""

    def facts(self) -> dict[str, str]:
        """Return the metadata of the error's ErrorInfo, for programs."""
        return {}


MAX_VIOLATIONS = 20
"""Maximum number of violations that are listed for one request."""


class InvalidRequest(TokenwireError):
    reason = "INVALID_REQUEST"

    def __init__(
        self, violations: Sequence[Violation], *, all_found: bool = True, limit_name: str = ""
    ) -> None:
        self.limit_name = limit_name
        self.violations = tuple(violations[:MAX_VIOLATIONS])
        self.unlisted_count = len(violations) - len(self.violations)
        """Number of violations that were found and are not listed."""
        self.all_found = all_found
        """Whether checking was complete. If not, there may be more violations."""
        first = self.violations[0]
        others = len(violations) - 1
        at_least = "" if all_found else "at least "
        more = f" (and {at_least}{others} more)" if others else ""
        super().__init__(f"{first.field}: {first.description}{more}")


class UnknownModel(TokenwireError):
    reason = "UNKNOWN_MODEL"

    def __init__(
        self, model: str, *, why: str, nearest: Sequence[str] = (), provider_text: str = ""
    ) -> None:
        self.model = model
        self.why = why
        self.provider_text = provider_text
        self.nearest = tuple(nearest)
        hint = f"; did you mean {', '.join(nearest)}?" if nearest else ""
        super().__init__(f"{why}{hint}")

    def facts(self) -> dict[str, str]:
        return {"model": self.model, "nearest": ",".join(self.nearest)}


class Unauthenticated(TokenwireError):
    """`str(error)` never contains what was sent as a key, because that may be a mistyped key."""

    reason = "UNAUTHENTICATED"


class PermissionDenied(TokenwireError):
    reason = "PERMISSION_DENIED"

    def __init__(self, model: str, *, why: str = "") -> None:
        self.model = model
        super().__init__(why or f"this key may not call the model {model!r}")

    def facts(self) -> dict[str, str]:
        return {"model": self.model}


class LimitExceeded(TokenwireError):
    """A limit of the caller was reached. Without `retry_after_s`, waiting does not help."""

    def __init__(
        self,
        limit: str,
        *,
        scope: str,
        subject: str,
        allowed: int,
        asked: int,
        remaining: int,
        retry_after_s: float | None = None,
        field: str | None = None,
        why: str = "",
    ) -> None:
        self.limit = limit
        """Name of the limit in the settings."""
        self.scope = scope
        """What shares the limit: "key" or "tenant"."""
        self.subject = subject
        """Prefix of the key, or name of the tenant."""
        self.allowed = allowed
        self.asked = asked
        self.remaining = remaining
        self.retry_after_s = retry_after_s
        self.field = field
        """Path of the field that is too large. None if the limit is not on a single request."""
        hint = why or "waiting does not help"
        if retry_after_s is not None:
            hint = f"retry in {math.ceil(retry_after_s * 10) / 10:g} s"  # never too early
        super().__init__(
            f"{limit} of this {scope} is {allowed}: {remaining} left, {asked} requested; {hint}"
        )

    def facts(self) -> dict[str, str]:
        return {
            "limit": self.limit,
            "scope": self.scope,
            "allowed": str(self.allowed),
            "remaining": str(self.remaining),
            "asked": str(self.asked),
        }


class RateLimited(LimitExceeded):
    reason = "RATE_LIMITED"


class TooManyStreams(LimitExceeded):
    reason = "TOO_MANY_STREAMS"


class QuotaExhausted(LimitExceeded):
    reason = "QUOTA_EXHAUSTED"


class BudgetExceeded(TokenwireError):
    reason = "BUDGET_EXCEEDED"

    def __init__(self, limit: str, *, allowed: int, estimated: int) -> None:
        self.limit = limit
        """Name of the field in the request's budget."""
        self.allowed = allowed
        self.estimated = estimated
        super().__init__(
            f"budget.{limit} is {allowed}, but the request's input is estimated at {estimated}"
        )

    def facts(self) -> dict[str, str]:
        return {
            "limit": self.limit,
            "allowed": str(self.allowed),
            "estimated": str(self.estimated),
        }


class Overloaded(TokenwireError):
    """The delay is between 1 and 2 seconds, at random: callers that were refused together do not come back
    together.
    """

    reason = "OVERLOADED"

    def __init__(self, what: str, *, limit: float, limit_name: str = "") -> None:
        self.limit = limit
        self.limit_name = limit_name
        self.retry_after_s = random.uniform(1.0, 2.0)  # noqa: S311  # not a secret
        super().__init__(f"this server is full: {what} ({limit_name or 'limit'} {limit})")

    def facts(self) -> dict[str, str]:
        facts = {"limit": str(self.limit)}
        if self.limit_name:
            facts["limit_name"] = self.limit_name
        return facts


class ProviderBusy(Overloaded):
    """All connections that this server may have to a provider are in use. Nothing was sent."""

    provider_text = ""

    def __init__(self, provider: str, *, limit: int) -> None:
        self.provider = provider
        super().__init__(
            f"all connections to provider {provider!r} are in use",
            limit=limit,
            limit_name="max_connections",
        )

    def facts(self) -> dict[str, str]:
        return super().facts() | {"provider": self.provider}


DATABASE = "this server's database"
SHARED_LOG = "the log of streams that servers share"


class StoreUnavailable(TokenwireError):
    """A store is unavailable. Callers get a fixed text with its name, without addresses, users, paths or
    messages of the driver; `detail` has the cause.
    """

    reason = "STORE_UNAVAILABLE"

    def __init__(self, detail: str, *, store: str = DATABASE, retry_after_s: float = 1.0) -> None:
        """`store` is DATABASE or SHARED_LOG."""
        self.detail = detail
        """One line for the operator: the store, and what is wrong with it."""
        self.retry_after_s = retry_after_s
        super().__init__(f"{store} is not available")


def operator_text(error: BaseException) -> str:
    """Return an error's text for the log and the operator's terminal. It must not reach callers."""
    return error.detail if isinstance(error, StoreUnavailable) else str(error)


class StreamNotFound(TokenwireError):
    reason = "STREAM_NOT_FOUND"

    def __init__(self) -> None:
        # The same text for every cause, because the cause could reveal the streams of other tenants.
        super().__init__("stream not found or expired")


class _OutOfRange(TokenwireError):
    def __init__(self, after_sequence: int, *, earliest: int, latest: int) -> None:
        self.earliest_sequence = earliest
        self.latest_sequence = latest
        super().__init__(
            f"the stream cannot be resumed after sequence {after_sequence}: "
            f"its log contains {earliest} to {latest}"
        )

    def facts(self) -> dict[str, str]:
        return {
            "earliest_sequence": str(self.earliest_sequence),
            "latest_sequence": str(self.latest_sequence),
        }


class ResumePointExpired(_OutOfRange):
    reason = "RESUME_POINT_EXPIRED"


class ResumePointAhead(_OutOfRange):
    reason = "RESUME_POINT_AHEAD"


class ResumeDisabled(TokenwireError):
    reason = "RESUME_DISABLED"


class RequestIdReused(TokenwireError):
    reason = "REQUEST_ID_REUSED"

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        super().__init__("a different request used this request_id")

    def facts(self) -> dict[str, str]:
        return {"request_id": self.request_id}


class UpstreamError(TokenwireError):
    """The provider failed, or could not be reached.

    `provider_text` is what the provider wrote, for the log only. `error_type`, `error_code` and `field` are
    the provider's names for the kind of error and the invalid field; they reach the caller. So does
    `provider_message`: a redacted text, only for requests that the caller can correct. `requested_delay_s`
    is the delay that the provider itself named; `retry_after_s` is the delay that callers get.
    """

    def __init__(
        self,
        message: str,
        *,
        provider: str = "",
        status: int | None = None,
        error_type: str = "",
        error_code: str = "",
        field: str = "",
        provider_message: str = "",
        provider_text: str = "",
        retry_after_s: float | None = None,
        requested_delay_s: float | None = None,
        limit_name: str = "",
    ) -> None:
        self.provider = provider
        self.status = status
        self.error_type = error_type
        self.error_code = error_code
        self.provider_message = provider_message
        self.field = field
        self.provider_text = provider_text
        self.retry_after_s = retry_after_s
        self.requested_delay_s = requested_delay_s
        self.limit_name = limit_name
        super().__init__(message)

    def facts(self) -> dict[str, str]:
        facts = {"provider": self.provider}
        if self.limit_name:
            facts["limit_name"] = self.limit_name
        if self.status is not None:
            facts["provider_status"] = str(self.status)
        if self.error_type:
            facts["provider_error_type"] = self.error_type
        if self.error_code:
            facts["provider_error_code"] = self.error_code
        if self.field:
            facts["provider_field"] = self.field
        if self.provider_message:
            facts["provider_message"] = self.provider_message
        return facts


class UpstreamRejected(UpstreamError):
    reason = "UPSTREAM_REJECTED"


class ContextTooLong(UpstreamError):
    """The request does not fit into the model's context window. Token counts are None if unknown."""

    reason = "CONTEXT_TOO_LONG"
    input_tokens: int | None = None
    limit_tokens: int | None = None

    def facts(self) -> dict[str, str]:
        facts = super().facts()
        if self.input_tokens is not None:
            facts["input_tokens"] = str(self.input_tokens)
        if self.limit_tokens is not None:
            facts["limit_tokens"] = str(self.limit_tokens)
        return facts


class UpstreamAuth(UpstreamError):
    reason = "UPSTREAM_AUTH"
    is_out_of_credit: bool = False
    """Whether the provider accepts the key, and the account has no credit or quota left."""
    is_own_key: bool = False
    """Whether the key is the tenant's own, and not the server's."""

    def facts(self) -> dict[str, str]:
        return super().facts() | ({"key_owner": "tenant"} if self.is_own_key else {})


class UpstreamRateLimited(UpstreamError):
    reason = "UPSTREAM_RATE_LIMITED"


class UpstreamUnavailable(UpstreamError):
    reason = "UPSTREAM_UNAVAILABLE"


class UpstreamBroken(UpstreamError):
    reason = "UPSTREAM_BROKEN"


class UpstreamStalled(UpstreamError):
    reason = "UPSTREAM_STALLED"


class InvalidAnswer(TokenwireError):
    """The answer does not follow the schema, and the request wants this to be an error. Set `at`."""

    reason = "INVALID_ANSWER"

    def __init__(self) -> None:
        super().__init__("the answer does not follow the schema: see the event json_result")


class ProducerLost(TokenwireError):
    """The lease of the server that generated the stream has expired. Set `at`."""

    reason = "PRODUCER_LOST"

    def __init__(self) -> None:
        super().__init__("the server that generated this stream is gone: the answer is incomplete")


class SlowReader(TokenwireError):
    reason = "SLOW_READER"

    def __init__(
        self, message: str, *, limit_name: str = "", earliest_sequence: int | None = None
    ) -> None:
        self.limit_name = limit_name
        self.earliest_sequence = earliest_sequence
        super().__init__(message)

    def facts(self) -> dict[str, str]:
        if self.earliest_sequence is None:
            return {}
        return {"earliest_sequence": str(self.earliest_sequence)}


class AnswerTooLarge(TokenwireError):
    reason = "ANSWER_TOO_LARGE"
    limit_name = "max_chat_answer_bytes"

    def __init__(
        self, stream_id: str, *, answer_bytes: int, limit_bytes: int, earliest_sequence: int = 1
    ) -> None:
        self.stream_id = stream_id
        self.answer_bytes = answer_bytes
        self.limit_bytes = limit_bytes
        self.earliest_sequence = earliest_sequence
        """Sequence of the oldest entry in the stream's log."""
        way_out = (
            "read it with ResumeStream"
            if earliest_sequence == 1
            else f"the stream's log begins at {earliest_sequence}, so use ChatStream for such answers"
        )
        super().__init__(
            f"the answer has {answer_bytes} bytes, more than the {limit_bytes} that Chat returns "
            f"({self.limit_name}); {way_out}"
        )

    def facts(self) -> dict[str, str]:
        return {
            "stream_id": self.stream_id,
            "answer_bytes": str(self.answer_bytes),
            "limit_bytes": str(self.limit_bytes),
            "earliest_sequence": str(self.earliest_sequence),
        }


class Draining(TokenwireError):
    """The server drains: it starts no new stream. Open streams can still be read."""

    reason = "DRAINING"

    def __init__(self) -> None:
        super().__init__("this server is about to stop: send the request to another one")


class ServerStopped(TokenwireError):
    reason = "SERVER_STOPPED"


class Failure(msgspec.Struct, frozen=True):
    """Why a stream failed. A value, so that it can be stored with the log and read by other processes."""

    reason: str
    message: str
    last_sequence: int
    """The last sequence of the log when it was sealed."""
    usage: Usage
    facts: dict[str, str] = {}
    retry_after_s: float | None = None

    @classmethod
    def of(cls, error: TokenwireError, *, last_sequence: int, usage: Usage) -> Failure:
        """Return the failure of a stream that ended with an error."""
        return cls(
            error.reason, str(error), last_sequence, usage, error.facts(), error.retry_after_s
        )


class StreamFailed(TokenwireError):
    """The error of every reader that reaches the end of a failed stream. Its reason is the stream's."""

    def __init__(self, stream_id: str, failure: Failure) -> None:
        self.reason = failure.reason
        self.retry_after_s = failure.retry_after_s
        self._facts = failure.facts
        self.at = StreamPosition(stream_id, failure.last_sequence, failure.usage)
        super().__init__(failure.message)

    def facts(self) -> dict[str, str]:
        return self._facts


class InternalFault(TokenwireError):
    reason = "INTERNAL"

    def __init__(self, error_id: str) -> None:
        self.error_id = error_id
        super().__init__("internal error; the operator can find it in the log by its error_id")

    def facts(self) -> dict[str, str]:
        return {"error_id": self.error_id}
