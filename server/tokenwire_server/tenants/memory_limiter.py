"""A limiter that counts in the memory of this process."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping

from ..config import CallerLimits
from ..errors import LimitExceeded, RateLimited, TooManyStreams
from .caller import Caller
from .limits import Allowance, Holder, Lease, Scope, allowances_of, check_size, holders_of
from .window import Bucket, Window

SLOT_RETRY_S = 1.0
"""Retry delay for a concurrent stream: it is not known when one ends."""


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
        self._counters: OrderedDict[tuple[Scope, str], _Counter] = OrderedDict()

    async def take(self, caller: Caller, tokens: int) -> Lease:
        """See Limiter. Never waits."""
        holders = holders_of(caller, self._tenants)
        if not holders:
            return _NOTHING_TAKEN
        now = self._now()
        counters = [self._counter(holder, now) for holder in holders]
        refusals = [
            refusal
            for holder, counter in zip(holders, counters, strict=True)
            for refusal in counter.refusals(holder, tokens, now)
        ]
        if refusals:
            raise max(refusals, key=_wait_s)
        taken = [(counter, counter.take(now, tokens)) for counter in counters]
        self._keep(holders, counters, now)
        return _Taken(self._now, tokens, taken, _left(holders, counters))

    async def take_request(self, caller: Caller) -> None:
        """See Limiter. Never waits."""
        holders = holders_of(caller, self._tenants)
        if not holders:
            return
        now = self._now()
        counters = [self._counter(holder, now) for holder in holders]
        refusals = [
            refusal
            for holder, counter in zip(holders, counters, strict=True)
            for refusal in counter.request_refusals(holder, now)
        ]
        if refusals:
            raise max(refusals, key=_wait_s)
        for counter in counters:
            counter.window.take(now, 1, 0)
        self._keep(holders, counters, now)

    async def allowances(self, caller: Caller) -> tuple[Allowance, ...]:
        """See Limiter. Never waits."""
        now = self._now()
        holders = holders_of(caller, self._tenants)
        return _left(holders, [self._counter(holder, now) for holder in holders])

    def check_request(self, caller: Caller, *, byte_count: int, message_count: int = 0) -> None:
        """See Limiter."""
        holders = holders_of(caller, self._tenants)
        check_size(holders, byte_count=byte_count, message_count=message_count)

    def _counter(self, holder: Holder, now: float) -> _Counter:
        """Return the counter of a holder. A new one is stored once something is charged."""
        counter = self._counters.get((holder.scope, holder.counted_as))
        if counter is None:
            return _Counter()
        counter.window.remove_expired(now)
        return counter

    def _keep(self, holders: tuple[Holder, ...], counters: list[_Counter], now: float) -> None:
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


class _Counter:
    """The usage of a key or a tenant: open streams, and requests and tokens in the last minute."""

    __slots__ = ("streams", "window")

    def __init__(self) -> None:
        self.streams = 0
        self.window = Window()

    def take(self, now: float, tokens: int) -> Bucket:
        self.streams += 1
        return self.window.take(now, 1, tokens)

    def request_refusals(self, holder: Holder, now: float) -> Iterator[LimitExceeded]:
        """Yield the reasons why a request that starts no stream cannot be accepted now."""
        limits, window = holder.limits, self.window
        if (allowed := limits.requests_per_minute) is not None and window.requests >= allowed:
            yield RateLimited(
                "requests_per_minute",
                scope=holder.scope,
                subject=holder.subject,
                allowed=allowed,
                asked=1,
                remaining=allowed - window.requests,
                retry_after_s=window.wait_s(now, requests=window.requests + 1 - allowed),
            )

    def refusals(self, holder: Holder, tokens: int, now: float) -> Iterator[LimitExceeded]:
        """Yield the reasons why a request with this number of tokens cannot be accepted now."""
        yield from self.request_refusals(holder, now)
        limits, window = holder.limits, self.window
        if (allowed := limits.tokens_per_minute) is not None and window.tokens + tokens > allowed:
            yield RateLimited(
                "tokens_per_minute",
                scope=holder.scope,
                subject=holder.subject,
                allowed=allowed,
                asked=tokens,
                remaining=allowed - window.tokens,
                retry_after_s=window.wait_s(now, tokens=window.tokens + tokens - allowed)
                if tokens <= allowed
                else None,
            )
        if (allowed := limits.concurrent_streams) is not None and self.streams >= allowed:
            yield TooManyStreams(
                "concurrent_streams",
                scope=holder.scope,
                subject=holder.subject,
                allowed=allowed,
                asked=1,
                remaining=allowed - self.streams,
                retry_after_s=SLOT_RETRY_S,
            )


class _Taken:
    """A Lease on what was charged to counters."""

    __slots__ = ("_now", "_taken", "_tokens", "allowances")

    def __init__(
        self,
        now: Callable[[], float],
        tokens: int,
        taken: list[tuple[_Counter, Bucket]],
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


_NOTHING_TAKEN = _NothingTaken()


def _left(holders: tuple[Holder, ...], counters: list[_Counter]) -> tuple[Allowance, ...]:
    return tuple(
        allowance
        for holder, counter in zip(holders, counters, strict=True)
        for allowance in allowances_of(
            holder,
            requests=counter.window.requests,
            tokens=counter.window.tokens,
            streams=counter.streams,
        )
    )


def _wait_s(refusal: LimitExceeded) -> float:
    """Return how long to wait; infinity if waiting does not help."""
    return math.inf if refusal.retry_after_s is None else refusal.retry_after_s
