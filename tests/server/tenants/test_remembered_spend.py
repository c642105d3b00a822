"""Spend before the start of a server, which it reads from the records."""

from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace

import pytest

from tokenwire_server import reload
from tokenwire_server.config import TenantLimits
from tokenwire_server.tenants.spend import SpendLimiter

DAY = "spend_microusd_per_day"
MONTH = "spend_microusd_per_month"


def at(*date):
    return datetime(*date, tzinfo=UTC).timestamp()


class Books:
    """Records of spend with their times."""

    def __init__(self, *spent):
        self.spent = spent
        self.asked = 0

    async def spent_since(self, time, longest_stream_s, *, except_instance, has_open):
        self.asked += 1
        return {"acme": sum(microusd for when, microusd in self.spent if when >= time)}


@pytest.fixture
def set_clock(monkeypatch):
    """Set the clock of the server and of its limiter."""
    monkeypatch.setattr(reload, "time", SimpleNamespace(time=None))
    return lambda clock: setattr(reload.time, "time", clock)


async def left(books, clock):
    """Return what is left of 1000 a day and 5000 a month."""
    limits = {"spend_usd_per_day": Decimal("0.001"), "spend_usd_per_month": Decimal("0.005")}
    limiter = SpendLimiter({"acme": TenantLimits(**limits)}, clock)
    today, this_month = await reload.spent_before(books, 3600.0, "instance")
    limiter.remember(today=today, this_month=this_month)
    return {found.limit: found.remaining for found in limiter.allowances("acme")}


async def test_only_the_spend_of_today_counts_for_the_day(set_clock):
    def clock():
        return at(2027, 3, 14, 15)

    set_clock(clock)
    books = Books(
        (at(2027, 2, 28, 23, 59, 59), 10_000),
        (at(2027, 3, 1), 300),
        (at(2027, 3, 13, 23, 59, 59), 20),
        (at(2027, 3, 14), 1),
    )
    assert await left(books, clock) == {DAY: 999, MONTH: 4679}


async def test_a_day_that_ends_while_the_records_are_read_does_not_count_for_the_next(set_clock):
    def clock():  # the first answer comes after midnight
        return at(2027, 3, 14, 23, 59, 59) if books.asked == 0 else at(2027, 3, 15, 0, 0, 1)

    books = Books((at(2027, 3, 14, 15), 30), (at(2027, 3, 15), 1))
    set_clock(clock)
    assert await left(books, clock) == {DAY: 999, MONTH: 4969}
