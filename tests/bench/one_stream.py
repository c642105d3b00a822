"""Jobs with one stream at a time: first token, bytes on the wire, speed of the simulator."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

import readings
from callers import Caller, GrpcCaller, Unmeasurable, caller, carries_text
from jobs import (
    FirstToken,
    FirstTokenResult,
    Flood,
    FloodResult,
    Target,
    Wire,
    WireResult,
)

from tokenwire.v1 import event_pb2

FIRST_TOKEN_MODEL = "sim?tokens=2&itl_ms=1"
WARMING_SAMPLES = 5
REST_S = 0.005
WIRE_ATTEMPTS = 4
FIRST_COUNTED_TOKEN = 10


async def first_token(job: FirstToken) -> FirstTokenResult:
    """Run the job. Targets alternate, so that disturbances of the machine affect all of them."""
    ttft_ms: dict[str, list[float]] = {name: [] for name in job.targets}
    async with AsyncExitStack() as stack:
        callers = {}
        for name, target in job.targets.items():
            callers[name] = caller(target)
            stack.push_async_callback(callers[name].close)
            await callers[name].connect()
        for sample in range(-WARMING_SAMPLES, job.samples):
            for name, idle in callers.items():
                waited_s = await _first_token_s(idle)
                if sample >= 0:
                    ttft_ms[name].append(waited_s * 1000)
                await asyncio.sleep(REST_S)
    return FirstTokenResult({name: sorted(waited) for name, waited in ttft_ms.items()})


async def _first_token_s(idle: Caller) -> float:
    waited_s = None
    called = time.monotonic()
    async with aclosing(idle.messages(FIRST_TOKEN_MODEL)) as messages:
        # Read to the end, so that the connection can be reused.
        async for message in messages:
            if waited_s is None and carries_text(idle, message):
                waited_s = time.monotonic() - called
    if waited_s is None:
        raise Unmeasurable("an answer ended without a token")
    return waited_s


class Relay:
    """Forwards TCP connections and counts the bytes from the server."""

    def __init__(self, address: str) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self.address = ""
        self.server_bytes = 0

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:

            async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                upstream, out = await asyncio.open_connection(self._host, self._port)
                pumps.append(group.create_task(self._pump(reader, out, counted=False)))
                pumps.append(group.create_task(self._pump(upstream, writer, counted=True)))

            pumps: list[asyncio.Task[None]] = []
            server = await asyncio.start_server(accept, "127.0.0.1", 0)
            self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            yield
            server.close()
            for pump in pumps:
                pump.cancel()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counted: bool
    ) -> None:
        try:
            while data := await reader.read(65536):
                if counted:
                    self.server_bytes += len(data)
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()


async def wire(job: Wire) -> WireResult:
    """Count the bytes between two tokens far from the stream's ends, so without headers and trailers.

    The relay shares the reader's event loop: when the reader has a token, all bytes up to it have been
    counted, and with paced tokens no later ones. A run in which tokens were merged, because the machine was
    busy, is repeated at half the pace.
    """
    interval_ms = job.token_interval_ms
    for _ in range(WIRE_ATTEMPTS):
        relay = Relay(job.target.address)
        async with relay.listen():
            result = await _wire(job, relay, interval_ms)
        if result is not None:
            return result
        interval_ms *= 2
    raise Unmeasurable("the server joined tokens of a paced stream in every attempt")


async def _wire(job: Wire, relay: Relay, interval_ms: int) -> WireResult | None:
    target = Target(relay.address, "grpc", job.target.model_prefix)
    last = FIRST_COUNTED_TOKEN + job.tokens
    counted_at, text_bytes, number = [], 0, 0
    idle = GrpcCaller(target, channels=1)
    try:
        await idle.connect()
        model = f"sim?tokens={last + 10}&itl_ms={interval_ms}"
        async with aclosing(idle.messages(model)) as messages:
            async for message in messages:
                event = event_pb2.TokenEvent.FromString(message)
                if not event.HasField("text"):
                    continue
                number += 1
                if event.sequence != number + 1:
                    return None
                if FIRST_COUNTED_TOKEN < number <= last:
                    text_bytes += len(event.text.text.encode())
                if number in {FIRST_COUNTED_TOKEN, last}:
                    counted_at.append(relay.server_bytes)
    finally:
        await idle.close()
    begin, end = counted_at
    return WireResult((end - begin) / job.tokens, text_bytes / job.tokens)


def flood(job: Flood) -> FloodResult:
    """Read one unpaced answer from a socket up to its end marker. Blocks."""
    host, _, port = job.target.address.rpartition(":")
    body = (
        f'{{"model":"{job.target.model_prefix}sim?tokens={job.tokens}","stream":true,'
        f'"messages":[{{"role":"user","content":"Go."}}]}}'
    )
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {job.target.api_key}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        cpu_began_s, began = readings.cpu_s(job.watch_pid), time.monotonic()
        connection.sendall((head + body).encode())
        tail, tokens = b"", 0
        while b"data: [DONE]" not in tail:
            data = connection.recv(1 << 20)
            if not data:
                raise Unmeasurable("the simulator closed before the end of its answer")
            # Each token's chunk has the name of its content once. A name that is split between two reads is counted, too.
            seen = tail[-10:] + data
            tokens += seen.count(b'"content":"')
            tail = seen[-100:]
        seconds, cpu_spent_s = time.monotonic() - began, readings.cpu_s(job.watch_pid) - cpu_began_s
    if tokens < job.tokens:
        raise Unmeasurable(f"{tokens} of {job.tokens} tokens came")
    return FloodResult(seconds, cpu_spent_s)
