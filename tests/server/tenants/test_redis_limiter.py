"""Limits that processes share, on a real Redis that loses data and goes away."""

import asyncio
import itertools
import logging
import random
import secrets
import time
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from limiter_model import SECONDS, TENANTS, Clock, Model, a_caller, histories, left, play
from redis.crc import key_slot

from examples import scaled
from limit_replicas import LEASE_S, LIMIT_S, losing_answers, until
from tokenwire_server.config import CallerLimits
from tokenwire_server.errors import RateLimited, TooManyStreams
from tokenwire_server.tenants.caller import Caller
from tokenwire_server.tenants.redis import limiter as module
from tokenwire_server.tenants.redis.limiter import RedisLimiter

STREAMS = ("key", "concurrent_streams")
REQUESTS = ("key", "requests_per_minute")
TOKENS = ("key", "tokens_per_minute")


async def left_of(replica, caller):
    return left(await replica.limiter.allowances(caller))


async def accepted(replica, caller, tokens=0):
    try:
        return await replica.limiter.take(caller, tokens)
    except (RateLimited, TooManyStreams):
        return None


async def test_two_replicas_together_never_exceed_a_limit(pair):
    caller = a_caller(concurrent_streams=7, requests_per_minute=300)
    now = peak = 0

    async def streams(replica):
        nonlocal now, peak
        count = 0
        while True:
            # Without a pause, a replica that has all slots takes each again before the other one can.
            await asyncio.sleep(random.uniform(0, 0.01))
            try:
                lease = await replica.limiter.take(caller, 1)
            except TooManyStreams:
                continue
            except RateLimited:
                return count
            count += 1
            now += 1
            peak = max(peak, now)
            await asyncio.sleep(random.uniform(0, 0.005))
            now -= 1
            lease.settle(1)

    async with asyncio.timeout(LIMIT_S):
        counts = await asyncio.gather(*[streams(pair[number % 2]) for number in range(20)])
    assert sum(counts) == 300
    assert min(sum(counts[0::2]), sum(counts[1::2])) > 10
    assert 3 < peak <= 7


class Alternating:
    """A limiter that gives each call to another replica, after all have reported what was settled."""

    def __init__(self, replicas, tenants):
        self._replicas = replicas
        self._turns = itertools.cycle(replicas)
        self._reporting = asyncio.Lock()
        prefix = f"{secrets.token_hex(6)}:"
        for replica in replicas:
            replica.exchange._participants.clear()
            replica.limiter = RedisLimiter(replica.exchange, tenants, prefix=prefix)

    async def _next(self):
        async with self._reporting:
            for replica in self._replicas:
                if replica.limiter.is_due or replica.exchange._exchanging.locked():
                    assert await replica.exchange.flush(LIMIT_S)
        return next(self._turns).limiter

    async def take(self, caller, tokens):
        return await (await self._next()).take(caller, tokens)

    async def take_request(self, caller):
        await (await self._next()).take_request(caller)

    async def allowances(self, caller):
        return await (await self._next()).allowances(caller)


@pytest.fixture
async def timed_pair(start_replica, redis_server):
    """Two replicas whose Redis has a clock that the test advances."""
    clock = Clock()
    return clock, [start_replica(redis_server.port, now=clock) for _ in range(2)]


@settings(max_examples=scaled(50))
@given(history=histories(SECONDS))
async def test_any_history_over_two_replicas_gets_the_answers_of_the_model(timed_pair, history):
    clock, pair = timed_pair
    await play(Model(Alternating(pair, TENANTS), TENANTS, clock), history)


async def test_a_replica_knows_at_once_what_another_one_settled(pair):
    caller = a_caller(concurrent_streams=1, tokens_per_minute=100)
    lease = await pair[0].limiter.take(caller, 60)
    assert await accepted(pair[1], caller) is None
    lease.settle(10)
    assert await pair[0].exchange.flush(LIMIT_S)
    assert await left_of(pair[1], caller) == {STREAMS: 1, TOKENS: 90}


async def test_slots_of_a_dead_replica_are_free_after_its_lease_and_others_are_kept(pair):
    caller = a_caller(concurrent_streams=3)
    for replica in (*pair, pair[0]):
        await replica.limiter.take(caller, 0)
    await asyncio.sleep(1.5 * LEASE_S)
    assert await accepted(pair[1], caller) is None
    began = time.monotonic()
    await pair[0].kill()

    async def is_free():
        return (await left_of(pair[1], caller))[STREAMS] == 2

    await until(is_free)
    assert time.monotonic() - began >= LEASE_S / 2


async def test_what_redis_lost_is_reported_again_by_each_replica(own_pair, own_redis):
    caller = a_caller(concurrent_streams=9, requests_per_minute=9, tokens_per_minute=900)
    leases = [await replica.limiter.take(caller, 100) for replica in own_pair]
    leases[0].settle(40)
    assert await own_pair[0].exchange.flush(LIMIT_S)
    await own_pair[0].client.flushall()

    async def is_restored():
        await left_of(own_pair[0], caller)
        return await left_of(own_pair[1], caller) == {STREAMS: 8, REQUESTS: 7, TOKENS: 760}

    await until(is_restored)
    leases[1].settle(150)
    assert await left_of(own_pair[1], caller) == {STREAMS: 9, REQUESTS: 7, TOKENS: 710}


async def test_without_redis_each_replica_enforces_the_limits_alone_until_it_is_back(
    own_pair, own_redis, caplog
):
    first, second = own_pair
    caller = a_caller(concurrent_streams=3, requests_per_minute=20)
    leases = [await first.limiter.take(caller, 0), await second.limiter.take(caller, 0)]
    own_redis.stop()
    for replica in own_pair:
        leases += [await replica.limiter.take(caller, 0) for _ in range(2)]
        assert await accepted(replica, caller) is None, "the limit, with what it admitted before"
        assert await left_of(replica, caller) == {STREAMS: 0, REQUESTS: 17}
        assert replica.exchange.is_failing
    leases.pop(0).settle(0)
    leases.append(await first.limiter.take(caller, 0))
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 2, "one of each replica"
    assert "each process enforces the whole limits alone" in errors[0].getMessage()
    own_redis.start()

    async def is_shared():
        return not (first.exchange.is_failing or second.exchange.is_failing)

    await until(is_shared)
    assert await left_of(first, caller) == {STREAMS: -3, REQUESTS: 13}
    for lease in leases:
        lease.settle(0)
    assert await first.exchange.flush(LIMIT_S)
    assert await left_of(second, caller) == {STREAMS: 3, REQUESTS: 13}


async def test_calls_wait_a_second_for_a_redis_that_hangs_and_it_gets_the_usage_later(
    own_pair, own_redis
):
    replica = own_pair[0]
    caller = a_caller(concurrent_streams=5, requests_per_minute=20)
    leases = [await replica.limiter.take(caller, 0)]
    own_redis.pause()
    began = time.monotonic()
    leases.append(await replica.limiter.take(caller, 0))
    assert 0.9 < time.monotonic() - began < LIMIT_S
    assert replica.exchange.is_failing
    leases.append(await replica.limiter.take(caller, 0))
    await replica.limiter.take_request(caller)
    own_redis.unpause()
    await until(lambda: asyncio.sleep(0, not replica.exchange.is_failing))
    # Redis may have run the call that waited for a second. It is charged twice then.
    found = await left_of(own_pair[1], caller)
    assert found in [{STREAMS: 2, REQUESTS: requests} for requests in (15, 16)]
    for lease in leases:
        lease.settle(0)
    assert await replica.exchange.flush(LIMIT_S)
    assert await left_of(own_pair[1], caller) == found | {STREAMS: 5}


async def test_a_charge_whose_answer_was_lost_is_charged_once(pair, monkeypatch):
    first, second = pair
    caller = a_caller(tokens_per_minute=1000, concurrent_streams=2)
    more, less = [await first.limiter.take(caller, 100) for _ in range(2)]
    await first.kill()
    more.settle(150)
    less.settle(30)
    with monkeypatch.context() as patch:
        patch.setattr(first.exchange, "_evaluate", losing_answers(first.exchange))
        assert not await first.exchange.flush(LIMIT_S)
    assert await left_of(second, caller) == {TOKENS: 820, STREAMS: 2}, "the call has arrived"
    assert await first.exchange.flush(LIMIT_S)
    assert await left_of(second, caller) == {TOKENS: 820, STREAMS: 2}


async def test_the_exchanges_end_when_they_are_cancelled(start_replica, redis_server):
    caller = a_caller(concurrent_streams=100)
    for number in range(20):  # Python 3.11 loses a cancellation at some moments
        replica = start_replica(redis_server.port, prefix=f"{secrets.token_hex(6)}:")
        (await replica.limiter.take(caller, 0)).settle(0)
        for _ in range(number % 7):
            await asyncio.sleep(0)
        replica.running.cancel()
        _, pending = await asyncio.wait([replica.running], timeout=LIMIT_S)
        assert not pending


async def test_a_call_that_arrives_after_a_later_one_changes_nothing(start_replica, redis_server):
    replica = start_replica(redis_server.port, prefix=f"{secrets.token_hex(6)}:")
    caller = a_caller(tokens_per_minute=1000)
    (await replica.limiter.take(caller, 100)).settle(100)
    assert await replica.exchange.flush(LIMIT_S)
    replica.exchange._number -= 2
    await replica.limiter.take(caller, 100)
    assert replica.exchange.is_failing
    await replica.kill()
    other = start_replica(redis_server.port, prefix=replica.limiter._prefix)
    assert await left_of(other, caller) == {TOKENS: 900}


async def test_keys_of_a_tenant_expire_and_are_in_one_slot(pair):
    limiter = pair[0].limiter
    limiter.replace({"acme": CallerLimits(concurrent_streams=5)})
    for prefix in ("tw_a", "tw_b"):
        await limiter.take(a_caller(prefix=prefix, concurrent_streams=5), 0)
    client = pair[0].client
    keys = await client.keys(f"{limiter._prefix}*")
    assert len(keys) == 3
    assert len({key_slot(key) for key in keys}) == 1
    for key in keys:
        assert 60_000 < await client.pttl(key) <= 67_000


@pytest.mark.parametrize("foreign", [b"text", b"\x91\x01", b"\xc0", ["a list"]])
async def test_a_key_that_another_program_wrote_is_replaced(pair, foreign):
    limiter, client = pair[0].limiter, pair[0].client
    caller = a_caller(requests_per_minute=5)
    await limiter.take(caller, 0)
    (key,) = await client.keys(f"{limiter._prefix}*")
    await client.delete(key)
    await (client.rpush(key, *foreign) if isinstance(foreign, list) else client.set(key, foreign))
    assert await left_of(pair[1], caller) == {REQUESTS: 5}
    await pair[1].limiter.take(caller, 0)
    assert await left_of(pair[0], caller) == {REQUESTS: 3}
    assert not pair[0].exchange.is_failing


async def test_a_clock_of_redis_that_is_set_back_releases_nothing_early(
    start_replica, redis_server
):
    clock = Clock()
    replica = start_replica(redis_server.port, prefix=f"{secrets.token_hex(6)}:", now=clock)
    caller = a_caller(requests_per_minute=2)
    await replica.limiter.take(caller, 0)
    clock.pass_by(-50)
    await replica.limiter.take(caller, 0)
    clock.pass_by(109)
    assert await accepted(replica, caller) is None
    clock.pass_by(-3600)
    assert await accepted(replica, caller), "it counts anew, rather than for another hour"


async def test_nothing_is_kept_of_callers_that_have_left_and_size_limits_need_no_redis(pair):
    limiter = pair[0].limiter
    limiter.replace({"*": CallerLimits(bytes_per_request=100, requests_per_minute=2)})
    for number in range(200):
        (await limiter.take(Caller(f"t{number}"), 5)).settle(number % 10)
    assert await pair[0].exchange.flush(LIMIT_S)
    assert not limiter._accounts
    limiter.replace({"*": CallerLimits(bytes_per_request=100)})
    await pair[0].kill()
    number = pair[0].exchange._number
    (await limiter.take(Caller("acme"), 5)).settle(5)
    assert pair[0].exchange._number == number


async def test_charges_that_wait_for_redis_are_bounded_and_expire(own_pair, own_redis, monkeypatch):
    now = time.monotonic()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now))
    replica, caller = own_pair[0], a_caller(tokens_per_minute=10**9)
    lease = await replica.limiter.take(caller, 5)
    own_redis.stop()
    lease.settle(7)
    await until(lambda: asyncio.sleep(0, replica.exchange.is_failing))
    for _ in range(500):
        (await replica.limiter.take(caller, 5)).settle(9)
    (account,) = replica.limiter._accounts.values()
    assert len(account._unsent) + len(account._sent) <= 3
    now += 62
    await until(lambda: asyncio.sleep(0.1, not replica.limiter._accounts))


async def test_an_internal_error_leaves_no_call_without_an_answer(pair, monkeypatch):
    replica, caller = pair[0], a_caller(concurrent_streams=2, tokens_per_minute=100)
    with monkeypatch.context() as patch:
        patch.setattr(replica.limiter, "decided", lambda *_: 1 / 0)
        first = await replica.limiter.take(caller, 5)
        assert replica.exchange.is_failing
    await until(lambda: asyncio.sleep(0, not replica.exchange.is_failing))
    await replica.limiter.take(caller, 5)
    assert await accepted(pair[1], caller) is None
    first.settle(2**70)
    assert await replica.exchange.flush(LIMIT_S)
    assert (await left_of(pair[1], caller))[STREAMS] == 1
    assert (await left_of(pair[1], caller))[TOKENS] < -(10**12)
