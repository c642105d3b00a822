"""The implementations that each suite runs with."""

import asyncio
import secrets

import pytest
import redis.asyncio
from limiter_model import Clock

from tokenwire_server.tenants.memory_limiter import MemoryLimiter
from tokenwire_server.tenants.redis.exchange import Exchange
from tokenwire_server.tenants.redis.limiter import RedisLimiter


@pytest.fixture(params=["memory", "redis"])
async def new_limiter(request):
    """Creates an unused limiter from tenants' limits and a clock."""
    if request.param == "memory":

        async def memory_limiter(tenants, clock):
            return MemoryLimiter(tenants, clock)

        yield memory_limiter
        return
    server = request.getfixturevalue("redis_server")
    running = []
    async with redis.asyncio.Redis(port=server.port, retry=None) as client:

        async def redis_limiter(tenants, clock):
            while running:  # an example of hypothesis has ended
                running.pop().cancel()
            exchange = Exchange(client, now=clock)
            running.append(asyncio.create_task(exchange.run()))
            return RedisLimiter(exchange, tenants, prefix=f"{secrets.token_hex(6)}:")

        yield redis_limiter
        while running:
            running.pop().cancel()


@pytest.fixture
def clock():
    return Clock()
