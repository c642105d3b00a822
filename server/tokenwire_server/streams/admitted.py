"""What a stream begins with, and how far it has come. Values."""

from __future__ import annotations

import msgspec

from ..config import Limits
from ..events import NO_USAGE, Usage
from ..ledger.record import FilterAction
from ..pricing.estimate import Estimate
from ..request import ChatRequest
from ..routing.plan import Plan
from ..tenants.caller import Caller
from ..tenants.reservation import Reservation


class AdmittedChat(msgspec.Struct, frozen=True):
    """A request, with everything that was decided before its stream is opened."""

    request: ChatRequest
    caller: Caller
    plan: Plan
    estimate: Estimate
    reservation: Reservation
    deadline: float | None = None
    """The caller's deadline, a value of `time.monotonic`, or None."""
    input_actions: tuple[FilterAction, ...] = ()
    """What content filters did when they searched the request."""

    def time_limit_s(self, limits: Limits, now: float) -> float:
        """Return how long the stream may take. It then finishes with TIME_LIMIT."""
        limit_s = limits.max_stream_duration_s
        margin_s = self.request.retention.soft_deadline_margin_s
        if margin_s is None or self.deadline is None:
            return limit_s
        return min(limit_s, self.deadline - margin_s - now)


class Progress(msgspec.Struct, frozen=True):
    """The state of a stream's generation so far, or at its end."""

    usage: Usage = NO_USAGE
    attempt_count: int = 0
    """Requests that were sent to providers."""
    provider: str = ""
    """The provider that served, or an empty string if there was no attempt."""
    has_head: bool = False
    """Whether the head of a provider's answer has arrived."""
    ttft_s: float | None = None
    first_text_s: float | None = None
    """Seconds to the first text: later than `ttft_s` if the model reasoned first."""
    model: str = ""
    """The model that served, as the provider names it."""
    provider_response_id: str = ""
