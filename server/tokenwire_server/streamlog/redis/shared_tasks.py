"""Tasks whose results several calls wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from functools import partial
from typing import Generic, TypeVar

from .lookups import unavailable_because

Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")


class SharedTasks(Generic[Key, Result]):
    """At most one running task for each key. Belongs to one event loop."""

    def __init__(self, on_result: Callable[[Result], None]) -> None:
        """`on_result` is called with each result, before the calls that wait for it continue."""
        self._running: dict[Key, asyncio.Task[Result]] = {}
        self._on_result = on_result

    def get(self, key: Key) -> asyncio.Task[Result] | None:
        """Return the running task of a key."""
        return self._running.get(key)

    def start(self, key: Key, work: Coroutine[None, None, Result]) -> asyncio.Task[Result]:
        """Start the task of a key that has none."""
        task = self._running[key] = asyncio.create_task(work)
        task.add_done_callback(partial(self._done, key))
        return task

    async def result_of(self, task: asyncio.Task[Result]) -> Result:
        """Wait for a task. A cancellation of this call does not cancel the task.

        Raises what the task raises, and StoreUnavailable if it was cancelled because the process ends.
        """
        await asyncio.wait((task,))
        if task.cancelled():
            raise unavailable_because("the process ends")
        return task.result()

    def cancel_all(self) -> None:
        """Cancel the running tasks."""
        for task in list(self._running.values()):
            task.cancel()

    def _done(self, key: Key, task: asyncio.Task[Result]) -> None:
        del self._running[key]
        if not task.cancelled() and task.exception() is None:
            self._on_result(task.result())
