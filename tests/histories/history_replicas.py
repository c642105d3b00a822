"""Servers that share one Redis and one database, and the faults that they suffer."""

import asyncio
import random
import re
import signal
import time
from contextlib import AsyncExitStack, ExitStack

import grpc.aio
import redis.asyncio
from history import Fault
from history_proxy import Wire
from history_record import NARROW, OWN
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from tokenwire_server.streamlog.redis.store import keys

ENDINGS = ("kill", "kill", "drain", "cut_off", "cut_off")
"""Faults of one server. Each batch has ENDING_COUNT of them."""
ENDING_COUNT = 5
OTHERS = ("away", "restart", "flush", "damage", "pubsub", "normal")
"""Faults of Redis, and of the connections of all servers to it."""
LATEST_S = 9.0
"""When the last fault begins, unless it waits for another one. The histories begin before that."""
GRACE_S = 3.0
"""The drain's grace period of these servers."""
EXIT_S = 20
LOG_BEFORE, LOG_AFTER = 1_000, 5_000
"""Characters of a server's log that are shown around its first error."""
LONGEST_AWAY_S = 7.0
DAMAGES = ("entries", "state", "readers", "all", "trim")


class Replica:
    """One server process, and the channels to it."""

    def __init__(self, number, process, address, link, wide, narrow):
        self.number = number
        self.process = process
        self.address = address
        self.link = link
        self.wide = wide
        self.narrow = narrow
        self.is_going = False
        """Whether it was killed, or drains."""
        self.is_cut_off = False


class Replicas:
    """Two servers that share Redis, each with its own connection to it. One that ends is replaced.

    An async context manager. `start` starts a server process, as the fixture.
    """

    def __init__(self, start, redis_server, environ):
        self._start_server = start
        self._redis = redis_server
        self._environ = environ
        self._count = 0
        self._stack = AsyncExitStack()
        self._is_reachable = asyncio.Lock()  # held while Redis is away, and while a server starts
        self._going = asyncio.Lock()  # held while a server ends and is replaced
        self.current: list[Replica] = []
        self.faults: list[Fault] = []
        self.all_faults: list[Fault] = []
        self.problems: list[str] = []
        """Errors in the logs of the servers."""
        self.calm = asyncio.Event()

    async def __aenter__(self):
        await self._stack.__aenter__()
        # Its connections are closed, too.
        self._admin = redis.asyncio.Redis(port=self._redis.port, retry=Retry(NoBackoff(), 5))
        self._stack.push_async_callback(self._admin.aclose)
        self.current = list(await asyncio.gather(*(self._new() for _ in range(2))))
        return self

    async def __aexit__(self, *exc):
        await self._stack.__aexit__(*exc)

    async def _new(self):
        self._count += 1
        number = self._count
        link = await self._stack.enter_async_context(Wire(f"127.0.0.1:{self._redis.port}"))
        environ = self._environ | {"TOKENWIRE_REDIS__URL": f"redis://{link.target}/0"}
        processes = ExitStack()
        running = self._start_server("serve", "--listen", "127.0.0.1:0", env=environ)
        process, address = await asyncio.to_thread(processes.enter_context, running)
        self._stack.push_async_callback(self._end, processes, process, number)
        wide, narrow = [
            await self._stack.enter_async_context(
                grpc.aio.insecure_channel(address, options=[*options, *OWN])
            )
            for options in ((), NARROW)
        ]
        return Replica(number, process, address, link, wide, narrow)

    async def _end(self, processes, process, number):
        """Stop a server, and look for unexpected errors in its log."""
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        await asyncio.to_thread(process.wait, EXIT_S)
        process.log.seek(0)
        log = process.log.read()
        if error := re.search("Traceback|error id", log):
            shown = log[max(0, error.start() - LOG_BEFORE) : error.start() + LOG_AFTER]
            self.problems.append(f"server {number} logged an error:\n{shown}")
        process.log.seek(0)
        process.log.truncate()
        await asyncio.to_thread(processes.close)

    def is_alive(self, number):
        """Return whether a server has not been told to end."""
        return any(each.number == number and not each.is_going for each in self.current)

    # Faults.

    async def suffer(self, seed, stream_ids, kinds=None):
        """Suffer the faults of a seed, or of these kinds, and set `calm` when they are over.

        `stream_ids` has the ids of the streams that are known at any moment.
        """
        rng = random.Random(f"faults/{seed}")
        if kinds is None:
            kinds = rng.choices(ENDINGS, k=ENDING_COUNT)
            kinds += rng.choices(OTHERS, k=rng.choice([0, 0, 1, 1, 2, 3]))
        await asyncio.gather(
            *(self._suffer(random.Random(rng.random()), kind, stream_ids) for kind in kinds)
        )
        self.calm.set()

    def begin(self):
        """Forget the faults of before."""
        self.calm.clear()
        self.faults = []

    def _note(self, kind, server=None, **fields):
        now = time.time()
        fault = Fault(kind, now, now, server, **fields)
        self.faults.append(fault)
        self.all_faults.append(fault)
        return fault

    async def _suffer(self, rng, kind, stream_ids):
        await asyncio.sleep(rng.uniform(0.3, LATEST_S))
        slot, for_s = (
            rng.randrange(2),
            rng.choice([rng.uniform(0.2, 2.5), rng.uniform(2.5, LONGEST_AWAY_S)]),
        )
        match kind:
            case "kill" | "drain":
                async with self._going:
                    await self._replace(slot, kind, rng.random() * 2)
            case "away":
                async with self._is_reachable:
                    fault = self._note("away", detail=f"{for_s:.2f} s")
                    fault.ended = float("inf")
                    self._redis.pause()
                    await asyncio.sleep(for_s)
                    self._redis.unpause()
                    fault.ended = time.time()
            case "restart":
                async with self._is_reachable:
                    fault, lost = self._note("away", detail="restart"), self._note("lost")
                    fault.ended = float("inf")
                    self._redis.stop()
                    await asyncio.sleep(rng.choice([0.0, for_s]))
                    await asyncio.to_thread(self._redis.start)
                    fault.ended = lost.ended = time.time()
            case "cut_off":
                await self._cut_off(rng, slot, for_s)
            case "flush":
                async with self._is_reachable:
                    self._note("lost", detail="flush")
                    await self._admin.flushall()
            case "damage":
                for _ in range(rng.randint(1, 6)):
                    async with self._is_reachable:
                        await self._damage(rng, stream_ids)
                    await asyncio.sleep(rng.random())
            case "pubsub" | "normal":
                for _ in range(rng.randint(1, 4)):
                    async with self._is_reachable:
                        self._note("closed", detail=kind)
                        await self._admin.execute_command("CLIENT", "KILL", "TYPE", kind)
                    await asyncio.sleep(rng.random() * 0.5)

    async def _replace(self, slot, kind, after_s):
        replica = self.current[slot]
        fault = self._note(kind, replica.number)
        fault.ended = float("inf")
        replica.is_going = True
        if kind == "kill":
            replica.process.kill()
            fault.ended = time.time()
            await asyncio.sleep(after_s)
        else:
            replica.process.send_signal(signal.SIGTERM)
        async with self._is_reachable:
            new = await self._new()
        self.current[slot] = new
        await asyncio.to_thread(replica.process.wait, EXIT_S)
        fault.ended = time.time()

    async def _cut_off(self, rng, slot, for_s):
        replica = self.current[slot]
        if replica.is_going or replica.is_cut_off:
            replica = self.current[1 - slot]
        fault = self._note("cut_off", replica.number, detail=f"{for_s:.2f} s")
        fault.ended = float("inf")
        replica.is_cut_off = True
        link = replica.link
        if rng.random() < 0.5:
            link.hold()
            await asyncio.sleep(for_s)
            link.release()
        else:
            link.refuses = True
            link.cut()
            await asyncio.sleep(for_s)
            link.refuses = False
        replica.is_cut_off = False
        fault.ended = time.time()

    async def _damage(self, rng, stream_ids):
        known = stream_ids()
        if not known:
            return
        stream_id, how = rng.choice(known), rng.choice(DAMAGES)
        entries, state, readers = keys(stream_id)
        self._note("damaged", stream_id=stream_id, detail=how)
        match how:
            case "entries":
                await self._admin.delete(entries)
            case "state":
                await self._admin.delete(state)
            case "readers":
                await self._admin.delete(readers)
            case "all":
                await self._admin.delete(entries, state, readers)
            case "trim":
                length = await self._admin.xlen(entries)
                await self._admin.xtrim(entries, maxlen=rng.randint(0, length), approximate=False)
