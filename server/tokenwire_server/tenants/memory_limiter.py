"""A limiter that counts in the memory of this process."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping

from ..config import CallerLimits
from .caller import Caller
from .counter import Counter, longest_wait
from .limits import Allowance, Holder, Lease, Scope, check_size, holders_of
from .window import Bucket

Holders = tuple[Holder, ...]


class MemoryLimiter:
    """A Limiter. Belongs to one event loop, where no method is interrupted.

    `tenants` are the limits of tenants by name; "*" is for every tenant that is not named. `now` is a
    clock in seconds that never goes back. The usage of a key or a tenant is counted only while it has a
    limit. So a limit that is added later covers the last minute only if there was another limit.

    Counters of keys and tenants without streams and without usage in the last minute are idle. Each charge
    removes some of them, more than it adds.
    """

    def __init__(
        self, tenants: Mapping[str, CallerLimits], now: Callable[[], float] = time.monotonic
    ) -> None:
        self._tenants = tenants
        self._now = now
        self._counters: OrderedDict[tuple[Scope, str], Counter] = OrderedDict()

    def replace(self, tenants: Mapping[str, CallerLimits]) -> None:
        """Use other limits of tenants. What was counted for a tenant remains."""
        self._tenants = tenants

    async def take(self, caller: Caller, tokens: int) -> Lease:
        """See Limiter. Never waits."""
        return self.take_now(holders_of(caller, self._tenants), tokens)

    async def take_request(self, caller: Caller) -> None:
        """See Limiter. Never waits."""
        self.take_request_now(holders_of(caller, self._tenants))

    async def allowances(self, caller: Caller) -> tuple[Allowance, ...]:
        """See Limiter. Never waits."""
        return self.left_now(holders_of(caller, self._tenants))

    def check_request(self, caller: Caller, *, byte_count: int, message_count: int = 0) -> None:
        """See Limiter."""
        holders = holders_of(caller, self._tenants)
        check_size(holders, byte_count=byte_count, message_count=message_count)

    def take_now(self, holders: Holders, tokens: int, *, is_checked: bool = True) -> Lease:
        """Charge a stream to the holders, see `take`. Unless `is_checked`, it is never refused."""
        if not holders:
            return NOTHING_TAKEN
        now = self._now()
        counters = [self._counter(holder, now) for holder in holders]
        if is_checked:
            refusal = longest_wait(
                refusal
                for holder, counter in zip(holders, counters, strict=True)
                for refusal in counter.refusals(holder, tokens, now)
            )
            if refusal is not None:
                raise refusal
        taken = [(counter, counter.take(now, tokens)) for counter in counters]
        self._keep(holders, counters, now)
        return _Taken(self._now, tokens, taken, _left(holders, counters))

    def take_request_now(self, holders: Holders, *, is_checked: bool = True) -> None:
        """Charge a request to the holders, see `take_request`. Unless `is_checked`, it is never refused."""
        if not holders:
            return
        now = self._now()
        counters = [self._counter(holder, now) for holder in holders]
        if is_checked:
            refusal = longest_wait(
                refusal
                for holder, counter in zip(holders, counters, strict=True)
                for refusal in counter.request_refusals(holder, now)
            )
            if refusal is not None:
                raise refusal
        for counter in counters:
            counter.window.take(now, 1, 0)
        self._keep(holders, counters, now)

    def left_now(self, holders: Holders) -> tuple[Allowance, ...]:
        """Return every limit of the holders and what is left now."""
        now = self._now()
        return _left(holders, [self._counter(holder, now) for holder in holders])

    def used_now(self, holder: Holder) -> tuple[int, int]:
        """Return the requests and the tokens of a holder that count now."""
        window = self._counter(holder, self._now()).window
        return window.requests, window.tokens

    def _counter(self, holder: Holder, now: float) -> Counter:
        """Return the counter of a holder. A new one is stored once something is charged."""
        counter = self._counters.get((holder.scope, holder.counted_as))
        if counter is None:
            return Counter()
        counter.window.remove_expired(now)
        return counter

    def _keep(self, holders: Holders, counters: list[Counter], now: float) -> None:
        """Keep the counters of holders that were charged, and drop idle counters of others."""
        known_count = len(self._counters)
        for holder, counter in zip(holders, counters, strict=True):
            self._counters[holder.scope, holder.counted_as] = counter
        self._remove_idle(now, 1 + 2 * (len(self._counters) - known_count))

    def _remove_idle(self, now: float, count: int) -> None:
        """Check the next `count` counters and remove those that are idle."""
        for _ in range(count):
            holder, counter = next(iter(self._counters.items()))
            if counter.streams == 0 and counter.window.empty(now):
                del self._counters[holder]
            else:
                self._counters.move_to_end(holder)


class _Taken:
    """A Lease on what was charged to counters."""

    __slots__ = ("_now", "_taken", "_tokens", "allowances")

    def __init__(
        self,
        now: Callable[[], float],
        tokens: int,
        taken: list[tuple[Counter, Bucket]],
        allowances: tuple[Allowance, ...],
    ) -> None:
        self._now = now
        self._tokens = tokens
        self._taken = taken
        self.allowances = allowances

    def settle(self, tokens: int) -> None:
        """See Lease."""
        now = self._now()
        taken, self._taken = self._taken, []
        for counter, bucket in taken:
            counter.streams -= 1
            if tokens > self._tokens:
                counter.window.take(now, 0, tokens - self._tokens)
            else:
                counter.window.put_back(bucket, now, 0, self._tokens - tokens)

    def give_back(self) -> None:
        """See Lease."""
        now = self._now()
        taken, self._taken = self._taken, []
        for counter, bucket in taken:
            counter.streams -= 1
            counter.window.put_back(bucket, now, 1, self._tokens)


class _NothingTaken:
    """The Lease of a caller without limits."""

    allowances: tuple[Allowance, ...] = ()

    def settle(self, tokens: int) -> None:
        """See Lease."""

    def give_back(self) -> None:
        """See Lease."""


NOTHING_TAKEN = _NothingTaken()


def _left(holders: Holders, counters: list[Counter]) -> tuple[Allowance, ...]:
    """Return every limit and what is left of it."""
    return tuple(
        allowance
        for holder, counter in zip(holders, counters, strict=True)
        for allowance in counter.allowances(holder)
    )
