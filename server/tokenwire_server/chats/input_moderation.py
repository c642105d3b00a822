"""Checks requests with moderation services before their streams are opened."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextvars import Context

import msgspec

from ..content.input_text import input_texts
from ..content.input_windows import InputWindow, input_windows
from ..moderation.moderator import Moderator
from ..moderation.service import ModerationFailed, Verdict
from ..request import ChatRequest
from ..telemetry import internal_fault

MAX_IN_FLIGHT = 8
"""Checks of one request and one moderation that run at the same time."""
STEP_S = 0.001
"""How long reading the texts of one request may occupy the event loop before other tasks run."""
MAX_LOCATED_PARTS = 10
"""Texts of a flagged window that are checked by themselves, to name the right one."""


class FlaggedText(msgspec.Struct, frozen=True):
    """What a moderation found in a request."""

    path: str
    """Path of the text."""
    categories: tuple[str, ...]
    is_located: bool
    """Whether the text is flagged by itself, and not only together with texts before it."""

    def description(self, moderation: str) -> str:
        """Return the text of a violation."""
        named = f": {', '.join(self.categories)}" if self.categories else ""
        rest = "" if self.is_located else " (together with the texts before it)"
        return f"is flagged by moderation.{moderation}{named}{rest}"


class RequestCheck:
    """The checks of one request with one moderation. `run` it once."""

    def __init__(self, moderator: Moderator, request: ChatRequest, tenant: str) -> None:
        config = moderator.config
        self.name = moderator.name
        self.flagged: FlaggedText | None = None
        """What was found first. None: nothing."""
        self.unchecked_count = 0
        """Windows that could not be checked, and at least 1 if the time was over. Not 0 only if they may
        pass.
        """
        self.has_failed = False
        """Whether the request could not be checked, and must not pass."""
        self._moderator = moderator
        self._tenant = tenant
        self._steps = input_windows(input_texts(request), config.window_chars, config.overlap_chars)
        self._reading = asyncio.Lock()
        self._step_ends = 0.0

    async def run(self) -> None:
        """Check all windows, until one is flagged or the time is over. Cancellation ends all checks."""
        try:
            async with (
                asyncio.timeout(self._moderator.config.input_timeout_s),
                asyncio.TaskGroup() as group,
            ):
                for _ in range(MAX_IN_FLIGHT):
                    group.create_task(self._check_all(), context=Context())
        except* _Decided:
            pass
        except* TimeoutError:
            if self.flagged is None:
                self._failed()

    async def _check_all(self) -> None:
        """Check windows that nothing else has taken. Raises _Decided if the rest need not be checked."""
        while (window := await self._next_window()) is not None:
            verdict = await self._verdict(window.text)
            if verdict is None:
                self._failed()
                if self.has_failed:
                    raise _Decided
            elif verdict.flagged:
                if self.flagged is None:
                    await self._locate(window, verdict)
                raise _Decided

    async def _next_window(self) -> InputWindow | None:
        """Read the next window. Other tasks run after each STEP_S. Return None after the last one."""
        async with self._reading:
            for window in self._steps:
                if window is not None:
                    return window
                if time.monotonic() >= self._step_ends:
                    await asyncio.sleep(0)
                    self._step_ends = time.monotonic() + STEP_S
        return None

    async def _locate(self, window: InputWindow, verdict: Verdict) -> None:
        """Find the text in a flagged window: probably one of the last."""
        parts = window.parts
        alone = len(parts) == 1
        self.flagged = FlaggedText(parts[-1].path, verdict.categories, is_located=alone)
        for part in () if alone else reversed(parts[-MAX_LOCATED_PARTS:]):
            of_part = await self._verdict(part.text)
            if of_part is not None and of_part.flagged:
                self.flagged = FlaggedText(part.path, of_part.categories, is_located=True)
                return

    async def _verdict(self, text: str) -> Verdict | None:
        try:
            return await self._moderator.check(text, "input", self._tenant)
        except ModerationFailed:
            return None
        except Exception as error:  # noqa: BLE001  # a check that failed; the server's log has the details
            internal_fault(error)
            return None

    def _failed(self) -> None:
        if self._moderator.config.on_failure == "open":
            self.unchecked_count += 1
        else:
            self.has_failed = True


class _Decided(Exception):
    """The result of a request is known."""


async def checked(
    moderators: Sequence[Moderator], request: ChatRequest, tenant: str
) -> list[RequestCheck]:
    """Check a tenant's request with all moderations at once. Return the checks, which have ended."""
    checks = [RequestCheck(each, request, tenant) for each in moderators]
    async with asyncio.TaskGroup() as group:
        for check in checks:
            group.create_task(check.run())
    return checks
