"""The job with several readers of one stream, of which one may be frozen."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import grpc
import readings
from callers import CALL_LIMIT_S, METHOD, Unmeasurable
from jobs import Audience, AudienceResult, Target
from retained_streams import OPTIONS, RESUME_METHOD, SMALL_WINDOW

from tokenwire.v1 import chat_pb2, event_pb2

LOOK_INTERVAL_S = 0.1
READY_LIMIT_S = 20.0
LAST_READER = Path(__file__).with_name("last_reader.py")

Call = grpc.aio.UnaryStreamCall[bytes, bytes]


class Watched:
    """A reader that records the arrival times of events."""

    def __init__(self) -> None:
        self.instants: list[float] = []
        self.newest = b""

    async def read(self, call: Call) -> None:
        """Read to the end, which the job sets."""
        noted, now = self.instants.append, time.monotonic
        while (payload := await call.read()) is not grpc.aio.EOF:
            noted(now())
            self.newest = payload

    def gaps(self, begun: float, ended: float) -> Iterator[float]:
        """Return the seconds between events within the window."""
        previous = None
        for instant in self.instants:
            if begun < instant <= ended:
                if previous is not None:
                    yield instant - previous
                previous = instant


async def audience(job: Audience) -> AudienceResult:
    """Run the job. Raises Unmeasurable if a watched reader loses the stream."""
    readers = [Watched() for _ in range(job.readers - 1)]
    async with AsyncExitStack() as stack:
        calls = [await stack.enter_async_context(_chat(job))]
        started = event_pb2.TokenEvent.FromString(await calls[0].read())
        stream_id = started.started.stream_id
        calls += [
            await stack.enter_async_context(_resume(job.target, stream_id)) for _ in readers[1:]
        ]
        freeze = await stack.enter_async_context(_last(job, stream_id))
        tasks = [
            asyncio.create_task(reader.read(call))
            for reader, call in zip(readers, calls, strict=True)
        ]
        await _all_read(readers)
        rss_bytes = most_bytes = readings.rss_bytes(job.watch_pid)
        if job.frozen:
            freeze()
        begun = time.monotonic() + job.settle_s
        ended = begun + job.window_s
        while (now := time.monotonic()) < ended:
            await asyncio.sleep(min(LOOK_INTERVAL_S, ended - now))
            most_bytes = max(most_bytes, readings.rss_bytes(job.watch_pid))
        if any(task.done() for task in tasks):
            raise Unmeasurable("a watched reader lost the stream")
        for call in calls:
            call.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    gaps_s = sorted(gap for reader in readers for gap in reader.gaps(begun, ended))
    if not gaps_s:
        raise Unmeasurable("no event came within the window")
    return AudienceResult(
        gaps=len(gaps_s),
        gap_p50_ms=gaps_s[len(gaps_s) // 2] * 1000,
        gap_p99_ms=gaps_s[int(len(gaps_s) * 0.99)] * 1000,
        tokens=event_pb2.TokenEvent.FromString(readers[0].newest).sequence,
        rss_bytes=rss_bytes,
        rss_most_bytes=most_bytes,
    )


@asynccontextmanager
async def _chat(job: Audience) -> AsyncIterator[Call]:
    model = f"sim?repeat=forever&tokens_per_second={job.tokens_per_second:g}&text={job.text}"
    part = chat_pb2.Part(text="Go.")
    request = chat_pb2.ChatRequest(
        model=job.target.model_prefix + model,
        messages=[chat_pb2.Message(role=chat_pb2.ROLE_USER, parts=[part])],
    )
    async with grpc.aio.insecure_channel(job.target.address, OPTIONS) as channel:
        yield channel.unary_stream(METHOD)(request.SerializeToString(), timeout=CALL_LIMIT_S)


@asynccontextmanager
async def _resume(
    target: Target, stream_id: str, options: list[tuple[str, int]] | None = None
) -> AsyncIterator[Call]:
    """Add a reader with a separate connection."""
    request = chat_pb2.ResumeStreamRequest(stream_id=stream_id).SerializeToString()
    async with grpc.aio.insecure_channel(target.address, OPTIONS + (options or [])) as channel:
        yield channel.unary_stream(RESUME_METHOD)(request, timeout=CALL_LIMIT_S)


@asynccontextmanager
async def _last(job: Audience, stream_id: str) -> AsyncIterator[Callable[[], None]]:
    """Start the last reader. Yields a function that freezes it."""
    if job.last == "process":
        with _reading_process(job.target, stream_id) as process:
            yield lambda: process.send_signal(signal.SIGSTOP)
        return
    frozen = asyncio.Event()

    async def read() -> None:
        # Not by cancelling a read, which would cancel the call.
        while not frozen.is_set():
            await call.read()

    async with _resume(job.target, stream_id, SMALL_WINDOW) as call:
        await call.read()
        reading = asyncio.create_task(read())
        yield frozen.set
        call.cancel()
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


@contextmanager
def _reading_process(target: Target, stream_id: str) -> Iterator[subprocess.Popen[bytes]]:
    argv = [sys.executable, str(LAST_READER), target.address, stream_id]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE)
    try:
        if process.stdout is None or not process.stdout.readline():
            raise Unmeasurable("the reader in a separate process did not read")
        yield process
    finally:
        process.kill()
        process.wait()


async def _all_read(readers: list[Watched]) -> None:
    async with asyncio.timeout(READY_LIMIT_S):
        while not all(reader.instants for reader in readers):
            await asyncio.sleep(LOOK_INTERVAL_S)
