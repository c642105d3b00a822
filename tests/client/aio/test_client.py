import asyncio
import gc

import grpc
import pytest

import tokenwire
from tokenwire.v1 import event_pb2, model_pb2

from ..conftest import (
    LIMIT_S,
    STREAM_ID,
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
    unknown_event,
)

Code = grpc.StatusCode


async def test_events_are_read_in_order_until_finished(server, client):
    events = [started(), text(2, "Hel"), text(5, "lo"), finished(6)]
    server.script = plays(*events)

    async with client.chat_stream("openai/demo", "Hi") as stream:
        assert stream.stream_id == STREAM_ID
        assert stream.last_sequence == 0
        assert [event async for event in stream] == events

    assert stream.last_sequence == 6
    assert server.requests[0].messages[0].parts[0].text == "Hi"


async def test_an_event_is_returned_before_the_next_is_sent(server, client):
    go_on = asyncio.Event()

    async def script(_request, context):
        await accept(context)
        await context.write(text(1, "first"))
        await go_on.wait()
        await context.write(finished(2))

    server.script = script
    async with asyncio.timeout(LIMIT_S), client.chat_stream("m", "Hi") as stream:
        assert await anext(stream.text) == "first"
        go_on.set()
        await stream.final()


async def test_text_returns_only_the_pieces_of_text(server, client):
    phase = event(3, text=event_pb2.TextDelta(index=1, phase=event_pb2.TEXT_PHASE_FINAL_ANSWER))
    pieces = [text(4, "a", 1), text(5, "b", 1)]
    server.script = plays(started(), reasoning(2, "Hm"), phase, *pieces, finished(6))

    async with client.chat_stream("m", "Hi") as stream:
        assert [piece async for piece in stream.text] == ["a", "b"]
        assert (await stream.final()).finished == finished(5).finished


async def test_final_gives_the_whole_answer_even_of_what_was_read_before(server, client):
    server.script = plays(started(), text(2, "Hel"), text(3, "lo"), finished(4))

    async with client.chat_stream("m", "Hi") as stream:
        assert await anext(stream.text) == "Hel"
        answer = await stream.final()

    assert answer.stream_id == STREAM_ID
    assert [part.text for part in answer.message.parts] == ["Hello"]
    assert answer.finish_reason is tokenwire.FinishReason.STOP


async def test_an_unknown_event_is_passed_and_counted_and_is_no_text(server, client):
    server.script = plays(started(), unknown_event(7), text(8, "a"), finished(9))

    async with client.chat_stream("m", "Hi") as stream:
        kinds = [(event.sequence, event.WhichOneof("event")) async for event in stream]

    assert kinds == [(1, "started"), (7, None), (8, "text"), (9, "finished")]

    server.script = fails(status(Code.ABORTED, "UPSTREAM_BROKEN"), started(), unknown_event(7))
    async with client.chat_stream("m", "Hi") as stream:
        with pytest.raises(tokenwire.UpstreamBroken):
            await stream.final()
    assert stream.last_sequence == 7


async def test_leaving_the_block_cancels_the_call_while_the_stream_is_referenced(server, client):
    server.script = plays_then_waits(started(), text(2, "a"))

    async with client.chat_stream("m", "Hi") as stream:
        async for _ in stream:
            break

    assert await caller_left(server)
    assert stream.last_sequence == 1


async def test_leaving_by_an_exception_cancels_the_call(server, client):
    server.script = plays_then_waits(started())

    with pytest.raises(ZeroDivisionError):
        async with client.chat_stream("m", "Hi") as stream:
            await anext(stream)
            raise ZeroDivisionError

    assert await caller_left(server)


async def test_cancelling_the_reading_task_cancels_the_call_and_raises_cancelled_error(
    server, client
):
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
    assert await caller_left(server)


async def test_cancelling_a_task_that_waits_to_enter_cancels_the_call(server, client):
    called = asyncio.Event()

    async def script(_request, _context):
        called.set()
        await asyncio.Event().wait()

    server.script = script

    async def enter():
        async with client.chat_stream("m", "Hi"):
            pytest.fail("never accepted")

    task = asyncio.create_task(enter())
    await called.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await caller_left(server)


async def test_a_local_timeout_around_the_block_is_raised_as_timeout_error(server, client):
    server.script = plays_then_waits(started())

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(None) as limit, client.chat_stream("m", "Hi") as stream:
            await anext(stream)  # the server has received the call
            limit.reschedule(asyncio.get_running_loop().time() + 0.05)
            await stream.final()

    assert await caller_left(server)


async def test_cancel_raises_cancelled_in_the_reader(server, client):
    server.script = plays_then_waits(started(), text(2, "a"))

    async with client.chat_stream("m", "Hi") as stream:
        await anext(stream)
        await anext(stream)
        asyncio.get_running_loop().call_soon(stream.cancel)
        for _ in range(2):  # the second read fails too
            with pytest.raises(tokenwire.Cancelled) as caught:
                await anext(stream)

    assert caught.value.message == "this client cancelled the call"
    assert (caught.value.stream_id, caught.value.last_sequence) == (STREAM_ID, 2)
    assert stream.message.parts[0].text == "a"
    assert await caller_left(server)


async def test_closing_the_client_raises_cancelled_in_the_reader(server):
    server.script = plays_then_waits(started())
    client = tokenwire.AsyncClient(server.target)

    async with client.chat_stream("m", "Hi") as stream:
        await anext(stream)
        reader = asyncio.create_task(anext(stream))
        await asyncio.sleep(0)
        await client.close()
        with pytest.raises(tokenwire.Cancelled, match="the client was closed"):
            await reader

    await client.close()
    with pytest.raises(RuntimeError, match="closed"):
        await client.chat("m", "Hi")


@pytest.mark.parametrize("resumed", [False, True])
async def test_closing_the_client_ends_streams_that_are_not_being_read(server, resumed):
    server.script = plays_then_waits(started())
    server.resume_scripts = [plays_then_waits(text(5, "a"))]
    client = tokenwire.AsyncClient(server.target)

    async with client.resume(STREAM_ID, 4) if resumed else client.chat_stream("m", "Hi") as stream:
        await anext(stream)
        await client.close()
        assert await caller_left(server)


async def test_a_client_does_not_keep_streams_that_have_ended(server, client):
    server.script = plays(started(), text(2, "a"), finished(3))

    async with client.chat_stream("m", "Hi") as stream:
        await stream.final()
        assert len(client._transport._open_calls) == 1

    del stream
    async with asyncio.timeout(LIMIT_S):
        while client._transport._open_calls:
            await asyncio.sleep(0)
            gc.collect()


async def test_chat_returns_the_whole_answer_and_cancelling_it_cancels_the_call(server, client):
    whole = tokenwire.ChatResponse(stream_id=STREAM_ID, message=tokenwire.assistant("Hello"))

    async def answer(_request, _context):
        return whole

    server.script = answer
    answer = await client.chat("m", "Hi", generation={"temperature": 0})
    assert (answer.response, answer.text) == (whole, "Hello")
    assert server.requests[0].generation.HasField("temperature")

    called = asyncio.Event()

    async def silence(_request, _context):
        called.set()
        await asyncio.Event().wait()

    server.script = silence
    task = asyncio.create_task(client.chat("m", "Hi"))
    await called.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await caller_left(server)


async def test_models_are_listed_and_looked_up(server, client):
    server.models = [model_pb2.Model(id="a"), model_pb2.Model(id="b", provider="openai")]

    assert await client.list_models() == server.models
    assert (await client.get_model("b")).provider == "openai"
    with pytest.raises(tokenwire.UnknownModel) as caught:
        await client.get_model("c")
    assert caught.value.metadata["nearest"] == "a,b"


async def test_a_stream_is_read_only_inside_its_block_and_entered_once(server, client):
    stream = client.chat_stream("m", "Hi")
    with pytest.raises(RuntimeError, match="inside"):
        await anext(stream)
    stream.cancel()  # not entered yet: no effect

    server.script = plays(finished(1))
    async with stream:
        await stream.final()
        await stream.final()  # a second call returns the same answer
    with pytest.raises(RuntimeError, match="once"):
        async with stream:
            pass


async def test_the_default_target_comes_from_the_environment(monkeypatch):
    monkeypatch.delenv("TOKENWIRE_TARGET", raising=False)
    assert tokenwire.AsyncClient().target == "127.0.0.1:50051"
    monkeypatch.setenv("TOKENWIRE_TARGET", "gateway:1234")
    assert tokenwire.AsyncClient().target == "gateway:1234"
    assert tokenwire.AsyncClient("other:1").target == "other:1"
