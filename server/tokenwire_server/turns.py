"""A queue for long work on a shared event loop that is fair to all tenants."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from .errors import Overloaded


class Turns:
    """Lets one task work at a time, or `at_once` tasks. Belongs to one event loop.

    Without it short steps of work would add up, if many tasks take a step in each round of the loop.

    Turns go to the waiting tenants in rotation, and to the tasks of one tenant in the order of arrival.
    So a tenant waits for a running task and for one task of each other waiting tenant, however many
    tasks they have.

    `max_waiting` bounds the work that waits, in a unit that the caller chooses. The tenants that wait share
    it equally: one that waits alone may use all of it. A tenant without waiting work is always accepted,
    whatever other tenants have and however large its work is. With n waiting tenants at most
    `max_waiting` * (1 + 1/2 + ... + 1/n) waits, and one task for each tenant. `refusal` is the text of
    Overloaded.
    """

    def __init__(self, *, max_waiting: int, refusal: str, at_once: int = 1) -> None:
        self._free_count = at_once
        self._waiting = OrderedDict[str, _Queue]()  # by tenant, the next one first
        self._max_waiting = max_waiting
        self._refusal = refusal

    @asynccontextmanager
    async def turn(self, tenant: str, work: int) -> AsyncIterator[None]:
        """Wait for a turn and keep it for the block. Raises Overloaded. Cancellation leaves the queue."""
        if self._free_count:
            self._free_count -= 1
        else:
            await self._wait(tenant, work)
        try:
            yield
        finally:
            self._give_to_next()

    async def _wait(self, tenant: str, work: int) -> None:
        queue = self._waiting.get(tenant)
        if queue is None:
            queue = self._waiting[tenant] = _Queue()
        else:
            share = self._max_waiting // len(self._waiting)
            if queue.work + work > share:
                raise Overloaded(self._refusal, limit=share)
        turn = asyncio.get_running_loop().create_future()
        queue.add(turn, work)
        try:
            await turn
        except BaseException:
            if not turn.cancelled():  # the turn was given at the same moment
                self._give_to_next()
            elif queue.remove(turn) and not queue.turns:
                del self._waiting[tenant]
            raise

    def _give_to_next(self) -> None:
        while self._waiting:
            tenant, queue = self._waiting.popitem(last=False)
            turn = queue.pop()
            if queue.turns:
                self._waiting[tenant] = queue  # behind the other tenants
            if not turn.cancelled():  # otherwise its task was cancelled just now
                turn.set_result(None)
                return
        self._free_count += 1


class _Queue:
    """The waiting tasks of one tenant, the next one first."""

    def __init__(self) -> None:
        self.turns = OrderedDict[asyncio.Future[None], int]()  # each with its work
        self.work = 0

    def add(self, turn: asyncio.Future[None], work: int) -> None:
        self.turns[turn] = work
        self.work += work

    def pop(self) -> asyncio.Future[None]:
        turn, work = self.turns.popitem(last=False)
        self.work -= work
        return turn

    def remove(self, turn: asyncio.Future[None]) -> bool:
        """Return whether the turn was in the queue."""
        work = self.turns.pop(turn, None)
        self.work -= work or 0
        return work is not None
