"""The leases of a limiter that several processes share."""

from __future__ import annotations

from typing import Protocol

from ..limits import Allowance, Lease
from .account import Account

MAX_TOKENS = 10**13
"""The most that one stream counts. No limit is as high, and Redis can sum those of a minute exactly."""


class Charging(Protocol):
    def charge(self, account: Account, bucket: int, requests: int, tokens: int) -> None:
        """Charge usage with the next exchange, and report the account's streams."""
        ...


class SharedLease:
    """A Lease on what was charged in Redis, or by this process alone."""

    __slots__ = ("_limiter", "_local", "_taken", "_tokens", "allowances")

    def __init__(
        self,
        limiter: Charging,
        local: Lease,
        tokens: int,
        taken: tuple[tuple[Account, int], ...],
        allowances: tuple[Allowance, ...],
    ) -> None:
        """`local` is what this process counts itself. `taken` are the accounts that have the stream, each
        with the bucket that was charged in Redis, or 0 if that is not known.
        """
        self._limiter = limiter
        self._local = local
        self._tokens = tokens
        self._taken = taken
        self.allowances = allowances
        for account, _ in taken:
            account.streams += 1

    def settle(self, tokens: int) -> None:
        """See Lease."""
        tokens = min(tokens, MAX_TOKENS)
        self._local.settle(tokens)
        self._end(0, tokens - self._tokens)

    def give_back(self) -> None:
        """See Lease."""
        self._local.give_back()
        self._end(-1, -self._tokens)

    def _end(self, requests: int, tokens: int) -> None:
        taken, self._taken = self._taken, ()
        for account, bucket in taken:
            account.streams -= 1
            if tokens > 0:
                self._limiter.charge(account, 0, 0, tokens)
            elif bucket:
                self._limiter.charge(account, bucket, requests, tokens)
            else:  # In another bucket, a refund would count for longer than the usage that it refunds.
                self._limiter.charge(account, 0, 0, 0)


class UncountedLease:
    """The Lease of a caller whose limits apply to single requests only."""

    def __init__(self, allowances: tuple[Allowance, ...]) -> None:
        self.allowances = allowances

    def settle(self, tokens: int) -> None:
        """See Lease."""

    def give_back(self) -> None:
        """See Lease."""
