"""A limiter that several processes share in Redis."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from ...config import CallerLimits
from ..caller import Caller
from ..limits import Allowance, Holder, Lease, allowances_of, check_size, holders_of
from ..memory_limiter import NOTHING_TAKEN, Holders, MemoryLimiter
from .account import PREFIX, Account, key_of
from .charges import Answer, Kind
from .exchange import Exchange
from .lease import SharedLease, UncountedLease
from .requests import ChargeCall, Request

MAX_TAKES = 256
"""Maximum number of takes in one exchange."""
MAX_REPORTS = 128
"""Maximum number of holders that are reported without a take in one exchange."""


class RedisLimiter:
    """A Limiter whose counters several processes share. Belongs to one event loop, that of its exchange.

    An exchange carries what has been settled and all takes that wait, for each tenant in one step. Each
    report says how many streams of this process are open, so that Redis is right again after one report,
    whatever it has lost.

    While Redis does not serve it, this process enforces the limits alone, with what it has counted itself.
    Then N processes together admit up to N times what is allowed. What they admitted is reported afterwards.
    """

    def __init__(
        self, exchange: Exchange, tenants: Mapping[str, CallerLimits], *, prefix: str = PREFIX
    ) -> None:
        self._exchange = exchange
        self._tenants = tenants
        self._prefix = prefix
        self._local = MemoryLimiter(tenants)
        self._accounts: dict[str, Account] = {}  # by key, those that are not idle
        self._due: dict[str, Account] = {}  # those with something to report, in order
        self._waiting: list[Request] = []
        exchange.add(self)

    def replace(self, tenants: Mapping[str, CallerLimits]) -> None:
        """See Limiter."""
        self._tenants = tenants
        self._local.replace(tenants)

    async def take(self, caller: Caller, tokens: int) -> Lease:
        """See Limiter. Waits for two exchanges at most."""
        holders = holders_of(caller, self._tenants)
        if not any(map(_is_counted, holders)):
            return UncountedLease(_uncounted(holders)) if holders else NOTHING_TAKEN
        lease: Lease = await self._result(Request(Kind.STREAM, caller.tenant, holders, tokens))
        return lease

    async def take_request(self, caller: Caller) -> None:
        """See Limiter. Waits for two exchanges at most."""
        holders = holders_of(caller, self._tenants)
        if any(map(_is_counted, holders)):
            await self._result(Request(Kind.REQUEST, caller.tenant, holders))

    async def allowances(self, caller: Caller) -> tuple[Allowance, ...]:
        """See Limiter. Waits for two exchanges at most."""
        holders = holders_of(caller, self._tenants)
        if not any(map(_is_counted, holders)):
            return _uncounted(holders)
        found: tuple[Allowance, ...] = await self._result(
            Request(Kind.READ, caller.tenant, holders)
        )
        return found

    def check_request(self, caller: Caller, *, byte_count: int, message_count: int = 0) -> None:
        """See Limiter."""
        holders = holders_of(caller, self._tenants)
        check_size(holders, byte_count=byte_count, message_count=message_count)

    async def _result(self, request: Request) -> Any:
        if self._exchange.is_local:
            return self.decide_alone(request)
        self._waiting.append(request)
        self._exchange.request()
        return await request.wait()

    def charge(self, account: Account, bucket: int, requests: int, tokens: int) -> None:
        """See Charging."""
        if requests or tokens:
            account.add(bucket, requests, tokens, time.monotonic())
        self._due[account.key] = account
        self._exchange.request()

    # As a Participant of exchanges.

    @property
    def is_due(self) -> bool:
        """See Participant."""
        return bool(self._due)

    def renew(self) -> None:
        """See Participant."""
        self._due |= {
            account.key: account for account in self._accounts.values() if account.streams
        }

    def prepare(self, number: int) -> Iterable[ChargeCall]:
        """See Participant."""
        by_tenant: dict[str, ChargeCall] = {}

        def call_of(tenant: str) -> ChargeCall:
            call = by_tenant.get(tenant)
            if call is None:
                call = by_tenant[tenant] = ChargeCall(self)
            return call

        requests, self._waiting = self._waiting[:MAX_TAKES], self._waiting[MAX_TAKES:]
        for request in requests:
            if not request.is_done:
                accounts = [self._account(request.tenant, holder) for holder in request.holders]
                call_of(request.tenant).add(request, accounts)
        for key in list(self._due)[:MAX_REPORTS]:
            account = self._due[key]
            call_of(account.tenant).index(account)
        now = time.monotonic()
        for call in by_tenant.values():
            for account in call.accounts:
                self._due.pop(account.key, None)
                used = self._local.used_now(account.holder)
                call.reports.append(account.report(number, used, now))
        if self._due or self._waiting:
            self._exchange.request()
        return by_tenant.values()

    def lost(self) -> None:
        """See Participant."""
        waiting, self._waiting = self._waiting, []
        for request in waiting:
            request.answer_alone(self.decide_alone)
        now = time.monotonic()
        for account in list(self._accounts.values()):
            account.drop_expired(now)
            if account.is_idle:
                self._due.pop(account.key, None)
                del self._accounts[account.key]

    # What becomes of requests.

    def reported(self, account: Account) -> None:
        """See Deciding."""
        if account.is_idle and account.key not in self._due:
            self._accounts.pop(account.key, None)

    def not_reported(self, account: Account) -> None:
        """See Deciding."""
        self._due[account.key] = account

    def decided(self, request: Request, answer: Answer) -> Any:
        """See Deciding."""
        holders = request.holders
        if not answer.is_accepted:
            raise request.refusal(answer.found)
        if request.kind == Kind.REQUEST:
            self._local.take_request_now(holders, is_checked=False)
            return None
        allowances = tuple(
            allowance
            for holder, found in zip(holders, answer.found, strict=True)
            for allowance in allowances_of(
                holder, requests=found.requests, tokens=found.tokens, streams=found.streams
            )
        )
        if request.kind == Kind.READ:
            return allowances
        local = self._local.take_now(holders, request.tokens, is_checked=False)
        buckets = [found.bucket for found in answer.found]
        return self._leased(request, local, buckets, allowances)

    def decide_alone(self, request: Request) -> Any:
        """See Deciding."""
        holders = request.holders
        if request.kind == Kind.READ:
            return self._local.left_now(holders)
        if request.kind == Kind.REQUEST:
            self._local.take_request_now(holders)
            lease = None
        else:
            local = self._local.take_now(holders, request.tokens)
            lease = self._leased(request, local, [0] * len(holders), local.allowances)
        for holder in holders:
            self.charge(self._account(request.tenant, holder), 0, 1, request.tokens)
        return lease

    def _leased(
        self,
        request: Request,
        local: Lease,
        buckets: list[int],
        allowances: tuple[Allowance, ...],
    ) -> Lease:
        accounts = [self._account(request.tenant, holder) for holder in request.holders]
        taken = tuple(zip(accounts, buckets, strict=True))
        request.lease = SharedLease(self, local, request.tokens, taken, allowances)
        return request.lease

    def _account(self, tenant: str, holder: Holder) -> Account:
        """Return the account of a holder."""
        key = key_of(self._prefix, tenant, holder)
        account = self._accounts.get(key)
        if account is None:
            account = self._accounts[key] = Account(tenant, holder, key)
        return account


def _is_counted(holder: Holder) -> bool:
    """Return whether a holder has a limit on more than single requests."""
    limits = holder.limits
    return not (
        limits.requests_per_minute is None
        and limits.tokens_per_minute is None
        and limits.concurrent_streams is None
    )


def _uncounted(holders: Holders) -> tuple[Allowance, ...]:
    """Return the limits of holders on single requests."""
    return tuple(
        allowance
        for holder in holders
        for allowance in allowances_of(holder, requests=0, tokens=0, streams=0)
    )
