"""Spend limits: costs are reserved before a stream and charged after it."""

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from tokenwire_server.config import MAX_SPEND_USD, TenantLimits
from tokenwire_server.errors import QuotaExhausted
from tokenwire_server.events import Usage
from tokenwire_server.tenants.reservation import Reservation
from tokenwire_server.tenants.spend import RESERVED_RETRY_S, Periods, SpendLimiter

DAY = "spend_microusd_per_day"
MONTH = "spend_microusd_per_month"


class Clock:
    """A clock that a test moves."""

    def __init__(self, *date):
        self.now = 0.0
        self.set(*date or (2027, 3, 14, 15, 9, 26))

    def __call__(self):
        return self.now

    def set(self, *date):
        self.now = datetime(*date, tzinfo=UTC).timestamp()

    def add(self, **span):
        self.now += timedelta(**span).total_seconds()


@pytest.fixture
def clock():
    return Clock()


def usd(microusd):
    return None if microusd is None else Decimal(microusd) / 10**6


def limited(day=None, month=None):
    return TenantLimits(spend_usd_per_day=usd(day), spend_usd_per_month=usd(month))


@pytest.fixture
def limiter(clock):
    """A limiter with 100 a day and 250 a month for each tenant."""
    return SpendLimiter({"*": limited(100, 250)}, clock)


def left(limiter, tenant="acme"):
    return {found.limit: found.remaining for found in limiter.allowances(tenant)}


def refusal(limiter, microusd, tenant="acme"):
    before = limiter.allowances(tenant)
    with pytest.raises(QuotaExhausted) as error:
        limiter.reserve(tenant, microusd, "some/model")
    assert limiter.allowances(tenant) == before
    return error.value


def spend(limiter, microusd, tenant="acme"):
    limiter.reserve(tenant, 0, "some/model").settle(microusd)


def test_reservations_and_charges_reduce_what_is_left(limiter):
    hold = limiter.reserve("acme", 30, "some/model")
    assert hold.microusd == 30
    assert left(limiter) == {DAY: 70, MONTH: 220}
    hold.settle(12)
    assert left(limiter) == {DAY: 88, MONTH: 238}


def test_settling_is_idempotent(limiter):
    hold = limiter.reserve("acme", 30, "some/model")
    for microusd in (12, 12, 99, 0):
        hold.settle(microusd)
    assert left(limiter)[DAY] == 88


def test_a_stream_that_was_not_started_costs_nothing(limiter):
    limiter.reserve("acme", 100, "some/model").settle(0)
    assert left(limiter)[DAY] == 100


@pytest.mark.parametrize(("cost", "remaining"), [(7, 93), (None, 60), (0, 100)])
def test_a_stream_whose_cost_is_unknown_is_charged_what_it_reserved(limiter, cost, remaining):
    reservation = Reservation(spend=limiter.reserve("acme", 40, "m"))
    reservation.settle(Usage(5, 5, cost_microusd=cost))
    assert left(limiter)[DAY] == remaining


def test_a_reservation_is_extended_completely_or_not_at_all(limiter):
    hold, other = (limiter.reserve("acme", microusd, "some/model") for microusd in (30, 20))
    assert hold.extend(80)
    assert (hold.microusd, left(limiter)[DAY]) == (80, 0)
    assert not hold.extend(81)
    assert (hold.microusd, left(limiter)[DAY]) == (80, 0)
    assert hold.extend(40), "it has that much"
    assert hold.microusd == 80
    other.settle(5)
    assert hold.extend(95)
    hold.settle(90)
    assert left(limiter)[DAY] == 5


def test_a_settled_reservation_cannot_be_extended(limiter):
    hold = limiter.reserve("acme", 30, "some/model")
    hold.settle(30)
    assert not hold.extend(31)
    assert not hold.extend(10)
    assert left(limiter)[DAY] == 70


def test_streams_that_cost_more_than_they_reserved_make_the_rest_negative(limiter):
    spend(limiter, 130)
    assert left(limiter) == {DAY: -30, MONTH: 120}
    for microusd in (0, 1):
        assert refusal(limiter, microusd).remaining == -30


def test_a_limit_of_zero_allows_free_streams(clock):
    limiter = SpendLimiter({"acme": limited(0)}, clock)
    limiter.reserve("acme", 0, "free/model").settle(0)
    found = refusal(limiter, 1)
    assert (found.allowed, found.remaining, found.retry_after_s) == (0, 0, None)


def test_a_tenant_without_a_limit_is_not_counted(clock):
    limiter = SpendLimiter({"acme": limited(10), "globex": TenantLimits()}, clock)
    for tenant in ("globex", "default"):
        assert limiter.reserve(tenant, 10**15, "some/model") is None
        assert limiter.reserve(tenant, None, "some/model") is None
        assert limiter.allowances(tenant) == ()


def test_earlier_spend_must_be_remembered_once_any_spend_is_limited(clock):
    assert not SpendLimiter({}, clock).must_remember()
    assert not SpendLimiter({"acme": TenantLimits(requests_per_minute=1)}, clock).must_remember()
    assert SpendLimiter({"acme": limited(0)}, clock).must_remember()
    limiter = SpendLimiter({"*": limited(None, 5)}, clock)
    assert limiter.must_remember()
    limiter.remember(today={}, this_month={})
    assert not limiter.must_remember()
    assert not limiter.must_remember({"acme": limited(1)})


def test_replaced_limits_include_what_was_spent_before_and_without_a_limit(clock):
    limiter = SpendLimiter({"acme": limited(100)}, clock)
    limiter.reserve("acme", 30, "m").settle(40)
    running = limiter.reserve("acme", 10, "m")
    assert limiter.reserve("globex", 10**6, "m") is None
    limiter.count("globex", 60)

    limiter.replace({"*": limited(55)})
    limiter.remember(today={"globex": 2}, this_month={"globex": 2})
    assert [found.remaining for found in limiter.allowances("acme")] == [5]
    assert [found.remaining for found in limiter.allowances("globex")] == [-7]
    assert not running.extend(20)  # the running stream is within the new limit, too
    assert running.extend(15)

    limiter.replace({})
    assert running.extend(10**6)
    running.settle(200)
    limiter.replace({"*": limited(300)})
    assert [found.remaining for found in limiter.allowances("acme")] == [60]


def test_each_unnamed_tenant_has_its_own_limit(clock):
    limiter = SpendLimiter({"*": limited(100), "acme": limited(10)}, clock)
    limiter.reserve("globex", 100, "some/model")
    limiter.reserve("initech", 100, "some/model")
    assert refusal(limiter, 1, "globex").subject == "globex"
    assert refusal(limiter, 11).allowed == 10
    assert left(limiter) == {DAY: 10}


def test_a_model_without_a_price_is_refused_if_there_is_a_limit(limiter):
    found = refusal(limiter, None)
    assert (found.retry_after_s, found.remaining, found.allowed) == (None, 100, 100)
    assert "the price of some/model is not known" in str(found)


def test_a_refusal_names_the_limit_with_the_longest_wait(limiter):
    spend(limiter, 95)
    assert refusal(limiter, 6).limit == DAY
    limiter.remember(today={}, this_month={"acme": 150})
    found = refusal(limiter, 6)
    assert (found.limit, found.scope, found.subject) == (MONTH, "tenant", "acme")
    assert (found.asked, found.remaining, found.allowed) == (6, 5, 250)


def test_on_the_last_day_of_a_month_a_refusal_by_both_limits_names_the_month(clock, limiter):
    clock.set(2027, 12, 31, 12)
    limiter.remember(today={"acme": 95}, this_month={"acme": 245})
    assert refusal(limiter, 6).limit == MONTH


# When to come back.


def test_the_wait_for_open_streams_is_a_second(limiter):
    hold = limiter.reserve("acme", 60, "some/model")
    for microusd in (50, 100):
        assert refusal(limiter, microusd).retry_after_s == RESERVED_RETRY_S
    hold.settle(60)
    assert refusal(limiter, 50).retry_after_s > RESERVED_RETRY_S


@pytest.mark.parametrize(
    ("now", "day_turns", "month_turns"),
    [
        ((2027, 3, 14, 15, 9, 26), (2027, 3, 15), (2027, 4, 1)),
        ((2027, 12, 31, 23, 59, 59), (2028, 1, 1), (2028, 1, 1)),
        ((2028, 2, 28), (2028, 2, 29), (2028, 3, 1)),  # a leap year
        ((2028, 2, 29, 12), (2028, 3, 1), (2028, 3, 1)),
        ((2100, 2, 28, 12), (2100, 3, 1), (2100, 3, 1)),  # none
        ((2027, 1, 31), (2027, 2, 1), (2027, 2, 1)),
        ((2027, 10, 31, 0, 30), (2027, 11, 1), (2027, 11, 1)),  # clocks go back in Europe
    ],
)
def test_spend_stops_counting_with_the_next_day_and_month_in_utc(
    clock, now, day_turns, month_turns
):
    for allowed, turns in (((100, None), day_turns), ((None, 100), month_turns)):
        clock.set(*now)
        limiter = SpendLimiter({"acme": limited(*allowed)}, clock)
        spend(limiter, 100)
        wait_s = refusal(limiter, 1).retry_after_s
        left_s = datetime(*turns, tzinfo=UTC).timestamp() - clock.now
        assert left_s < wait_s <= max(left_s + 0.002, RESERVED_RETRY_S)
        clock.set(*turns)
        clock.now -= 0.001
        refusal(limiter, 1)
        clock.set(*turns)
        limiter.reserve("acme", 100, "some/model")


def test_a_cost_above_the_limit_has_no_retry_delay(limiter):
    assert refusal(limiter, 101).retry_after_s is None
    assert refusal(limiter, 251).retry_after_s is None


def test_the_month_continues_when_the_day_ends(clock, limiter):
    for _ in range(2):
        spend(limiter, 100)
        clock.add(days=1)
    assert left(limiter) == {DAY: 100, MONTH: 50}
    assert refusal(limiter, 51).limit == MONTH
    assert not limiter.reserve("acme", 50, "some/model").extend(51)


def test_an_open_stream_keeps_its_reservation_over_midnight_and_counts_when_it_ends(clock, limiter):
    hold = limiter.reserve("acme", 40, "some/model")
    clock.add(days=1)
    assert left(limiter)[DAY] == 60
    hold.settle(35)
    assert left(limiter)[DAY] == 65


def test_a_clock_that_is_set_back_restores_nothing(clock, limiter):
    spend(limiter, 100)
    clock.add(days=-1)
    assert left(limiter)[DAY] == 0
    found = refusal(limiter, 1)
    clock.add(seconds=found.retry_after_s - 1)
    refusal(limiter, 1)
    clock.add(seconds=1)
    limiter.reserve("acme", 100, "some/model")


def test_a_month_in_which_the_clock_is_set_back_ends_at_the_retry_time(clock, limiter):
    for _ in range(3):
        spend(limiter, 84)
        clock.add(days=1)
    clock.add(days=-40)
    found = refusal(limiter, 1)
    assert found.limit == MONTH
    clock.add(seconds=found.retry_after_s)
    assert left(limiter) == {DAY: 100, MONTH: 250}


# What was spent before this process began.


def test_earlier_spend_counts(clock, limiter):
    limiter.remember(today={"acme": 60, "globex": 1}, this_month={"acme": 200, "initech": 3})
    assert left(limiter) == {DAY: 40, MONTH: 50}
    assert left(limiter, "globex") == {DAY: 99, MONTH: 250}
    assert left(limiter, "initech") == {DAY: 100, MONTH: 247}
    clock.add(days=1)
    assert left(limiter) == {DAY: 100, MONTH: 50}


def test_earlier_spend_of_tenants_without_limits_is_ignored(clock):
    limiter = SpendLimiter({"acme": limited(10)}, clock)
    limiter.remember(today={"gone": 50}, this_month={"gone": 500})
    assert limiter.allowances("gone") == ()
    assert limiter.reserve("gone", 10**9, "some/model") is None


def test_impossible_costs_still_fit_in_64_bits(clock):
    limiter = SpendLimiter({"acme": limited(MAX_SPEND_USD * 10**6)}, clock)
    holds = [limiter.reserve("acme", 0, "some/model") for _ in range(2000)]
    for hold in holds:
        hold.settle(2**200)
    assert -(2**63) <= left(limiter)[DAY] < 0


@pytest.mark.parametrize("now", [0.0, 1e9, 1_798_761_599.999])
def test_a_day_and_a_month_contain_their_time(now):
    periods = Periods.at(now)
    assert periods.month <= periods.day
    assert periods.day.timestamp() <= now < periods.next_day.timestamp()
    assert now < periods.next_month.timestamp()


# Any order of events.

TENANTS = {"acme": limited(100, 250), "globex": limited(None, 120), "*": limited(50)}
AMOUNTS = st.integers(0, 130)
NAMES = st.sampled_from(["acme", "globex", "initech", "umbrella"])


class Spending(RuleBasedStateMachine):
    """A limiter, checked against lists of all spend and all reservations."""

    holds = Bundle("holds")

    def __init__(self):
        super().__init__()
        self.clock = Clock(2027, 12, 29, 22)
        self.limiter = SpendLimiter(TENANTS, self.clock)
        self.newest = defaultdict(float)  # the latest time that was seen, by tenant
        self.spent = []  # tenant, day, month, microusd
        self.open = {}  # hold: tenant, reserved

    def seen(self, tenant):
        """Return the current day and month of a tenant."""
        self.newest[tenant] = max(self.newest[tenant], self.clock())
        date = datetime.fromtimestamp(self.newest[tenant], UTC)
        return date.date(), (date.year, date.month)

    def left(self, tenant):
        day, month = self.seen(tenant)
        limits = TENANTS.get(tenant) or TENANTS["*"]
        mine = [entry for entry in self.spent if entry[0] == tenant]
        reserved = sum(microusd for owner, microusd in self.open.values() if owner == tenant)
        today = sum(entry[3] for entry in mine if entry[1] == day)
        this_month = sum(entry[3] for entry in mine if entry[2] == month)
        found = {}
        for name, allowed, spent in (
            (DAY, limits.spend_usd_per_day, today),
            (MONTH, limits.spend_usd_per_month, this_month),
        ):
            if allowed is not None:
                found[name] = int(allowed * 10**6) - spent - reserved
        return found

    @rule(tenant=NAMES, microusd=AMOUNTS, target=holds)
    def reserve(self, tenant, microusd):
        fits = microusd <= min(self.left(tenant).values())
        try:
            hold = self.limiter.reserve(tenant, microusd, "some/model")
        except QuotaExhausted as refusal:
            assert not fits
            assert refusal.remaining == self.left(tenant)[refusal.limit]
            assert (refusal.retry_after_s is None) == (microusd > refusal.allowed)
            return None
        assert fits
        self.open[hold] = tenant, microusd
        return hold

    @rule(hold=holds, microusd=st.integers(0, 250))
    def extend(self, hold, microusd):
        if hold is None:
            return
        if hold not in self.open:
            assert not hold.extend(microusd)
            return
        tenant, reserved = self.open[hold]
        fits = microusd <= reserved or microusd - reserved <= min(self.left(tenant).values())
        assert hold.extend(microusd) == fits
        if fits:
            self.open[hold] = tenant, max(reserved, microusd)
        assert hold.microusd == self.open[hold][1]

    @rule(hold=holds, microusd=AMOUNTS)
    def settle(self, hold, microusd):
        if hold is None:
            return
        hold.settle(microusd)
        if hold in self.open:
            tenant, _ = self.open.pop(hold)
            self.spent.append((tenant, *self.seen(tenant), microusd))

    @rule(hold=consumes(holds))
    def give_back(self, hold):
        self.settle(hold, 0)

    @rule(seconds=st.integers(0, 3 * 86400) | st.integers(-7200, 0))
    def time_passes(self, seconds):
        self.clock.add(seconds=seconds)

    @rule(tenant=NAMES, today=AMOUNTS, earlier=AMOUNTS)
    def remember(self, tenant, today, earlier):
        day, month = self.seen(tenant)
        self.spent += [(tenant, day, month, today), (tenant, None, month, earlier)]
        self.limiter.remember(today={tenant: today}, this_month={tenant: today + earlier})

    @rule(tenant=NAMES, microusd=st.integers(1, 120))
    def come_back(self, tenant, microusd):
        """A retry after the delay succeeds if no stream is open."""
        try:
            self.limiter.reserve(tenant, microusd, "some/model").settle(0)
        except QuotaExhausted as refusal:
            if refusal.retry_after_s is None:
                return
            for hold in [hold for hold, (owner, _) in self.open.items() if owner == tenant]:
                self.settle(hold, 0)
            self.clock.add(seconds=refusal.retry_after_s)
            self.limiter.reserve(tenant, microusd, "some/model").settle(0)
        self.seen(tenant)

    @invariant()
    def what_is_left_is_what_is_told(self):
        for tenant in ("acme", "globex", "initech", "umbrella"):
            assert left(self.limiter, tenant) == self.left(tenant)


Spending.TestCase.settings = settings(stateful_step_count=40)
TestSpending = Spending.TestCase
