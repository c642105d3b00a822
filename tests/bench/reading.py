"""Reading streams with Tokenwire's client, and with the generated stub on grpc.aio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import grpc
from callers import Unmeasurable
from jobs import Read, ReadResult

import tokenwire
from tokenwire.v1 import chat_pb2, chat_pb2_grpc, event_pb2

REST_S = 0.1
"""Time for which streams go on after the window."""


class Counted:
    """Events that were read by all readers."""

    def __init__(self) -> None:
        self.events = 0
        self.finished = 0

    def take(self, event: event_pb2.TokenEvent) -> None:
        self.events += 1
        self.finished += event.HasField("finished")


Reader = Callable[[str, Counted], Coroutine[Any, Any, None]]


async def read(job: Read) -> ReadResult:
    """Run the job. Raises Unmeasurable."""
    cpu_us: dict[str, list[float]] = {"stub": [], "client": []}
    async with (
        tokenwire.AsyncClient(job.address) as client,
        grpc.aio.insecure_channel(job.address) as channel,
    ):
        readers = {
            "client": _of_client(client),
            "stub": _of_stub(chat_pb2_grpc.ChatServiceStub(channel)),
        }
        for number in range(job.rounds):
            # The order alternates, because a machine that warms up would favour one of them.
            for name in ("stub", "client") if number % 2 else ("client", "stub"):
                cpu_us[name].append(await _cpu_us_per_event(job, readers[name]))
    return ReadResult(cpu_us["stub"], cpu_us["client"])


def _of_client(client: tokenwire.AsyncClient) -> Reader:
    async def one(model: str, counted: Counted) -> None:
        async with client.chat_stream(model, "Go.") as stream:
            async for event in stream:
                counted.take(event)

    return one


def _of_stub(stub: Any) -> Reader:
    async def one(model: str, counted: Counted) -> None:
        part = chat_pb2.Part(text="Go.")
        message = chat_pb2.Message(role=chat_pb2.ROLE_USER, parts=[part])
        request = chat_pb2.ChatRequest(model=model, messages=[message])
        async for event in stub.ChatStream(request):
            counted.take(event)

    return one


async def _cpu_us_per_event(job: Read, reader: Reader) -> float:
    counted = Counted()
    begins_s = job.ramp_s + job.settle_s
    tokens = int((begins_s + job.window_s + REST_S) * job.tokens_per_second)
    model = f"floor?tokens={tokens}&itl_ms={1000 / job.tokens_per_second:g}"

    async def one(number: int) -> None:
        await asyncio.sleep(job.ramp_s * number / job.streams)
        await reader(model, counted)

    async with asyncio.TaskGroup() as group:
        for number in range(job.streams):
            group.create_task(one(number))
        await asyncio.sleep(begins_s)
        cpu_began_s, events_before = time.process_time(), counted.events
        await asyncio.sleep(job.window_s)
        cpu_s, events = time.process_time() - cpu_began_s, counted.events - events_before
    if counted.finished != job.streams:
        raise Unmeasurable(f"{counted.finished} of {job.streams} streams finished")
    return cpu_s * 1e6 / events
