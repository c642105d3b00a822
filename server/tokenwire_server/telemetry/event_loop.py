"""The lag of the event loop: how late its timers run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

SAMPLE_EVERY_S = 0.1


async def sample_lag(*observers: Callable[[float], None]) -> None:
    """Pass the lag in seconds to all observers every SAMPLE_EVERY_S, until cancelled."""
    while True:
        due = time.monotonic() + SAMPLE_EVERY_S
        await asyncio.sleep(SAMPLE_EVERY_S)
        lag_s = max(0.0, time.monotonic() - due)
        for observe in observers:
            observe(lag_s)
