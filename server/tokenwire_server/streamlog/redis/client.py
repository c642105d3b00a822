"""A client of one Redis server, with a time limit for each command."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import redis.asyncio
from redis.asyncio.client import Pipeline
from redis.asyncio.connection import Connection, ConnectionPool
from redis.exceptions import TimeoutError as RedisTimeoutError

Address = tuple[str, int]
"""Host and port."""


class LimitedPipeline(Pipeline):
    """Commands with one time limit for all of them."""

    def __init__(
        self,
        pool: ConnectionPool,
        callbacks: MutableMapping[Any, Any],
        transaction: bool,
        shard_hint: str | None,
        *,
        timeout_s: float,
        asks: bool = False,
    ) -> None:
        """`asks` lets a transaction use a slot that is being moved to this server of a cluster."""
        super().__init__(pool, callbacks, transaction, shard_hint)
        self.timeout_s = timeout_s
        self._asks = asks

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        async with limited(self.timeout_s):
            found: list[Any] = await super().execute(raise_on_error)
            return found

    async def _execute_transaction(
        self, connection: Connection, commands: Any, raise_on_error: bool
    ) -> Any:
        if self._asks:  # it holds for the transaction that follows
            await connection.send_command("ASKING")
            await connection.read_response()
        return await super()._execute_transaction(connection, commands, raise_on_error)


class Client(redis.asyncio.Redis):
    """A client with a time limit for each command, from the wait for a connection to the reply.

    The limit of redis-py is not used: it waits with `asyncio.wait_for`, which loses a cancellation that comes
    after the command was sent (CPython 3.11), and starts a task for each command.
    """

    def __init__(self, pool: ConnectionPool, timeout_s: float) -> None:
        super().__init__(connection_pool=pool)
        self.timeout_s = timeout_s

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        async with limited(self.timeout_s):
            return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        return self._pipeline(transaction, shard_hint)

    def asking_transaction(self) -> Pipeline:
        """Return a transaction that may use a slot that is being moved to this server of a cluster."""
        return self._pipeline(transaction=True, asks=True)

    def _pipeline(
        self, transaction: bool, shard_hint: str | None = None, *, asks: bool = False
    ) -> Pipeline:
        return LimitedPipeline(
            self.connection_pool,
            self.response_callbacks,
            transaction,
            shard_hint,
            timeout_s=self.timeout_s,
            asks=asks,
        )


class Node:
    """A server of a cluster."""

    def __init__(self, address: Address, client: Client) -> None:
        self.address = address
        self.client = client
        self.is_down = False
        """Whether it could not be reached. Until it can, commands for it fail at once."""

    def __str__(self) -> str:
        host, port = self.address
        return f"{host}:{port}"


@asynccontextmanager
async def limited(timeout_s: float) -> AsyncIterator[None]:
    """Raise the TimeoutError of redis-py after a time."""
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError:
        raise RedisTimeoutError(f"no answer within {timeout_s:g} s") from None
