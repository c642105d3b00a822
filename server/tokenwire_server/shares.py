"""The rule by which the tenants of a server share a bound, such as the number of its streams."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from types import TracebackType

MAX_TO_FREE = 8
"""A tenant may have this many times as much as is free."""


class SharedBound:
    """A bound that tenants share, and how much of it each of them has. Belongs to one event loop.

    A tenant may take one more while it has less than MAX_TO_FREE times as much as is free. So a tenant
    alone gets at most 8/9 of the bound, two get 8/17 each, and n get 8/(8n + 1) each. Whatever a tenant
    takes and however long it keeps it, a part of a bound of 9 or more stays free for others, and a tenant
    that has nothing may always take one if any is free. The total never exceeds the bound.

    The rule is the dynamic threshold of shared-memory switches: Choudhury and Hahne, "Dynamic queue
    length thresholds for shared-memory packet switches", IEEE/ACM Transactions on Networking 6(2), 1998.

    While `has_tenants` returns False, all callers are one tenant, which may use the whole bound.
    """

    def __init__(self, bound: int, has_tenants: Callable[[], bool]) -> None:
        self.bound = bound
        """It may change at any time. If it falls below what is used, nothing can be taken for a while."""
        self.used = 0
        self._has_tenants = has_tenants
        self._of_tenant: Counter[str] = Counter()

    def used_by(self, tenant: str) -> int:
        """Return how much a tenant has."""
        return self._of_tenant[tenant]

    @property
    def is_full(self) -> bool:
        """Whether nothing is free."""
        return self.used >= self.bound

    def may_take(self, tenant: str) -> bool:
        """Return whether a tenant may take one more."""
        free = self.bound - self.used
        return free > 0 and (
            self._of_tenant[tenant] < MAX_TO_FREE * free or not self._has_tenants()
        )

    def take(self, tenant: str, count: int = 1) -> None:
        """Count as taken, without a check."""
        self.used += count
        self._of_tenant[tenant] += count

    def give(self, tenant: str, count: int = 1) -> None:
        """Count as free what a tenant had taken."""
        self.used -= count
        self._of_tenant[tenant] -= count
        if not self._of_tenant[tenant]:
            del self._of_tenant[tenant]


class Place:
    """One of a SharedBound, which a tenant has for the time of a `with` block."""

    __slots__ = ("_bound", "_check", "_tenant")

    def __init__(self, bound: SharedBound, tenant: str, check: Callable[[str], None]) -> None:
        """`check` gets the tenant when the block begins, and raises if it must not take a place."""
        self._bound = bound
        self._tenant = tenant
        self._check = check

    def __enter__(self) -> None:
        self._check(self._tenant)
        self._bound.take(self._tenant)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._bound.give(self._tenant)
