"""How many chats may be open at once, so that the event loop is on time."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

from ..config import OverloadConfig
from ..errors import Overloaded
from ..shares import Place, SharedBound
from ..telemetry.event_loop import SAMPLE_EVERY_S
from ..tenants.caller import Caller

logger = logging.getLogger(__name__)

MIN_SAMPLES = 5
"""Minimum number of samples in an interval. A single pause, however long, is one sample."""
LOWEST_FACTOR, HIGHEST_FACTOR = 0.75, 0.95
"""After an interval in which the loop was late, the limit is the number of open chats times such a factor."""
SLOW_INCREASE, FAST_INCREASE = 0.03, 0.12
"""How much the limit rises in an interval in which the loop was on time; fast below a quarter of `max_lag_s`.
If another process has taken the CPU for a moment, the limit recovers within seconds."""
CALM_S = 60.0
"""After this time without lag and without a refusal there is no limit any more."""


class ChatLimit:
    """A limit on open chats that follows the lag of the event loop. Does not wait and reads no clock.

    The lag of an interval is the median of its samples: a loop with too much work is late most of the time,
    while a collection of garbage, a slow disk or a suspended machine delays one timer. The limit changes as
    the window of a TCP connection does. If the loop is late, the limit falls below the number of open chats;
    while the loop is on time and chats are refused, it rises slowly. Open chats are never ended, so the
    limit falls again only when their number has come down to it.
    """

    def __init__(self, config: OverloadConfig) -> None:
        self._config = config
        self._has_refused = False
        self._calm_s = 0.0
        self._passed_s = 0.0
        self._samples: list[float] = []
        self.limit: int | None = None
        """How many chats may be open at once. None: as many as the other limits allow."""

    def refused(self) -> None:
        """Note that a chat was refused because of `limit`."""
        self._has_refused = True

    def observe(self, lag_s: float, open_count: int) -> None:
        """Take a sample of the lag, in seconds, while `open_count` chats are open.

        A sample is taken SAMPLE_EVERY_S after the one before, and late by `lag_s`.
        """
        if not self._config.max_lag_s:
            return
        self._passed_s += SAMPLE_EVERY_S + lag_s
        self._samples.append(lag_s)
        if self._passed_s < self._config.interval_s or len(self._samples) < MIN_SAMPLES:
            return
        median_s = sorted(self._samples)[len(self._samples) // 2]
        if median_s > self._config.max_lag_s:
            self._decrease(median_s, open_count)
        elif self.limit is not None:
            self._increase(median_s, self.limit)
        self._has_refused = False
        self._passed_s = 0.0
        self._samples.clear()

    def _decrease(self, lag_s: float, open_count: int) -> None:
        self._calm_s = 0.0
        if self.limit is not None and open_count > self.limit:
            return  # the last decrease has not had its full effect yet
        # The lag rises faster than the number of chats. Without the root, the limit would fall too far.
        factor = math.sqrt(self._config.max_lag_s / lag_s)
        factor = max(LOWEST_FACTOR, min(HIGHEST_FACTOR, factor))
        lowered = max(self._config.min_chats, int(open_count * factor))
        if lowered >= (open_count if self.limit is None else self.limit):
            return
        if self.limit is None:
            logger.warning(
                "overload: the event loop is late by %.0f ms with %d open chats; new ones are refused "
                "while %d or more are open",
                lag_s * 1000,
                open_count,
                lowered,
            )
        self.limit = lowered

    def _increase(self, lag_s: float, limit: int) -> None:
        if self._has_refused:
            is_early = lag_s <= self._config.max_lag_s / 4
            self.limit = limit + max(1, int(limit * (FAST_INCREASE if is_early else SLOW_INCREASE)))
            self._calm_s = 0.0
            return
        self._calm_s += self._passed_s
        if self._calm_s >= CALM_S:
            self._calm_s = 0.0
            self.limit = None
            logger.info("the overload is over: new chats are no longer refused")


class LoadControl:
    """Counts the open chats, and refuses new ones while the event loop is late.

    `stream_count` returns the number of streams that generate. While `has_tenants` returns True, tenants
    share the limit, see `SharedBound`. `waiting_s` returns for how many seconds an answer has waited to be
    decoded. While many answers wait, each turn of the loop is short, and its timers are on time although it
    has too much work. So a wait counts as lag, as far as it is longer than the pauses of `ReadPacing`.
    """

    def __init__(
        self,
        config: OverloadConfig,
        stream_count: Callable[[], int],
        has_tenants: Callable[[], bool],
        *,
        waiting_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._waiting_s = waiting_s
        self._max_pause_s = config.max_pause_s
        self._max_lag_s = config.max_lag_s
        self._limit = ChatLimit(config)
        self._stream_count = stream_count
        self._open = SharedBound(0, has_tenants)

    @property
    def limit(self) -> float:
        """How many chats may be open at once because of the lag. Infinite while there is no such limit."""
        return math.inf if self._limit.limit is None else self._limit.limit

    def observe(self, lag_s: float) -> None:
        """Take a sample of the event loop's lag, see `sample_lag`."""
        # Only chats that have both a call and a stream count. A caller that opens and resets thousands of
        # calls would otherwise keep out all others. Streams without a call do not end if chats are refused.
        lag_s = max(lag_s, self._waiting_s() - self._max_pause_s)
        self._limit.observe(lag_s, min(self._open.used, self._stream_count()))

    def admitted(self, caller: Caller) -> Place:
        """Count a call as an open chat during the block. Raises Overloaded if none may be opened now.

        A call counts from its start: of many calls that arrive together, only as many as there are places
        cost more than a refusal.
        """
        return Place(self._open, caller.tenant, self._check)

    def _check(self, tenant: str) -> None:
        chats, limit = self._open, self._limit.limit
        if limit is None:
            return
        chats.bound = limit
        if not chats.may_take(tenant):
            self._limit.refused()
            why = "its event loop is late"
            if not chats.is_full:
                why = f"{why}, and this tenant has its share of the open chats"
            raise Overloaded(why, limit=self._max_lag_s, limit_name="max_lag_s")
