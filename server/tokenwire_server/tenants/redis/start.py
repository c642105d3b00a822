"""Starts the limits that processes share."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import NamedTuple

import redis.asyncio

from ...config import TenantLimits
from .exchange import Exchange
from .limiter import RedisLimiter
from .spend import RedisSpendLimiter

FLUSH_S = 0.5
"""How long the last exchange may take when the server stops. Redis forgets its streams after a lease."""


class SharedLimits(NamedTuple):
    exchange: Exchange
    limiter: RedisLimiter
    spend: RedisSpendLimiter


def share_limits(
    client: redis.asyncio.Redis,
    tenants: Mapping[str, TenantLimits],
    tasks: asyncio.TaskGroup,
    stack: AsyncExitStack,
) -> SharedLimits:
    """Share the limits and the spend of tenants with other processes until the stack is left."""
    exchange = Exchange(client)
    limits = SharedLimits(
        exchange, RedisLimiter(exchange, tenants), RedisSpendLimiter(exchange, tenants)
    )
    stack.callback(tasks.create_task(exchange.run(), name="shared limits").cancel)
    stack.push_async_callback(exchange.flush, FLUSH_S)
    return limits
