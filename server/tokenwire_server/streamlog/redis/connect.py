"""Connections to Redis: pools with a bound, and no retries, because callers repeat what failed."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from ...config import RedisAddress, RedisConfig
from .client import Address, Client
from .cluster import ClusterClient
from .start_checks import check, check_cluster, info_of

__all__ = ["Redis", "connected"]

PROTOCOL = 2
"""With RESP3, redis-py formats each published message as text for a debug log that is off."""

KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 25_000}
"""A connection whose other end has disappeared is closed after 25 s, also while it only receives. The kernel
would wait for 15 minutes if data was sent."""


class _TlsConnection(SSLConnection):
    """A TLS connection that uses the same context as the others, which takes 0.2 s to create."""

    def __init__(self, *, context: ssl.SSLContext, **options: Any) -> None:
        super().__init__(**options)
        self.ssl_context.context = context


@asynccontextmanager
async def connected(config: RedisConfig) -> AsyncIterator[Redis]:
    """Yield a client of the configured Redis, after checks that it can carry streams.

    If it is a node of a Redis Cluster, the client serves the whole cluster: see ClusterClient.

    Its methods raise redis.exceptions.RedisError. A command takes at most `timeout_s`, from the wait for a
    free connection to the reply, and twice as long in a cluster. A closed connection is replaced before a
    command is sent, and no command is sent twice. All connections are closed at the end; a PubSub of the
    client must be closed before.

    Raises ConfigError if Redis cannot be used.
    """
    address = config.address
    if address is None:
        raise ValueError("redis.url is not set")
    client = _new_client(config, address, config.max_connections)
    try:
        info = await info_of(client, config)
        if info.get("cluster_enabled"):
            async with _connected_cluster(client, config, address) as cluster:
                yield cluster
        else:
            await check(client, config, info)
            yield client
    finally:
        with suppress(RedisError):  # it waits at most `timeout_s`
            await client.connection_pool.disconnect()


@asynccontextmanager
async def _connected_cluster(
    seed: Client, config: RedisConfig, address: RedisAddress
) -> AsyncIterator[ClusterClient]:
    """Yield a client of the cluster that a server belongs to. Raises ConfigError."""

    def new_client(of: Address, max_connections: int) -> Client:
        host, port = of
        return _new_client(config, replace(address, host=host, port=port), max_connections)

    of = address.host, address.port
    cluster = ClusterClient(seed, of, new_client, max_connections=config.max_connections)
    following: asyncio.Task[None] | None = None
    try:
        await check_cluster(cluster, config)
        following = asyncio.create_task(cluster.follow(), name="Redis Cluster")
        yield cluster
    finally:
        if following is not None:
            following.cancel()
            await asyncio.wait((following,))
        await cluster.close()


def _new_client(config: RedisConfig, address: RedisAddress, max_connections: int) -> Client:
    pool = BlockingConnectionPool(
        max_connections=max_connections,
        timeout=config.timeout_s,
        **_options(address, config.timeout_s),
    )
    return Client(pool, config.timeout_s)


def _options(address: RedisAddress, timeout_s: float) -> dict[str, Any]:
    keepalive = {
        getattr(socket, name): value for name, value in KEEPALIVE.items() if hasattr(socket, name)
    }
    tls: dict[str, Any] = {"connection_class": Connection}
    if address.has_tls:
        tls = {"connection_class": _TlsConnection, "context": ssl.create_default_context()}
    return {
        **tls,
        "host": address.host,
        "port": address.port,
        "db": address.database,
        "username": address.user,
        "password": address.password,
        "protocol": PROTOCOL,
        "client_name": f"tokenwire-{os.getpid()}",
        "driver_info": None,  # saves a round trip
        "socket_connect_timeout": timeout_s,
        "socket_timeout": None,  # see Client
        "socket_keepalive_options": keepalive,
        "retry": Retry(NoBackoff(), 0),
    }
