"""Spend of tenants that processes share, on a real Redis that loses data and goes away."""

import asyncio
import random
import secrets
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from limit_replicas import LIMIT_S, losing_answers, until
from tokenwire_server.config import TenantLimits
from tokenwire_server.errors import QuotaExhausted

DAY = "spend_microusd_per_day"
MONTH = "spend_microusd_per_month"


class Clock:
    def __init__(self, *date):
        self.now = datetime(*(date or (2027, 3, 14, 15)), tzinfo=UTC).timestamp()

    def __call__(self):
        return self.now

    def add(self, **span):
        self.now += timedelta(**span).total_seconds()


def limited(day=None, month=None):
    usd = [None if microusd is None else Decimal(microusd) / 10**6 for microusd in (day, month)]
    return {"*": TenantLimits(spend_usd_per_day=usd[0], spend_usd_per_month=usd[1])}


def limit(replicas, day=None, month=None):
    for replica in replicas:
        replica.spend.replace(limited(day, month))
        replica.spend.remember(today={}, this_month={})


async def left(replica, tenant="acme"):
    found = await replica.spend.current_allowances(tenant)
    return {allowance.limit: allowance.remaining for allowance in found}


async def admitted(replica, microusd):
    try:
        return await replica.spend.admit("acme", microusd, "m")
    except QuotaExhausted:
        return None


async def reported(*replicas):
    for replica in replicas:
        assert await replica.exchange.flush(LIMIT_S)


async def test_two_replicas_together_reserve_no_more_than_the_limit(pair):
    limit(pair, day=100)
    holds = await asyncio.gather(*[admitted(pair[number % 2], 7) for number in range(40)])
    held = [hold for hold in holds if hold is not None]
    assert len(held) == 14
    with pytest.raises(QuotaExhausted) as caught:
        await pair[0].spend.admit("acme", 7, "m")
    error = caught.value
    assert (error.limit, error.asked, error.remaining, error.retry_after_s) == (DAY, 7, 2, 1.0)
    for hold in held:
        hold.settle(5)
    await reported(*pair)
    assert await left(pair[0]) == await left(pair[1]) == {DAY: 30}
    with pytest.raises(QuotaExhausted) as caught:
        await pair[1].spend.admit("acme", 31, "m")
    assert caught.value.retry_after_s > 1.0, "the day must end"
    with pytest.raises(QuotaExhausted):
        await pair[1].spend.admit("acme", None, "a model without a price")


async def test_streams_that_need_more_exceed_the_limit_by_one_extension_of_each_replica(pair):
    extension, streams = 10, 0
    limit(pair, day=3000)

    async def stream(replica):
        """Costs all that it can reserve."""
        nonlocal streams
        await asyncio.sleep(random.uniform(0, 0.3))
        hold = await admitted(replica, 20)
        if hold is None:
            return
        streams += 1
        for _ in range(random.randrange(20)):
            await asyncio.sleep(random.uniform(0, 0.01))
            if not hold.extend(hold.microusd + extension):
                break
        hold.settle(hold.microusd)

    await asyncio.gather(*[stream(pair[number % 2]) for number in range(200)])
    await reported(*pair)
    assert streams > 20
    assert -2 * extension <= (await left(pair[0]))[DAY] < 20 + extension


async def test_what_others_do_not_know_yet_is_one_extension_or_small(pair):
    limit(pair, day=100)
    (await admitted(pair[1], 20)).settle(20)
    await reported(pair[1])
    first, second, third = [await admitted(pair[0], 10) for _ in range(3)]
    assert not first.extend(61), "there is 50 left"
    assert first.extend(30)
    assert not second.extend(12), "others must know the first extension before"
    await reported(pair[0])
    assert await left(pair[1]) == {DAY: 30}
    assert second.extend(40)
    await reported(pair[0])
    assert not third.extend(11)
    second.settle(10)
    await reported(pair[0])
    assert await left(pair[1]) == {DAY: 30}
    limit(pair, day=10**6)
    await left(pair[0])
    assert third.extend(60_000)
    assert not third.extend(68_000)
    assert third.extend(67_000), "small, compared with what is left"


async def test_a_cost_that_others_do_not_know_yet_frees_nothing(pair):
    limit(pair, day=100)
    await left(pair[1])
    first, second, third = [await admitted(pair[0], 10) for _ in range(3)]
    first.settle(10)
    assert second.extend(20)
    assert not third.extend(20)


async def test_what_a_dead_replica_has_reserved_is_free_after_its_lease(pair):
    limit(pair, day=100)
    (await admitted(pair[0], 30)).settle(20)
    await admitted(pair[0], 50)
    assert await left(pair[1]) == {DAY: 30}
    await pair[0].kill()
    await until(lambda: is_left(pair[1], 80))


async def is_left(replica, microusd, tenant="acme"):
    return (await left(replica, tenant))[DAY] == microusd


async def test_what_redis_lost_is_restored_from_the_memory_of_the_replicas(own_pair):
    limit(own_pair, day=100, month=1000)
    first, second = own_pair
    for number in range(200):
        (await first.spend.admit(f"t{number}", 10, "m")).settle(10)
    (await admitted(first, 30)).settle(25)
    hold = await admitted(first, 10)
    await reported(first)
    assert await left(second) == {DAY: 65, MONTH: 965}
    await first.client.flushall()
    assert await left(second) == {DAY: 75, MONTH: 975}, "what was spent"
    await until(lambda: is_left(second, 65))  # and what is reserved
    for tenant in ("t0", "t199"):  # which only the first one knew
        await until(lambda t=tenant: is_left(second, 90, t))
    hold.settle(5)
    await reported(first)
    assert await left(second) == {DAY: 70, MONTH: 970}


async def test_spend_of_the_records_counts_unless_redis_has_it(pair):
    limit(pair, day=100, month=1000)
    (await admitted(pair[0], 30)).settle(30)
    await reported(pair[0])
    for replica in pair:
        replica.spend.remember(today={"acme": 25, "b": 60}, this_month={"acme": 125, "b": 160})
    for replica in pair:
        assert await left(replica) == {DAY: 70, MONTH: 875}
        assert await left(replica, "b") == {DAY: 40, MONTH: 840}


async def test_without_redis_each_replica_reserves_alone_and_costs_are_reported_once(
    own_pair, own_redis, monkeypatch
):
    first, second = own_pair
    limit(own_pair, day=100)
    (await admitted(first, 30)).settle(10)
    await reported(first)
    assert await left(second) == {DAY: 90}
    with monkeypatch.context() as patch:
        patch.setattr(first.exchange, "_evaluate", losing_answers(first.exchange))
        held = await admitted(first, 20)
        assert first.exchange.is_failing
        held.settle(15)
        assert not await first.exchange.flush(LIMIT_S)  # Redis has it, and its answer was lost
    await until(lambda: asyncio.sleep(0, not first.exchange.is_failing))
    await reported(first)
    assert await left(second) == {DAY: 75}

    own_redis.stop()
    holds = [await admitted(replica, 70) for replica in own_pair]
    assert all(holds)
    assert await admitted(first, 6) is None
    assert holds[0].extend(75)
    assert not holds[0].extend(76)
    holds[0].settle(60)
    own_redis.start()
    await until(lambda: asyncio.sleep(0, not first.exchange.is_failing))
    await until(lambda: asyncio.sleep(0, not second.exchange.is_failing))
    await reported(*own_pair)
    assert await left(first) == await left(second) == {DAY: 75 - 60 - 70}


async def test_a_caller_that_leaves_reserves_nothing(pair):
    limit(pair, day=100)
    for number in range(20):
        task = asyncio.create_task(admitted(pair[0], 50))
        for _ in range(number):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result().settle(0)
    await reported(pair[0])
    assert await left(pair[1]) == {DAY: 100}


async def test_the_clock_of_redis_decides_the_day_and_the_month(start_replica, redis_server):
    clock = Clock(2027, 2, 27, 23, 59, 58)
    prefix = f"{secrets.token_hex(6)}:"
    pair = [start_replica(redis_server.port, prefix=prefix, now=clock) for _ in range(2)]
    pair[1].spend._clock = lambda: clock.now + 3 * 86_400  # the clock of this process is wrong
    limit(pair, day=100, month=1000)
    pair[1].spend.remember(today={"acme": 7}, this_month={"acme": 7})
    assert await left(pair[1]) == {DAY: 100, MONTH: 1000}
    pair[1].spend._clock = lambda: clock.now - 3 * 86_400
    hold = await admitted(pair[0], 50)
    (await admitted(pair[1], 50)).settle(40)
    await reported(pair[1])
    assert await left(pair[0]) == {DAY: 10, MONTH: 910}
    clock.add(seconds=3)
    assert await left(pair[0]) == {DAY: 50, MONTH: 910}
    hold.settle(30)
    await reported(pair[0])
    assert await left(pair[1]) == {DAY: 70, MONTH: 930}
    with pytest.raises(QuotaExhausted) as caught:
        await pair[1].spend.admit("acme", 71, "m")
    assert 86_397 < caught.value.retry_after_s <= 86_399.1
    clock.add(days=1)
    assert await left(pair[1]) == {DAY: 100, MONTH: 1000}
    clock.add(days=-2)
    assert await left(pair[0]) == {DAY: 100, MONTH: 1000}, "it does not begin again"


async def test_days_and_months_are_those_of_the_calendar(start_replica, redis_server):
    clock = Clock()
    replica = start_replica(redis_server.port, prefix=f"{secrets.token_hex(6)}:", now=clock)
    limit([replica], day=100)
    for year in (2027, 2028, 2100):
        for month in range(1, 13):
            for hours in (-1, 0, 25 * 24):
                clock.now = Clock(year, month, 1).now + 3600 * hours
                await left(replica)
                date = datetime.fromtimestamp(clock.now, UTC)
                known = replica.spend._share("acme").known
                assert known.day == (date - datetime(1970, 1, 1, tzinfo=UTC)).days
                assert known.month == (date.year - 1970) * 12 + date.month - 1


async def test_spend_without_a_limit_is_counted_for_a_later_one(pair):
    limit(pair)
    pair[0].spend.count("acme", 30)
    await reported(*pair)
    limit(pair, day=100)
    assert await left(pair[1]) == {DAY: 70}
    (key,) = await pair[0].client.keys(f"{pair[0].spend._prefix}*")
    assert await pair[0].client.pttl(key) > 31 * 86_400_000, "longer than a month"
