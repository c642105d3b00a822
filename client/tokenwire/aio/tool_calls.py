"""The tool calls of a run with asyncio: coroutines run as tasks, other functions in threads.

`sync/tool_calls.py` has the same names for threads.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from ..stream.tool_loop import PendingCall
from ..stream.tool_schedule import EndedCall
from ..tools.function_tool import FunctionTool
from ..tools.outcome import raised, returned

STOP_TIMEOUT_S = 3.0
"""Seconds that a cancelled tool may take to end."""

_log = logging.getLogger("tokenwire")


class AsyncToolCalls:
    """The running tool calls, and the outcomes of the ended ones."""

    def __init__(self) -> None:
        self._tasks: dict[PendingCall, asyncio.Task[None]] = {}
        self._ended: asyncio.Queue[EndedCall | BaseException | None] = asyncio.Queue()

    def start(self, pending: PendingCall) -> None:
        """Start a call."""
        task = asyncio.create_task(self._run(pending))
        self._tasks[pending] = task
        task.add_done_callback(lambda _: self._tasks.pop(pending, None))

    async def next(self, timeout_s: float | None) -> EndedCall | None:
        """Wait for a call that has ended. Returns None after `timeout_s`, or after `wake`."""
        try:
            async with asyncio.timeout(timeout_s):
                ended = await self._ended.get()
        except TimeoutError:
            return None
        if isinstance(ended, BaseException):
            raise ended
        return ended

    def wake(self) -> None:
        """End the current `next`, or the following one."""
        self._ended.put_nowait(None)

    async def abandon(self, overdue: Iterable[PendingCall]) -> None:
        """Cancel these calls, and wait for them for at most STOP_TIMEOUT_S."""
        await _cancel([self._tasks[each] for each in overdue if each in self._tasks])

    async def stop(self) -> None:
        """Cancel all calls, and wait for them for at most STOP_TIMEOUT_S."""
        await _cancel(list(self._tasks.values()))

    async def _run(self, pending: PendingCall) -> None:
        try:
            outcome = returned(await _call(pending.tool, pending.arguments))
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            outcome = raised(RuntimeError(f"the tool was cancelled: {error}"))  # by itself
        except Exception as error:  # noqa: BLE001  # the model gets any error of a tool
            outcome = raised(error)
        except (KeyboardInterrupt, SystemExit):  # they end the event loop
            raise
        except BaseException as error:  # noqa: BLE001  # `next` raises it
            self._ended.put_nowait(error)
            return
        self._ended.put_nowait(EndedCall(pending, outcome, time.monotonic()))


def check_tools(tools: Mapping[str, FunctionTool]) -> None:
    """Both kinds of functions can be called."""


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        _, running = await asyncio.wait(tasks, timeout=STOP_TIMEOUT_S)
        if running:
            _log.warning("cancelled tool calls that did not end in time: %d", len(running))


async def _call(tool: FunctionTool, arguments: Mapping[str, Any]) -> object:
    if tool.is_async:
        return await tool(**arguments)
    value = await _in_thread(tool, arguments)
    return await value if inspect.isawaitable(value) else value


async def _in_thread(tool: FunctionTool, arguments: Mapping[str, Any]) -> object:
    """Call a function in a daemon thread, for which neither the loop nor the end of the program waits."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[tuple[object, BaseException | None]] = loop.create_future()
    context = contextvars.copy_context()

    def deliver(value: object, error: BaseException | None) -> None:
        if not done.done():
            done.set_result((value, error))

    def work() -> None:
        value, error = None, None
        try:
            value = context.run(tool, **arguments)
        except BaseException as raised_error:  # noqa: BLE001  # the task raises it
            error = raised_error
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(deliver, value, error)

    threading.Thread(target=work, name=f"tokenwire tool {tool.name}", daemon=True).start()
    value, error = await done
    if error is not None:
        raise error
    return value
