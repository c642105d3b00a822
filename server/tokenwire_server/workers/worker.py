"""The process of one worker: a server that gets its settings from the supervisor, and reports to it."""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import signal
import socket
import time
from typing import TYPE_CHECKING

from .. import descriptors
from ..config import ConfigError, Settings, load
from ..errors import StoreUnavailable, operator_text
from ..signals import Stop
from ..telemetry import configure_logging
from ..tenants.limits import check_limits
from .channel import (
    Channel,
    Collect,
    Collected,
    Drain,
    Failed,
    Hurry,
    Ready,
    Reload,
    Start,
)

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

PAUSE_S = 0.0005
"""The thread that pickles the metrics pauses after each, so that the event loop gets the interpreter."""


async def run_worker() -> int:
    """Serve until the supervisor stops this worker, or ends. Return the exit code."""
    # Slow, so it is done while the supervisor waits for the first worker.
    gc.disable()  # collections would take a fifteenth of the time of these imports
    from .. import app

    gc.enable()
    channel = await Channel.of(_take_standard_input())
    try:
        start = await channel.receive()
        if not isinstance(start, Start):  # the supervisor has ended
            return 1
        settings = start.settings
        configure_logging(settings.log_level, settings.log_format, start.worker.number)
        descriptors.prepare_for(settings.limits.max_streams)
        link = _Link(channel)
        following = asyncio.create_task(link.follow(), name="supervisor")
        try:
            clean_stop = await app.serve(
                settings,
                os.environ,
                read=lambda: _read(start),
                demo=start.is_demo,
                ready=lambda _: channel.send(Ready()),
                stop_on_signals=link.stop_on_signals,
                worker=start.worker,
                offer_metrics=link.offer,
            )
        except (ConfigError, StoreUnavailable) as error:
            channel.send(Failed(operator_text(error)))
            return 1
        finally:
            following.cancel()
    finally:
        await channel.aclose()
    return 0 if clean_stop else 1


def _take_standard_input() -> socket.socket:
    """Return the socket that is this process's standard input, and read from /dev/null in its place.

    Raises OSError if it is no socket.
    """
    end = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return end


def _read(start: Start) -> Settings:
    """Return the settings that are configured now. Raises ConfigError."""
    settings = load(start.config, start.flags)
    check_limits(settings.tenants, settings.limits)
    return settings


class _Link:
    """Answers the supervisor, and stops this process when the supervisor has ended."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._registry: CollectorRegistry | None = None
        self._stop = Stop()
        self._handles_signals = False

    def stop_on_signals(self) -> Stop:
        """Return a Stop that the supervisor controls. SIGTERM and SIGINT also set `requested`.

        Repeated signals have no effect: whatever stops the supervisor may send them to all its processes.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.requested.set)
        loop.add_signal_handler(signal.SIGHUP, self._stop.reload.set)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
        self._handles_signals = True
        return self._stop

    def offer(self, registry: CollectorRegistry) -> None:
        """Send the metrics of a registry when the supervisor requests them."""
        self._registry = registry

    async def follow(self) -> None:
        """Do what the supervisor requests until this is cancelled. If it has ended, stop as after Ctrl-C."""
        stop = self._stop
        while (message := await self._channel.receive()) is not None:
            match message:
                case Collect() if self._registry is not None:
                    collected = await asyncio.to_thread(_collected, self._registry)
                    self._channel.send(Collected(collected))
                case Reload():
                    stop.reload.set()
                case Drain(is_interrupt):
                    self._request_stop(is_interrupt=is_interrupt)
                case Hurry():
                    stop.hurried.set()
        if not self._handles_signals:  # it is starting, and has no callers
            os._exit(1)
        if stop.requested.is_set():
            stop.hurried.set()
        self._request_stop(is_interrupt=True)

    def _request_stop(self, *, is_interrupt: bool) -> None:
        if not self._stop.requested.is_set():
            self._stop.is_interrupt = is_interrupt
            self._stop.requested.set()


def _collected(registry: CollectorRegistry) -> list[bytes]:
    """Return the pickled metrics of a registry."""
    metrics = []
    for metric in registry.collect():
        metrics.append(pickle.dumps(metric))
        time.sleep(PAUSE_S)
    return metrics
