"""The errors of the clients, grouped by who has to act.

    TokenwireError                 see `reason` and `code`; also the class for an unknown reason
    +-- RequestError               the caller: change the request
    |   +-- InvalidRequest             fields of the request are invalid: see `violations`
    |   +-- UnknownModel               the provider, alias or model is unknown
    |   +-- BudgetExceeded             the request would exceed its own budget
    |   +-- ContextTooLong             the request does not fit into the model's context window
    |   +-- UpstreamRejected           the provider refused the request
    |   +-- RequestIdReused            another request has used the `request_id`
    |   +-- StreamNotFound             the stream is unknown or expired
    |   +-- ResumePointError           the stream cannot be read from there: see `earliest_sequence`
    |   |   +-- ResumePointExpired         the events after the cursor are no longer stored
    |   |   +-- ResumePointAhead           the cursor is after the newest event
    |   +-- AnswerTooLarge             the answer does not fit into the response of `chat`
    +-- AccessError                the caller: use another key
    |   +-- Unauthenticated            the key is missing or not accepted
    |   +-- PermissionDenied           the key may not call this model
    +-- LimitExceeded              a limit of the caller: see `limit`, `allowed`, `remaining`
    |   +-- RateLimited                too much in a minute: see `retry_after_s`
    |   +-- TooManyStreams             too many streams at once
    |   +-- QuotaExhausted             too much in one request, or spent in a day or month
    +-- UpstreamError              the provider, the connection to it, or the model
    |   +-- UpstreamAuth               it refused the key or the account
    |   +-- UpstreamRateLimited        its rate limit is reached: see `retry_after_s`
    |   +-- UpstreamUnavailable        it is unreachable, or failed before the first token
    |   +-- UpstreamBroken             it failed after the first token: the answer is incomplete
    |   +-- UpstreamStalled            it sent nothing for too long after the first token
    |   +-- AnswerError                the answer is not what `response_format` requires: see `text`
    |       +-- InvalidAnswer              it does not follow the schema: see `violations`
    |       +-- AnswerCut                  it was cut off: see `finish_reason`
    |       +-- AnswerRefused              the model refused: see `category` and `explanation`
    +-- ServerError                the server or its operator
    |   +-- Overloaded                 the server is full: see `retry_after_s`
    |   +-- StoreUnavailable           the server cannot reach a store: see `retry_after_s`
    |   +-- ModerationUnavailable      the request could not be checked: see `retry_after_s`
    |   +-- Draining                   this server is about to stop: use another
    |   +-- ServerStopped              the stream ended because its server stopped
    |   +-- ProducerLost               its server is gone or cut off: the answer is incomplete
    |   +-- AnswerUnchecked            the rest of the answer could not be checked: it is incomplete
    |   +-- ResumeDisabled             the setting `resume` of the server is off
    |   +-- InternalError              a bug in Tokenwire; `metadata["error_id"]` is in the server's log
    +-- TransportError             the connection, or the way to this reader
    |   +-- ConnectionLost             the server is unreachable, or the connection broke. A ConnectionError
    |   +-- SlowReader                 the events were not read fast enough: resume
    |   +-- IncompleteStream           the stream ended without `finished`: do not use it as an answer
    +-- CallEnded                  the caller's own deadline or cancellation
    |   +-- DeadlineExceeded           the deadline (`timeout=`) passed. A TimeoutError
    |   +-- Cancelled                  the call was cancelled, by `stream.cancel()` or by the server
    +-- ToolRunError               the limits or the tools of a run with tools: see `messages`
        +-- ToolRoundsExceeded         the model still calls tools after `max_rounds` answers
        +-- ToolCostExceeded           the run costs more than `max_cost_microusd`
        +-- ToolTimeExceeded           the run took longer than its `timeout`. A TimeoutError
        +-- ToolFailed                 a tool failed, and the run has `on_tool_error="raise"`

The reasons are those of `tokenwire.v1.ErrorReason`. ConnectionLost, IncompleteStream, Cancelled, AnswerCut
and AnswerRefused have none, because no server sends them. `asyncio.CancelledError` and `KeyboardInterrupt`
are not part of the tree and pass through.
"""

from .answer import AnswerCut, AnswerError, AnswerRefused, InvalidAnswer
from .base import Retry, TokenwireError, Violation
from .call import (
    CallEnded,
    Cancelled,
    ConnectFailure,
    ConnectionLost,
    DeadlineExceeded,
    IncompleteStream,
    SlowReader,
    TransportError,
)
from .limits import LimitExceeded, QuotaExhausted, RateLimited, TooManyStreams
from .reasons import CLASS_OF_REASON
from .request import (
    AccessError,
    AnswerTooLarge,
    BudgetExceeded,
    ContextTooLong,
    InvalidRequest,
    PermissionDenied,
    RequestError,
    RequestIdReused,
    ResumePointAhead,
    ResumePointError,
    ResumePointExpired,
    StreamNotFound,
    Unauthenticated,
    UnknownModel,
    UpstreamRejected,
)
from .server import (
    AnswerUnchecked,
    Draining,
    InternalError,
    ModerationUnavailable,
    Overloaded,
    ProducerLost,
    ResumeDisabled,
    ServerError,
    ServerStopped,
    StoreUnavailable,
)
from .upstream import (
    UpstreamAuth,
    UpstreamBroken,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamStalled,
    UpstreamUnavailable,
)

__all__ = [
    "CLASS_OF_REASON",
    "AccessError",
    "AnswerCut",
    "AnswerError",
    "AnswerRefused",
    "AnswerTooLarge",
    "AnswerUnchecked",
    "BudgetExceeded",
    "CallEnded",
    "Cancelled",
    "ConnectFailure",
    "ConnectionLost",
    "ContextTooLong",
    "DeadlineExceeded",
    "Draining",
    "IncompleteStream",
    "InternalError",
    "InvalidAnswer",
    "InvalidRequest",
    "LimitExceeded",
    "ModerationUnavailable",
    "Overloaded",
    "PermissionDenied",
    "ProducerLost",
    "QuotaExhausted",
    "RateLimited",
    "RequestError",
    "RequestIdReused",
    "ResumeDisabled",
    "ResumePointAhead",
    "ResumePointError",
    "ResumePointExpired",
    "Retry",
    "ServerError",
    "ServerStopped",
    "SlowReader",
    "StoreUnavailable",
    "StreamNotFound",
    "TokenwireError",
    "TooManyStreams",
    "TransportError",
    "Unauthenticated",
    "UnknownModel",
    "UpstreamAuth",
    "UpstreamBroken",
    "UpstreamError",
    "UpstreamRateLimited",
    "UpstreamRejected",
    "UpstreamStalled",
    "UpstreamUnavailable",
    "Violation",
]
