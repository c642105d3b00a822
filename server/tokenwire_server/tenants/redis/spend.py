"""Spend of tenants that several processes share in Redis."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime

from ...config import TenantLimits
from ...errors import QuotaExhausted
from ..limits import Allowance
from ..spend import MAX_STREAM_MICROUSD, SpendAccount, SpendHold, SpendLimiter
from .account import PREFIX
from .charges import NO_LIMIT
from .exchange import Exchange
from .reservations import SpendAnswer, SpendCall, SpendRequest
from .share import DAY_S, Share, Sums, begin_of_month

MAX_RESERVES = 256
"""Maximum number of reservations in one exchange."""
MAX_REPORTS = 128
"""Maximum number of tenants that are reported without a reservation in one exchange."""
UNREPORTED_PART = 8
"""What processes reserve beyond what the others know is at most one part in so many of what is left. Besides,
each process may have one extension, and extensions of at most one part in SMALL_PART."""
SMALL_PART = 64
FORMAT = 1
"""Format of the states. Processes of different versions with different formats count separately."""


class RedisSpendLimiter(SpendLimiter):
    """A SpendLimiter whose sums several processes share. Belongs to one event loop, that of its exchange.

    A stream is admitted by Redis, which sums what all processes have spent and reserved. While it runs, its
    reservation is extended at once, based on the last reports of the others, and reported. What has not been
    reported yet is small, compared with what is left, or one extension. A stream that gets less requests it
    again with its next token, and Redis has answered by then.

    The clock of Redis decides the day. The sums in Redis only grow, until the next day or month. So what it
    has lost is restored from the memory of each process, and nothing counts twice.
    """

    is_shared = True

    def __init__(
        self,
        exchange: Exchange,
        tenants: Mapping[str, TenantLimits],
        *,
        prefix: str = PREFIX,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`now` returns seconds since the epoch. Only the difference to the clock of Redis matters."""
        super().__init__(tenants, self._redis_now)
        self._exchange = exchange
        self._prefix = prefix
        self._clock = now
        self._clock_offset_s = 0.0
        self._shares: dict[str, Share] = {}
        self._due: dict[str, Share] = {}
        self._waiting: list[SpendRequest] = []
        self._is_restoring = False
        exchange.add(self)

    async def admit(self, tenant: str, microusd: int | None, model: str) -> SpendHold | None:
        """See SpendLimiter. Waits for two exchanges at most. Raises QuotaExhausted."""
        if microusd is None or not self._limits(tenant) or self._exchange.is_local:
            return self.reserve(tenant, microusd, model)
        return await self._result(SpendRequest(self, self._share(tenant), microusd, model))

    async def current_allowances(self, tenant: str) -> tuple[Allowance, ...]:
        """See SpendLimiter. Waits for two exchanges at most."""
        if self._limits(tenant) and not self._exchange.is_local:
            await self._result(SpendRequest(self, self._share(tenant), None, ""))
        return self.allowances(tenant)

    async def _result(self, request: SpendRequest) -> SpendHold | None:
        self._waiting.append(request)
        self._exchange.request()
        return await request.wait()

    def reserve(self, tenant: str, microusd: int | None, model: str) -> SpendHold | None:
        """Reserve the likely cost of a stream without Redis."""
        hold = super().reserve(tenant, microusd, model)
        if hold is not None:
            self._share(tenant).reserved += hold.microusd
            self._report(tenant)
        return hold

    def extend(self, tenant: str, microusd: int) -> bool:
        """See SpendLimiter. Redis gets it with the next exchange."""
        share, account = self._share(tenant), self._account(tenant)
        limits, unreported = self._limits(tenant), share.unreported
        if limits and unreported > 0 and not self._exchange.is_local:
            left = unreported + min(account.left(*limit) for limit in limits.items())
            part = left / share.process_count
            if unreported + microusd > part / UNREPORTED_PART and microusd > part / SMALL_PART:
                return False
        if not super().extend(tenant, microusd):
            return False
        share.reserved += microusd
        self._report(tenant)
        return True

    def reserved_here(self, tenant: str) -> int:
        """See SpendLimiter."""
        return self._share(tenant).reserved

    def settle(self, tenant: str, reserved: int, spent: int) -> None:
        """See SpendLimiter. Redis gets it with the next exchange."""
        super().settle(tenant, reserved, spent)
        share = self._share(tenant)
        share.reserved -= reserved
        share.add(int(self._now() // DAY_S), min(spent, MAX_STREAM_MICROUSD))
        self._report(tenant)

    def count(self, tenant: str, microusd: int) -> None:
        """See SpendLimiter. Unless any spend is limited, it is in the records only, and read when it is."""
        if self._remembers:
            self.settle(tenant, 0, microusd)

    def remember(self, *, today: Mapping[str, int], this_month: Mapping[str, int]) -> None:
        """Set the least that tenants have spent, in microusd. It may be in Redis already."""
        self._remembers = True
        at = datetime.fromtimestamp(self._now(), UTC)
        day, month = int(self._now() // DAY_S), (at.year - 1970) * 12 + at.month - 1
        for tenant in {*today, *this_month}:
            share = self._share(tenant)
            share.learn(Sums(day, today.get(tenant, 0), month, this_month.get(tenant, 0)))
            self._update(share)

    def _redis_now(self) -> float:
        return self._clock() + self._clock_offset_s

    def _share(self, tenant: str) -> Share:
        share = self._shares.get(tenant)
        if share is None:
            key = f"{self._prefix}{{{tenant}}}:spend{FORMAT}"
            share = self._shares[tenant] = Share(tenant, key)
        return share

    def _report(self, tenant: str) -> None:
        """Report a tenant: at once if its spend is limited, or else with the next renewal."""
        if self._limits(tenant):
            self._due[tenant] = self._share(tenant)
            self._exchange.request()

    def _update(self, share: Share) -> None:
        """Let the account of a tenant have the sums of all processes."""
        account, known = self._account(share.tenant), share.known
        for period, begin_time, spent, of_month in (
            (account.day, known.day * DAY_S, known.day_spent, False),
            (account.month, begin_of_month(known.month), known.month_spent, True),
        ):
            period.begin_time = begin_time
            period.spent = spent + share.unreported_spend(known, of_month=of_month)
        account.reserved = share.reserved + share.others_reserved

    # As a Participant of exchanges.

    @property
    def is_due(self) -> bool:
        """See Participant."""
        return bool(self._due)

    def renew(self) -> None:
        """See Participant."""
        self._due |= {share.tenant: share for share in self._shares.values() if not share.is_idle}

    def prepare(self, number: int) -> Iterable[SpendCall]:
        """See Participant."""
        calls: dict[str, SpendCall] = {}
        requests, self._waiting = self._waiting[:MAX_RESERVES], self._waiting[MAX_RESERVES:]
        for request in requests:
            if not request.result.done():
                share = request.share
                call = calls.get(share.tenant)
                if call is None:
                    call = calls[share.tenant] = SpendCall(self, share)
                call.requests.append(request)
        for tenant in list(self._due)[:MAX_REPORTS]:
            calls.setdefault(tenant, SpendCall(self, self._due[tenant]))
        for tenant, call in calls.items():
            self._due.pop(tenant, None)
            call.report = call.share.report(number)
        if not self._due:
            self._is_restoring = False
        if self._due or self._waiting:
            self._exchange.request()
        return calls.values()

    def lost(self) -> None:
        """See Participant."""
        waiting, self._waiting = self._waiting, []
        for request in waiting:
            request.answer_alone()

    # What becomes of calls.

    def limits_of(self, tenant: str) -> tuple[int, int]:
        """See Deciding."""
        limits = self._limits(tenant)
        return (
            limits.get("spend_microusd_per_day", NO_LIMIT),
            limits.get("spend_microusd_per_month", NO_LIMIT),
        )

    def answered(self, call: SpendCall, answer: SpendAnswer) -> None:
        """See Deciding."""
        share = call.share
        self._clock_offset_s = answer.now_ms / 1000 - self._clock()
        has_lost = share.has_report and not answer.has_known
        share.reported_all()
        share.follow(Sums(answer.day, answer.day_spent, answer.month, answer.month_spent))
        if has_lost and not self._is_restoring:
            # It has lost other tenants, too. Each process reports all that it knows.
            self._is_restoring = True
            self._due |= {
                found.tenant: found for found in self._shares.values() if found.known.month_spent
            }
            self._exchange.request()
        share.others_reserved = answer.others_reserved
        share.process_count = answer.process_count
        self._update(share)
        for request, (is_accepted, reserved) in zip(
            call.reserving_requests, answer.reserves, strict=True
        ):
            request.answer(lambda r=request, a=is_accepted, n=reserved: self._decided(r, a, n))  # type: ignore[misc]
        for request in call.requests:
            if request.microusd is None:
                request.answer(lambda: None)

    def failed(self, call: SpendCall) -> None:
        """See Deciding."""
        self._due[call.share.tenant] = call.share
        for request in call.requests:
            request.answer_alone()

    def _decided(self, request: SpendRequest, is_accepted: bool, reserved: int) -> SpendHold:
        """Return the reservation that Redis accepted. Raises QuotaExhausted."""
        share, microusd = request.share, request.microusd or 0
        account = self._account(share.tenant)
        if is_accepted:
            share.reserved += microusd
            share.reported += microusd
            account.reserved += microusd
            request.hold = SpendHold(self, share.tenant, microusd)
            return request.hold
        at_decision = SpendAccount()
        at_decision.day, at_decision.month = account.day, account.month
        at_decision.reserved = reserved
        refusal = self._refusal(share.tenant, at_decision, microusd)
        if refusal is None:  # the limits have been raised meanwhile
            limit, allowed = next(iter(self._limits(share.tenant).items()))
            refusal = QuotaExhausted(
                limit,
                scope="tenant",
                subject=share.tenant,
                allowed=allowed,
                asked=microusd,
                remaining=at_decision.left(limit, allowed),
                retry_after_s=1.0,
            )
        raise refusal
