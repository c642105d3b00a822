"""An edge process with short limits, and callers of `/v1/ws`."""

import asyncio
import json
import os
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.client import connect

LIMIT_S = 60
SETTINGS = {
    "TOKENWIRE_EDGE_MAX_BODY_BYTES_HELD": "100000",
    "TOKENWIRE_EDGE_MAX_FRAME_BYTES": "65536",
    "TOKENWIRE_EDGE_MAX_STREAMS_PER_SOCKET": "4",
    "TOKENWIRE_EDGE_DRAIN_ACCEPT_S": "0",
    "TOKENWIRE_EDGE_DRAIN_GRACE_S": "20",
    "TOKENWIRE_EDGE_SOCKET_AUTH_TIMEOUT_S": "5",
    "TOKENWIRE_EDGE_SOCKET_PING_INTERVAL_S": "5",
    "TOKENWIRE_EDGE_WRITE_STALL_S": "6",
}


class Socket:
    """One caller's socket."""

    def __init__(self, connection):
        self.connection = connection

    async def send(self, type, **fields):
        await self.connection.send(json.dumps({"type": type} | fields))

    async def chat(self, id, model="openai/sim", **fields):
        request = {"model": model, "prompt": "Hi"} | fields.pop("request", {})
        await self.send("chat", id=id, request=request, **fields)

    async def frame(self):
        """The next frame that is not a ping."""
        while True:
            frame = json.loads(await self.connection.recv())
            if frame["type"] != "ping":
                return frame

    async def until(self, *ends):
        """All frames up to the end of the last of these streams."""
        frames, missing = [], set(ends)
        while missing:
            frame = await self.frame()
            frames.append(frame)
            if frame["type"] in {"end", "error"}:
                missing.discard(frame.get("id"))
        return frames

    async def event(self, id, kind):
        """The next event of that kind."""
        while True:
            frame = await self.frame()
            assert frame["type"] == "event", frame
            if frame["id"] == id and kind in frame["event"]:
                return frame["event"]


def events(frames, id):
    return [each["event"] for each in frames if each["type"] == "event" and each["id"] == id]


def text_of(events):
    return "".join(each["text"].get("text", "") for each in events if "text" in each)


def finish_reason(frames, id):
    return events(frames, id)[-1]["finished"]["reason"].removeprefix("FINISH_REASON_")


class Edge:
    def __init__(self, url, process):
        self.process = process
        self.url = f"ws{url.removeprefix('http')}/v1/ws"
        host, _, port = url.rpartition("/")[-1].partition(":")
        self.address = host, int(port or 0)

    @asynccontextmanager
    async def socket(self, *, key="", **options):
        """An authenticated socket."""
        async with self.raw_socket(**options) as socket:
            await socket.send("authenticate", **({"key": key} if key else {}))
            assert await socket.frame() == {"type": "authenticated"}
            yield socket

    @asynccontextmanager
    async def raw_socket(self, **options):
        options.setdefault("subprotocols", ["tokenwire.v1"])
        async with asyncio.timeout(LIMIT_S), connect(self.url, proxy=None, **options) as connection:
            yield Socket(connection)


@pytest.fixture(scope="session")
def sockets(start_edge, server):
    """An edge in front of `server`, with short limits."""
    with start_edge("--target", server, env=SETTINGS) as (process, url):
        yield Edge(url, process)


@pytest.fixture(autouse=True)
def no_log(request):
    """Nothing that callers do is an error or a warning in the log of the shared edge."""
    if "sockets" not in request.fixturenames:
        yield
        return
    log = request.getfixturevalue("sockets").process.log
    start = log.seek(0, os.SEEK_END)
    yield
    log.seek(start)
    assert [line for line in log if " INFO tokenwire_edge.http.access_log: " not in line] == []
