"""The class of each ErrorReason. The class says whether a retry may help, and whether to resume."""

from __future__ import annotations

from collections.abc import Mapping

from .answer import InvalidAnswer
from .base import TokenwireError
from .call import DeadlineExceeded, SlowReader
from .limits import QuotaExhausted, RateLimited, TooManyStreams
from .request import (
    AnswerTooLarge,
    BudgetExceeded,
    ContextTooLong,
    InvalidRequest,
    PermissionDenied,
    RequestIdReused,
    ResumePointAhead,
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
    ServerStopped,
    StoreUnavailable,
)
from .upstream import (
    UpstreamAuth,
    UpstreamBroken,
    UpstreamRateLimited,
    UpstreamStalled,
    UpstreamUnavailable,
)

CLASS_OF_REASON: Mapping[str, type[TokenwireError]] = {
    "INVALID_REQUEST": InvalidRequest,
    "UNKNOWN_MODEL": UnknownModel,
    "CONTEXT_TOO_LONG": ContextTooLong,
    "UNAUTHENTICATED": Unauthenticated,
    "PERMISSION_DENIED": PermissionDenied,
    "RATE_LIMITED": RateLimited,
    "TOO_MANY_STREAMS": TooManyStreams,
    "QUOTA_EXHAUSTED": QuotaExhausted,
    "BUDGET_EXCEEDED": BudgetExceeded,
    "MODERATION_UNAVAILABLE": ModerationUnavailable,
    "OVERLOADED": Overloaded,
    "STORE_UNAVAILABLE": StoreUnavailable,
    "STREAM_NOT_FOUND": StreamNotFound,
    "RESUME_POINT_EXPIRED": ResumePointExpired,
    "RESUME_POINT_AHEAD": ResumePointAhead,
    "RESUME_DISABLED": ResumeDisabled,
    "REQUEST_ID_REUSED": RequestIdReused,
    "UPSTREAM_REJECTED": UpstreamRejected,
    "UPSTREAM_AUTH": UpstreamAuth,
    "UPSTREAM_RATE_LIMITED": UpstreamRateLimited,
    "UPSTREAM_UNAVAILABLE": UpstreamUnavailable,
    "UPSTREAM_BROKEN": UpstreamBroken,
    "UPSTREAM_STALLED": UpstreamStalled,
    "PRODUCER_LOST": ProducerLost,
    "DEADLINE": DeadlineExceeded,  # of older servers
    "SLOW_READER": SlowReader,
    "DRAINING": Draining,
    "ANSWER_TOO_LARGE": AnswerTooLarge,
    "ANSWER_UNCHECKED": AnswerUnchecked,
    "INVALID_ANSWER": InvalidAnswer,
    "SERVER_STOPPED": ServerStopped,
    "INTERNAL": InternalError,
}
