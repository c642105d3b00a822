"""What is checked at the start: that Redis can be reached, and that it keeps and publishes entries."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import socket
import ssl
from collections.abc import Awaitable, Coroutine, Iterable, Mapping
from typing import Any

import redis.asyncio
from redis.exceptions import (
    AuthenticationError,
    InvalidResponse,
    RedisError,
    ResponseError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

from ...config import ConfigError, RedisConfig
from ...errors import StoreUnavailable
from ...events import TextDelta
from ..entries import StreamFacts
from .cluster import ClusterClient
from .messages import ReadersMessage
from .presence import Presence
from .store import Append, LogId, LogStore, channel

OLDEST_VERSION = (6, 2)
PERMISSIONS = "~tokenwire:* &tokenwire:* +@all -@admin -@dangerous +info"
"""What a user of an access control list needs."""
PROBE_TTL_S = 30.0
"""How long what the checks store is kept if they end early. Longer than they take with a slow Redis."""
STEPS = 12
"""More than the replies that the checks wait for, each for `timeout_s` at most."""
MAX_TEXT_CHARS = 200

_PIPELINE = re.compile(r"Command # \d+ \(.*?\) of pipeline caused error: ")
"""What redis-py adds to the error of a command in a pipeline."""

_FAULTS = (
    ("protected mode", "is in protected mode: set a password there and in redis.url"),
    ("max number of clients", "has no free connection: raise its setting maxclients"),
    (
        "invalid DB index|index is out of range",
        "has no such database: change its number in redis.url",
    ),
    (
        "cluster mode",
        "is a node of a Redis Cluster, which has only the database 0: change its number in redis.url",
    ),
    (
        "CLUSTERDOWN",
        "is a node of a Redis Cluster that is down: repair it with redis-cli --cluster",
    ),
    ("OOM", "is full: raise its setting maxmemory, or remove data"),
    ("READONLY", "is a read-only replica: set redis.url to its primary"),
    ("LOADING", "is still reading its data from disk: try again when it is ready"),
    (
        "NOPERM|ACL failure|has no permissions|executing the script can't",
        f"refuses a command to the user in redis.url, who needs these permissions: {PERMISSIONS}",
    ),
)
"""What errors of Redis mean. They are found in the code and in the text: the error of a command in a script
has the code in its text, and texts differ between versions."""


async def info_of(client: redis.asyncio.Redis, config: RedisConfig) -> Mapping[str, Any]:
    """Return the reply of a server to INFO. Raises ConfigError. Its text does not contain the password."""
    found: dict[str, Any] = {}

    async def ask() -> str | None:
        fault = await _connect(client, config)
        if fault is None:
            found.update(await client.info())
        return fault

    await _check(config, ask())
    return found


async def check(client: redis.asyncio.Redis, config: RedisConfig, info: Mapping[str, Any]) -> None:
    """Check that a server with this reply to INFO can carry streams. Raises ConfigError."""

    async def find() -> str | None:
        return fault_of(info) or await _probe(client, config.timeout_s)

    await _check(config, find())


async def check_cluster(cluster: ClusterClient, config: RedisConfig) -> None:
    """Find the primaries of a cluster, and check that they can carry streams. Raises ConfigError."""

    async def find() -> str | None:
        await cluster.refresh()
        if cluster.uncovered:
            return (
                f"is a node of a Redis Cluster in which {cluster.uncovered} slots have no primary"
            )
        for node in cluster.nodes:
            fault = await _connect(node.client, config) or fault_of(await node.client.info())
            if fault is not None:
                return f"is a node of a Redis Cluster whose primary {node} {fault}"
        return await _probe(cluster, config.timeout_s)

    await _check(config, find())


async def _check(config: RedisConfig, finding: Coroutine[Any, Any, str | None]) -> None:
    """Raise ConfigError with the fault that is found."""
    try:
        async with asyncio.timeout(STEPS * config.timeout_s):
            fault = await _fault(config, finding)
    except TimeoutError:
        fault = _late(config)
    if fault is not None:
        raise ConfigError(f"redis: {config.address} {fault}")


async def _fault(config: RedisConfig, finding: Awaitable[str | None]) -> str | None:
    try:
        return await finding
    except StoreUnavailable as error:
        return _command_fault(error.__cause__ or error, config)
    except RedisError as error:
        return _command_fault(error, config)


async def _connect(client: redis.asyncio.Redis, config: RedisConfig) -> str | None:
    try:
        await client.ping()
    except (RedisError, OSError, ValueError) as error:  # other servers may send anything
        return _connect_fault(error, config)
    return None


def fault_of(info: Mapping[str, Any]) -> str | None:
    """Return what prevents a server from carrying streams, by its reply to INFO. None: nothing."""
    version = str(info.get("redis_version", ""))
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < OLDEST_VERSION:
        oldest = ".".join(map(str, OLDEST_VERSION))
        return f"is Redis {version or 'of an unknown version'}: {oldest} or later is needed"
    if info.get("redis_mode") == "sentinel":
        return "is a Sentinel, which stores nothing: set redis.url to the server that it watches"
    if info.get("role") == "slave":
        return "is a read-only replica: set redis.url to its primary"
    policy = info.get("maxmemory_policy")
    if info.get("maxmemory") and policy not in (None, "noeviction"):
        return (
            f"drops streams when its memory is full: change its setting maxmemory-policy from {policy} to "
            "noeviction"
        )
    return None


async def _probe(client: redis.asyncio.Redis, timeout_s: float) -> str | None:
    """Write, read and receive a log with the same commands as those of streams.

    Return the fault, or None. Raises StoreUnavailable, RedisError.
    """
    store, process = LogStore(client), f"check-{secrets.token_hex(8)}"
    log = LogId(secrets.token_hex(16), secrets.token_hex(8))
    facts = StreamFacts("", 0.0, PROBE_TTL_S)
    presence = Presence(client, process)
    async with client.pubsub() as subscription:
        await subscription.subscribe(channel(process))
        first, second = (
            Append(log, facts, number, [TextDelta("", 0)], 1, PROBE_TTL_S) for number in (1, 2)
        )
        message = ReadersMessage(log.stream_id, process, 1)
        leases = [(log.stream_id, facts.tenant, message)]
        _raise_error(await store.append([first]))
        _raise_error(await store.lease(leases, process, PROBE_TTL_S))
        _raise_error(await store.append([second]))
        await store.read(log.stream_id, 0)
        await store.read_end(log.stream_id)
        await store.delete(log.stream_id, facts.tenant)
        await presence.lost_of({process})
        await presence.end()
        for _ in range(2):  # the confirmation, then the entry
            message = await subscription.get_message(timeout=timeout_s)
            if message is not None and message["type"] == "message":
                return None
    return "does not deliver what is published: redis.url must be the address of a single server"


def _raise_error(results: Iterable[object]) -> None:
    for each in results:
        if isinstance(each, StoreUnavailable):
            raise each


def _connect_fault(error: BaseException, config: RedisConfig) -> str:
    cause = error.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"has a certificate that is not trusted: {cause.verify_message}"
    if isinstance(cause, ssl.SSLError):
        return "does not use TLS: begin redis.url with redis://, or turn on TLS there"
    if isinstance(cause, socket.gaierror):
        return "cannot be reached: the name of its host in redis.url does not resolve"
    if isinstance(error, RedisTimeoutError):
        return _late(config)
    if isinstance(cause, OSError) and not isinstance(cause, ConnectionResetError):
        return f"cannot be reached: {os.strerror(cause.errno) if cause.errno else cause}"
    if isinstance(error, AuthenticationError):
        if error.status_code == "NOAUTH":
            return "needs a password: set redis.url to redis://:PASSWORD@HOST:PORT/DATABASE"
        if error.status_code == "ERR" and "without any password" in str(error):
            return "has no password: remove that in redis.url"
        return "does not accept the user or the password in redis.url"
    if isinstance(error, ResponseError) or getattr(error, "status_code", None):
        return _command_fault(error, config)
    if isinstance(error, InvalidResponse | ValueError):
        return "does not answer like Redis: another program listens there"
    return "closed the connection: it may need TLS (rediss://), or another program than Redis listens there"


def _command_fault(error: BaseException, config: RedisConfig) -> str:
    if isinstance(error, RedisTimeoutError):
        return _late(config)
    text = f"{getattr(error, 'status_code', None) or ''} {error}"
    for pattern, fault in _FAULTS:
        if re.search(pattern, text):
            return fault
    return f"refuses a command: {_clean(text, config)}"


def _late(config: RedisConfig) -> str:
    tls = " (rediss:// only if it uses TLS)" if config.address and config.address.has_tls else ""
    return (
        f"did not answer in {config.timeout_s:g} s: check redis.url{tls}, or raise redis.timeout_s"
    )


def _clean(text: str, config: RedisConfig) -> str:
    """Return a text of the server in one short line. A server that knows no passwords repeats them."""
    address = config.address
    if address is not None and address.password and address.password[:20] in text:
        return "its text contains the password"
    return _PIPELINE.sub("", " ".join(text.split()))[:MAX_TEXT_CHARS]
