"""The usage record of a stream: its caller, its provider, how it ended and what it cost.

It contains nothing of the request or the answer. Pure values: no I/O, no clock.
"""

from __future__ import annotations

import enum

import msgspec

from ..events import Usage


class Outcome(enum.StrEnum):
    """How a stream ended. The values are stored."""

    OPEN = "open"
    """It has not ended. The record has the planned model and the usage so far."""
    FINISHED = "finished"
    """The provider finished the answer."""
    CANCELLED = "cancelled"
    """Its readers left, or a caller cancelled it."""
    TIME_LIMIT = "time_limit"
    BUDGET = "budget"
    """The stream reached its cost limit."""
    FAILED = "failed"
    """The caller got an error."""
    LOST = "lost"
    """The process that ran it is gone. The figures and the end time are those of its last checkpoint."""


class FailedAttempt(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A request to a provider that failed. Stored as JSON."""

    provider: str
    model: str
    """The model as the configuration or the request names it at the provider."""
    reason: str
    duration_s: float
    input_tokens: int = 0
    output_tokens: int = 0
    cost_microusd: int | None = None


class FilterAction(msgspec.Struct, frozen=True, gc=False):
    """What a content filter or a moderation did in a stream. Stored as JSON, without anything of the text."""

    name: str
    """The name of the filter or moderation in the configuration."""
    action: str
    """ "block", "redact", "report", or "unchecked": text passed that a moderation could not check."""
    count: int
    """How often it acted."""


class UsageRecord(msgspec.Struct, frozen=True, gc=False):
    """The record of one stream. Times are seconds since the epoch. None: it has not happened."""

    stream_id: str
    instance_id: str
    """The process that ran the stream."""
    tenant: str
    key_prefix: str
    """Prefix of the caller's key. Empty: no key was needed."""
    request_id: str
    labels: dict[str, str]
    model_asked: str
    """The model as the caller named it."""
    created_time: float
    provider: str = ""
    """The provider that served the stream, or was planned to."""
    model: str = ""
    """The model as the provider names it."""
    provider_response_id: str = ""
    end_time: float | None = None
    ttft_s: float | None = None
    outcome: Outcome = Outcome.OPEN
    reason: str = ""
    """Name of the FinishReason, or reason of the error. Empty while the stream is open."""
    usage: Usage = Usage(input_tokens=0, output_tokens=0)
    """Tokens and cost. `estimated` is true if the figures are not the provider's."""
    partial: bool = False
    """Whether the answer was cut off, so that the tokens are those of the received part."""
    attempts: int = 0
    """Number of upstreams that were opened."""
    from_cache: bool = False
    """Whether the answer is a replay from the cache, which costs nothing."""
    own_key: bool = False
    """Whether the last attempt carried the tenant's own key for the provider, which charges the tenant."""
    failed_attempts: tuple[FailedAttempt, ...] = ()
    """The attempts that failed, in their order. Empty while the stream is open."""
    filters: tuple[FilterAction, ...] = ()
    """What content filters did, in their order. Empty while the stream is open."""

    @property
    def duration_s(self) -> float | None:
        return None if self.end_time is None else max(0.0, self.end_time - self.created_time)
