"""Runs checks of answers that would block the event loop, each in a process of its own."""

from __future__ import annotations

import asyncio
import logging
import os
import sys

from ..content.stages import Check

logger = logging.getLogger(__name__)

MAX_PROCESSES = 2
"""Maximum number of checks that run at the same time. Others wait."""
CHECK_S = 5.0
"""How long a check may take, from the wait for a process to its end. It takes 0.1 s to start one."""
PASSED_ON = ("PATH", "PYTHONPATH", "LANG", "LC_ALL", "SYSTEMROOT")
"""Variables of the environment that a process gets. Others may contain secrets."""


class Checker:
    """Runs checks in processes. Belongs to one event loop."""

    def __init__(self, check_s: float = CHECK_S) -> None:
        self._check_s = check_s
        self._free = asyncio.Semaphore(MAX_PROCESSES)

    async def run(self, check: Check) -> None:
        """Run a check. If it fails or takes too long, it has no result. Cancellation ends its process."""
        output = None
        try:
            async with asyncio.timeout(self._check_s), self._free:
                output = await _output_of(check)
        except TimeoutError:
            logger.warning("a JSON answer was not checked: it took more than %g s", self._check_s)
        except OSError as error:
            logger.warning("a JSON answer was not checked: no process could be started: %s", error)
        check.take(output)


async def _output_of(check: Check) -> bytes | None:
    """Return what the process of a check writes, or None if it fails. Raises OSError."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", check.module),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={name: value for name in PASSED_ON if (value := os.environ.get(name)) is not None},
    )
    try:
        output, errors = await process.communicate(check.input())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        last = errors.decode(errors="replace").strip().rpartition("\n")[2][:256]
        logger.error("a JSON answer was not checked: status %d: %s", process.returncode, last)
        return None
    return output
