"""The tool calls of a run without asyncio: each runs in its own thread. See `aio/tool_calls.py`."""

from __future__ import annotations

import contextvars
import logging
import queue
import threading
import time
from collections.abc import Iterable, Mapping

from ..stream.tool_loop import PendingCall
from ..stream.tool_schedule import EndedCall
from ..tools.function_tool import FunctionTool
from ..tools.outcome import raised, returned

STOP_TIMEOUT_S = 3.0
"""Seconds that the end of a run waits for tools that are still running."""

_log = logging.getLogger("tokenwire")


class ToolCalls:
    """The running tool calls, and the outcomes of the ended ones."""

    def __init__(self) -> None:
        self._threads: dict[PendingCall, threading.Thread] = {}
        self._ended: queue.SimpleQueue[EndedCall | BaseException | None] = queue.SimpleQueue()

    def start(self, pending: PendingCall) -> None:
        """Start a call."""
        context = contextvars.copy_context()
        thread = threading.Thread(
            target=context.run,
            args=(self._run, pending),
            name=f"tokenwire tool {pending.tool.name}",
            daemon=True,
        )
        self._threads[pending] = thread
        thread.start()

    def next(self, timeout_s: float | None) -> EndedCall | None:
        """Wait for a call that has ended. Returns None after `timeout_s`, or after `wake`."""
        try:
            ended = self._ended.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if isinstance(ended, BaseException):
            raise ended
        if ended is not None:
            self._threads.pop(ended.pending, None)
        return ended

    def wake(self) -> None:
        """End the current `next`, or the following one."""
        self._ended.put(None)

    def abandon(self, overdue: Iterable[PendingCall]) -> None:
        """Stop waiting for these calls. Their threads keep running."""
        for each in overdue:
            self._threads.pop(each, None)

    def stop(self) -> None:
        """Wait for all calls for at most STOP_TIMEOUT_S. Threads cannot be cancelled."""
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for thread in self._threads.values():
            thread.join(max(0.0, deadline - time.monotonic()))
        running = sum(thread.is_alive() for thread in self._threads.values())
        if running:
            _log.warning("tool calls that run on after their run has ended: %d", running)

    def _run(self, pending: PendingCall) -> None:
        try:
            outcome = returned(pending.tool(**pending.arguments))
        except Exception as error:  # noqa: BLE001  # the model gets any error of a tool
            outcome = raised(error)
        except BaseException as error:  # noqa: BLE001  # `next` raises it
            self._ended.put(error)
            return
        self._ended.put(EndedCall(pending, outcome, time.monotonic()))


def check_tools(tools: Mapping[str, FunctionTool]) -> None:
    """Raise TypeError if a tool is a coroutine function, which a thread cannot await."""
    for tool in tools.values():
        if tool.is_async:
            raise TypeError(f"the tool {tool.name} is a coroutine function: use AsyncClient")
