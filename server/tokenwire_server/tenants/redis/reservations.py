"""Reservations of spend that wait for Redis, and the calls of `spend.lua` that carry them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from ...errors import QuotaExhausted
from ..spend import SpendHold
from .exchange import Command, Header, Script
from .share import Charge, Share, Sums

_SCRIPT = Script("spend.lua")


class SpendAnswer(msgspec.Struct, array_like=True):
    now_ms: int
    day: int
    day_spent: int
    month: int
    month_spent: int
    has_known: bool
    """Whether Redis had a report of this process."""
    others_reserved: int
    process_count: int
    reserves: list[tuple[bool, int]]
    """For each reservation whether it was accepted, and what all processes have reserved after it."""


_decoder = msgspec.msgpack.Decoder(SpendAnswer)


class Deciding(Protocol):
    """The limiter whose reservations a call carries."""

    def reserve(self, tenant: str, microusd: int | None, model: str) -> SpendHold | None:
        """Reserve without Redis. Raises QuotaExhausted."""
        ...

    def limits_of(self, tenant: str) -> tuple[int, int]:
        """Return the limits per day and per month, or NO_LIMIT."""
        ...

    def answered(self, call: SpendCall, answer: SpendAnswer) -> None:
        """Take over the sums of all processes, and answer the requests of a call."""
        ...

    def failed(self, call: SpendCall) -> None:
        """Answer the requests of a call without Redis, and report the tenant again."""
        ...


class SpendRequest:
    """A reservation that waits for an exchange. Without a cost, it waits for the sums only."""

    __slots__ = ("_limiter", "_model", "hold", "microusd", "result", "share")

    result: asyncio.Future[SpendHold | None]

    def __init__(self, limiter: Deciding, share: Share, microusd: int | None, model: str) -> None:
        self._limiter = limiter
        self._model = model
        self.share = share
        self.microusd = microusd
        self.hold: SpendHold | None = None

    async def wait(self) -> SpendHold | None:
        """Return the reservation. Raises QuotaExhausted. After a cancellation nothing remains reserved."""
        self.result = asyncio.get_running_loop().create_future()
        try:
            return await self.result
        except asyncio.CancelledError:
            if not self.result.cancelled():
                self.result.exception()  # It is retrieved, so that asyncio does not log it.
                if self.hold is not None:
                    self.hold.settle(0)
            raise

    def _reserve_alone(self) -> SpendHold | None:
        """Reserve without Redis. Raises QuotaExhausted."""
        if self.microusd is not None:
            self.hold = self._limiter.reserve(self.share.tenant, self.microusd, self._model)
        return self.hold

    def answer(self, decide: Callable[[], Any]) -> None:
        """Give the request its result. If its caller has left, nothing remains reserved."""
        if self.result.done() and not self.result.cancelled():
            return
        try:
            found = decide()
        except QuotaExhausted as refusal:
            if not self.result.done():
                self.result.set_exception(refusal)
            return
        if not self.result.done():
            self.result.set_result(found)
        elif self.hold is not None:
            self.hold.settle(0)

    def answer_alone(self) -> None:
        """Give the request its result without Redis, unless its caller has left."""
        if not self.result.done():
            self.answer(self._reserve_alone)


class SpendCall:
    """A call for one tenant."""

    __slots__ = ("_limiter", "report", "requests", "share")

    report: tuple[int, Sums, Sequence[Charge]]

    def __init__(self, limiter: Deciding, share: Share) -> None:
        self._limiter = limiter
        self.share = share
        self.requests: list[SpendRequest] = []

    @property
    def reserving_requests(self) -> list[SpendRequest]:
        return [request for request in self.requests if request.microusd is not None]

    def command(self, header: Header) -> Command:
        """See Call."""
        limits = self._limiter.limits_of(self.share.tenant)
        reserves = [(request.microusd, *limits) for request in self.reserving_requests]
        argument = msgspec.msgpack.encode((*header, self.report, reserves))
        return Command(_SCRIPT, [self.share.key], argument)

    def answered(self, answer: bytes) -> None:
        """See Call."""
        self._limiter.answered(self, _decoder.decode(answer))

    def failed(self) -> None:
        """See Call."""
        self._limiter.failed(self)
