"""How both clients resume a stream, at a scripted server."""

import asyncio
import time
from dataclasses import dataclass, field

import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo

import tokenwire
from tokenwire.v1 import chat_pb2
from tokenwire.v1.event_pb2 import NOTICE_KIND_DRAINING, Heartbeat, Notice
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
"""A short linger, so that giving up does not take long."""


@dataclass
class Read:
    """What one reader got, and how long it took."""

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
    """Return a function that reads one resumable stream to its end with one of the clients."""

    async def run(target=server.target, **stream_arguments):
        async with asyncio.timeout(LIMIT_S * 3):
            if request.param == "asyncio":
                return await read_async([target], stream_arguments)
            return await asyncio.to_thread(read_in_thread, [target], stream_arguments)

    return run


@pytest.mark.parametrize("reason", ["DRAINING", "SLOW_READER"])
async def test_draining_and_slow_reader_resume_at_the_readers_own_cursor(server, read, reason):
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


def draining(sequence):
    return event(sequence, notice=Notice(kind=NOTICE_KIND_DRAINING))


async def test_a_stream_moves_when_its_server_drains_but_not_for_ever(server, read):
    server.script = plays_then_waits(started(), text(2, "a"), draining(2))
    server.resume_scripts = [
        plays_then_waits(draining(2)),
        plays_then_waits(draining(2)),
        plays(draining(2), text(3, "b"), finished(4)),
    ]

    got = await read()

    assert got.error is None
    assert got.sequences == [1, 2, 2, 2, 2, 2, 3, 4]
    assert [each.after_sequence for each in server.resumes] == [2, 2, 2]
    assert len(server.requests) == 1


async def test_a_reader_whose_client_was_closed_after_the_notice_gets_cancelled(server):
    server.script = plays_then_waits(started(), draining(1))
    client = tokenwire.AsyncClient(server.target, resumable=True)
    async with client.chat_stream("m", "Hi") as stream:
        await anext(stream)
        await anext(stream)
        await client.close()
        with pytest.raises(tokenwire.Cancelled, match="the client was closed") as caught:
            await anext(stream)
    assert (caught.value.stream_id, caught.value.last_sequence) == (STREAM_ID, 1)
    assert server.resumes == []


async def test_a_stream_that_no_other_server_accepts_is_read_on_where_it_is(server, read):
    refused = asyncio.Event()

    async def refuses(request, context):
        refused.set()
        await fails(status(Code.UNAVAILABLE, "OVERLOADED"))(request, context)

    async def drains(request, context):
        await plays(started(), text(2, "a"), draining(2))(request, context)
        await refused.wait()
        for each in (text(3, "b"), finished(4)):
            await context.write(each)

    server.script = drains
    server.resume_scripts = [refuses]

    got = await read()

    assert got.error is None
    assert got.sequences == [1, 2, 2, 3, 4]
    assert len(server.resumes) == 1


async def test_resuming_ignores_the_sequence_of_heartbeats_and_interval_usage(server, read):
    beat, used = event(5, heartbeat=Heartbeat()), event(5, usage=Usage(output_tokens=1))
    server.script = fails(DRAINING, started(), text(2, "a"), beat, used)
    server.resume_scripts = [fails(DRAINING, beat), plays(text(3, "b"), finished(4))]

    got = await read()

    assert got.sequences == [1, 2, 5, 5, 5, 3, 4]
    assert [each.after_sequence for each in server.resumes] == [2, 2]


async def test_without_a_new_event_within_the_linger_the_last_error_has_the_cursor(server, read):
    server.script = fails(DRAINING, started(), text(2, "a"))
    server.resume_scripts = [fails(DRAINING)]

    got = await read(retention=BRIEF)

    assert type(got.error) is tokenwire.Draining
    assert (got.error.stream_id, got.error.last_sequence) == (STREAM_ID, 2)
    assert len(server.resumes) >= 2
    assert got.took_s < 10 * 0.6
    assert server.ended == []  # the caller can resume it by hand


async def test_a_stream_that_is_not_found_is_not_tried_again(server, read):
    server.script = fails(DRAINING, started(), text(2, "a"))
    server.resume_scripts = [fails(status(Code.NOT_FOUND, "STREAM_NOT_FOUND"))]

    got = await read()

    assert type(got.error) is tokenwire.StreamNotFound
    assert (got.error.stream_id, got.error.last_sequence) == (STREAM_ID, 2)
    assert len(server.resumes) == 1


async def test_dropped_events_are_an_error_and_not_a_gap(server, read):
    held = {"earliest_sequence": "50", "latest_sequence": "90"}
    server.script = fails(status(Code.UNAVAILABLE, "SLOW_READER"), started(), text(2, "a"))
    server.resume_scripts = [
        fails(status(Code.OUT_OF_RANGE, "RESUME_POINT_EXPIRED", metadata=held))
    ]

    got = await read()

    assert got.sequences == [1, 2]
    assert type(got.error) is tokenwire.ResumePointExpired
    assert (got.error.last_sequence, got.error.earliest_sequence) == (2, 50)


async def test_a_failed_stream_is_not_resumed(server, read):
    server.script = fails(status(Code.ABORTED, "UPSTREAM_BROKEN"), started(), text(2, "a"))

    got = await read()

    assert type(got.error) is tokenwire.UpstreamBroken
    assert server.resumes == []


async def test_a_call_that_was_not_accepted_is_not_tried_again(server, read):
    async def script(_request, _context):
        wire.cut()
        await asyncio.Event().wait()

    server.script = script
    async with wire_to(server.target) as wire:
        got = await read(wire.target)

    assert type(got.error) is tokenwire.ConnectionLost
    assert (len(server.requests), server.resumes) == (1, [])


async def test_the_deadline_includes_all_attempts(server, read):
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
    assert remaining[1] < remaining[0] - 0.1  # there was at least one wait between them
    assert server.ended == [STREAM_ID]


async def test_the_deadline_passes_between_attempts(server, read):
    server.script = fails(DRAINING, started())
    server.resume_scripts = [fails(DRAINING)]

    got = await read(timeout=0.5)

    assert type(got.error) is tokenwire.DeadlineExceeded
    assert 0.4 < got.took_s < LIMIT_S


async def test_an_unanswered_attempt_is_given_up_after_the_linger(server, read):
    async def silent(_request, _context):
        await asyncio.Event().wait()

    server.script = fails(DRAINING, started())
    server.resume_scripts = [silent]

    got = await read(retention=BRIEF)

    assert type(got.error) is tokenwire.Draining
    assert len(server.resumes) == 1
    assert 0.5 < got.took_s < LIMIT_S


def cuts_after_two_events(wire, away_s=None):
    """Return a script during which the connection is cut, and works again after `away_s`, or never."""

    async def blink():
        await asyncio.sleep(0.05)  # the events have been sent
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


async def test_after_giving_up_the_stream_can_be_resumed_by_hand(server, read):
    server.resume_scripts = [plays(text(3, "b"), finished(4))]
    async with asyncio.timeout(LIMIT_S * 3), wire_to(server.target) as wire:
        server.script = cuts_after_two_events(wire)
        got = await read(wire.target, retention=BRIEF)

        assert got.took_s < LIMIT_S
        assert type(got.error) is tokenwire.ConnectionLost
        assert got.error.last_sequence == got.stream.last_sequence == 2
        await wire.up()
        async with tokenwire.AsyncClient(wire.target) as client:
            while not server.resumes:  # gRPC waits after a failed connection attempt
                try:
                    async with client.resume(STREAM_ID, got.error.last_sequence) as rest:
                        assert [each.sequence async for each in rest] == [3, 4]
                except tokenwire.ConnectionLost:
                    await asyncio.sleep(0.1)


async def test_the_stream_is_resumed_when_the_connection_works_again(server, read):
    server.resume_scripts = [plays(text(3, "b"), finished(4))]
    async with wire_to(server.target) as wire:
        server.script = cuts_after_two_events(wire, away_s=0.4)
        got = await read(wire.target)

    assert (got.error, got.sequences) == (None, [1, 2, 3, 4])
    assert 0.4 < got.took_s < LIMIT_S


async def test_cancelling_ends_the_wait_for_another_attempt(server):
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


async def test_one_call_can_override_resumable(server):
    server.script = fails(DRAINING, started())

    async with tokenwire.AsyncClient(server.target, resumable=True) as client:
        async with client.chat_stream("m", "Hi", resumable=False) as stream:
            with pytest.raises(tokenwire.Draining):
                await stream.final()

    assert not server.requests[0].HasField("retention")
    assert (server.resumes, server.ended) == ([], [])
