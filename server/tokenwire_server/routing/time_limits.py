"""The limits on waiting for one answer of a provider."""

from __future__ import annotations

from typing import NamedTuple, Self

import msgspec

from ..config import Limits
from ..deadline import SilenceLimit
from ..providers.base import Route
from ..request import ChatRequest

FIRST_CONTENT = "upstream_first_content_s"
DRIP = "upstream_drip_s"
IDLE = "upstream_idle_s"
"""The names of the limits in the settings. A model's own limit has the name of the one that it overrides."""


class Wait(NamedTuple):
    """How long the next bytes of an answer may take."""

    left_s: float
    limit: str
    """Name of the limit that is reached then."""
    limit_s: float
    """Its value."""


class TimeLimits(msgspec.Struct, frozen=True):
    """The limits of one answer, in seconds. 0: there is none. Pure: the time is a parameter."""

    first_content_s: float
    """From the request to the first content."""
    drip_s: float
    """From the head of the answer to the first content."""
    idle_s: float
    """Between two arrivals of bytes, and from the request to the first one."""

    @classmethod
    def of(cls, route: Route, limits: Limits, request: ChatRequest) -> Self:
        """Return the limits of a request on a route.

        A model that reasons has a limit on its first content only if its own configuration sets one.
        """
        first_content_s = route.first_content_s
        if first_content_s is None:
            reasons = route.reasons or request.generation.asks_for_reasoning
            first_content_s = 0.0 if reasons else limits.upstream_first_content_s
        return cls(
            first_content_s=first_content_s,
            drip_s=limits.upstream_drip_s if route.drip_s is None else route.drip_s,
            idle_s=route.idle_s or limits.upstream_idle_s,
        )

    def before_content(self, now: float, *, requested: float, head: float | None) -> Wait:
        """Return the wait that begins `now`, when the request was made or bytes arrived.

        The times are of one clock. `head` is when the head of the answer arrived, or None.
        """
        wait = self.after_content()
        for name, limit_s, began in (
            (DRIP, self.drip_s, head),
            (FIRST_CONTENT, self.first_content_s, requested),
        ):
            if limit_s and began is not None:
                left_s = max(began + limit_s - now, 0.0)
                if left_s <= wait.left_s:
                    wait = Wait(left_s, name, limit_s)
        return wait

    def after_content(self) -> Wait:
        """Return the wait that begins at each arrival after the first content."""
        return Wait(self.idle_s, IDLE, self.idle_s)


class AnswerTimer(SilenceLimit):
    """Ends its block with TimeoutError when a limit of one answer is reached: the one of `wait`.

    After the first content, set `heard_at` at each arrival, which costs the least.
    """

    __slots__ = ("_head", "_limits", "_requested", "wait")

    def __init__(self, limits: TimeLimits, now: float) -> None:
        """The request is made `now`, a time of `time.monotonic`."""
        self._limits = limits
        self._requested = now
        self._head: float | None = None
        self.wait = limits.before_content(now, requested=now, head=None)
        super().__init__(self.wait.left_s)

    @property
    def idle_s(self) -> float:
        """The limit that `heard` needs after the first content."""
        return self._limits.idle_s

    def head_arrived(self, now: float) -> None:
        """Record that the head of the answer arrived."""
        self._head = now
        self.arrived_without_content(now)

    def arrived_without_content(self, now: float) -> None:
        """Record bytes that arrived before the first content."""
        self.wait = self._limits.before_content(now, requested=self._requested, head=self._head)
        self.heard(now, self.wait.left_s)

    def content_arrived(self) -> None:
        """Record that the first content arrived. Call `heard` with `idle_s`, then set `heard_at`."""
        self.wait = self._limits.after_content()
