"""`EventStream` and a caller that leaves, without a web server."""

import asyncio

import pytest

import tokenwire
from tokenwire.http import EventStream
from tokenwire.v1.chat_pb2 import StreamInfo

from ..conftest import (
    LIMIT_S,
    STREAM_ID,
    Code,
    caller_left,
    fails,
    plays_then_waits,
    started,
    status,
    text,
)

HTTP = {"type": "http"}
CONTINUE = tokenwire.retention("continue")


@pytest.fixture
async def client(server):
    server.info = StreamInfo(stream_id=STREAM_ID)
    async with tokenwire.AsyncClient(server.target, resumable=True) as each:
        yield each


class Caller:
    """Receives messages. It leaves when `leaving` is set."""

    def __init__(self):
        self.leaving = asyncio.Event()
        self.got = []

    async def receive(self):
        await self.leaving.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        self.got.append(message)


async def test_a_generation_of_which_the_caller_has_seen_nothing_is_cancelled(server, client):
    server.script = plays_then_waits(started())
    stream, caller = client.chat_stream("m", "Hi"), Caller()
    relay = asyncio.create_task(EventStream(stream)(HTTP, caller.receive, caller.send))
    async with asyncio.timeout(LIMIT_S):
        while not stream.stream_id:
            await asyncio.sleep(0.01)
        caller.leaving.set()
        await relay
    assert caller.got == []
    assert server.ended == [STREAM_ID]


@pytest.mark.parametrize("how", ["the caller leaves", "the web server stops"])
async def test_a_generation_of_which_the_caller_has_an_id_goes_on(server, client, how):
    server.script = plays_then_waits(started(), text(2, "a"))
    caller = Caller()
    answer = EventStream(client.chat_stream("m", "Hi"))
    relay = asyncio.create_task(answer(HTTP, caller.receive, caller.send))
    async with asyncio.timeout(LIMIT_S):
        while len(caller.got) < 3:
            await asyncio.sleep(0.01)
        if how == "the caller leaves":
            caller.leaving.set()
        else:
            relay.cancel()
        await asyncio.wait([relay])
        assert await caller_left(server)
    assert server.ended == []


@pytest.mark.parametrize("cancels", [False, True])
async def test_a_generation_that_outlives_its_readers_is_cancelled_on_request(
    server, client, cancels
):
    server.script = plays_then_waits(started(), text(2, "a"))
    stream, caller = client.chat_stream("m", "Hi", retention=CONTINUE, resumable=False), Caller()
    answer = EventStream(stream, cancels_when_left=cancels)
    relay = asyncio.create_task(answer(HTTP, caller.receive, caller.send))
    async with asyncio.timeout(LIMIT_S):
        while len(caller.got) < 3:
            await asyncio.sleep(0.01)
        caller.leaving.set()
        await relay
        assert await caller_left(server)
    assert server.ended == ([STREAM_ID] if cancels else [])


@pytest.mark.parametrize("reason", ["UPSTREAM_BROKEN", "SLOW_READER"])
async def test_a_generation_that_has_ended_or_can_be_resumed_is_not_cancelled(
    server, client, reason
):
    server.script = fails(status(Code.UNAVAILABLE, reason), started(), text(2, "a"))
    stream, caller = client.chat_stream("m", "Hi", retention=CONTINUE, resumable=False), Caller()
    await EventStream(stream, cancels_when_left=True)(HTTP, caller.receive, caller.send)
    assert reason.encode() in caller.got[-1]["body"]
    assert server.ended == []


@pytest.mark.parametrize("received", [0, 2])
async def test_a_server_that_reports_a_caller_that_has_left_when_it_sends(server, client, received):
    server.script = plays_then_waits(started(), text(2, "a"))
    caller = Caller()

    async def send(message):
        if len(caller.got) == received:
            raise OSError("the connection is closed")
        await caller.send(message)

    async with asyncio.timeout(LIMIT_S):
        await EventStream(client.chat_stream("m", "Hi"))(HTTP, caller.receive, send)
        assert await caller_left(server)
    assert server.ended == ([] if received else [STREAM_ID])
