import asyncio
import contextlib
import socket

import grpc
import pytest

import tokenwire
from tokenwire.v1 import model_pb2

from .conftest import (
    LIMIT_S,
    STREAM_ID,
    accept,
    caller_left,
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


@pytest.fixture
async def client(server):
    async with tokenwire.AsyncClient(server.target) as each:
        yield each


async def test_events_come_in_order_and_the_block_ends_after_finished(server, client):
    events = [started(), text(2, "Hel"), text(5, "lo"), finished(6)]
    server.script = plays(*events)

    async with client.chat_stream("openai/demo", "Hi") as stream:
        assert stream.stream_id == STREAM_ID
        assert stream.last_sequence == 0
        assert [event async for event in stream] == events

    assert stream.last_sequence == 6
    assert server.requests[0].messages[0].parts[0].text == "Hi"


async def test_an_event_is_there_before_the_next_is_sent(server, client):
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


async def test_text_gives_the_pieces_of_text_alone(server, client):
    server.script = plays(started(), reasoning(2, "Hm"), text(3, "a"), text(4, "b"), finished(5))

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
    assert answer.finished.reason == tokenwire.FinishReason.FINISH_REASON_STOP


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


async def test_breaking_out_cancels_the_call_while_the_stream_is_still_held(server, client):
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


async def test_cancelling_the_reading_task_cancels_the_call_and_stays_a_cancellation(
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


async def test_a_local_timeout_around_the_reading_stays_a_timeout(server, client):
    server.script = plays_then_waits(started())

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05), client.chat_stream("m", "Hi") as stream:
            await stream.final()

    assert await caller_left(server)


async def test_cancel_from_elsewhere_wakes_the_reader_with_a_named_error(server, client):
    server.script = plays_then_waits(started(), text(2, "a"))

    async with client.chat_stream("m", "Hi") as stream:
        await anext(stream)
        await anext(stream)
        asyncio.get_running_loop().call_soon(stream.cancel)
        for _ in range(2):  # and stays ended
            with pytest.raises(tokenwire.Cancelled) as caught:
                await anext(stream)

    assert (caught.value.stream_id, caught.value.last_sequence) == (STREAM_ID, 2)
    assert stream.message.parts[0].text == "a"
    assert await caller_left(server)


async def test_closing_the_client_ends_its_streams_with_a_named_error(server):
    server.script = plays_then_waits(started())
    client = tokenwire.AsyncClient(server.target)

    async with client.chat_stream("m", "Hi") as stream:
        await anext(stream)
        reader = asyncio.create_task(anext(stream))
        await asyncio.sleep(0)
        await client.close()
        with pytest.raises(tokenwire.Cancelled):
            await reader

    await client.close()
    with pytest.raises(RuntimeError, match="closed"):
        await client.chat("m", "Hi")


async def test_a_refusal_is_raised_where_the_block_is_entered(server, client):
    server.script = fails(status(Code.NOT_FOUND, "UNKNOWN_MODEL", metadata={"nearest": "a"}))

    with pytest.raises(tokenwire.UnknownModel) as caught:
        async with client.chat_stream("m", "Hi"):
            pytest.fail("entered")

    assert caught.value.metadata == {"nearest": "a"}


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (Code.INVALID_ARGUMENT, "INVALID_REQUEST", tokenwire.InvalidRequest),
        (Code.NOT_FOUND, "UNKNOWN_MODEL", tokenwire.UnknownModel),
        (Code.UNAVAILABLE, "OVERLOADED", tokenwire.Overloaded),
        (Code.INVALID_ARGUMENT, "UPSTREAM_REJECTED", tokenwire.UpstreamRejected),
        (Code.FAILED_PRECONDITION, "UPSTREAM_AUTH", tokenwire.UpstreamAuth),
        (Code.UNAVAILABLE, "UPSTREAM_RATE_LIMITED", tokenwire.UpstreamRateLimited),
        (Code.UNAVAILABLE, "UPSTREAM_UNAVAILABLE", tokenwire.UpstreamUnavailable),
        (Code.ABORTED, "UPSTREAM_BROKEN", tokenwire.UpstreamBroken),
        (Code.ABORTED, "UPSTREAM_STALLED", tokenwire.UpstreamStalled),
        (Code.DEADLINE_EXCEEDED, "DEADLINE", tokenwire.DeadlineExceeded),
        (Code.UNAVAILABLE, "SLOW_READER", tokenwire.SlowReader),
        (Code.UNAVAILABLE, "SERVER_STOPPED", tokenwire.ServerStopped),
        (Code.INTERNAL, "INTERNAL", tokenwire.InternalError),
        (Code.DATA_LOSS, "FROM_THE_FUTURE", tokenwire.TokenwireError),
    ],
)
async def test_each_reason_comes_over_the_wire_as_its_class(server, client, code, reason, kind):
    server.script = fails(status(code, reason), started(), text(2, "a"))

    async with client.chat_stream("m", "Hi") as stream:
        with pytest.raises(tokenwire.TokenwireError) as caught:
            await stream.final()

    assert type(caught.value) is kind
    assert (caught.value.code, caught.value.reason) == (code, reason)
    assert (caught.value.stream_id, caught.value.last_sequence) == (STREAM_ID, 2)

    server.script = fails(status(code, reason))
    with pytest.raises(kind):
        await client.chat("m", "Hi")


async def test_everything_sent_before_an_error_is_read_before_it(server, client):
    count = 2000
    events = [text(sequence, "x" * 50) for sequence in range(1, count + 1)]
    all_written = asyncio.Event()

    async def script(request, context):
        await plays(*events)(request, context)
        all_written.set()
        await context.abort_with_status(status(Code.ABORTED, "UPSTREAM_BROKEN"))

    server.script = script
    async with client.chat_stream("m", "Hi") as stream:
        async with asyncio.timeout(LIMIT_S):
            await all_written.wait()
        with pytest.raises(tokenwire.UpstreamBroken):
            await stream.final()

    assert stream.last_sequence == count


async def test_a_deadline_that_passes_here_is_named_and_ends_the_call(server, client):
    server.script = plays_then_waits(started(), text(2, "a"))

    async with client.chat_stream("m", "Hi", timeout=0.2) as stream:
        with pytest.raises(tokenwire.DeadlineExceeded) as caught:
            await stream.final()

    assert caught.value.code is Code.DEADLINE_EXCEEDED
    assert (caught.value.stream_id, caught.value.last_sequence) == (STREAM_ID, 2)
    assert await caller_left(server)


async def test_the_deadline_reaches_the_server(server, client):
    remaining = []

    async def script(request, context):
        remaining.append(context.time_remaining())
        await plays(finished(1))(request, context)

    server.script = script
    async with client.chat_stream("m", "Hi", timeout=30) as stream:
        await stream.final()

    assert 20 < remaining[0] < 31  # gRPC rounds up


async def test_a_stream_without_its_end_is_never_an_answer(server, client):
    server.script = plays(started(), text(2, "half an ans"))

    async with client.chat_stream("m", "Hi") as stream:
        with pytest.raises(tokenwire.IncompleteStream) as caught:
            await stream.final()

    assert caught.value.last_sequence == 2
    assert stream.message.parts[0].text == "half an ans"


async def test_an_answer_that_finished_is_kept_whatever_follows_it(server, client):
    server.script = fails(status(Code.UNAVAILABLE, "SERVER_STOPPED"), started(), finished(2))

    async with client.chat_stream("m", "Hi") as stream:
        assert (await stream.final()).HasField("finished")


async def test_nobody_there_is_connection_lost():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{unused.getsockname()[1]}"
        async with tokenwire.AsyncClient(target) as client:
            with pytest.raises(tokenwire.ConnectionLost) as caught:
                await client.chat("m", "Hi")
            with pytest.raises(tokenwire.ConnectionLost):
                async with client.chat_stream("m", "Hi"):
                    pytest.fail("entered")

    assert (caught.value.code, caught.value.reason) == (Code.UNAVAILABLE, "")


@contextlib.asynccontextmanager
async def relay_to(target):
    """A relay of one connection, and the event that makes it discard all it gets from then on."""
    frozen = asyncio.Event()
    connected = asyncio.get_running_loop().create_future()

    async def copy(reader, writer):
        while data := await reader.read(65536):
            if not frozen.is_set():
                writer.write(data)
                await writer.drain()

    async def relay():
        down, up = await connected, await asyncio.open_connection(*target.split(":"))
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(copy(down[0], up[1]))
                both.create_task(copy(up[0], down[1]))
        finally:
            for _, writer in (down, up):
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()

    def accepted(reader, writer):
        connected.set_result((reader, writer))

    async with await asyncio.start_server(accepted, "127.0.0.1", 0) as listener:
        task = asyncio.create_task(relay())
        yield f"127.0.0.1:{listener.sockets[0].getsockname()[1]}", frozen
        listener.close()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, ExceptionGroup):
            await task


async def test_a_server_that_falls_silent_on_the_wire_is_found_by_keepalive(server):
    server.script = plays_then_waits(started())
    fast = [
        ("grpc.keepalive_time_ms", 300),
        ("grpc.http2.ping_timeout_ms", 300),
        ("grpc.http2.bdp_probe", 0),  # its pings would find it too, in a stream with traffic
    ]

    async with (
        asyncio.timeout(LIMIT_S),
        relay_to(server.target) as (target, frozen),
        tokenwire.AsyncClient(target, options=fast) as client,
        client.chat_stream("m", "Hi") as stream,
    ):
        await anext(stream)
        frozen.set()
        with pytest.raises(tokenwire.ConnectionLost) as caught:
            await anext(stream)

    assert (caught.value.stream_id, caught.value.last_sequence) == (STREAM_ID, 1)


async def test_chat_gives_the_whole_answer_and_leaving_it_cancels(server, client):
    whole = tokenwire.ChatResponse(stream_id=STREAM_ID, message=tokenwire.assistant("Hello"))

    async def answer(_request, _context):
        return whole

    server.script = answer
    assert await client.chat("m", "Hi", generation={"temperature": 0}) == whole
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
    stream.cancel()  # nothing has begun: no effect

    server.script = plays(finished(1))
    async with stream:
        await stream.final()
        await stream.final()  # the end stays the end
    with pytest.raises(RuntimeError, match="once"):
        async with stream:
            pass


async def test_the_target_comes_from_the_environment_when_none_is_given(monkeypatch):
    monkeypatch.delenv("TOKENWIRE_TARGET", raising=False)
    assert tokenwire.AsyncClient().target == "127.0.0.1:50051"
    monkeypatch.setenv("TOKENWIRE_TARGET", "gateway:1234")
    assert tokenwire.AsyncClient().target == "gateway:1234"
    assert tokenwire.AsyncClient("other:1").target == "other:1"
