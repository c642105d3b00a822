"""`until_first_content` raises what happens before the answer begins, and loses nothing."""

import asyncio
import gc

import pytest

import tokenwire
from tokenwire.v1 import event_pb2, usage_pb2

from .conftest import (
    LIMIT_S,
    STREAM_ID,
    Code,
    accept,
    caller_left,
    event,
    fails,
    finished,
    plays,
    plays_then_waits,
    reasoning,
    started,
    status,
    text,
    tool_call,
)

CALL_STARTED = event_pb2.ToolCallStarted(index=0, id="c", name="f")
INVALID = event_pb2.InvalidToolCall(index=0, id="c", name="f", arguments_text="{", problem="p")
CONTENT = [
    text(3, "Hi"),
    reasoning(3, "Hm"),
    event(3, tool_call_started=CALL_STARTED),
    event(3, tool_call_delta=event_pb2.ToolCallDelta(arguments_json="{")),
    tool_call(3, "f", "{}"),
    event(3, invalid_tool_call=INVALID),
]
RETRYING = event(2, notice=event_pb2.Notice(kind=event_pb2.NOTICE_KIND_RETRYING, attempt=2))
BEAT = event(2, heartbeat=event_pb2.Heartbeat())
FAILED = status(Code.UNAVAILABLE, "UPSTREAM_UNAVAILABLE")


@pytest.fixture
async def client(server):
    async with tokenwire.AsyncClient(server.target) as each:
        yield each


@pytest.mark.parametrize("content", CONTENT, ids=lambda each: each.WhichOneof("event"))
async def test_it_returns_at_the_first_content_and_the_events_are_still_to_be_read(
    server, client, content
):
    end = finished(4)
    go_on = asyncio.Event()

    async def script(request, context):
        await plays(started(), RETRYING, content)(request, context)
        await go_on.wait()
        await context.write(end)

    server.script = script
    async with asyncio.timeout(LIMIT_S), client.chat_stream("m", "Hi") as stream:
        assert await stream.until_first_content() is stream
        assert (stream.last_sequence, stream.text_so_far) == (0, "")
        assert await anext(stream) == started()
        assert stream.last_sequence == 1
        assert await stream.until_first_content() is stream
        go_on.set()
        assert [each async for each in stream] == [RETRYING, content, end]
        assert await stream.until_first_content() is stream
    assert stream.answer.finish_reason == tokenwire.FinishReason.STOP


async def test_after_content_was_read_it_reads_nothing(server, client):
    server.script = plays_then_waits(started(), text(2, "a"), text(3, "b"))
    async with asyncio.timeout(LIMIT_S), client.chat_stream("m", "Hi") as stream:
        assert await anext(stream.text) == "a"
        await stream.until_first_content()
        assert await anext(stream.text) == "b"


@pytest.mark.parametrize("in_block", [True, False])
async def test_a_failure_before_the_content_is_raised(server, client, in_block):
    server.script = fails(FAILED, started(), RETRYING)
    stream = client.chat_stream("m", "Hi")
    with pytest.raises(tokenwire.UpstreamUnavailable):
        if in_block:
            async with stream:
                await stream.until_first_content()
        else:
            await stream.until_first_content()
    with pytest.raises(RuntimeError, match="only once"):
        await stream.__aenter__()


@pytest.mark.parametrize("in_block", [True, False])
async def test_a_refusal_is_raised(server, client, in_block):
    server.script = fails(status(Code.NOT_FOUND, "UNKNOWN_MODEL"))
    stream = client.chat_stream("m", "Hi")
    with pytest.raises(tokenwire.UnknownModel):
        if in_block:
            async with stream:
                await stream.until_first_content()
        else:
            await stream.until_first_content()


async def test_a_failure_after_the_content_is_raised_when_it_is_read(server, client):
    server.script = fails(status(Code.ABORTED, "UPSTREAM_BROKEN"), started(), text(2, "a"))
    async with client.chat_stream("m", "Hi") as stream:
        await stream.until_first_content()
        assert await anext(stream.text) == "a"
        with pytest.raises(tokenwire.UpstreamBroken) as caught:
            await stream.final()
    assert caught.value.last_sequence == 2


async def test_an_answer_without_content_is_no_failure(server, client):
    closing = asyncio.Event()

    async def script(request, context):
        await plays(started(), finished(2))(request, context)
        await closing.wait()

    server.script = script
    async with asyncio.timeout(LIMIT_S), client.chat_stream("m", "Hi") as stream:
        await stream.until_first_content()
        closing.set()
        assert (await stream.final()).text == ""
    server.resume_scripts = [plays()]
    async with client.resume(STREAM_ID, 9) as rest:
        await rest.until_first_content()
        assert [each async for each in rest] == []


async def test_a_stream_can_be_started_before_its_block_which_ends_it(server, client):
    server.script = plays_then_waits(started(), text(2, "a"))
    async with asyncio.timeout(LIMIT_S):
        stream = await client.chat_stream("m", "Hi").until_first_content()
        assert stream.stream_id == STREAM_ID
        for read in (stream.__anext__, stream.final, stream.text.__anext__):
            with pytest.raises(RuntimeError, match="only inside its block"):
                await read()
        async with stream:
            assert await anext(stream.text) == "a"
        with pytest.raises(RuntimeError, match="only once"):
            await stream.__aenter__()
        assert await caller_left(server)


@pytest.mark.parametrize("resumable", [False, True])
async def test_cancelling_it_before_the_block_ends_the_call(server, client, resumable):
    server.info = tokenwire.StreamInfo(stream_id=STREAM_ID)
    server.script = plays_then_waits(started())
    stream = client.chat_stream("m", "Hi", resumable=resumable)
    task = asyncio.create_task(stream.until_first_content())
    async with asyncio.timeout(LIMIT_S):
        while not server.requests:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await caller_left(server)
    assert server.ended == [STREAM_ID] * resumable


async def test_a_stream_whose_block_is_never_entered_ends_when_it_is_garbage(server, client):
    server.script = plays_then_waits(started(), text(2, "a"))
    stream = await client.chat_stream("m", "Hi").until_first_content()
    del stream
    gc.collect()
    assert await caller_left(server)


async def test_a_broken_connection_before_the_content_is_resumed_and_nothing_is_repeated(server):
    draining = event(5, notice=event_pb2.Notice(kind=event_pb2.NOTICE_KIND_DRAINING))
    beat = event(9, heartbeat=event_pb2.Heartbeat())
    away = status(Code.UNAVAILABLE, "DRAINING")
    server.script = fails(away, started(), event(5, notice=RETRYING.notice), beat)
    server.resume_scripts = [plays_then_waits(draining), plays(text(6, "a"), finished(7))]
    async with tokenwire.AsyncClient(server.target, resumable=True) as client:
        stream = await client.chat_stream("m", "Hi").until_first_content()
        async with stream:
            assert [each.sequence async for each in stream] == [1, 5, 9, 5, 6, 7]
    assert [each.after_sequence for each in server.resumes] == [5, 5]


async def test_the_events_before_the_content_take_bounded_memory(server, client):
    usage = event(2, usage=usage_pb2.Usage(input_tokens=1))
    end = [text(3, "a"), finished(4)]
    server.script = plays(started(), RETRYING, *[BEAT] * 50, *[usage] * 50, *end)
    async with client.chat_stream("m", "Hi") as stream:
        await stream.until_first_content()
        assert [each async for each in stream] == [started(), RETRYING, BEAT, usage, *end]
    server.script = plays(started(), RETRYING, *[BEAT, usage] * 50, *end)
    async with client.chat_stream("m", "Hi") as stream:
        await stream.until_first_content()
        assert [each async for each in stream] == [started(), RETRYING, BEAT, usage, *end]


async def test_a_thread_reads_until_the_first_content_too(server):
    def read(target):
        with tokenwire.Client(target) as client:
            stream = client.chat_stream("m", "Hi").until_first_content()
            with pytest.raises(RuntimeError, match="only inside its block"):
                next(stream)
            with stream:
                first = next(stream)
                return first, next(stream.text)

    server.script = plays_then_waits(started(), text(2, "a"))
    assert await asyncio.to_thread(read, server.target) == (started(), "a")
    assert await caller_left(server)
    server.script = fails(FAILED, started())
    with pytest.raises(tokenwire.UpstreamUnavailable):
        await asyncio.to_thread(read, server.target)


async def test_a_threads_stream_whose_block_is_never_entered_ends_when_it_is_garbage(server):
    server.script = plays_then_waits(started(), text(2, "a"))

    def forget(client):
        client.chat_stream("m", "Hi").until_first_content()
        gc.collect()

    with tokenwire.Client(server.target) as client:
        await asyncio.to_thread(forget, client)
        assert await caller_left(server)


async def test_an_error_of_a_real_server_before_the_content_is_raised_and_the_answer_is_whole(
    real_server,
):
    async with tokenwire.AsyncClient(real_server) as client:
        with pytest.raises(tokenwire.UpstreamRejected):
            await client.chat_stream("openai/sim?status=400", "Hi").until_first_content()
        stream = await client.chat_stream("openai/sim?tokens=20", "Hi").until_first_content()
        async with stream:
            pieces = [piece async for piece in stream.text]
        assert stream.answer.text == "".join(pieces) != ""


async def test_a_call_that_is_accepted_but_never_answered_ends_with_its_deadline(server, client):
    async def script(_request, context):
        await accept(context)
        await asyncio.Event().wait()

    server.script = script
    with pytest.raises(tokenwire.DeadlineExceeded):
        await client.chat_stream("m", "Hi", timeout=0.2).until_first_content()
