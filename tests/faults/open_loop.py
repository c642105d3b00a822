"""Open-loop load in its own process: calls start at a fixed rate, whether or not earlier ones have ended.

Arguments: a job as JSON, and the path of a file for the result. See `Job` and `Result`.
"""

import asyncio
import gc
import itertools
import sys
import time
from pathlib import Path

import grpc
import grpc.aio
import msgspec
import uvloop

from tokenwire.v1 import chat_pb2

METHOD = "/tokenwire.v1.ChatService/ChatStream"
DETAILS = "grpc-status-details-bin"
FINISHED = "FINISHED"
LATE = "LATE"
CHANNELS = 4


class Job(msgspec.Struct):
    """`per_s` calls of ChatStream in each of `for_s` seconds. A call ends after `deadline_s` at the latest."""

    address: str
    model: str
    per_s: float
    for_s: float
    deadline_s: float


class Call(msgspec.Struct):
    """One call. Times are in seconds."""

    start_s: float
    """From the start of the load."""
    end: str
    """FINISHED, LATE if its deadline has passed, or the reason of its error."""
    took_s: float
    first_s: float | None
    """Until the first message."""
    gap_p99_s: float
    """99th percentile of the times between messages."""


class Result(msgspec.Struct):
    calls: list[Call]
    lateness_s: list[float]
    """How late each call was started. The figures count only if this is small."""


async def one(method, request, job, began, calls):
    called = time.monotonic()
    instants, end = [], FINISHED
    call = method(request, timeout=job.deadline_s)
    try:
        async for _ in call:
            instants.append(time.monotonic())  # noqa: PERF401  # kept if the call fails
    except grpc.aio.AioRpcError as error:
        end = reason_of(error)
    took_s = time.monotonic() - called
    gaps = sorted(after - before for before, after in itertools.pairwise(instants))
    gap_p99_s = gaps[int(0.99 * len(gaps))] if gaps else 0.0
    first_s = instants[0] - called if instants else None
    calls.append(Call(called - began, end, took_s, first_s, gap_p99_s))


def reason_of(error):
    """Return the reason of an error, without a parser: that would cost more than the call."""
    if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
        return LATE
    details = dict(error.trailing_metadata() or ()).get(DETAILS, b"")
    _, found, rest = details.partition(b"google.rpc.ErrorInfo\x12")
    if not found:
        return error.code().name
    at = rest.index(b"\n")  # the tag of `reason`
    return rest[at + 2 : at + 2 + rest[at + 1]].decode()


async def run(job):
    part = chat_pb2.Part(text="Go.")
    message = chat_pb2.Message(role=chat_pb2.ROLE_USER, parts=[part])
    request = chat_pb2.ChatRequest(model=job.model, messages=[message]).SerializeToString()
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(job.address, options) for _ in range(CHANNELS)]
    methods = [channel.unary_stream(METHOD) for channel in channels]
    await asyncio.gather(*(channel.channel_ready() for channel in channels))
    calls, lateness_s, began = [], [], time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        for number in range(int(job.per_s * job.for_s)):
            wait_s = began + number / job.per_s - time.monotonic()
            await asyncio.sleep(max(0.0, wait_s))
            lateness_s.append(max(0.0, -wait_s))
            method = methods[number % CHANNELS]
            tasks.create_task(one(method, request, job, began, calls))
    for channel in channels:
        await channel.close()
    return Result(calls, lateness_s)


if __name__ == "__main__":
    gc.disable()
    result = uvloop.run(run(msgspec.json.decode(sys.argv[1], type=Job)))
    Path(sys.argv[2]).write_bytes(msgspec.json.encode(result))
