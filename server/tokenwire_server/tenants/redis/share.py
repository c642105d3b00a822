"""The part of this process in the spend of a tenant."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

DAY_S = 86_400


class Sums(NamedTuple):
    """What a tenant has spent in a day and in a month, which are numbered from 1970 on."""

    day: int = 0
    day_spent: int = 0
    month: int = 0
    month_spent: int = 0


class Charge(NamedTuple):
    number: int
    """The number of the call that carried it first. No call charges it a second time."""
    day: int
    microusd: int


class Share:
    """The part of this process in the spend of a tenant, and what the others reported last."""

    __slots__ = (
        "_sent",
        "_sent_reserved",
        "_unsent",
        "has_report",
        "key",
        "known",
        "others_reserved",
        "process_count",
        "reported",
        "reserved",
        "tenant",
    )

    def __init__(self, tenant: str, key: str) -> None:
        self.tenant = tenant
        self.key = key
        self.reserved = 0
        """What open streams of this process have reserved."""
        self.reported = 0
        """What Redis has of it."""
        self.others_reserved = 0
        self.process_count = 1
        self.has_report = False
        """Whether Redis has had a report of this process."""
        self.known = Sums()
        """What all processes have spent, without what this one has to report."""
        self._sent_reserved = 0
        self._unsent: dict[int, int] = {}  # by day
        self._sent: list[Charge] = []
        """Charges that a call has carried. It is not known if Redis has them."""

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to report."""
        return not (self.reserved or self.reported or self._unsent or self._sent)

    @property
    def unreported(self) -> int:
        """What this process has reserved and spent beyond what Redis has of it. It may be negative."""
        spent = sum(self._unsent.values()) + sum(charge.microusd for charge in self._sent)
        return self.reserved + spent - self.reported

    def add(self, day: int, microusd: int) -> None:
        """Charge a cost."""
        if microusd:
            self._unsent[day] = self._unsent.get(day, 0) + microusd

    def report(self, number: int) -> tuple[int, Sums, Sequence[Charge]]:
        """Return the report for a call with this number."""
        self._sent += [Charge(number, day, microusd) for day, microusd in self._unsent.items()]
        self._unsent.clear()
        self._sent_reserved = self.reserved
        return self.reserved, self.known, self._sent

    def reported_all(self) -> None:
        """Note that Redis has answered the last report."""
        self._sent.clear()
        self.has_report = True
        self.reported = self._sent_reserved

    def follow(self, sums: Sums) -> None:
        """Take over the sums of Redis, which decides the day and the month."""
        known = self.known
        self.known = Sums(
            sums.day,
            max(sums.day_spent, known.day_spent if known.day == sums.day else 0),
            sums.month,
            max(sums.month_spent, known.month_spent if known.month == sums.month else 0),
        )

    def learn(self, sums: Sums) -> None:
        """Take over sums, unless greater ones of the same day or month are known."""
        day, month = self.known[:2], self.known[2:]
        self.known = Sums(*max(day, sums[:2]), *max(month, sums[2:]))

    def unreported_spend(self, sums: Sums, *, of_month: bool) -> int:
        """Return what is to be reported for the day of these sums, or for their month."""
        charges = [*self._unsent.items(), *((charge.day, charge.microusd) for charge in self._sent)]
        if of_month:
            return sum(spent for day, spent in charges if day * DAY_S >= begin_of_month(sums.month))
        return sum(spent for day, spent in charges if day >= sums.day)


def begin_of_month(month: int) -> float:
    """Return when a month begins, in seconds since the epoch. Months are numbered from January 1970 on."""
    return datetime(1970 + month // 12, month % 12 + 1, 1, tzinfo=UTC).timestamp()
