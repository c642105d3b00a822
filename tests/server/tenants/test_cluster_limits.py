"""Limits that processes share in a Redis Cluster, one of whose servers dies."""

import asyncio
import time
from contextlib import AsyncExitStack

import pytest
from limiter_model import a_caller
from redis.crc import key_slot

from limit_replicas import LIMIT_S, until
from tokenwire_server.config import RedisConfig
from tokenwire_server.errors import TooManyStreams
from tokenwire_server.streamlog.redis.connect import connected
from tokenwire_server.tenants.redis.exchange import EXCHANGE_S, Exchange
from tokenwire_server.tenants.redis.limiter import RedisLimiter


@pytest.fixture
async def limiters(own_redis_cluster):
    """The limiters of two processes."""
    async with AsyncExitStack() as stack:
        found = []
        for _ in range(2):
            config = RedisConfig(url=own_redis_cluster.url)
            client = await stack.enter_async_context(connected(config))
            exchange = Exchange(client)
            found.append(RedisLimiter(exchange, {}))
            running = asyncio.create_task(exchange.run())
            stack.push_async_callback(asyncio.wait, [running])
            stack.callback(running.cancel)
        yield found


async def count_accepted(limiters, caller):
    """Take streams at all processes until each refuses. Return how many were accepted, after their end."""
    leases = []
    for limiter in limiters:
        try:
            while True:
                leases.append(await limiter.take(caller, 1))
        except TooManyStreams:
            pass
    for lease in leases:
        lease.settle(1)
    for limiter in limiters:
        await limiter._exchange.flush(LIMIT_S)
    return len(leases)


async def test_limits_are_exact_over_all_servers_and_local_while_one_is_dead(
    limiters, own_redis_cluster
):
    callers = [a_caller(f"tenant-{n}", concurrent_streams=3) for n in range(12)]
    for caller in callers:
        assert await count_accepted(limiters, caller) == 3
    dead = own_redis_cluster.primaries[2]
    third = own_redis_cluster.SLOTS // 3
    (affected, *_) = [
        caller for caller in callers if key_slot(caller.tenant.encode()) > 2 * third + 2
    ]
    dead.stop()
    began = time.monotonic()
    assert await count_accepted(limiters, affected) == 6, "each process enforces the whole limit"
    assert time.monotonic() - began < 10 * EXCHANGE_S
    dead.start()

    async def is_shared():
        return await count_accepted(limiters, affected) == 3

    await until(is_shared)
    for caller in callers:
        assert await count_accepted(limiters, caller) == 3
