"""Threads for functions that may block forever."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

Result = TypeVar("Result")


class ReaderThread:
    """Runs functions that may block forever, such as reads from a file system that hangs, one at a time.

    A process ends although a function is running. With `asyncio.to_thread` it would wait for the function,
    and functions that block would take the threads that look up host names.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self.is_busy = False
        """Whether a function is running. It may be one for which nothing waits any more."""

    async def run(self, function: Callable[[], Result]) -> Result:
        """Return the result of a function, or raise its exception. `is_busy` must be False.

        Cancellation ends the wait, and not the function.
        """
        if self.is_busy:
            raise RuntimeError(f"the thread {self._name!r} is busy")
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[Result] = loop.create_future()

        def settle(settled: Callable[[], None]) -> None:
            self.is_busy = False
            if not ended.cancelled():
                settled()

        def call() -> None:
            try:
                result = function()
            except Exception as error:  # noqa: BLE001  # raised by `run`
                failure = error
                settled = lambda: ended.set_exception(failure)  # noqa: E731
            else:
                settled = lambda: ended.set_result(result)  # noqa: E731
            with suppress(RuntimeError):  # the loop is closed: the process ends
                loop.call_soon_threadsafe(settle, settled)

        self.is_busy = True
        threading.Thread(target=call, name=self._name, daemon=True).start()
        return await ended
