"""Limits of callers: how they are checked, charged and refunded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from operator import itemgetter
from typing import Literal, Protocol

import msgspec

from ..config import EVERY_OTHER_TENANT, CallerLimits, ConfigError, Limits
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
    """One limit of a caller and the amount that is left."""

    limit: LimitName
    scope: Scope
    allowed: int
    remaining: int | None
    """Negative if answers used more than was estimated. None for limits of one request."""


class Lease(Protocol):
    """What was charged for one stream: a concurrent stream, a request, and the estimated tokens."""

    @property
    def allowances(self) -> tuple[Allowance, ...]:
        """The limits, and what was left of them after the charge."""
        ...

    def settle(self, tokens: int) -> None:
        """Free the stream's slot and charge the `tokens` that it used. Idempotent, never waits."""
        ...

    def give_back(self) -> None:
        """Refund everything, the request too, because no stream was started. Idempotent, never waits."""
        ...


class Limiter(Protocol):
    """Counts the usage of callers.

    No period of 60 seconds ever has more usage than a limit allows. Usage stops counting after 60 to 61
    seconds, and a refund at once.
    """

    def replace(self, tenants: Mapping[str, CallerLimits]) -> None:
        """Use other limits of tenants. What was counted for a tenant remains."""
        ...

    async def take(self, caller: Caller, tokens: int) -> Lease:
        """Charge a request, a concurrent stream and `tokens` to both the key and the tenant, or to neither.

        Raises RateLimited or TooManyStreams, for the limit with the longest wait. Cancellation charges
        nothing.
        """
        ...

    async def take_request(self, caller: Caller) -> None:
        """Charge a request that starts no stream to both the key and the tenant, or to neither.

        Raises RateLimited. Cancellation charges nothing.
        """
        ...

    async def allowances(self, caller: Caller) -> tuple[Allowance, ...]:
        """Return every limit of a caller and what is left now. Limits of the key come before the tenant's."""
        ...

    def check_request(self, caller: Caller, *, byte_count: int, message_count: int = 0) -> None:
        """Check the size of a request. Raises QuotaExhausted."""
        ...


class Holder(msgspec.Struct, frozen=True, gc=False):
    """A key or a tenant that has limits."""

    scope: Scope
    counted_as: str
    """The family of keys, or the tenant, that shares the limits."""
    subject: str
    """The key's prefix, or the tenant, for errors."""
    limits: CallerLimits


def holders_of(caller: Caller, tenants: Mapping[str, CallerLimits]) -> tuple[Holder, ...]:
    """Return those of a caller's key and tenant, in this order, that have limits."""
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
    """Yield every limit of a holder and what is left of it, for the usage that is given."""
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
    """Check the size of a request. Raises QuotaExhausted for the smallest limit that it exceeds."""
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


def check_limits(
    tenants: Mapping[str, CallerLimits], limits: Limits, *, is_shared: bool = False
) -> None:
    """Check the limits of tenants. Raises ConfigError with each fault and its setting.

    A limit that several servers share may be larger than what one of them can serve.
    """
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
            if is_shared and name == "concurrent_streams":
                continue
            if allowed is not None and allowed > bound:
                faults.append(f"{path}.{name}: is {allowed}, but {servers} is {bound}")
    if faults:
        raise ConfigError("; ".join(faults))


def _any_set(limits: CallerLimits) -> bool:
    return (
        limits.requests_per_minute is not None
        or limits.tokens_per_minute is not None
        or limits.concurrent_streams is not None
        or limits.messages_per_request is not None
        or limits.bytes_per_request is not None
    )
