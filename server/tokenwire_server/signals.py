"""The signals of a server: SIGTERM and SIGINT stop it, SIGHUP reloads its configuration."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from types import FrameType

logger = logging.getLogger(__name__)


class Stop:
    """What signals have requested: to stop the server, or to read its configuration again."""

    def __init__(self) -> None:
        self.requested = asyncio.Event()
        """Drain, then stop."""
        self.hurried = asyncio.Event()
        """Stop without waiting for streams to end. Their usage is still recorded."""
        self.is_interrupt = False
        """Whether the request is SIGINT, as from Ctrl-C."""
        self.reload = asyncio.Event()
        """Read the configuration again. The task that does so clears the event first."""


def stop_on_signals(before_exit: Callable[[], None] | None = None) -> Stop:
    """Return a Stop. The first SIGTERM or SIGINT sets `requested`, the second `hurried`.

    A third one calls `before_exit` and ends the process at once. SIGHUP sets `reload`. If the process has a
    terminal that was closed, SIGHUP is the same as SIGINT, except under nohup. SIGHUP that was blocked until
    now has its effect now.
    """
    stop = Stop()
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)

    def end_at_once(number: int, _frame: FrameType | None) -> None:
        if before_exit is not None:
            before_exit()
        os._exit(128 + number)

    ends_with_terminal = _has_terminal() and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN

    def on_signal(first: int) -> None:
        if not stop.requested.is_set():
            stop.is_interrupt = first == signal.SIGINT
            stop.requested.set()
            return
        stop.hurried.set()
        for number in numbers:
            loop.remove_signal_handler(number)
            # Not SIG_DFL: the kernel drops a signal of process 1 that has no handler.
            signal.signal(number, end_at_once)

    def on_hangup() -> None:
        if ends_with_terminal and not _has_terminal():
            if not stop.requested.is_set():
                on_signal(signal.SIGINT)
        elif stop.requested.is_set():
            logger.warning("SIGHUP is ignored: the server is stopping")
        else:
            stop.reload.set()

    for number in numbers:
        loop.add_signal_handler(number, on_signal, number)
    loop.add_signal_handler(signal.SIGHUP, on_hangup)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    return stop


def _has_terminal() -> bool:
    """Return whether the process has a controlling terminal that is open."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK))
    except OSError:
        return False
    return True
