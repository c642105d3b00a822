import asyncio
import signal
import sys
import threading
from pathlib import Path

import grpc
import pytest

import tokenwire
from tokenwire.v1 import event_pb2, model_pb2

from ..conftest import (
    LIMIT_S,
    STREAM_ID,
    caller_left,
    event,
    fails,
    finished,
    plays,
    plays_then_waits,
    started,
    status,
    text,
    unknown_event,
)

Code = grpc.StatusCode


@pytest.fixture
def client(server):
    with tokenwire.Client(server.target) as each:
        yield each


def in_thread(function):
    """Run a function in a thread beside the loop of the server."""

    async def run(*arguments):
        return await asyncio.to_thread(function, *arguments)

    return run


async def test_events_text_and_the_whole_answer(server, client):
    events = [started(), text(2, "Hel"), unknown_event(3), text(5, "lo"), finished(6)]
    server.script = plays(*events)

    @in_thread
    def read():
        with client.chat_stream("openai/demo", "Hi") as stream:
            assert stream.stream_id == STREAM_ID
            seen = [event.sequence for event in stream]
            assert stream.last_sequence == 6
        with client.chat_stream("openai/demo", "Hi") as stream:
            assert list(stream.text) == ["Hel", "lo"]
            return seen, stream.final()

    seen, answer = await read()
    assert seen == [1, 2, 3, 5, 6]
    assert [part.text for part in answer.message.parts] == ["Hello"]
    assert answer.stream_id == STREAM_ID


async def test_leaving_the_block_cancels_the_call_while_the_stream_is_referenced(server, client):
    server.script = plays_then_waits(started(), text(2, "a"))

    @in_thread
    def read():
        with client.chat_stream("m", "Hi") as stream:
            for _ in stream:
                break
        return stream

    held = await read()
    assert await caller_left(server)
    assert held.last_sequence == 1


async def test_cancel_by_another_thread_raises_cancelled_in_the_reader(server, client):
    server.script = plays_then_waits(started(), text(2, "a"))

    @in_thread
    def read():
        with client.chat_stream("m", "Hi") as stream:
            assert next(stream.text) == "a"
            threading.Thread(target=stream.cancel).start()
            with pytest.raises(tokenwire.Cancelled) as caught:
                stream.final()
            return caught.value

    error = await read()
    assert error.message == "this client cancelled the call"
    assert (error.stream_id, error.last_sequence) == (STREAM_ID, 2)
    assert await caller_left(server)


async def test_errors_are_the_same_as_in_the_asyncio_client(server, client):
    server.script = fails(status(Code.NOT_FOUND, "UNKNOWN_MODEL"))

    @in_thread
    def refused():
        with pytest.raises(tokenwire.UnknownModel), client.chat_stream("m", "Hi"):
            pytest.fail("entered")
        with pytest.raises(tokenwire.UnknownModel):
            client.chat("m", "Hi")

    await refused()

    server.script = fails(status(Code.ABORTED, "UPSTREAM_BROKEN"), started(), text(2, "a"))

    @in_thread
    def broken():
        with (
            client.chat_stream("m", "Hi") as stream,
            pytest.raises(tokenwire.UpstreamBroken) as caught,
        ):
            stream.final()
        return caught.value

    error = await broken()
    assert (error.stream_id, error.last_sequence) == (STREAM_ID, 2)

    wrong = event_pb2.JsonResult(violations=[event_pb2.JsonViolation(pointer="/a")])
    server.script = fails(
        status(Code.ABORTED, "INVALID_ANSWER"),
        started(),
        text(2, "{}"),
        event(3, json_result=wrong),
    )

    @in_thread
    def invalid():
        with (
            client.chat_stream("m", "Hi") as stream,
            pytest.raises(tokenwire.InvalidAnswer) as caught,
        ):
            stream.final()
        return caught.value

    error = await invalid()
    assert (error.text, [each.field for each in error.violations]) == ("{}", ["/a"])

    server.script = plays(started(), text(2, "a"))

    @in_thread
    def incomplete():
        with client.chat_stream("m", "Hi") as stream, pytest.raises(tokenwire.IncompleteStream):
            stream.final()

    await incomplete()


async def test_a_deadline_that_passes_here_ends_the_call_with_a_named_error(server, client):
    server.script = plays_then_waits(started())

    @in_thread
    def read():
        with (
            client.chat_stream("m", "Hi", timeout=0.2) as stream,
            pytest.raises(tokenwire.DeadlineExceeded, match="the deadline passed"),
        ):
            stream.final()

    await read()
    assert await caller_left(server)


async def test_chat_and_models(server, client):
    whole = tokenwire.ChatResponse(stream_id=STREAM_ID, message=tokenwire.assistant("Hello"))

    async def answer(_request, _context):
        return whole

    server.script = answer
    server.models = [model_pb2.Model(id="a")]

    @in_thread
    def call():
        return client.chat("m", "Hi").response, client.list_models(), client.get_model("a")

    assert await call() == (whole, server.models, server.models[0])


WAIT_TO_ENTER = """
import sys, tokenwire
stream = tokenwire.Client(sys.argv[1]).chat_stream("m", "Hi")
try:
    with stream:
        pass
except KeyboardInterrupt:
    print("interrupted", flush=True)
    sys.stdin.read()  # stay alive with a reference to the stream
"""


async def it_waits(pid):
    """Return when the main thread of a process has not run for a while: it waits for the server.

    The request may be there before the thread that sent it has its call in hand; an interrupt in
    between leaves the call to whoever holds the traceback.
    """
    ran, still = -1, 0
    while still < 3:  # gRPC wakes up every 100 ms
        fields = Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()
        ran, still = fields[0], still + 1 if fields[0] == ran else 0
        await asyncio.sleep(0.02)


@pytest.mark.process
async def test_keyboard_interrupt_before_the_server_accepts_cancels_the_call(server):
    called = asyncio.Event()

    async def silence(_request, _context):
        called.set()
        await asyncio.Event().wait()

    server.script = silence
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", WAIT_TO_ENTER, server.target),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(LIMIT_S):
        await called.wait()
        await it_waits(process.pid)
        process.send_signal(signal.SIGINT)
        assert await process.stdout.readline() == b"interrupted\n"
        assert await caller_left(server)
        await process.communicate(b"")


async def test_closing_the_client_raises_cancelled_in_the_reader(server, client):
    server.script = plays_then_waits(started())

    @in_thread
    def read():
        with client.chat_stream("m", "Hi") as stream:
            next(stream)
            threading.Thread(target=client.close).start()
            with pytest.raises(tokenwire.Cancelled, match="the client was closed"):
                stream.final()

    await read()


async def test_a_closed_client_raises_runtime_error(client):
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.chat("m", "Hi")
    with pytest.raises(RuntimeError, match="closed"), client.chat_stream("m", "Hi"):
        pass
