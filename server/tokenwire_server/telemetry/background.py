"""Background tasks whose errors must not end the server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

from . import internal_fault

RESTART_S = 1.0
"""Pause before a task that failed is started again."""


async def keep_running(run: Callable[[], Coroutine[None, None, None]]) -> None:
    """Run a task until cancelled. Start it again after an error that was not expected, which is logged."""
    while True:
        try:
            await run()
        except Exception as error:  # noqa: BLE001  # the log has the details
            internal_fault(error)
        await asyncio.sleep(RESTART_S)
