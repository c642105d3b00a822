"""The supervisor's side of one worker."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress

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

COMMAND = "worker"
"""The command of `tokenwire-server` that runs a worker. It is not for operators."""
EXIT_S = 10.0
"""How long a process may take to exit after it has closed its channel."""


class WorkerProcess:
    """One process of a worker: `start` it, then wait with `ended`."""

    def __init__(self, number: int, on_metrics: Callable[[int, list[bytes]], None]) -> None:
        """`on_metrics` gets the number of the worker and its metrics whenever they arrive."""
        self.number = number
        self.failure = ""
        """Why it could not start, if it has reported that."""
        self.ready_at: float | None = None
        """When it became ready, a value of `time.monotonic`."""
        self._on_metrics = on_metrics
        self._settled = asyncio.Event()
        """Whether it is ready, or has ended."""
        self._collected = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None

    async def launch(self) -> None:
        """Start the process, which then imports the server and waits for `start`.

        If the system cannot start a process, it counts as one that has ended.
        """
        ours, theirs = socket.socketpair()
        self._channel = await Channel.of(ours)
        with theirs:
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-P", "-m", "tokenwire_server", COMMAND, str(self.number)),
                    stdin=theirs.fileno(),
                    stdout=asyncio.subprocess.DEVNULL,
                    # It has no terminal, so that Ctrl-C and a closed terminal reach only the supervisor.
                    start_new_session=True,
                )
            except OSError as error:
                self.failure = f"a process cannot be started: {error.strerror}"
        self._following = asyncio.create_task(self._follow(), name=f"worker {self.number}")

    @property
    def pid(self) -> int:
        """The id of the process. 0: it could not be started."""
        return 0 if self._process is None else self._process.pid

    @property
    def is_ready(self) -> bool:
        """Whether it became ready. It may have ended since."""
        return self.ready_at is not None

    @property
    def is_serving(self) -> bool:
        """Whether it is ready and runs."""
        return self.is_ready and not self._following.done()

    @property
    def exit_code(self) -> int | None:
        """The exit code, or the negative number of the signal that ended it. None while it runs."""
        return 1 if self._process is None else self._process.returncode

    def start(self, start: Start) -> None:
        """Tell it what to serve."""
        self._channel.send(start)

    async def settled(self, within_s: float) -> bool:
        """Wait until it is ready or has ended. Return whether it is ready; after `within_s` it is killed."""
        try:
            async with asyncio.timeout(within_s):
                await self._settled.wait()
        except TimeoutError:
            self.failure = f"it was not ready within {within_s:g} s"
            self.send_signal(signal.SIGKILL)
            await self.ended()
        return self.is_ready

    async def ended(self) -> None:
        """Wait until the process has ended."""
        await asyncio.shield(self._following)

    # Signals would not do: what stops this process may send them to the workers, too, as systemd does.

    def reload(self) -> None:
        """Let it read its configuration again."""
        self._channel.send(Reload())

    def drain(self, *, is_interrupt: bool) -> None:
        """Let it drain and stop."""
        if self.is_ready:
            self._channel.send(Drain(is_interrupt))
        else:
            self.send_signal(signal.SIGTERM)

    def hurry(self) -> None:
        """Let it stop without waiting for its streams to end."""
        self._channel.send(Hurry())

    def send_signal(self, number: int) -> None:
        with suppress(ProcessLookupError):  # it has ended
            if self._process is not None:
                self._process.send_signal(number)

    async def collect(self, within_s: float) -> bool:
        """Request its metrics. Return whether they arrived within `within_s`."""
        self._collected.clear()
        self._channel.send(Collect())
        try:
            async with asyncio.timeout(within_s):
                await self._collected.wait()
        except TimeoutError:
            return False
        return True

    def describe_end(self) -> str:
        """Return how the process has ended, for the log."""
        code = self.exit_code
        if code is None or code >= 0:
            return f"exit code {code}"
        with suppress(ValueError):
            return signal.Signals(-code).name
        return f"signal {-code}"

    async def _follow(self) -> None:
        """Take messages until the process has ended."""
        try:
            while (message := await self._channel.receive()) is not None:
                match message:
                    case Ready():
                        self.ready_at = time.monotonic()
                        self._settled.set()
                    case Failed(why):
                        self.failure = why
                    case Collected(metrics):
                        self._on_metrics(self.number, metrics)
                        self._collected.set()
            await self._wait_for_exit()
            await self._channel.aclose()
        finally:
            self._settled.set()
            self._collected.set()

    async def _wait_for_exit(self) -> None:
        if self._process is None:
            return
        try:
            async with asyncio.timeout(EXIT_S):
                await self._process.wait()
        except TimeoutError:
            self.send_signal(signal.SIGKILL)
            await self._process.wait()
