"""What is kept of a stream once it is over: who asked whom for what, how it ended, and what it cost.

Nothing of what was asked or answered stands in it. Pure values: no I/O, no clock.
"""

from __future__ import annotations

import enum

import msgspec

from ..events import Usage


class Outcome(enum.StrEnum):
    """How a stream ended. The values are stored."""

    OPEN = "open"
    """It has not: the record says what was intended, and what was used so far."""
    FINISHED = "finished"
    """By itself: the provider said so."""
    CANCELLED = "cancelled"
    """Its readers left, or a caller cancelled it."""
    TIME_LIMIT = "time_limit"
    BUDGET = "budget"
    """What it may cost was reached."""
    FAILED = "failed"
    """Its caller got an error."""
    LOST = "lost"
    """The process that ran it is gone; the figures, and the end, are its last checkpoint's."""


class UsageRecord(msgspec.Struct, frozen=True, gc=False):
    """One stream. Times are seconds since the epoch, UTC; None: it did not come to that."""

    stream_id: str
    instance_id: str
    """Of the process that ran it."""
    tenant: str
    key_prefix: str
    """Of the key that began it. Empty: none was needed."""
    request_id: str
    labels: dict[str, str]
    model_asked: str
    """As the caller wrote it."""
    created_time: float
    provider: str = ""
    """Of who served it, or was to."""
    model: str = ""
    """As that provider names it."""
    provider_response_id: str = ""
    end_time: float | None = None
    ttft_s: float | None = None
    outcome: Outcome = Outcome.OPEN
    reason: str = ""
    """The name of the FinishReason, or the reason of the error. Empty while it is open."""
    usage: Usage = Usage(input_tokens=0, output_tokens=0)
    """And what it costs. `estimated`: these are not the provider's figures."""
    partial: bool = False
    """The stream did not end by itself: tokens are what was received, not a whole answer's."""
    attempts: int = 0
    """Upstreams that were opened for it."""
    from_cache: bool = False
    """A replay of an earlier answer, which costs nothing."""

    @property
    def duration_s(self) -> float | None:
        return None if self.end_time is None else max(0.0, self.end_time - self.created_time)
