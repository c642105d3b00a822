"""What callers may take: how it is asked for, and given back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from operator import itemgetter
from typing import Literal, Protocol

import msgspec

from ..config import EVERY_OTHER_TENANT, CallerLimits, Limits
from ..errors import QuotaExhausted
from .caller import Caller
from .key import TENANT_NAME

LimitName = Literal[
    "requests_per_minute",
    "tokens_per_minute",
    "concurrent_streams",
    "messages_per_request",
    "bytes_per_request",
    "spend_microusd_per_day",
    "spend_microusd_per_month",
]
Scope = Literal["key", "tenant"]


class Allowance(msgspec.Struct, frozen=True):
    """One limit of a caller, and what is left of it."""

    limit: LimitName
    scope: Scope
    allowed: int
    remaining: int | None
    """Below 0 when answers took more than was estimated. None for limits of one request."""


class Lease(Protocol):
    """What one stream has taken: a slot among the concurrent ones, a request, and estimated tokens."""

    @property
    def allowances(self) -> tuple[Allowance, ...]:
        """What was left once it was taken."""
        ...

    def settle(self, tokens: int) -> None:
        """The stream has ended: its slot is free, and `tokens` is what it used. Idempotent, never waits."""
        ...

    def give_back(self) -> None:
        """There was no stream after all: nothing was taken, not even a request. Idempotent, never waits."""
        ...


class Limiter(Protocol):
    """Counts what callers take.

    No 60 seconds ever hold more than a limit allows. What was taken is there again after 60 seconds, and
    up to one more; what comes back earlier, at once.
    """

    async def take(self, caller: Caller, tokens: int) -> Lease:
        """Take a request, a slot and `tokens`, from the key and from the tenant: all of it, or nothing.

        Raises RateLimited, TooManyStreams: the limit that keeps the caller waiting longest.
        Cancelled, it has taken nothing.
        """
        ...

    async def take_request(self, caller: Caller) -> None:
        """Charge a request that starts no stream to both the key and the tenant, or to neither.

        Raises RateLimited. Cancellation charges nothing.
        """
        ...

    async def allowances(self, caller: Caller) -> tuple[Allowance, ...]:
        """Every limit that holds for a caller, the key's before the tenant's, and what is left now."""
        ...

    def check_request(self, caller: Caller, *, byte_count: int, message_count: int = 0) -> None:
        """Whether a request is small enough. Raises QuotaExhausted."""
        ...


class Holder(msgspec.Struct, frozen=True, gc=False):
    """A key or a tenant, and the limits that hold for it."""

    scope: Scope
    counted_as: str
    """Who shares the limits: the family of keys, or the tenant."""
    subject: str
    """Whom errors name: the key's prefix, or the tenant."""
    limits: CallerLimits


def holders_of(caller: Caller, tenants: Mapping[str, CallerLimits]) -> tuple[Holder, ...]:
    """Who limits a caller, the key before the tenant: nobody, if it has no limits at all."""
    found: tuple[Holder, ...] = ()
    if caller.key_family and _any_set(caller.limits):
        found = (Holder("key", caller.key_family, caller.key_prefix, caller.limits),)
    limits = tenants.get(caller.tenant) or tenants.get(EVERY_OTHER_TENANT)
    if limits is not None and _any_set(limits):
        found += (Holder("tenant", caller.tenant, caller.tenant, limits),)
    return found


def allowances_of(
    holder: Holder, *, requests: int, tokens: int, streams: int
) -> Iterator[Allowance]:
    """Every limit of a holder, when so much of it is taken."""
    limits, scope = holder.limits, holder.scope
    if (allowed := limits.requests_per_minute) is not None:
        yield Allowance("requests_per_minute", scope, allowed, allowed - requests)
    if (allowed := limits.tokens_per_minute) is not None:
        yield Allowance("tokens_per_minute", scope, allowed, allowed - tokens)
    if (allowed := limits.concurrent_streams) is not None:
        yield Allowance("concurrent_streams", scope, allowed, allowed - streams)
    if (allowed := limits.messages_per_request) is not None:
        yield Allowance("messages_per_request", scope, allowed, None)
    if (allowed := limits.bytes_per_request) is not None:
        yield Allowance("bytes_per_request", scope, allowed, None)


def check_size(holders: Iterable[Holder], *, byte_count: int, message_count: int) -> None:
    """Whether a request is small enough. Raises QuotaExhausted: the smallest limit that it exceeds."""
    for limit, asked, field in (
        ("bytes_per_request", byte_count, ""),
        ("messages_per_request", message_count, "messages"),
    ):
        exceeded = [
            (allowed, holder)
            for holder in holders
            if (allowed := getattr(holder.limits, limit)) is not None and asked > allowed
        ]
        if exceeded:
            allowed, holder = min(exceeded, key=itemgetter(0))
            raise QuotaExhausted(
                limit,
                scope=holder.scope,
                subject=holder.subject,
                allowed=allowed,
                asked=asked,
                remaining=allowed,
                field=field,
            )


def limit_faults(tenants: Mapping[str, CallerLimits], limits: Limits) -> list[str]:
    """What makes no sense in the limits of tenants: where it stands, and why."""
    faults = []
    for tenant, own in tenants.items():
        path = f"tenants.{tenant}"
        if tenant != EVERY_OTHER_TENANT and not TENANT_NAME.fullmatch(tenant):
            faults.append(f'{path}: must be {TENANT_NAME.pattern}, or "*" for all others')
        for name, bound, servers in (
            ("concurrent_streams", limits.max_streams, "limits.max_streams"),
            ("bytes_per_request", limits.max_request_bytes, "limits.max_request_bytes"),
        ):
            allowed = getattr(own, name)
            if allowed is not None and allowed > bound:
                faults.append(f"{path}.{name}: is {allowed}, but {servers} is {bound}")
    return faults


def _any_set(limits: CallerLimits) -> bool:
    return (
        limits.requests_per_minute is not None
        or limits.tokens_per_minute is not None
        or limits.concurrent_streams is not None
        or limits.messages_per_request is not None
        or limits.bytes_per_request is not None
    )
