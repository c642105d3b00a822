"""Leaving a resumable stream cancels its generation, in whatever way it is left."""

import asyncio
import threading
import time

import pytest

import tokenwire
from tokenwire.connect.channel import CANCEL_TIMEOUT_S
from tokenwire.v1 import chat_pb2
from tokenwire.v1.event_pb2 import NOTICE_KIND_DRAINING, Notice

from .breakable_wire import wire_to
from .conftest import (
    LIMIT_S,
    STREAM_ID,
    Code,
    accept,
    event,
    fails,
    finished,
    plays,
    plays_then_waits,
    started,
    status,
    text,
)

ENDLESS = "openai/sim?repeat=forever&itl_ms=5&key={}"
INFO = chat_pb2.StreamInfo(stream_id=STREAM_ID)


@pytest.fixture
async def client(server):
    server.info = INFO
    async with tokenwire.AsyncClient(server.target, resumable=True) as each:
        yield each


async def test_leaving_closes_the_provider_connection_before_the_linger(real_server, simulator):
    async with tokenwire.AsyncClient(real_server, resumable=True) as client:
        async with client.chat_stream(ENDLESS.format("leave-1"), "Hi") as stream:
            await anext(stream.text)
        info = await client.get_stream(stream.stream_id)

    assert info.finish_reason == tokenwire.FinishReason.CANCELLED
    await asyncio.to_thread(simulator.wait_until_none_open, 1)


async def test_leaving_in_a_thread_closes_the_provider_connection(real_server, simulator):
    def leave():
        with tokenwire.Client(real_server, resumable=True) as client:
            with client.chat_stream(ENDLESS.format("leave-2"), "Hi") as stream:
                next(stream.text)
            return client.get_stream(stream.stream_id)

    info = await asyncio.to_thread(leave)

    assert info.finish_reason == tokenwire.FinishReason.CANCELLED
    await asyncio.to_thread(simulator.wait_until_none_open, 1)


async def test_cancelling_the_reading_task_cancels_the_generation(server, client):
    server.script = plays_then_waits(started())
    reading = asyncio.Event()

    async def read():
        async with client.chat_stream("m", "Hi") as stream:
            await anext(stream)
            reading.set()
            await stream.final()

    task = asyncio.create_task(read())
    await reading.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert server.ended == [STREAM_ID]
    assert not client._transport._background_tasks


async def test_a_task_cancelled_twice_ends_while_the_generation_is_cancelled_in_the_background(
    server, client
):
    came, go_on, reading = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def hold():
        came.set()
        await go_on.wait()

    server.on_cancel = hold
    server.script = plays_then_waits(started())

    async def read():
        async with client.chat_stream("m", "Hi") as stream:
            reading.set()
            await stream.final()

    async with asyncio.timeout(LIMIT_S):
        task = asyncio.create_task(read())
        await reading.wait()
        task.cancel()
        await came.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert server.ended == []
        go_on.set()
        await client.close()  # waits for it
    assert server.ended == [STREAM_ID]


async def test_closing_a_client_waits_for_a_thread_that_cancels_its_generation(server, client):
    came = asyncio.Event()

    async def hold():
        came.set()
        await asyncio.sleep(0.2)

    server.on_cancel = hold
    server.script = plays_then_waits(started())

    def read(other):
        with other.chat_stream("m", "Hi") as stream:
            next(stream)

    with tokenwire.Client(server.target, resumable=True) as other:
        reading = asyncio.create_task(asyncio.to_thread(read, other))
        await came.wait()
        await asyncio.to_thread(other.close)
        await reading
    assert server.ended == [STREAM_ID]


async def test_a_local_timeout_around_the_block_is_raised_as_timeout_error(server, client):
    server.script = plays_then_waits(started())

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1), client.chat_stream("m", "Hi") as stream:
            await stream.final()

    assert server.ended == [STREAM_ID]


async def test_a_deadline_cancels_the_generation_too(server, client):
    server.script = plays_then_waits(started())

    with pytest.raises(tokenwire.DeadlineExceeded):
        async with client.chat_stream("m", "Hi", timeout=0.2) as stream:
            await stream.final()

    assert server.ended == [STREAM_ID]


async def test_leaving_before_the_server_accepts_cancels_the_stream_once_it_is_accepted(
    server, client
):
    go_on, called = asyncio.Event(), asyncio.Event()

    async def script(_request, context):
        called.set()
        await go_on.wait()
        await accept(context)
        await asyncio.Event().wait()

    server.script = script

    async def enter():
        async with client.chat_stream("m", "Hi"):
            pytest.fail("entered")

    task = asyncio.create_task(enter())
    await called.wait()
    task.cancel()
    asyncio.get_running_loop().call_later(0.1, go_on.set)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert server.ended == [STREAM_ID]


@pytest.mark.parametrize("kind", ["asyncio", "threads"])
@pytest.mark.parametrize("is_retry", [False, True])
async def test_a_stream_that_is_cancelled_before_the_server_accepts_it_leaves_no_generation(
    server, client, kind, is_retry
):
    go_on, called = asyncio.Event(), asyncio.Event()

    async def script(request, context):
        if is_retry and len(server.requests) == 1:
            await fails(status(Code.UNAVAILABLE, "DRAINING"))(request, context)
        called.set()
        await go_on.wait()
        await plays_then_waits(started())(request, context)

    server.script = script

    async def enter(stream):
        async with stream:
            pytest.fail("entered")

    def enter_in_a_thread(stream):
        with stream:
            pytest.fail("entered")

    async with asyncio.timeout(LIMIT_S):
        with tokenwire.Client(server.target, resumable=True) as other:
            if kind == "asyncio":
                stream = client.chat_stream("m", "Hi")
                entering = asyncio.create_task(enter(stream))
            else:
                stream = other.chat_stream("m", "Hi")
                entering = asyncio.create_task(asyncio.to_thread(enter_in_a_thread, stream))
            await called.wait()
            stream.cancel()
            asyncio.get_running_loop().call_later(0.1, go_on.set)
            with pytest.raises(tokenwire.Cancelled, match="this client cancelled the call"):
                await entering
    assert server.ended == [STREAM_ID]


async def test_a_stream_that_another_thread_cancels_while_it_starts_is_cancelled(
    server, monkeypatch
):
    server.info, server.script = INFO, plays_then_waits(started())

    def read(target):
        with tokenwire.Client(target, resumable=True) as other:
            stream = other.chat_stream("m", "Hi")
            start = stream._start_call

            def start_call():
                call = start()
                canceller = threading.Thread(target=stream.cancel)
                canceller.start()
                canceller.join()
                return call

            monkeypatch.setattr(stream, "_start_call", start_call)
            with stream:
                pytest.fail("entered")

    with pytest.raises(tokenwire.Cancelled):
        await asyncio.to_thread(read, server.target)
    assert server.ended == [STREAM_ID]


@pytest.mark.usefixtures("short_waits")
async def test_a_stream_that_the_server_never_accepts_is_cancelled_in_bounded_time(server, client):
    called = asyncio.Event()

    async def script(_request, _context):
        called.set()
        await asyncio.Event().wait()

    server.script = script

    async def enter():
        async with stream:
            pytest.fail("entered")

    stream = client.chat_stream("m", "Hi")
    entering = asyncio.create_task(enter())
    await called.wait()
    stream.cancel()
    async with asyncio.timeout(CANCEL_TIMEOUT_S):  # ten times as long as it waits
        with pytest.raises(tokenwire.Cancelled):
            await entering
    assert server.ended == []


@pytest.mark.parametrize(
    "script",
    [
        plays(started(), text(2, "a"), finished(3)),
        fails(status(Code.ABORTED, "UPSTREAM_BROKEN"), started(), text(2, "a")),
        fails(status(Code.NOT_FOUND, "UNKNOWN_MODEL")),
    ],
)
async def test_a_stream_that_has_ended_is_not_cancelled(server, client, script):
    server.script = script

    try:
        async with client.chat_stream("m", "Hi") as stream:
            await stream.final()
    except tokenwire.TokenwireError as error:
        assert error.reason in {"UPSTREAM_BROKEN", "UNKNOWN_MODEL"}

    assert server.ended == []


async def test_leaving_a_stream_resumed_by_hand_does_not_cancel_it(server, client):
    server.resume_scripts = [plays_then_waits(text(5, "a"))]

    async with client.resume(STREAM_ID, 4) as stream:
        await anext(stream)

    assert server.ended == []


@pytest.mark.usefixtures("short_waits")
@pytest.mark.parametrize("gone", ["refused", "silent"])
async def test_leaving_takes_a_bounded_time_if_the_server_is_unreachable(server, gone):
    server.script = plays_then_waits(started())
    async with (
        wire_to(server.target) as wire,
        tokenwire.AsyncClient(wire.target, resumable=True) as client,
    ):
        async with client.chat_stream("m", "Hi") as stream:
            await anext(stream)
            if gone == "refused":
                await wire.down()
            else:
                wire.frozen = True
            began = time.monotonic()
        assert time.monotonic() - began < CANCEL_TIMEOUT_S


@pytest.mark.usefixtures("short_waits")
async def test_leaving_in_a_thread_takes_a_bounded_time_if_the_server_is_unreachable(server):
    server.script = plays_then_waits(started())
    loop = asyncio.get_running_loop()

    def leave(wire):
        with (
            tokenwire.Client(wire.target, resumable=True) as client,
            client.chat_stream("m", "Hi") as stream,
        ):
            next(stream)
            asyncio.run_coroutine_threadsafe(wire.down(), loop).result()
            began = time.monotonic()
        return time.monotonic() - began

    async with wire_to(server.target) as wire:
        assert await asyncio.to_thread(leave, wire) < CANCEL_TIMEOUT_S


async def test_the_generation_is_cancelled_if_the_connection_breaks_while_leaving(server):
    server.info = INFO
    server.script = plays_then_waits(started())
    async with (
        wire_to(server.target) as wire,
        tokenwire.AsyncClient(wire.target, resumable=True) as client,
        client.chat_stream("m", "Hi") as stream,
    ):
        await anext(stream)
        wire.cut()

    assert server.ended == [STREAM_ID]


@pytest.mark.parametrize("kind", ["asyncio", "threads"])
async def test_a_stream_that_is_read_after_its_block_starts_no_call(server, client, kind):
    draining = event(1, notice=Notice(kind=NOTICE_KIND_DRAINING))
    server.script = fails(status(Code.UNAVAILABLE, "SLOW_READER"), started(), draining)
    server.resume_scripts = [plays_then_waits(text(2, "a"))]

    def read():
        with tokenwire.Client(server.target, resumable=True) as other:
            with other.chat_stream("m", "Hi") as stream:
                for _ in range(2):
                    next(stream)
                stream.detach()
            next(stream)

    with pytest.raises(tokenwire.TokenwireError):
        if kind == "threads":
            await asyncio.to_thread(read)
        async with client.chat_stream("m", "Hi") as stream:
            for _ in range(2):
                await anext(stream)
            stream.detach()
        await anext(stream)
    assert server.resumes == []
