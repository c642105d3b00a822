"""Commands for a Redis Cluster, and the slot that each needs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any

from redis.asyncio.client import Pipeline
from redis.asyncio.connection import ConnectionPool
from redis.crc import key_slot

from .client import Node

Commands = Sequence[tuple[tuple[Any, ...], Mapping[str, Any]]]
"""Commands with their options, as a Pipeline has them."""


class Job:
    """Commands for one slot that one primary executes together, and what they return."""

    def __init__(self, commands: Commands, *, is_transaction: bool) -> None:
        self.commands = commands
        self.is_transaction = is_transaction
        self.slot = slot_of(commands[0][0])
        self.asked: Node | None = None
        """The primary that gets the slot while it is moved there."""
        self.results: list[Any] = []
        self.error: Exception | None = None
        """The first error, or None."""

    def take(self, results: list[Any]) -> None:
        """Take over what the commands return."""
        self.results = results
        self.error = next((each for each in results if isinstance(each, Exception)), None)

    def fail(self, error: Exception) -> None:
        """Take over the error that all commands have."""
        self.results = [error] * len(self.commands)
        self.error = error


class ClusterPipeline(Pipeline):
    """Collects commands for `ClusterClient.execute_all`."""

    def __init__(
        self,
        pool: ConnectionPool,
        callbacks: MutableMapping[Any, Any],
        transaction: bool,
        shard_hint: str | None,
        execute: Callable[[Commands, bool], Awaitable[list[Any]]],
    ) -> None:
        super().__init__(pool, callbacks, transaction, shard_hint)
        self._execute_all = execute

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        commands, self.command_stack = self.command_stack, []
        if not commands:
            return []
        found = await self._execute_all(commands, self.is_transaction)
        if raise_on_error:
            for each in found:
                if isinstance(each, Exception):
                    raise each
        return found


def slot_of(args: Sequence[Any]) -> int | None:
    """Return the slot of a command's key. None: it has no key."""
    match args:
        case ["EVALSHA" | "EVAL", _, count, key, *_] if int(count):
            pass
        case [("EVALSHA" | "EVAL" | "PUBLISH" | "PING" | "INFO" | "SCRIPT LOAD"), *_]:
            return None
        case [_, key, *_]:
            pass
        case _:
            return None
    return key_slot(key if isinstance(key, bytes) else str(key).encode())
