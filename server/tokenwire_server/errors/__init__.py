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
    +-- ResumeDisabled          the server keeps no streams to resume
    +-- RequestIdReused         a different request used the request_id
    +-- ModerationUnavailable   a moderation service could not check the request
    +-- AnswerUnchecked         a moderation service could not check the answer
    +-- UpstreamError           the request to the provider failed
    |   +-- UpstreamRejected        the provider refused the request
    |   +-- ContextTooLong          the request does not fit into the model's context window
    |   +-- UpstreamAuth            the provider refused the operator's or the tenant's key or account
    |   +-- UpstreamRateLimited     the provider's rate limit was reached
    |   +-- UpstreamUnavailable     it cannot be reached, or failed before the first token
    |   +-- UpstreamBroken          it failed after the first token
    |   +-- UpstreamStalled         it sent nothing for too long
    +-- InvalidAnswer           the answer does not follow the schema of the request
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

from .base import StreamPosition, TokenwireError
from .limits import BudgetExceeded, LimitExceeded, QuotaExhausted, RateLimited, TooManyStreams
from .moderation import AnswerUnchecked, ModerationUnavailable
from .requests import (
    MAX_VIOLATIONS,
    InvalidRequest,
    PermissionDenied,
    RequestIdReused,
    Unauthenticated,
    UnknownModel,
)
from .server import (
    DATABASE,
    SHARED_LOG,
    Draining,
    InternalFault,
    Overloaded,
    ProviderBusy,
    ResumeDisabled,
    ServerStopped,
    StoreUnavailable,
    operator_text,
)
from .streams import (
    AnswerTooLarge,
    Failure,
    InvalidAnswer,
    ProducerLost,
    ResumePointAhead,
    ResumePointExpired,
    SlowReader,
    StreamFailed,
    StreamNotFound,
)
from .upstream import (
    ContextTooLong,
    UpstreamAuth,
    UpstreamBroken,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamStalled,
    UpstreamUnavailable,
)

__all__ = [
    "DATABASE",
    "MAX_VIOLATIONS",
    "SHARED_LOG",
    "AnswerTooLarge",
    "AnswerUnchecked",
    "BudgetExceeded",
    "ContextTooLong",
    "Draining",
    "Failure",
    "InternalFault",
    "InvalidAnswer",
    "InvalidRequest",
    "LimitExceeded",
    "ModerationUnavailable",
    "Overloaded",
    "PermissionDenied",
    "ProducerLost",
    "ProviderBusy",
    "QuotaExhausted",
    "RateLimited",
    "RequestIdReused",
    "ResumeDisabled",
    "ResumePointAhead",
    "ResumePointExpired",
    "ServerStopped",
    "SlowReader",
    "StoreUnavailable",
    "StreamFailed",
    "StreamNotFound",
    "StreamPosition",
    "TokenwireError",
    "TooManyStreams",
    "Unauthenticated",
    "UnknownModel",
    "UpstreamAuth",
    "UpstreamBroken",
    "UpstreamError",
    "UpstreamRateLimited",
    "UpstreamRejected",
    "UpstreamStalled",
    "UpstreamUnavailable",
    "operator_text",
]
