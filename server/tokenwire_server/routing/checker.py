"""Runs checks of answers that would block the event loop, each in a process of its own."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from ..content.stages import Check

logger = logging.getLogger(__name__)

MAX_PROCESSES = 2
"""Maximum number of checks that run at the same time. Others wait. One tenant has at most one."""
WAIT_S = 20.0
"""How long a check may wait for its turn."""
CHECK_S = 5.0
"""How long the process of a check may run. It takes 0.1 s to start."""
PASSED_ON = ("PATH", "PYTHONPATH", "LANG", "LC_ALL", "SYSTEMROOT")
"""Variables of the environment that a process gets. Others may contain secrets."""


class Checker:
    """Runs checks in processes. Belongs to one event loop."""

    def __init__(self, *, wait_s: float = WAIT_S, check_s: float = CHECK_S) -> None:
        self._wait_s = wait_s
        self._check_s = check_s
        self._free = asyncio.Semaphore(MAX_PROCESSES)
        self._turns: dict[str, asyncio.Lock] = {}  # of tenants with checks that run or wait
        self._counts: dict[str, int] = {}  # of these checks

    async def run(self, tenant: str, check: Check) -> None:
        """Run a check of a tenant's answer. If it fails or takes too long, it has no result.

        Cancellation ends its process.
        """
        output = None
        try:
            async with self._turn(tenant):
                output = await self._output_of(check)
        except TimeoutError:
            logger.warning("a JSON answer was not checked: the checks before it took too long")
        check.take(output)

    @asynccontextmanager
    async def _turn(self, tenant: str) -> AsyncIterator[None]:
        """Wait for the tenant's turn, and for a free process. Raises TimeoutError."""
        lock = self._turns.setdefault(tenant, asyncio.Lock())
        self._counts[tenant] = self._counts.get(tenant, 0) + 1
        try:
            async with asyncio.timeout(self._wait_s) as waiting, lock, self._free:
                waiting.reschedule(None)
                yield
        finally:
            self._counts[tenant] -= 1
            if not self._counts[tenant]:
                del self._counts[tenant], self._turns[tenant]

    async def _output_of(self, check: Check) -> bytes | None:
        """Return what the process of a check writes, or None if it fails."""
        process = _Process(check, self._check_s)
        try:
            # In a thread, because uvloop stops for as long as it takes to copy the page tables of the server.
            return await asyncio.to_thread(process.run)
        finally:
            process.end()


class _Process:
    """The process of a check. `run` blocks; `end` may be called by another thread."""

    def __init__(self, check: Check, limit_s: float) -> None:
        self._check = check
        self._limit_s = limit_s
        self._process: subprocess.Popen[bytes] | None = None
        self._is_ended = False

    def run(self) -> bytes | None:
        """Return what the process writes, or None if it fails, takes too long, or was ended."""
        try:
            output, errors = self._communicate()
        except subprocess.TimeoutExpired:
            logger.warning("a JSON answer was not checked: it took more than %g s", self._limit_s)
            return None
        except OSError as error:
            logger.warning("a JSON answer was not checked: its process failed: %s", error)
            return None
        status = 0 if self._process is None else self._process.returncode
        if status and not self._is_ended:
            last = errors.decode(errors="replace").strip().rpartition("\n")[2][:256]
            logger.error("a JSON answer was not checked: status %d: %s", status, last)
        return None if status else output

    def end(self) -> None:
        """End the process. Idempotent."""
        self._is_ended = True
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()

    def _communicate(self) -> tuple[bytes, bytes]:
        """Run the process to its end. Raises OSError, subprocess.TimeoutExpired."""
        with subprocess.Popen(  # noqa: S603  # the module is one of ours
            [sys.executable, "-P", "-m", self._check.module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={name: value for name in PASSED_ON if (value := os.environ.get(name)) is not None},
            start_new_session=True,  # Ctrl-C ends the server, which drains
        ) as process:
            self._process = process
            try:
                if self._is_ended:
                    process.kill()
                return process.communicate(self._check.input(), self._limit_s)
            except BaseException:
                process.kill()
                raise
