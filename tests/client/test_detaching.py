"""Leaving a stream without cancelling its generation."""

import asyncio

import pytest

import tokenwire
from tokenwire.v1 import chat_pb2

from .conftest import (
    STREAM_ID,
    caller_left,
    finished,
    plays,
    plays_then_waits,
    started,
    text,
)

SLOW = "openai/sim?tokens=60&itl_ms=20"
KEPT = tokenwire.retention("continue", linger_s=30)


@pytest.fixture
async def client(server):
    server.info = chat_pb2.StreamInfo(stream_id=STREAM_ID)
    async with tokenwire.AsyncClient(server.target) as each:
        yield each


@pytest.mark.parametrize("how", [{"resumable": True}, {"retention": KEPT}], ids=str)
async def test_a_detached_stream_ends_its_reader_and_cancels_nothing(server, client, how):
    server.script = plays_then_waits(started(), text(2, "a"), text(3, "b"))
    async with client.chat_stream("m", "Hi", **how) as stream:
        assert await anext(stream.text) == "a"
        assert stream.detach() == tokenwire.StreamCursor(STREAM_ID, 2) == (STREAM_ID, 2)
        assert await anext(stream.text) == "b"
        assert stream.last_sequence == 3
    assert await caller_left(server)
    assert server.ended == []


async def test_the_cursor_does_not_skip_what_was_read_ahead(server, client):
    server.script = plays_then_waits(started(), text(2, "a"))
    stream = await client.chat_stream("m", "Hi", resumable=True).until_first_content()
    async with stream:
        assert stream.detach() == (STREAM_ID, 0)


@pytest.mark.parametrize("how", ["an error", "a cancellation"])
async def test_a_stream_detached_first_goes_on_however_its_block_is_left(server, client, how):
    server.script = plays_then_waits(started())
    detached = asyncio.Event()

    async def read():
        async with client.chat_stream("m", "Hi", resumable=True) as stream:
            stream.detach()
            detached.set()
            if how == "an error":
                raise KeyError
            await stream.final()

    task = asyncio.create_task(read())
    await detached.wait()
    task.cancel()
    with pytest.raises((KeyError, asyncio.CancelledError)):
        await task
    assert await caller_left(server)
    assert server.ended == []


async def test_a_generation_that_ends_with_its_last_reader_cannot_be_detached(server, client):
    server.script = plays(started(), text(2, "a"), finished(3))
    async with client.chat_stream("m", "Hi") as stream:
        await anext(stream)
        with pytest.raises(RuntimeError, match="resumable=True or with retention="):
            stream.detach()
        await stream.final()
        assert stream.detach() == (STREAM_ID, 3)  # it has ended: there is nothing to cancel


async def test_a_stream_that_was_not_entered_cannot_be_detached(client):
    with pytest.raises(RuntimeError, match="only inside its block"):
        client.chat_stream("m", "Hi", resumable=True).detach()


async def test_detaching_from_a_stream_that_was_resumed_by_hand_returns_the_cursor(server, client):
    server.resume_scripts = [plays_then_waits(text(5, "a"))]
    async with client.resume(STREAM_ID, 4) as stream:
        await anext(stream)
        assert stream.detach() == (STREAM_ID, 5)
    assert server.ended == []


async def test_a_detached_generation_goes_on_and_another_client_reads_the_rest(real_server):
    async with tokenwire.AsyncClient(real_server, resumable=True) as client:
        async with client.chat_stream(SLOW, "Hi") as stream:
            first = [await anext(stream.text) for _ in range(3)]
            cursor = stream.detach()
        running = await client.get_stream(stream.stream_id)
        assert running.state == tokenwire.StreamState.RUNNING

    async with tokenwire.AsyncClient(real_server) as other:
        async with other.resume(*cursor) as rest:
            answer = await rest.final()
        async with other.resume(cursor.stream_id) as again:
            whole = await again.final()
    assert answer.finish_reason == tokenwire.FinishReason.STOP
    assert "".join(first) + answer.text == whole.text


async def test_a_thread_can_detach(real_server):
    def read():
        with tokenwire.Client(real_server, resumable=True) as client:
            with client.chat_stream(SLOW, "Hi") as stream:
                next(stream.text)
                cursor = stream.detach()
            with client.resume(*cursor) as rest:
                return rest.final()

    answer = await asyncio.to_thread(read)
    assert answer.finish_reason == tokenwire.FinishReason.STOP
