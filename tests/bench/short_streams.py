"""The job that opens streams of one token, to measure what a stream costs besides its tokens."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

import readings
from callers import Caller, caller
from jobs import ShortStreams, ShortStreamsResult

MODEL = "sim?tokens=1"
WARMING_STREAMS = 20


async def short_streams(job: ShortStreams) -> ShortStreamsResult:
    """Run the job. The order of the targets alternates."""
    cpu_us: dict[str, list[float]] = {name: [] for name in job.targets}
    async with AsyncExitStack() as stack:
        callers = {}
        for name, target in job.targets.items():
            callers[name] = caller(target)
            stack.push_async_callback(callers[name].close)
            await callers[name].connect()
            await _open(callers[name], WARMING_STREAMS, job.at_once)
        for number in range(job.rounds):
            for name in list(callers)[:: 1 if number % 2 else -1]:
                begun_s = _cpu_s(job, name)
                await _open(callers[name], job.streams, job.at_once)
                cpu_us[name].append((_cpu_s(job, name) - begun_s) * 1e6 / job.streams)
    return ShortStreamsResult(cpu_us)


def _cpu_s(job: ShortStreams, name: str) -> float:
    """Return the CPU time of a target, or that of this process if the target is not watched."""
    return readings.cpu_s(job.watch[name]) if name in job.watch else time.process_time()


async def _open(target: Caller, streams: int, at_once: int) -> None:
    for first in range(0, streams, at_once):
        async with asyncio.TaskGroup() as group:
            for _ in range(min(at_once, streams - first)):
                group.create_task(_read(target))


async def _read(target: Caller) -> None:
    async for _ in target.messages(MODEL):
        pass
