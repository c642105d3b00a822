"""The job that opens streams and measures the memory of one."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import aclosing

import readings
from callers import CALL_LIMIT_S, GrpcCaller, Unmeasurable
from jobs import KeepOpen, KeepOpenResult

from tokenwire.v1 import event_pb2

START_INTERVAL_S = 0.005
SETTLE_S = 0.5


async def keep_open(job: KeepOpen) -> KeepOpenResult:
    """Increase the number of open streams in steps. Measure memory when all streams of a step are silent.

    Tokens are paced, because a burst would leave its write buffers in the heap.
    """
    target = GrpcCaller(job.target, job.channels)
    model = f"sim?tokens={job.tokens + 1}&itl_ms={job.token_interval_ms}&stall_after={job.tokens}"
    leave = asyncio.Event()

    async def one(silent: asyncio.Semaphore) -> None:
        sequence = 0
        async with aclosing(target.messages(model)) as messages:
            async for message in messages:
                sequence = event_pb2.TokenEvent.FromString(message).sequence
                if sequence == job.tokens + 1:
                    silent.release()
                    await leave.wait()
                    return
        raise Unmeasurable(f"a stream ended after sequence {sequence}")

    rss_bytes = []
    try:
        await target.connect()
        async with asyncio.TaskGroup() as group:
            for opened, wanted in itertools.pairwise([0, *job.steps]):
                silent = asyncio.Semaphore(0)
                for _ in range(wanted - opened):
                    group.create_task(one(silent))
                    await asyncio.sleep(START_INTERVAL_S)
                async with asyncio.timeout(CALL_LIMIT_S):
                    for _ in range(wanted - opened):
                        await silent.acquire()
                await asyncio.sleep(SETTLE_S)
                rss_bytes.append(readings.rss_bytes(job.watch_pid))
            leave.set()
    finally:
        await target.close()
    return KeepOpenResult(rss_bytes)
