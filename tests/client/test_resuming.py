"""How both clients come back to a stream, at a server that does what the test says."""

import asyncio
import time
from dataclasses import dataclass, field

import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo

import tokenwire
from tokenwire.v1 import chat_pb2
from tokenwire.v1.event_pb2 import Heartbeat
from tokenwire.v1.usage_pb2 import Usage

from .breakable_wire import wire_to
from .conftest import (
    LIMIT_S,
    STREAM_ID,
    Code,
    event,
    fails,
    finished,
    plays,
    plays_then_waits,
    started,
    status,
    text,
)

DRAINING = status(Code.UNAVAILABLE, "DRAINING")
BRIEF = tokenwire.retention(linger_s=0.6)
"""So that giving up does not take long."""


@dataclass
class Read:
    """What one reader got, and in what time."""

    stream: object
    sequences: list[int] = field(default_factory=list)
    error: Exception | None = None
    took_s: float = 0


async def read_async(client_arguments, stream_arguments):
    async with tokenwire.AsyncClient(*client_arguments, resumable=True) as client:
        read = Read(client.chat_stream("m", "Hi", **stream_arguments))
        began = time.monotonic()
        try:
            async with read.stream as stream:
                async for each in stream:
                    read.sequences.append(each.sequence)
        except tokenwire.TokenwireError as error:
            read.error = error
        read.took_s = time.monotonic() - began
        return read


def read_in_thread(client_arguments, stream_arguments):
    with tokenwire.Client(*client_arguments, resumable=True) as client:
        read = Read(client.chat_stream("m", "Hi", **stream_arguments))
        began = time.monotonic()
        try:
            with read.stream as stream:
                for each in stream:
                    read.sequences.append(each.sequence)
        except tokenwire.TokenwireError as error:
            read.error = error
        read.took_s = time.monotonic() - began
        return read


@pytest.fixture(params=["asyncio", "threads"])
def read(request, server):
    """Reads one resumable stream to its end with one of the clients."""

    async def run(target=server.target, **stream_arguments):
        async with asyncio.timeout(LIMIT_S * 3):
            if request.param == "asyncio":
                return await read_async([target], stream_arguments)
            return await asyncio.to_thread(read_in_thread, [target], stream_arguments)

    return run


@pytest.mark.parametrize("reason", ["DRAINING", "SLOW_READER"])
async def test_a_reader_who_is_sent_away_goes_on_where_he_was(server, read, reason):
    away = status(Code.UNAVAILABLE, reason, metadata={"last_sequence": "90"})
    server.script = fails(away, started(), text(2, "a"))
    full = status(Code.UNAVAILABLE, "OVERLOADED")
    server.resume_scripts = [
        fails(away, text(7, "b")),
        fails(full),
        plays(text(8, "c"), finished(9)),
    ]

    got = await read(delivery=tokenwire.delivery(heartbeat_s=5))

    assert got.error is None
    assert got.sequences == [1, 2, 7, 8, 9]
    assert [each.after_sequence for each in server.resumes] == [2, 7, 7]
    assert {each.stream_id for each in server.resumes} == {STREAM_ID}
    assert server.resumes[0].delivery == tokenwire.delivery(heartbeat_s=5)
    assert got.stream.message.parts[0].text == "abc"
    (request,) = server.requests
    assert request.retention == tokenwire.retention("continue", linger_s=30)
    assert server.ended == []


async def test_what_is_made_for_one_reader_moves_no_cursor(server, read):
    beat, used = event(5, heartbeat=Heartbeat()), event(5, usage=Usage(output_tokens=1))
    server.script = fails(DRAINING, started(), text(2, "a"), beat, used)
    server.resume_scripts = [fails(DRAINING, beat), plays(text(3, "b"), finished(4))]

    got = await read()

    assert got.sequences == [1, 2, 5, 5, 5, 3, 4]
    assert [each.after_sequence for each in server.resumes] == [2, 2]


async def test_nothing_new_for_the_linger_and_the_last_error_says_where_to_go_on(server, read):
    server.script = fails(DRAINING, started(), text(2, "a"))
    server.resume_scripts = [fails(DRAINING)]

    got = await read(retention=BRIEF)

    assert type(got.error) is tokenwire.Draining
    assert (got.error.stream_id, got.error.last_sequence) == (STREAM_ID, 2)
    assert len(server.resumes) >= 2
    assert got.took_s < 10 * 0.6
    assert server.ended == []  # it is the caller's to resume by hand


async def test_a_stream_that_is_gone_is_given_up_at_once(server, read):
    server.script = fails(DRAINING, started(), text(2, "a"))
    server.resume_scripts = [fails(status(Code.NOT_FOUND, "STREAM_NOT_FOUND"))]

    got = await read()

    assert type(got.error) is tokenwire.StreamNotFound
    assert (got.error.stream_id, got.error.last_sequence) == (STREAM_ID, 2)
    assert len(server.resumes) == 1


async def test_what_is_lost_is_an_error_and_no_gap(server, read):
    held = {"earliest_sequence": "50", "latest_sequence": "90"}
    server.script = fails(status(Code.UNAVAILABLE, "SLOW_READER"), started(), text(2, "a"))
    server.resume_scripts = [
        fails(status(Code.OUT_OF_RANGE, "RESUME_POINT_EXPIRED", metadata=held))
    ]

    got = await read()

    assert got.sequences == [1, 2]
    assert type(got.error) is tokenwire.ResumePointExpired
    assert (got.error.last_sequence, got.error.earliest_sequence) == (2, 50)


async def test_the_streams_own_failure_is_no_reason_to_come_back(server, read):
    server.script = fails(status(Code.ABORTED, "UPSTREAM_BROKEN"), started(), text(2, "a"))

    got = await read()

    assert type(got.error) is tokenwire.UpstreamBroken
    assert server.resumes == []


async def test_before_the_server_has_accepted_nothing_is_tried_twice(server, read):
    async def script(_request, _context):
        wire.cut()
        await asyncio.Event().wait()

    server.script = script
    async with wire_to(server.target) as wire:
        got = await read(wire.target)

    assert type(got.error) is tokenwire.ConnectionLost
    assert (len(server.requests), server.resumes) == (1, [])


async def test_the_deadline_is_of_the_whole(server, read):
    remaining = []

    async def script(request, context):
        remaining.append(context.time_remaining())
        await fails(DRAINING, started())(request, context)

    async def resumed(request, context):
        remaining.append(context.time_remaining())
        await plays_then_waits(text(2, "a"))(request, context)

    server.script, server.resume_scripts = script, [fails(DRAINING), fails(DRAINING), resumed]
    server.info = chat_pb2.StreamInfo(stream_id=STREAM_ID)

    got = await read(timeout=1.5)

    assert type(got.error) is tokenwire.DeadlineExceeded
    assert (got.error.stream_id, got.error.last_sequence) == (STREAM_ID, 2)
    assert 1.4 < got.took_s < LIMIT_S
    assert remaining[1] < remaining[0] - 0.1  # at least one wait lies between them
    assert server.ended == [STREAM_ID]


async def test_the_deadline_passes_while_nobody_answers_too(server, read):
    server.script = fails(DRAINING, started())
    server.resume_scripts = [fails(DRAINING)]

    got = await read(timeout=0.5)

    assert type(got.error) is tokenwire.DeadlineExceeded
    assert 0.4 < got.took_s < LIMIT_S


async def test_a_server_that_never_answers_is_waited_for_no_longer_than_the_linger(server, read):
    async def silent(_request, _context):
        await asyncio.Event().wait()

    server.script = fails(DRAINING, started())
    server.resume_scripts = [silent]

    got = await read(retention=BRIEF)

    assert type(got.error) is tokenwire.Draining
    assert len(server.resumes) == 1
    assert 0.5 < got.took_s < LIMIT_S


def cuts_after_two_events(wire, away_s=None):
    """A script during which the wire goes down, and comes up again so much later, or never."""

    async def blink():
        await asyncio.sleep(0.05)  # what was written is on its way
        await wire.down()
        if away_s is not None:
            await asyncio.sleep(away_s)
            await wire.up()

    async def script(request, context):
        await plays(started(), text(2, "a"))(request, context)
        blinking.append(asyncio.create_task(blink()))
        await asyncio.Event().wait()

    blinking = []
    return script


async def test_a_wire_that_stays_cut_is_given_up_and_the_stream_resumed_by_hand(server, read):
    server.resume_scripts = [plays(text(3, "b"), finished(4))]
    async with asyncio.timeout(LIMIT_S * 3), wire_to(server.target) as wire:
        server.script = cuts_after_two_events(wire)
        got = await read(wire.target, retention=BRIEF)

        assert got.took_s < LIMIT_S
        assert type(got.error) is tokenwire.ConnectionLost
        assert got.error.last_sequence == got.stream.last_sequence == 2
        await wire.up()
        async with tokenwire.AsyncClient(wire.target) as client:
            while not server.resumes:  # gRPC waits a little after a failed connect
                try:
                    async with client.resume(STREAM_ID, got.error.last_sequence) as rest:
                        assert [each.sequence async for each in rest] == [3, 4]
                except tokenwire.ConnectionLost:
                    await asyncio.sleep(0.1)


async def test_a_wire_that_comes_back_is_found_again(server, read):
    server.resume_scripts = [plays(text(3, "b"), finished(4))]
    async with wire_to(server.target) as wire:
        server.script = cuts_after_two_events(wire, away_s=1)
        got = await read(wire.target)

    assert (got.error, got.sequences) == (None, [1, 2, 3, 4])
    assert 1 < got.took_s < LIMIT_S


async def test_cancelling_or_closing_ends_the_waiting_for_another_attempt(server):
    retry = RetryInfo(retry_delay=Duration(seconds=20))
    server.script = fails(DRAINING, started())
    server.resume_scripts = [fails(status(Code.UNAVAILABLE, "OVERLOADED", more=[retry]))]

    async with asyncio.timeout(LIMIT_S):
        async with tokenwire.AsyncClient(server.target, resumable=True) as client:
            async with client.chat_stream("m", "Hi") as stream:
                reader = asyncio.create_task(stream.final())
                while not server.resumes:
                    await asyncio.sleep(0.01)
                stream.cancel()
                with pytest.raises(tokenwire.Cancelled):
                    await reader

        def in_thread():
            with tokenwire.Client(server.target, resumable=True) as client:
                with client.chat_stream("m", "Hi") as stream:
                    loop.call_soon_threadsafe(entered.set_result, stream)
                    with pytest.raises(tokenwire.Cancelled):
                        stream.final()

        loop = asyncio.get_running_loop()
        entered = loop.create_future()
        seen = len(server.resumes)
        thread = asyncio.create_task(asyncio.to_thread(in_thread))
        stream = await entered
        while len(server.resumes) == seen:
            await asyncio.sleep(0.01)
        stream.cancel()
        await thread
    assert server.ended == [STREAM_ID] * 2


async def test_one_call_can_switch_it_off(server):
    server.script = fails(DRAINING, started())

    async with tokenwire.AsyncClient(server.target, resumable=True) as client:
        async with client.chat_stream("m", "Hi", resumable=False) as stream:
            with pytest.raises(tokenwire.Draining):
                await stream.final()

    assert not server.requests[0].HasField("retention")
    assert (server.resumes, server.ended) == ([], [])
