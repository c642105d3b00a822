"""The load of remote readers: how much later a token arrives through another server."""

from __future__ import annotations

import asyncio
import bisect
import time
from contextlib import suppress

import grpc
from callers import CALL_LIMIT_S, METHOD, Unmeasurable
from jobs import RemoteReaders, RemoteReadersResult, Target

from tokenwire.v1 import chat_pb2, event_pb2

RESUME = "/tokenwire.v1.ChatService/ResumeStream"
CHANNELS = 8
SPARE_S = 5.0
"""How much longer the streams are than the measurement."""

Arrivals = list[tuple[int, float]]
"""The last sequence of each message, and when it arrived."""


async def remote_readers(job: RemoteReaders) -> RemoteReadersResult:
    """Read each stream at its owner and at another server. Raises Unmeasurable if a stream fails."""
    owners, others = _channels(job.owner), _channels(job.other)
    try:
        async with asyncio.TaskGroup() as group:
            measured = [
                group.create_task(_stream(job, number, owners, others))
                for number in range(job.streams)
            ]
    finally:
        for channel in (*owners, *others):
            await channel.close()
    added_s = sorted(delay for task in measured for delay in task.result())
    if not added_s:
        raise Unmeasurable("no token came within the window")
    return RemoteReadersResult(
        readers=job.streams * job.readers_per_stream,
        tokens=len(added_s),
        added_p50_ms=added_s[len(added_s) // 2] * 1000,
        added_p99_ms=added_s[int(len(added_s) * 0.99)] * 1000,
    )


def _channels(target: Target) -> list[grpc.aio.Channel]:
    options = [("grpc.use_local_subchannel_pool", 1)]
    return [grpc.aio.insecure_channel(target.address, options) for _ in range(CHANNELS)]


async def _stream(
    job: RemoteReaders,
    number: int,
    owners: list[grpc.aio.Channel],
    others: list[grpc.aio.Channel],
) -> list[float]:
    """Run one stream with its readers. Return the delays of all tokens within the window."""
    await asyncio.sleep(job.ramp_s * number / job.streams)
    tokens = int((job.ramp_s + job.window_s + SPARE_S) * job.tokens_per_second)
    model = f"{job.owner.model_prefix}sim?tokens={tokens}&itl_ms={1000 / job.tokens_per_second:g}"
    part = chat_pb2.Part(text="Go.")
    message = chat_pb2.Message(role=chat_pb2.ROLE_USER, parts=[part])
    request = chat_pb2.ChatRequest(model=model, messages=[message])
    chat = owners[number % CHANNELS].unary_stream(METHOD)
    call = chat(request.SerializeToString(), timeout=CALL_LIMIT_S)
    messages = aiter(call)
    event = event_pb2.TokenEvent.FromString(await anext(messages))
    resume = chat_pb2.ResumeStreamRequest(stream_id=event.started.stream_id).SerializeToString()
    window = asyncio.timeout(job.ramp_s + job.window_s)
    local: Arrivals = []
    remote: list[Arrivals] = [[] for _ in range(job.readers_per_stream)]
    with suppress(TimeoutError):
        async with window, asyncio.TaskGroup() as group:
            group.create_task(_note(messages, local))
            for index, arrivals in enumerate(remote):
                method = others[(number + index) % CHANNELS].unary_stream(RESUME)
                reading = method(resume, timeout=CALL_LIMIT_S)
                group.create_task(_note(aiter(reading), arrivals))
    call.cancel()
    return [delay for arrivals in remote for delay in _delays(local, arrivals, job.settle_s)]


async def _note(messages: object, arrivals: Arrivals) -> None:
    event, now = event_pb2.TokenEvent(), time.monotonic
    async for payload in messages:  # type: ignore[attr-defined]
        instant = now()
        event.ParseFromString(payload)
        arrivals.append((event.sequence, instant))


def _delays(local: Arrivals, remote: Arrivals, settle_s: float) -> list[float]:
    """Return how much later each remote message arrived than the local one with its last token."""
    if not local or not remote:
        raise Unmeasurable("a reader got nothing")
    sequences = [sequence for sequence, _ in local]
    begins = remote[0][1] + settle_s
    found = []
    for sequence, instant in remote:
        index = bisect.bisect_left(sequences, sequence)
        if instant > begins and index < len(local):
            found.append(instant - local[index][1])
    return found
