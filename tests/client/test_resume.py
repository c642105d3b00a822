"""Streams that are resumed, looked at, cancelled and deleted by hand, at the real server."""

import asyncio

import grpc
import pytest

import tokenwire
from tokenwire.v1.event_pb2 import FINISH_REASON_CANCELLED, FINISH_REASON_STOP, Heartbeat
from tokenwire_server.simulator.words import generated_text

from .conftest import LIMIT_S, STREAM_ID, event, fails, plays, started, status, text

KEPT = tokenwire.retention("continue", linger_s=20)
TEXT = "".join(generated_text(40))
SHORT = "openai/sim?tokens=40&itl_ms=2"
ENDLESS = "openai/sim?repeat=forever&itl_ms=5"
UNKNOWN = "0" * 32


@pytest.fixture
async def client(real_server):
    async with tokenwire.AsyncClient(real_server) as each:
        yield each


@pytest.fixture
def threads(real_server):
    with tokenwire.Client(real_server) as each:
        yield each


async def read_until(stream, sequence):
    """What an answer's first events say, up to that sequence or the next there is."""
    pieces = []
    async for each in stream:
        pieces.append(each.text.text)
        if each.sequence >= sequence:
            return "".join(pieces)
    raise AssertionError("it ended before")


async def test_what_follows_the_cursor_is_the_rest(client):
    async with client.chat_stream(SHORT, "Hi", retention=KEPT) as stream:
        before = await read_until(stream, 9)

    async with client.resume(stream.stream_id, stream.last_sequence) as rest:
        assert rest.stream_id == stream.stream_id
        assert rest.last_sequence == stream.last_sequence
        answer = await rest.final()

    assert before + answer.message.parts[0].text == TEXT
    assert answer.finished.reason == FINISH_REASON_STOP
    assert answer.stream_id == stream.stream_id
    assert rest.last_sequence == 42


async def test_what_follows_the_cursor_is_the_rest_without_a_loop_too(threads):
    def read():
        with threads.chat_stream(SHORT, "Hi", retention=KEPT) as stream:
            before = next(stream.text)
        with threads.resume(stream.stream_id, stream.last_sequence) as rest:
            answer = rest.final()
        with threads.resume(rest.stream_id, rest.last_sequence) as nothing:
            assert list(nothing) == []
        return before, answer

    before, answer = await asyncio.to_thread(read)

    assert before + answer.message.parts[0].text == TEXT


async def test_from_the_end_of_a_finished_stream_there_is_nothing_and_that_is_no_error(client):
    async with client.chat_stream(SHORT, "Hi", retention=KEPT) as stream:
        await stream.final()

    async with client.resume(stream.stream_id, stream.last_sequence) as rest:
        assert [each async for each in rest] == []
        assert not (await rest.final()).HasField("finished")
    assert rest.last_sequence == stream.last_sequence


async def test_any_number_of_readers_read_one_stream(client):
    async with client.chat_stream(SHORT, "Hi") as stream:
        await anext(stream)

        async def read():
            async with client.resume(stream.stream_id) as other:
                return await other.final()

        answers = await asyncio.gather(stream.final(), read(), read())

    assert [answer.message.parts[0].text for answer in answers] == [TEXT] * 3


async def test_a_resume_is_refused_where_the_block_is_entered(client):
    with pytest.raises(tokenwire.StreamNotFound):
        async with client.resume(UNKNOWN):
            pytest.fail("entered")

    async with client.chat_stream(SHORT, "Hi", retention=KEPT) as stream:
        await stream.final()
    with pytest.raises(tokenwire.ResumePointAhead) as caught:
        async with client.resume(stream.stream_id, 99):
            pytest.fail("entered")
    assert (caught.value.earliest_sequence, caught.value.latest_sequence) == (1, 42)


async def test_a_stream_is_looked_at_cancelled_and_deleted(client):
    async with client.chat_stream(ENDLESS, "Hi") as stream:
        await read_until(stream, 3)
        running = await client.get_stream(stream.stream_id)
        ended = await client.cancel(stream.stream_id)
        answer = await stream.final()
        again = await client.cancel(stream.stream_id)

    assert running.state == tokenwire.StreamState.STREAM_STATE_RUNNING
    assert running.reader_count == 1
    assert ended.state == tokenwire.StreamState.STREAM_STATE_FINISHED
    assert ended.finish_reason == answer.finished.reason == FINISH_REASON_CANCELLED
    assert ended.usage.output_tokens == answer.finished.usage.output_tokens > 0
    assert again.end_time == ended.end_time

    await client.delete(stream.stream_id)
    for call in (client.get_stream, client.cancel, client.delete):
        with pytest.raises(tokenwire.StreamNotFound):
            await call(stream.stream_id)


async def test_a_stream_is_looked_at_cancelled_and_deleted_without_a_loop_too(threads):
    def run():
        with threads.chat_stream(ENDLESS, "Hi") as stream:
            next(stream.text)
            running = threads.get_stream(stream.stream_id)
            ended = threads.cancel(stream.stream_id)
            assert stream.final().finished.reason == FINISH_REASON_CANCELLED
        threads.delete(stream.stream_id)
        with pytest.raises(tokenwire.StreamNotFound):
            threads.resume(stream.stream_id).__enter__()
        return running, ended

    running, ended = await asyncio.to_thread(run)
    assert running.stream_id == ended.stream_id
    assert ended.finish_reason == FINISH_REASON_CANCELLED


async def test_one_request_id_is_one_stream_and_another_request_is_refused(client):
    request_id = "resume-by-hand-1"
    async with client.chat_stream(SHORT, "Hi", retention=KEPT, request_id=request_id) as first:
        answer = await first.final()
    async with client.chat_stream(SHORT, "Hi", retention=KEPT, request_id=request_id) as second:
        assert (await second.final()).message == answer.message
    assert second.stream_id == first.stream_id

    with pytest.raises(tokenwire.RequestIdReused) as caught:
        async with client.chat_stream(SHORT, "Bye", retention=KEPT, request_id=request_id):
            pytest.fail("entered")
    assert caught.value.request_id == request_id


@pytest.mark.parametrize(
    ("asked", "heard"),
    [
        (tokenwire.delivery(heartbeat_s=1), "heartbeat"),
        (tokenwire.delivery(usage_s=1), "usage"),
    ],
)
async def test_what_a_silent_stream_lets_its_reader_hear_moves_no_cursor(client, asked, heard):
    model = "openai/sim?tokens=9&stall_after=3"

    async with asyncio.timeout(LIMIT_S), client.chat_stream(model, "Hi", delivery=asked) as stream:
        async for each in stream:
            if each.WhichOneof("event") == heard:
                break
        info = await client.get_stream(stream.stream_id)

    assert stream.last_sequence == info.last_sequence == 4


# What the real server cannot be made to do at will.


async def test_an_expired_cursor_says_from_where_the_stream_can_be_read(server):
    held = {"earliest_sequence": "50", "latest_sequence": "90"}
    gone = status(grpc.StatusCode.OUT_OF_RANGE, "RESUME_POINT_EXPIRED", metadata=held)
    server.resume_scripts = [fails(gone)]

    async with tokenwire.AsyncClient(server.target) as client:
        with pytest.raises(tokenwire.ResumePointExpired) as caught:
            async with client.resume(STREAM_ID, 7):
                pytest.fail("entered")
    assert caught.value.earliest_sequence == 50
    assert (caught.value.stream_id, caught.value.last_sequence) == (STREAM_ID, 7)


@pytest.mark.parametrize(
    ("after_sequence", "events"),
    [
        (0, []),  # there is always `started`
        (5, [text(6, "half an ans")]),
        (0, [started(), event(1, heartbeat=Heartbeat())]),
    ],
)
async def test_a_resumed_stream_without_its_end_is_never_an_answer(server, after_sequence, events):
    server.resume_scripts = [plays(*events)]

    async with (
        tokenwire.AsyncClient(server.target) as client,
        client.resume(STREAM_ID, after_sequence) as stream,
    ):
        with pytest.raises(tokenwire.IncompleteStream):
            await stream.final()
