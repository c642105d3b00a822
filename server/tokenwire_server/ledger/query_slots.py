"""A limit on concurrent queries that is fair to all tenants."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ..errors import Overloaded, RateLimited

MAX_RUNNING = 2
"""Fewer than a Database has connections: one is always free to write records, and one to read keys."""
MAX_WAITING = 10
"""Waiting queries of one tenant. The next one gets RateLimited."""
WAIT_S = 5.0
"""How long a query waits for a slot. Then Overloaded."""


class QuerySlots:
    """Shares MAX_RUNNING slots between tenants: one query of a tenant runs at a time.

    Free slots go to the waiting tenants in turn. So a tenant waits for the running queries and for one
    query of each other waiting tenant, however many queries they have sent.
    """

    def __init__(self) -> None:
        self._running = set[str | None]()  # tenants
        self._waiting = dict[str | None, deque[asyncio.Future[None]]]()  # the next tenant first

    @asynccontextmanager
    async def slot(self, tenant: str | None) -> AsyncIterator[None]:
        """Take a slot for the block. `tenant` None is the operator. Raises RateLimited, Overloaded."""
        if tenant in self._running or len(self._running) >= MAX_RUNNING:
            await self._wait(tenant)
        else:
            self._running.add(tenant)
        try:
            yield
        finally:
            self._release(tenant)

    async def _wait(self, tenant: str | None) -> None:
        waiting = self._waiting.setdefault(tenant, deque())
        if len(waiting) >= MAX_WAITING:
            raise RateLimited(
                "usage_queries_at_once",
                scope="tenant",
                subject=tenant or "",
                allowed=1 + MAX_WAITING,
                asked=1,
                remaining=0,
                retry_after_s=1.0,
            )
        turn = asyncio.get_running_loop().create_future()
        waiting.append(turn)
        try:
            async with asyncio.timeout(WAIT_S):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():  # it got a slot at the same moment
                self._release(tenant)
            else:
                self._remove(tenant, turn)
            if isinstance(error, TimeoutError):
                raise Overloaded("other usage queries are running", limit=MAX_RUNNING) from None
            raise

    def _remove(self, tenant: str | None, turn: asyncio.Future[None]) -> None:
        waiting = self._waiting.get(tenant, deque())
        if turn in waiting:
            waiting.remove(turn)
            if not waiting:
                del self._waiting[tenant]

    def _release(self, tenant: str | None) -> None:
        self._running.discard(tenant)
        for following in [each for each in self._waiting if each not in self._running]:
            waiting = self._waiting.pop(following)
            while waiting:
                turn = waiting.popleft()
                if not turn.done():  # otherwise its task was cancelled just now
                    self._running.add(following)
                    turn.set_result(None)
                    if waiting:
                        self._waiting[following] = waiting  # behind the other tenants
                    return
