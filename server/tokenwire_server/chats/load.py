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
LOWEST_FACTOR, HIGHEST_FACTOR = 0.75, 1.04
"""The limit is multiplied at least and at most by these factors in an interval. When another process takes
the CPU for a moment, the limit falls once, and recovers within ten seconds."""
DELAY_EXPONENT = 0.25
"""The load is the delay of tokens, as a share of its maximum, to this power. Near the capacity of the event
loop, a few more chats make the delay much longer: it grows as 1 / (1 - utilization)."""
CALM_S = 60.0
"""After this time without lag and without a refusal there is no limit any more."""


class ChatLimit:
    """A limit on open chats that follows the load of the event loop. Does not wait and reads no clock.

    The load is 1 if the loop has as much work as it can do in time. The load of an interval is the median of
    its samples: a loop with too much work is late most of the time, while a collection of garbage, a slow
    disk or a suspended machine delays one timer. If the load is above 1, the limit falls below the number of
    open chats; while it is less and chats are refused, the limit rises. Open chats are never ended, so the
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

    def observe(self, load: float, passed_s: float, open_count: int) -> None:
        """Take a sample of the load, while `open_count` chats are open, `passed_s` after the last sample."""
        self._passed_s += passed_s
        self._samples.append(load)
        if self._passed_s < self._config.interval_s or len(self._samples) < MIN_SAMPLES:
            return
        median = sorted(self._samples)[len(self._samples) // 2]
        if median > 1:
            self._decrease(median, open_count)
        elif self.limit is not None:
            self._increase(median, self.limit)
        self._has_refused = False
        self._passed_s = 0.0
        self._samples.clear()

    def _decrease(self, load: float, open_count: int) -> None:
        self._calm_s = 0.0
        if self.limit is not None and open_count > self.limit:
            return  # the last decrease has not had its full effect yet
        lowered = max(self._config.min_chats, int(open_count * _factor(load)))
        if lowered >= (open_count if self.limit is None else self.limit):
            return
        self.limit = lowered

    def _increase(self, load: float, limit: int) -> None:
        if self._has_refused:
            self.limit = max(limit + 1, int(limit * _factor(load)))
            self._calm_s = 0.0
            return
        self._calm_s += self._passed_s
        if self._calm_s >= CALM_S:
            self._calm_s = 0.0
            self.limit = None
            logger.info("the overload is over: new chats are no longer refused")


def _factor(load: float) -> float:
    """Return the factor by which the limit changes. The load changes faster than the number of chats: without
    the root, the limit would change too much.
    """
    if load <= 0:
        return HIGHEST_FACTOR
    return max(LOWEST_FACTOR, min(HIGHEST_FACTOR, 1 / math.sqrt(load)))


class LoadControl:
    """Counts the open chats, and refuses new ones while the event loop has too much work.

    The load is 1 if the loop is late by `max_lag_s`, or if tokens collect for the sum of `max_pause_s` and
    `max_lag_s` before they are read. While many answers wait to be decoded, each turn of the loop is short,
    and its timers are on time although it has too much work. `delay_s` returns how long tokens collect, see
    `ReadPacing`. `stream_count` returns the number of streams that generate. While `has_tenants` returns
    True, tenants share the limit, see `SharedBound`.
    """

    def __init__(
        self,
        config: OverloadConfig,
        stream_count: Callable[[], int],
        has_tenants: Callable[[], bool],
        *,
        delay_s: Callable[[], float],
    ) -> None:
        self._delay_s = delay_s
        self._max_lag_s = config.max_lag_s
        self._max_delay_s = config.max_pause_s + config.max_lag_s
        self._limit = ChatLimit(config)
        self._stream_count = stream_count
        self._open = SharedBound(0, has_tenants)

    @property
    def limit(self) -> float:
        """How many chats may be open at once, from the load. Infinite while there is no such limit."""
        return math.inf if self._limit.limit is None else self._limit.limit

    def observe(self, lag_s: float) -> None:
        """Take a sample of the event loop's lag, see `sample_lag`."""
        if not self._max_lag_s:
            return
        delay_s, limit_before = self._delay_s(), self._limit.limit
        delay = delay_s / self._max_delay_s
        load = max(lag_s / self._max_lag_s, delay**DELAY_EXPONENT)
        # Only chats that have both a call and a stream count. A caller that opens and resets thousands of
        # calls would otherwise keep out all others. Streams without a call do not end if chats are refused.
        open_count = min(self._open.used, self._stream_count())
        self._limit.observe(load, SAMPLE_EVERY_S + lag_s, open_count)
        if limit_before is None and self._limit.limit is not None:
            logger.warning(
                "overload: with %d open chats the event loop is late by %.0f ms and tokens wait for %.0f ms; "
                "new chats are refused while %d or more are open",
                open_count,
                lag_s * 1000,
                delay_s * 1000,
                self._limit.limit,
            )

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
            why = "its event loop has too much work"
            if not chats.is_full:
                why = f"{why}, and this tenant has its share of the open chats"
            raise Overloaded(why, limit=self._max_lag_s, limit_name="max_lag_s")
