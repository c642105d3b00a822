"""How often streams read from their providers while the event loop is busy."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from ..config import OverloadConfig

SAMPLES = 5
"""Number of samples whose median counts. A single pause of the loop, however long, is one sample."""
MAX_RISE_S, FALL_S = 0.01, 0.0025
"""How much the pause may rise with one sample, and falls at least if the lag is below half of its target."""
SHORT_PAUSE_S = 0.01
"""The pause is not longer than this while no answer waits to be decoded: then the reads are not why the loop
is late. A machine that is busy with other work also delays its timers."""


class ReadPacing:
    """The pause of each stream between two reads, which follows the lag of the event loop.

    A token costs less if it is read and written together with others. With pauses, a busy server reads
    several tokens at once. It can then serve more streams, and the turns of its event loop get shorter. New
    calls benefit most, because they need several turns.

    The pause rises while the lag is above its target, a fifth of `max_lag_s`, and falls while it is below.
    So it settles where the lag has its target. A pause in proportion to the lag would keep the lag higher:
    in an overload, a turn of the loop took twice as long with it.

    `waiting_s` returns for how many seconds an answer has waited to be decoded after its pause.
    """

    __slots__ = ("_lags_s", "_max_pause_s", "_target_s", "_waiting_s", "pause_s")

    def __init__(self, config: OverloadConfig, waiting_s: Callable[[], float]) -> None:
        self._max_pause_s = config.max_pause_s if config.max_lag_s else 0.0
        self._target_s = config.max_lag_s / 5
        self._waiting_s = waiting_s
        self._lags_s: deque[float] = deque(maxlen=SAMPLES)
        self.pause_s = 0.0
        """Seconds to wait after a read of content. Usually zero."""

    def observe(self, lag_s: float) -> None:
        """Take a sample of the event loop's lag, see `sample_lag`."""
        self._lags_s.append(lag_s)
        median_s = sorted(self._lags_s)[len(self._lags_s) // 2]
        change_s = min(median_s - self._target_s, MAX_RISE_S)
        if median_s < self._target_s / 2:
            change_s = -max(FALL_S, -change_s)
        elif change_s > 0 and not self._waiting_s():
            change_s = min(change_s, max(0.0, SHORT_PAUSE_S - self.pause_s))
        self.pause_s = max(0.0, min(self.pause_s + change_s, self._max_pause_s))

    def delay_s(self) -> float:
        """Return how many seconds tokens collect before they are read: the pause and the wait after it."""
        return self.pause_s + self._waiting_s()
