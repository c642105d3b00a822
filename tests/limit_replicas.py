"""Processes that share limits in a Redis, as far as their limiters go."""

import asyncio
from contextlib import asynccontextmanager

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from tokenwire_server.tenants.redis.exchange import Exchange
from tokenwire_server.tenants.redis.limiter import RedisLimiter
from tokenwire_server.tenants.redis.spend import RedisSpendLimiter

LIMIT_S = 20
LEASE_S = 1.0


class Replica:
    def __init__(self, port, prefix, tenants, lease_s, now):
        retry = Retry(NoBackoff(), 0)
        self.client = redis.asyncio.Redis(port=port, retry=retry, socket_timeout=60)
        self.exchange = Exchange(self.client, lease_s=lease_s, now=now)
        self.limiter = RedisLimiter(self.exchange, tenants, prefix=prefix)
        times = {} if now is None else {"now": now}
        self.spend = RedisSpendLimiter(self.exchange, tenants, prefix=prefix, **times)
        self.running = asyncio.create_task(self.exchange.run())

    async def kill(self):
        self.running.cancel()
        await asyncio.wait([self.running])


@asynccontextmanager
async def starting_replicas():
    """Yields a function that starts replicas."""
    replicas = []

    def start(port, *, prefix="test:", tenants=None, lease_s=LEASE_S, now=None):
        replicas.append(Replica(port, prefix, tenants or {}, lease_s, now))
        return replicas[-1]

    try:
        yield start
    finally:
        for replica in replicas:
            await replica.kill()
            await replica.client.aclose()


async def until(condition):
    async with asyncio.timeout(LIMIT_S):
        while not await condition():
            await asyncio.sleep(0.01)


def losing_answers(exchange):
    """Return what an exchange evaluates calls with, for answers that are lost."""
    evaluate = exchange._evaluate

    async def lose(commands):
        await evaluate(commands)
        raise redis.exceptions.ConnectionError("the connection was lost")

    return lose
