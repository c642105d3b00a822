"""Limits on what tenants spend in a day and a month."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

from ..config import EVERY_OTHER_TENANT, MAX_SPEND_USD, TenantLimits
from ..errors import QuotaExhausted
from .limits import Allowance
from .window import surely_s

MICROUSD = 1_000_000
"""Microusd in one US dollar."""
MAX_STREAM_MICROUSD = MAX_SPEND_USD * MICROUSD
"""The most that one stream counts. No limit is higher, and the sum of all streams fits in 64 bits."""
RESERVED_RETRY_S = 1.0
"""Retry delay while open streams have reserved the rest: it is not known when one ends."""

SpendName = Literal["spend_microusd_per_day", "spend_microusd_per_month"]


class SpendLimiter:
    """Reserves the likely costs of streams, and charges their real costs. Belongs to one event loop.

    No method waits, so the sums are consistent whenever another task runs. Days and months are in UTC. The
    cost of a stream counts when the stream ends. `now` returns seconds since the epoch. All tenants are
    counted, because any may get a limit, but only by this process: `remember` adds what was spent before it
    started.
    """

    is_shared = False
    """Whether `remember` gets what all processes have spent, and not only the others."""

    def __init__(
        self, tenants: Mapping[str, TenantLimits], now: Callable[[], float] = time.time
    ) -> None:
        self._tenants = tenants
        self._now = now
        self._accounts: dict[str, SpendAccount] = {}
        self._remembers = False

    def must_remember(self, tenants: Mapping[str, TenantLimits] | None = None) -> bool:
        """Return whether a tenant's spend is limited, and `remember` has not been called.

        `tenants` are the limits to check, by default those in use.
        """
        limits = (self._tenants if tenants is None else tenants).values()
        return not self._remembers and any(map(_limits_of, limits))

    def replace(self, tenants: Mapping[str, TenantLimits]) -> None:
        """Use other limits of tenants. What was spent and reserved remains.

        Streams that run get what they need beyond their reservation only within the new limits. Streams
        that began without a limit continue without one.
        """
        self._tenants = tenants

    def remember(self, *, today: Mapping[str, int], this_month: Mapping[str, int]) -> None:
        """Add what tenants have spent, in microusd, before this process began to count."""
        self._remembers = True
        for tenant in {*today, *this_month}:
            account = self._account(tenant)
            account.day.spent += today.get(tenant, 0)
            account.month.spent += this_month.get(tenant, 0)

    def reserve(self, tenant: str, microusd: int | None, model: str) -> SpendHold | None:
        """Reserve the likely cost of a stream. Return None if the tenant's spend is not limited.

        `microusd` is None for a model without a known price, which a limited tenant cannot call.
        Raises QuotaExhausted, and then nothing is reserved.
        """
        limits = self._limits(tenant)
        if not limits:
            return None
        account = self._account(tenant)
        if microusd is None:
            limit, allowed = next(iter(limits.items()))
            raise QuotaExhausted(
                limit,
                scope="tenant",
                subject=tenant,
                allowed=allowed,
                asked=0,
                remaining=account.left(limit, allowed),
                why=f"the price of {model} is not known, so the limit cannot be checked",
            )
        refusal = self._refusal(tenant, account, microusd)
        if refusal is not None:
            raise refusal
        account.reserved += microusd
        return SpendHold(self, tenant, microusd)

    async def admit(self, tenant: str, microusd: int | None, model: str) -> SpendHold | None:
        """Reserve the likely cost of a stream, see `reserve`. Cancellation reserves nothing.

        It waits only where the spend is shared with other processes.
        """
        return self.reserve(tenant, microusd, model)

    def reserve_nothing(self, tenant: str) -> SpendHold | None:
        """Return a reservation of nothing, which a stream extends if it needs more. It is never refused.

        It is for streams whose provider charges the tenant. Returns None if the spend is not limited.
        """
        return SpendHold(self, tenant, 0) if self._limits(tenant) else None

    def allowances(self, tenant: str) -> tuple[Allowance, ...]:
        """Return every limit on a tenant's spend and what is left now."""
        limits = self._limits(tenant)
        if not limits:
            return ()
        account = self._account(tenant)
        return tuple(
            Allowance(limit, "tenant", allowed, account.left(limit, allowed))
            for limit, allowed in limits.items()
        )

    async def current_allowances(self, tenant: str) -> tuple[Allowance, ...]:
        """Return `allowances`. It waits only where the spend is shared with other processes."""
        return self.allowances(tenant)

    def extend(self, tenant: str, microusd: int) -> bool:
        """Reserve more for an open stream. Return False, and reserve nothing, if less is left."""
        fits = self.fits(tenant, microusd)
        if fits:
            self._account(tenant).reserved += microusd
        return fits

    def fits(self, tenant: str, microusd: int) -> bool:
        """Return whether so much is left, as far as this process knows."""
        account = self._account(tenant)
        return all(
            microusd <= account.left(limit, allowed)
            for limit, allowed in self._limits(tenant).items()
        )

    def reserved_here(self, tenant: str) -> int:
        """Return what the tenant's open streams of this process have reserved, in microusd."""
        return self._account(tenant).reserved

    def settle(self, tenant: str, reserved: int, spent: int) -> None:
        """Replace the reservation of a stream that has ended by its cost."""
        account = self._account(tenant)
        spent = min(spent, MAX_STREAM_MICROUSD)
        account.reserved -= reserved
        account.day.spent += spent
        account.month.spent += spent

    def count(self, tenant: str, microusd: int) -> None:
        """Count the cost of a stream that had no reservation, because the spend was not limited."""
        self.settle(tenant, 0, microusd)

    def _refusal(self, tenant: str, account: SpendAccount, microusd: int) -> QuotaExhausted | None:
        """Return the error for an account with too little left: for the limit with the longest wait.

        If both waits are equal, as on the last day of a month, it is the limit of the month.
        """
        now = self._now()
        refusals = [
            QuotaExhausted(
                limit,
                scope="tenant",
                subject=tenant,
                allowed=allowed,
                asked=microusd,
                remaining=account.left(limit, allowed),
                retry_after_s=account.wait_s(limit, allowed, microusd, now),
            )
            for limit, allowed in reversed(self._limits(tenant).items())
            if microusd > account.left(limit, allowed)
        ]
        return max(
            refusals, key=lambda refusal: refusal.retry_after_s or float("inf"), default=None
        )

    def _limits(self, tenant: str) -> dict[SpendName, int]:
        return _limits_of(self._tenants.get(tenant) or self._tenants.get(EVERY_OTHER_TENANT))

    def _account(self, tenant: str) -> SpendAccount:
        account = self._accounts.get(tenant)
        if account is None:
            account = self._accounts[tenant] = SpendAccount()
        account.turn_to(self._now())
        return account


class SpendHold:
    """The reservation of one stream."""

    __slots__ = ("_limiter", "_tenant", "microusd")

    def __init__(self, limiter: SpendLimiter, tenant: str, microusd: int) -> None:
        self._limiter: SpendLimiter | None = limiter
        self._tenant = tenant
        self.microusd = microusd
        """The reserved cost of the stream."""

    @property
    def is_only(self) -> bool:
        """Whether no other stream of the tenant in this process has reserved anything."""
        limiter = self._limiter
        return limiter is not None and limiter.reserved_here(self._tenant) == self.microusd

    def fits(self, to_microusd: int) -> bool:
        """Return whether enough is left to increase the reservation to a sum."""
        limiter = self._limiter
        return limiter is not None and limiter.fits(self._tenant, to_microusd - self.microusd)

    def extend(self, to_microusd: int) -> bool:
        """Increase the reservation to a sum. Return False, and change nothing, if less is left."""
        if self._limiter is None:
            return False
        more = to_microusd - self.microusd
        if more > 0:
            if not self._limiter.extend(self._tenant, more):
                return False
            self.microusd = to_microusd
        return True

    def settle(self, microusd: int) -> None:
        """Charge the cost of the stream, which has ended or was never started (0). Idempotent."""
        limiter, self._limiter = self._limiter, None
        if limiter is not None:
            limiter.settle(self._tenant, self.microusd, microusd)


class Period:
    """A day or a month and what was spent in it."""

    __slots__ = ("begin_time", "spent")

    def __init__(self) -> None:
        self.begin_time = 0.0
        self.spent = 0

    def turn_to(self, begin_time: float) -> None:
        if begin_time > self.begin_time:
            self.begin_time = begin_time
            self.spent = 0


class SpendAccount:
    """What a tenant has spent, and what its open streams have reserved."""

    __slots__ = ("day", "month", "reserved")

    def __init__(self) -> None:
        self.day = Period()
        self.month = Period()
        self.reserved = 0

    def turn_to(self, now: float) -> None:
        """Start a new day or month if it has begun. If the clock was set back, keep the newer one."""
        periods = Periods.at(now)
        self.day.turn_to(periods.day.timestamp())
        self.month.turn_to(periods.month.timestamp())

    def left(self, limit: SpendName, allowed: int) -> int:
        """Return what is left. It is negative if streams cost more than they had reserved."""
        return allowed - self._period(limit).spent - self.reserved

    def wait_s(self, limit: SpendName, allowed: int, microusd: int, now: float) -> float | None:
        """Return how long to wait for that much. None: it is never available."""
        if microusd > allowed:
            return None
        period = self._period(limit)
        if microusd <= allowed - period.spent:
            return RESERVED_RETRY_S
        # Use the newest day seen: if the clock was set back, its current day ends too early.
        periods = Periods.at(max(now, period.begin_time))
        end = periods.next_day if limit == "spend_microusd_per_day" else periods.next_month
        return max(RESERVED_RETRY_S, surely_s(end.timestamp() - now))

    def _period(self, limit: SpendName) -> Period:
        return self.day if limit == "spend_microusd_per_day" else self.month


class Periods(NamedTuple):
    """The day and the month (UTC) of a time, and the next ones."""

    day: datetime
    month: datetime
    next_day: datetime
    next_month: datetime

    @classmethod
    def at(cls, now: float) -> Periods:
        day = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        month = day.replace(day=1)
        next_month = (month + timedelta(days=32)).replace(day=1)
        return cls(day, month, day + timedelta(days=1), next_month)


def _limits_of(limits: TenantLimits | None) -> dict[SpendName, int]:
    """Return the limits that are set, in microusd."""
    return dict(_set(limits)) if limits is not None else {}


def _set(limits: TenantLimits) -> Iterator[tuple[SpendName, int]]:
    if (usd := limits.spend_usd_per_day) is not None:
        yield "spend_microusd_per_day", int(usd * MICROUSD)
    if (usd := limits.spend_usd_per_month) is not None:
        yield "spend_microusd_per_month", int(usd * MICROUSD)
