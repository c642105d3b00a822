"""A simulator in the test's event loop, the official SDKs as its clients, and a plain socket to it."""

import asyncio
import contextlib
import json

import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from tokenwire_server.simulator import Simulator
from virtual_time import pytest_asyncio_loop_factories  # noqa: F401  # a hook

SAY_HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
async def local():
    async with Simulator() as simulator:
        yield simulator


@pytest.fixture
async def openai(local):
    async with AsyncOpenAI(
        base_url=f"{local.url}/v1", api_key="any", max_retries=0, timeout=20
    ) as client:
        yield client


@pytest.fixture
async def anthropic(local):
    async with AsyncAnthropic(
        base_url=local.url, api_key="any", max_retries=0, timeout=20
    ) as client:
        yield client


class Wire:
    """A plain socket to the simulator."""

    def __init__(self, reader, writer):
        self.reader = reader
        self.writer = writer

    async def ask(self, path, body, headers=()):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [f"POST {path} HTTP/1.1", "host: x", f"content-length: {len(data)}", *headers]
        self.writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
        await self.writer.drain()

    async def chat(self, model, **fields):
        body = {"model": model, "messages": SAY_HELLO, "stream": True, **fields}
        await self.ask("/v1/chat/completions", body)

    async def head(self):
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        status, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
        return int(status.split()[1]), dict(line.split(": ", 1) for line in lines)

    async def chunk(self):
        """Return the next chunk of the body, or b"" at its end."""
        size = int(await self.reader.readline(), 16)
        data = await self.reader.readexactly(size)
        assert await self.reader.readexactly(2) == b"\r\n"
        return data

    async def chunks(self):
        """Return all chunks up to the clean end of the body."""
        chunks = []
        while chunk := await self.chunk():
            chunks.append(chunk)
        return chunks

    async def answer(self):
        """Return the status, headers and body of an answer, chunked or not."""
        status, headers = await self.head()
        if "content-length" in headers:
            return status, headers, await self.reader.readexactly(int(headers["content-length"]))
        return status, headers, b"".join(await self.chunks())


@pytest.fixture
async def wire_to():
    """Opens sockets, and closes them at the end of the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def open_wire(simulator, **options):
            host, port = simulator.address.rsplit(":", 1)
            reader, writer = await asyncio.open_connection(host, int(port), **options)
            stack.callback(writer.close)
            return Wire(reader, writer)

        yield open_wire


@pytest.fixture
async def wire(local, wire_to):
    return await wire_to(local)


@pytest.fixture
def eventually():
    """Waits until a condition holds, at most `within_s`; returns how long it took."""

    async def wait(condition, within_s=2.0):
        loop = asyncio.get_running_loop()
        began = loop.time()
        while not condition():
            assert loop.time() - began < within_s, "it never came"
            await asyncio.sleep(0.001)
        return loop.time() - began

    return wait
