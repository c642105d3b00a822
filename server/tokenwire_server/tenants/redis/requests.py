"""Requests to a limiter that wait for Redis, and the calls that carry them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Protocol

from ...errors import LimitExceeded
from ..counter import Counter, longest_wait
from ..limits import Lease
from ..memory_limiter import Holders
from ..window import Window
from .account import Account
from .charges import NO_LIMIT, Answer, Found, Kind, Part, Report, Take, answers, command
from .exchange import Command, Header


class Request:
    """A request to a limiter, which waits for an exchange."""

    __slots__ = ("holders", "kind", "lease", "result", "tenant", "tokens")

    result: asyncio.Future[Any]

    def __init__(self, kind: Kind, tenant: str, holders: Holders, tokens: int = 0) -> None:
        self.kind = kind
        self.tenant = tenant
        self.holders = holders
        self.tokens = tokens
        self.lease: Lease | None = None

    async def wait(self) -> Any:
        """Return the result. Raises LimitExceeded. After a cancellation nothing remains charged."""
        self.result = asyncio.get_running_loop().create_future()
        try:
            return await self.result
        except asyncio.CancelledError:
            if not self.result.cancelled():
                self.result.exception()  # It is retrieved, so that asyncio does not log it.
                if self.lease is not None:
                    self.lease.give_back()
            raise

    def answer(self, decide: Callable[[], Any]) -> None:
        """Give the request its result. If its caller has left, nothing remains charged."""
        if self.is_done and not self.result.cancelled():
            return
        try:
            result = decide()
        except LimitExceeded as refusal:
            if not self.is_done:
                self.result.set_exception(refusal)
            return
        if not self.is_done:
            self.result.set_result(result)
        elif self.lease is not None:
            self.lease.give_back()

    def answer_alone(self, decide: Callable[[Request], Any]) -> None:
        """Give the request its result without Redis, unless its caller has left."""
        if not self.is_done:
            self.answer(partial(decide, self))

    @property
    def is_done(self) -> bool:
        """Whether it was answered, or its caller has left."""
        return self.result.done()

    def refusal(self, found: list[Found]) -> LimitExceeded:
        """Return why Redis refused it: the exceeded limit with the longest wait."""
        refusal = longest_wait(self._refusals(found))
        if refusal is None:
            raise RuntimeError("the request was refused, and no limit is exceeded")
        return refusal

    def _refusals(self, found: list[Found]) -> Iterator[LimitExceeded]:
        for holder, figures in zip(self.holders, found, strict=True):
            counter = Counter(figures.streams, Window.of(figures.window))
            if self.kind == Kind.REQUEST:
                yield from counter.request_refusals(holder, 0.0)
            else:
                yield from counter.refusals(holder, self.tokens, 0.0)


class Deciding(Protocol):
    """The limiter whose requests a call carries."""

    def decided(self, request: Request, answer: Answer) -> Any:
        """Return the result of a request that Redis decided. Raises LimitExceeded."""
        ...

    def decide_alone(self, request: Request) -> Any:
        """Return the result of a request without Redis. Raises LimitExceeded."""
        ...

    def reported(self, account: Account) -> None:
        """Note that Redis has the account's report."""
        ...

    def not_reported(self, account: Account) -> None:
        """Report an account again, because Redis may not have the report."""
        ...


class ChargeCall:
    """A call for one tenant, and what it is made of."""

    def __init__(self, limiter: Deciding) -> None:
        self._limiter = limiter
        self._indexes: dict[str, int] = {}  # by key, from 1
        self._requests: list[Request] = []
        self._takes: list[Take] = []
        self.accounts: list[Account] = []
        self.reports: list[Report] = []
        """One for each account."""

    def index(self, account: Account) -> int:
        """Include an account. Return its place, from 1."""
        index = self._indexes.get(account.key)
        if index is None:
            self.accounts.append(account)
            index = self._indexes[account.key] = len(self.accounts)
        return index

    def add(self, request: Request, accounts: Iterable[Account]) -> None:
        """Include a request for the accounts of its holders."""
        parts = [
            Part(
                self.index(account),
                _or_none(holder.limits.requests_per_minute),
                _or_none(holder.limits.tokens_per_minute),
                _or_none(holder.limits.concurrent_streams),
            )
            for account, holder in zip(accounts, request.holders, strict=True)
        ]
        self._requests.append(request)
        self._takes.append(Take(request.kind, request.tokens, parts))

    def command(self, header: Header) -> Command:
        """See Call."""
        return command(header, [found.key for found in self.accounts], self.reports, self._takes)

    def answered(self, answer: bytes) -> None:
        """See Call."""
        for account in self.accounts:
            account.reported()
        for request, found in zip(self._requests, answers(answer), strict=True):
            request.answer(partial(self._limiter.decided, request, found))
        for account in self.accounts:
            self._limiter.reported(account)

    def failed(self) -> None:
        """See Call."""
        for account in self.accounts:
            self._limiter.not_reported(account)
        for request in self._requests:
            request.answer_alone(self._limiter.decide_alone)


def _or_none(limit: int | None) -> int:
    return NO_LIMIT if limit is None else limit
