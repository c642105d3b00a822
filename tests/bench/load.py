"""The load process: one job on stdin as JSON, its result on stdout as JSON.

It is a separate process, so that its cost does not count as the server's. If the job cannot be measured, it
exits with 3 and prints a line on stderr.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time

import grpc
import msgspec
import readings
import uvloop
from audience import audience
from callers import Caller, Recording, Unmeasurable, caller
from frames import FrameCaller
from jobs import (
    Audience,
    FirstToken,
    Flood,
    Job,
    KeepOpen,
    Read,
    RemoteReaders,
    Resume,
    Retain,
    ShortStreams,
    Streams,
    StreamsResult,
    Wire,
)
from one_stream import first_token, flood, wire
from open_streams import keep_open
from reading import read
from remote_readers import remote_readers
from retained_streams import resume, retain
from short_streams import short_streams

NOT_MEASURABLE = 3
QUANTILES = 200
_GOLDEN_RATIO = 0.6180339887498949


async def streams(job: Streams) -> StreamsResult:
    """Run the streams and measure the window. Raises Unmeasurable if any stream fails."""
    target: Caller
    if job.target.protocol == "grpc":
        target = FrameCaller(job.target, job.channels)
    else:
        target = caller(job.target, job.channels)
    try:
        await target.connect()
        recordings, begun, ended = await (_paced if job.tokens_per_second else _burst)(job, target)
    finally:
        await target.close()
    return _judge(job, target, recordings, begun, ended)


class Reading:
    """CPU times of all processes that take part, at one instant."""

    def __init__(self, watch: dict[str, int]) -> None:
        self.instant = time.monotonic()
        self.cpu_s = {name: readings.cpu_s(pid) for name, pid in watch.items()}
        self.cpu_s["load"] = time.process_time()
        self.machine_s = readings.machine_busy_s()


async def _paced(job: Streams, target: Caller) -> tuple[list[Recording], Reading, Reading]:
    period_s = 1 / job.tokens_per_second
    origin = time.monotonic() + 0.1
    window_begins = origin + job.ramp_s + job.settle_s
    window_ends = window_begins + job.window_s
    recordings = []

    async def one(number: int) -> None:
        # Whole periods spread the starts over the ramp. The golden ratio spreads them within a period, so that
        # no two streams are in phase, however many there are.
        periods = int(job.ramp_s * number / job.streams / period_s)
        starts = origin + (periods + number * _GOLDEN_RATIO % 1) * period_s
        tokens = int((window_ends - starts) / period_s) + 5
        seed = job.text_seed and job.text_seed + number
        recording = Recording(tokens, job.json_tokens, seed)
        recordings.append(recording)
        await asyncio.sleep(starts - time.monotonic())
        model = f"sim?tokens={tokens}&itl_ms={period_s * 1000:g}"
        if seed:
            model += f"&text_seed={seed}"
        await target.record(model, recording)

    async with asyncio.TaskGroup() as group:
        for number in range(job.streams):
            group.create_task(one(number))
        await asyncio.sleep(window_begins - time.monotonic())
        begun = Reading(job.watch)
        await asyncio.sleep(window_ends - time.monotonic())
        ended = Reading(job.watch)
    return recordings, begun, ended


async def _burst(job: Streams, target: Caller) -> tuple[list[Recording], Reading, Reading]:
    recordings = [Recording(job.burst_tokens) for _ in range(job.streams)]
    begun = Reading(job.watch)
    async with asyncio.TaskGroup() as group:
        for recording in recordings:
            group.create_task(target.record(f"sim?tokens={job.burst_tokens}", recording))
    return recordings, begun, Reading(job.watch)


def _judge(
    job: Streams, target: Caller, recordings: list[Recording], begun: Reading, ended: Reading
) -> StreamsResult:
    tokens = messages = 0
    ttft_s: list[float] = []
    gaps_s: list[float] = []
    last_arrival = begun.instant
    for recording in recordings:
        previous: float | None = None
        for arrival in target.arrivals(recording):
            if previous is None:
                ttft_s.append(arrival.instant - recording.called)
            if begun.instant < arrival.instant <= ended.instant:
                tokens += arrival.tokens
                messages += 1
                last_arrival = max(last_arrival, arrival.instant)
                if previous is not None:
                    # Merged tokens arrived together: the first one waited, the others did not.
                    gaps_s.append(arrival.instant - previous)
                    gaps_s.extend([0.0] * (arrival.tokens - 1))
            previous = arrival.instant
    if not tokens or not gaps_s:
        raise Unmeasurable("no token came within the window")
    gaps_s.sort()
    ttft_s.sort()
    spent_s = {name: ended.cpu_s[name] - begun.cpu_s[name] for name in begun.cpu_s}
    elapsed_s = ended.instant - begun.instant
    others_s = ended.machine_s - begun.machine_s - sum(spent_s.values())
    return StreamsResult(
        tokens=tokens,
        messages=messages,
        seconds=elapsed_s if job.tokens_per_second else last_arrival - begun.instant,
        cpu_us_per_token={name: seconds * 1e6 / tokens for name, seconds in spent_s.items()},
        others_cores=max(0.0, others_s / elapsed_s),
        ttft_p50_ms=_quantile(ttft_s, 0.5) * 1000,
        ttft_p99_ms=_quantile(ttft_s, 0.99) * 1000,
        itl_ms_quantiles=[_quantile(gaps_s, n / QUANTILES) * 1000 for n in range(QUANTILES + 1)],
        itl_p50_ms=_quantile(gaps_s, 0.5) * 1000,
        itl_p99_ms=_quantile(gaps_s, 0.99) * 1000,
    )


def _quantile(ordered: list[float], share: float) -> float:
    return ordered[round(share * (len(ordered) - 1))]


async def _run(job: Job) -> msgspec.Struct:
    match job:
        case Streams():
            return await streams(job)
        case Read():
            return await read(job)
        case FirstToken():
            return await first_token(job)
        case KeepOpen():
            return await keep_open(job)
        case Wire():
            return await wire(job)
        case Flood():
            return await asyncio.to_thread(flood, job)
        case Resume():
            return await resume(job)
        case Audience():
            return await audience(job)
        case Retain():
            return await retain(job)
        case RemoteReaders():
            return await remote_readers(job)
        case ShortStreams():
            return await short_streams(job)


def _reason(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return (
            f"{len(error.exceptions)} streams failed, the first with {_reason(error.exceptions[0])}"
        )
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    return f"{type(error).__name__}: {error}"


def main() -> int:
    """Run the job on stdin."""
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    # A garbage collection would appear as a gap between tokens that the server did not cause.
    gc.disable()
    try:
        result = uvloop.run(_run(job))
    except Exception as error:  # noqa: BLE001 - whatever failed, there is no result
        print(_reason(error), file=sys.stderr)
        return NOT_MEASURABLE
    sys.stdout.buffer.write(msgspec.json.encode(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
