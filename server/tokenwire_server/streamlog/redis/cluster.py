"""A client of a Redis Cluster: sends each command to the primary that serves its key.

redis-py's own `RedisCluster` is not used. In release 8.1 its pools do not wait for a free connection, it
repeats commands that may have been executed, it closes connections that other commands use, and it starts a
thread with an event loop for each command of a transaction.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

from redis.asyncio.client import Pipeline, PubSub
from redis.asyncio.connection import ConnectionPool
from redis.crc import REDIS_CLUSTER_HASH_SLOTS as SLOTS
from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    RedisError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from ...telemetry import internal_fault
from .client import Address, Client, Node
from .cluster_commands import ClusterPipeline, Commands, Job

logger = logging.getLogger(__name__)

REFRESH_EVERY_S = 30.0
"""How often the cluster is asked which primary serves which slot, if nothing points to a change."""
REPAIR_EVERY_S = 0.2
"""The same while a primary is not reachable, or a slot is not served."""
MOVING_PAUSE_S = 0.02
"""Pause before a command is sent again whose keys are just being moved."""
MIN_CONNECTIONS = 3
"""Minimum number of connections to a primary. The messages of other processes may use one of them."""

NewClient = Callable[[Address, int], Client]
"""Creates the client of a server, with a maximum number of connections."""


class ClusterClient(Client):
    """A client for all primaries of a cluster. Belongs to one event loop.

    Commands have at most one key, or keys with one hash tag, as their first argument, or are EVALSHA. Those
    without a key are executed by any primary; SCRIPT LOAD by all. A transaction must have the keys of one
    slot. The commands of a pipeline without a transaction may have keys of all slots. With
    `raise_on_error=False`, it returns an error for each command that its primary does not serve, and the
    results of the others.

    A command is sent again only if a primary refused it because it does not serve the slot. It takes at most
    twice the time limit of the servers' clients.
    """

    def __init__(
        self, seed: Client, address: Address, new_client: NewClient, *, max_connections: int
    ) -> None:
        """`seed` is the client of any server of the cluster, at `address`. The primaries share
        `max_connections`, with MIN_CONNECTIONS for each at least.
        """
        super().__init__(seed.connection_pool, seed.timeout_s)
        self._seed = Node(address, seed)
        self._new_client = new_client
        self._max_connections = max_connections
        self._nodes: dict[Address, Node] = {}
        self._slots: list[Node | None] = [None] * SLOTS
        self._is_stale = asyncio.Event()
        self._has_dead = asyncio.Event()
        self.losses = 0
        """How often data may have been lost: a primary was replaced, or was not reachable for a time."""

    @property
    def nodes(self) -> list[Node]:
        """The primaries."""
        return list(self._nodes.values())

    @property
    def uncovered(self) -> int:
        """The number of slots that no primary serves."""
        return self._slots.count(None)

    def server_of(self, key: str) -> Address | None:
        """Return the address of the primary that serves a key. None: no primary does."""
        node = self._slots[key_slot(key.encode())]
        return None if node is None else node.address

    def pool(self) -> ConnectionPool:
        """Return the connections to any primary that can be reached."""
        return self._any().client.connection_pool

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        if args[0] == "SCRIPT LOAD":
            return await self._on_all(args)
        job = Job([(args, options)], is_transaction=False)
        await self._run([job])
        (result,) = job.results
        if isinstance(result, Exception):
            raise result
        return result

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        return ClusterPipeline(
            self.connection_pool, self.response_callbacks, transaction, shard_hint, self.execute_all
        )

    def pubsub(self, **options: Any) -> PubSub:
        return PubSub(self.pool(), **options)

    async def execute_all(self, commands: Commands, is_transaction: bool) -> list[Any]:
        """Execute the commands of a pipeline. Return their results and errors."""
        if is_transaction:
            jobs = [Job(commands, is_transaction=True)]
        else:
            jobs = [Job([command], is_transaction=False) for command in commands]
        await self._run(jobs)
        return [result for job in jobs for result in job.results]

    async def follow(self) -> None:
        """Follow the changes of the cluster until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._refresh_often(), name="slots of the Redis Cluster")
            tasks.create_task(self._look_at_dead(), name="dead servers of the Redis Cluster")

    async def _refresh_often(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(REFRESH_EVERY_S):
                    await self._is_stale.wait()
            self._is_stale.clear()
            try:
                await self.refresh()
            except (RedisError, OSError) as error:
                logger.debug("no server of the cluster answers: %s", error)
                self._is_stale.set()
            except Exception as error:  # noqa: BLE001  # an answer that is not understood
                internal_fault(error)
            await asyncio.sleep(REPAIR_EVERY_S)

    async def refresh(self) -> None:
        """Find out which primary serves which slot. Raises RedisError."""
        up = [node for node in self.nodes if not node.is_down]
        random.shuffle(up)
        error: Exception = RedisConnectionError("no server of the cluster was found")
        found: tuple[Node, Any] | None = None
        for source in [*up, self._seed]:
            if source is self._seed and found is not None:
                break
            pipeline = source.client.pipeline(transaction=False)
            pipeline.execute_command("CLUSTER", "INFO")
            pipeline.execute_command("CLUSTER", "SLOTS")
            try:
                info, slots = await pipeline.execute()
            except (RedisError, OSError) as caught:
                error = caught
                self._note(source, caught)
                continue
            if found is None or b"cluster_state:ok" in info:
                found = source, slots
            if b"cluster_state:ok" in info:  # otherwise it may be cut off from the others
                break
        with suppress(RedisError, OSError):
            await self._seed.client.connection_pool.disconnect(inuse_connections=False)
        if found is None:
            raise error
        await self._take(*found)
        if self.uncovered or any(node.is_down for node in self.nodes):
            self._is_stale.set()

    async def _look_at_dead(self) -> None:
        """Find out which servers can be reached again, until cancelled."""
        while True:
            await self._has_dead.wait()
            dead = [node for node in self.nodes if node.is_down]
            await _all(map(self._look_at, dead))
            if not any(node.is_down for node in self.nodes):
                self._has_dead.clear()
            await asyncio.sleep(REPAIR_EVERY_S)

    async def close(self) -> None:
        """Close all connections."""
        await _all(_close(node) for node in [*self.nodes, self._seed])

    # The servers.

    async def _look_at(self, node: Node) -> None:
        with suppress(RedisError, OSError):
            await node.client.ping()
            node.is_down = False
            self.losses += 1
            logger.warning("the Redis server %s can be reached again", node)

    async def _take(self, source: Node, ranges: Iterable[Any]) -> None:
        """Take over which primary serves which slots, as the server `source` describes it."""
        addresses = {(start, end): _address(primary, source) for start, end, primary, *_ in ranges}
        share = self._max_connections // max(1, len(set(addresses.values())))
        before, self._nodes = self._nodes, {}
        self._slots = [None] * SLOTS
        for (start, end), address in addresses.items():
            node = self._nodes.get(address) or before.get(address)
            if node is None:
                node = Node(address, self._new_client(address, max(MIN_CONNECTIONS, share)))
            self._nodes[address] = node
            self._slots[start : end + 1] = [node] * (end - start + 1)
        gone = [node for address, node in before.items() if address not in self._nodes]
        if gone:
            self.losses += 1
            logger.warning(
                "primaries of the Redis Cluster are now %s instead of %s",
                ", ".join(str(node) for node in self.nodes),
                ", ".join(map(str, before.values())),
            )
        await _all(map(_close, gone))

    def _note(self, node: Node, error: Exception) -> None:
        """Take over what an error says about a server."""
        if isinstance(error, ClusterDownError):
            self._is_stale.set()
        elif isinstance(error, RedisConnectionError | RedisTimeoutError | OSError):
            self._is_stale.set()
            if not node.is_down and node is not self._seed:
                node.is_down = True
                self._has_dead.set()
                logger.error("the Redis server %s cannot be reached: %s", node, error)

    def _any(self) -> Node:
        nodes = self.nodes
        return random.choice([node for node in nodes if not node.is_down] or nodes)  # noqa: S311

    # Commands.

    async def _on_all(self, args: tuple[Any, ...]) -> Any:
        """Execute a command on all primaries that can be reached. Return one result."""
        jobs = []
        for node in self.nodes:
            job = Job([(args, {})], is_transaction=False)
            jobs.append((node, [job]))
        await _all(self._run_at(node, group) for node, group in jobs)
        results = [job.results[0] for _, (job,) in jobs]
        served = [result for result in results if not isinstance(result, Exception)]
        if not served:
            raise results[0]
        return served[0]

    async def _run(self, jobs: Sequence[Job]) -> None:
        """Execute jobs, those of different primaries at the same time."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + self.timeout_s
        todo: Sequence[Job] = jobs
        for attempt in itertools.count(1):
            groups: dict[Node, list[Job]] = {}
            for job in todo:
                node = job.asked or (self._any() if job.slot is None else self._slots[job.slot])
                if node is None:
                    job.fail(ClusterDownError(f"no primary serves the slot {job.slot}"))
                    self._is_stale.set()
                else:
                    groups.setdefault(node, []).append(job)
            await _all(self._run_at(node, group) for node, group in groups.items())
            todo = [
                job for node, group in groups.items() for job in group if self._repeats(job, node)
            ]
            if not todo or loop.time() > give_up:
                break
            if attempt > 1 or any(isinstance(job.error, TryAgainError) for job in todo):
                await asyncio.sleep(MOVING_PAUSE_S)

    async def _run_at(self, node: Node, jobs: Sequence[Job]) -> None:
        """Execute jobs at one primary. They get their results, or errors."""
        joined = [job for job in jobs if not (job.is_transaction or job.asked)]
        apart = [[job] for job in jobs if job.is_transaction or job.asked]
        await _all(self._execute(node, group) for group in [joined, *apart] if group)

    async def _execute(self, node: Node, jobs: Sequence[Job]) -> None:
        """Execute one transaction, or jobs without one, with one round trip."""
        if node.is_down:
            error = RedisConnectionError(f"the server {node} cannot be reached")
            for job in jobs:
                job.fail(error)
            return
        if jobs[0].asked:
            pipeline = node.client.asking_transaction()
        else:
            pipeline = node.client.pipeline(jobs[0].is_transaction)
        # redis-py removes options that it has used.
        pipeline.command_stack = [
            (args, dict(options)) for job in jobs for args, options in job.commands
        ]
        try:
            found = iter(await pipeline.execute(raise_on_error=False))
        except (RedisError, OSError) as error:
            self._note(node, error)
            for job in jobs:
                job.fail(error)
            return
        for job in jobs:
            job.take([next(found) for _ in job.commands])
            if job.error is not None:
                self._note(node, job.error)

    def _repeats(self, job: Job, node: Node) -> bool:
        """Return whether a job was not executed, and is sent again, maybe to another primary."""
        job.asked = None
        match job.error:
            case MovedError() as error:
                self._slots[error.slot_id] = self._found(error, node)
                self._is_stale.set()
            case AskError() as error:
                job.asked = self._found(error, node)
            case TryAgainError():
                pass
            case _:
                return False
        return True

    def _found(self, error: AskError, source: Node) -> Node:
        """Return the primary that an error names."""
        address = error.host or source.address[0], error.port
        node = self._nodes.get(address)
        if node is None:
            share = self._max_connections // (len(self._nodes) + 1)
            node = Node(address, self._new_client(address, max(MIN_CONNECTIONS, share)))
            self._nodes[address] = node
        return node


def _address(primary: Sequence[Any], source: Node) -> Address:
    """Return the address of a primary. A server that does not know its own host leaves it out."""
    host, port = primary[:2]
    return (host.decode() if host and host != b"?" else source.address[0]), int(port)


async def _all(awaitables: Iterable[Any]) -> None:
    """Wait for all. A single one is awaited without a task."""
    every = list(awaitables)
    if len(every) == 1:
        await every[0]
    elif every:
        async with asyncio.TaskGroup() as tasks:
            for each in every:
                tasks.create_task(each)


async def _close(node: Node) -> None:
    with suppress(RedisError, OSError):
        await node.client.connection_pool.disconnect()
