"""Open-loop load in its own process: calls start at a fixed rate, whether or not earlier ones have ended.

Arguments: a job as JSON, and the path of a file for the result. See `Job` and `Result`. The load reads HTTP/2
frames, as that of the benchmark does: it would otherwise take as much CPU as the server.
"""

import asyncio
import base64
import gc
import itertools
import sys
import time
from pathlib import Path

import msgspec
import uvloop

sys.path.append(str(Path(__file__).parents[1] / "bench"))

from callers import Recording, Unmeasurable, request
from frames import CallFailed, FrameConnection
from jobs import Target

DETAILS = "grpc-status-details-bin"
DEADLINE_EXCEEDED = "4"
FINISHED = "FINISHED"
LATE = "LATE"
CONNECTIONS = 4


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


async def one(connection, message, job, began, calls):
    recording, end = Recording(0), FINISHED
    try:
        await connection.call(message, recording)
    except TimeoutError:
        end = LATE
    except CallFailed as error:
        end = reason_of(error)
    except Unmeasurable as error:
        end = str(error)
    instants, called = recording.instants, recording.called
    took_s = time.monotonic() - called
    gaps = sorted(after - before for before, after in itertools.pairwise(instants))
    gap_p99_s = gaps[int(0.99 * len(gaps))] if gaps else 0.0
    first_s = instants[0] - called if instants else None
    calls.append(Call(called - began, end, took_s, first_s, gap_p99_s))


def reason_of(error):
    """Return the reason of an error, without a parser: that would cost more than the call."""
    if error.trailers.get("grpc-status") == DEADLINE_EXCEEDED:
        return LATE
    details = base64.b64decode(error.trailers.get(DETAILS, "") + "==")
    _, found, rest = details.partition(b"google.rpc.ErrorInfo\x12")
    if not found:
        return str(error)
    at = rest.index(b"\n")  # the tag of `reason`
    return rest[at + 2 : at + 2 + rest[at + 1]].decode()


async def connect(job):
    host, _, port = job.address.rpartition(":")
    target = Target(job.address, "grpc")
    _, connection = await asyncio.get_running_loop().create_connection(
        lambda: FrameConnection(target, job.address, job.deadline_s), host, int(port)
    )
    await connection.ready
    return connection


async def run(job):
    message = request(job.model)
    connections = [await connect(job) for _ in range(CONNECTIONS)]
    calls, lateness_s, began = [], [], time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        for number in range(int(job.per_s * job.for_s)):
            wait_s = began + number / job.per_s - time.monotonic()
            await asyncio.sleep(max(0.0, wait_s))
            lateness_s.append(max(0.0, -wait_s))
            connection = connections[number % CONNECTIONS]
            tasks.create_task(one(connection, message, job, began, calls))
    for connection in connections:
        connection.close()
    return Result(calls, lateness_s)


if __name__ == "__main__":
    gc.disable()
    result = uvloop.run(run(msgspec.json.decode(sys.argv[1], type=Job)))
    Path(sys.argv[2]).write_bytes(msgspec.json.encode(result))
