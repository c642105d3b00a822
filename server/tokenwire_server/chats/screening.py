"""Searches and checks requests before their streams are opened, and refuses those that may not pass."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator

from ..content.input_search import BlockedText, InputSearch
from ..content.input_text import input_texts
from ..errors import ModerationUnavailable
from ..ledger.record import FilterAction
from ..request import ChatRequest
from ..routing.owner import Routing
from ..turns import Turns
from .input_moderation import checked
from .violations import Violations

logger = logging.getLogger(__name__)

STEP_S = 0.004
"""How long a search may occupy the event loop before other tasks run."""
MAX_WAITING_REQUESTS = 32
"""Long requests that may wait to be searched. The waiting tenants share this number. A tenant that has used
its share gets OVERLOADED."""


class Screening:
    """Applies the rules for input. Belongs to one event loop.

    `count_refused` gets the name and the action of each filter and moderation that acted in a request that is
    refused, and how often. What they did in other requests is counted with their streams.
    """

    def __init__(
        self, routing: Routing, count_refused: Callable[[str, str, int], None] | None = None
    ) -> None:
        self._routing = routing
        self._count_refused = count_refused
        self._turns = Turns(
            max_waiting=MAX_WAITING_REQUESTS,
            refusal="too many large requests wait to be searched by content filters",
        )

    async def screen(self, request: ChatRequest, tenant: str) -> tuple[FilterAction, ...]:
        """Search a request with filters, and check it with moderation services. Return which of them acted.
        Without any for its input, nothing is done.

        Raises InvalidRequest with the texts that are blocked or flagged, ModerationUnavailable, and
        Overloaded. Cancellation leaves nothing behind.
        """
        actions = await self._search(request, tenant)
        moderators = self._routing.moderation.of_input(tenant, request.model)
        if not moderators:
            return actions
        checks = await checked(moderators, request, tenant)
        violations = Violations()
        for check in checks:
            if check.flagged is not None:
                violations.add(check.flagged.path, check.flagged.description(check.name))
                actions += (FilterAction(check.name, "block", 1),)
            elif check.unchecked_count:
                actions += (FilterAction(check.name, "unchecked", check.unchecked_count),)
        if violations:
            self._refused(tenant, actions)
            raise violations.error()
        for check in checks:
            if check.has_failed:
                raise ModerationUnavailable(check.name)
        return actions

    async def _search(self, request: ChatRequest, tenant: str) -> tuple[FilterAction, ...]:
        """Search a request with filters. Raises InvalidRequest, Overloaded."""
        filters = self._routing.filters.of_input(tenant, request.model)
        if not filters:
            return ()
        search = InputSearch(filters)
        violations = Violations()
        steps = _checked(search.steps(input_texts(request)), violations)
        if not _is_done(steps):
            async with self._turns.turn(tenant, 1):
                await _run(steps)
        actions = tuple(FilterAction(*acted, count) for acted, count in search.counts.items())
        if violations:
            self._refused(tenant, actions)
            raise violations.error()
        return actions

    def _refused(self, tenant: str, actions: tuple[FilterAction, ...]) -> None:
        acted = ", ".join(f"{each.name} ({each.action})" for each in actions)
        logger.info("a request of tenant %s was refused: filters acted: %s", tenant, acted)
        if self._count_refused is not None:
            for each in actions:
                self._count_refused(each.name, each.action, each.count)


def _checked(steps: Iterator[BlockedText | None], violations: Violations) -> Iterator[None]:
    """Add a violation for each text that is blocked, up to the bound of a list. Yield after each step."""
    for _, blocked in violations.checking(steps):
        if blocked is not None:
            violations.add(blocked.path, f"is blocked by {blocked.rule}")
        yield


async def _run(steps: Iterator[None]) -> None:
    while True:
        await asyncio.sleep(0)
        if _is_done(steps):
            return


def _is_done(steps: Iterator[None]) -> bool:
    """Take steps for STEP_S. Return whether there are no more."""
    end = time.monotonic() + STEP_S
    return all(time.monotonic() < end for _ in steps)
