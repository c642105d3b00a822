"""Which streams are let in, found, kept and forgotten."""

import asyncio
import gc
import weakref

import pytest
from streams_support import Played, Streams, a_request, raises_failed, read_all, route_to

from tokenwire_server.config import Limits
from tokenwire_server.errors import (
    Overloaded,
    RequestIdReused,
    SlowReader,
    StreamNotFound,
    UpstreamUnavailable,
)
from tokenwire_server.events import FinishReason, Notice, NoticeKind
from tokenwire_server.providers.decode.base import Complete
from tokenwire_server.request import Retention

STOP = Complete(FinishReason.STOP)
KEPT = Retention(log_ttl_s=60.0)


def opened(streams, *steps, **fields):
    """A stream that has begun, played by steps, and its first reader."""
    request = a_request(**fields)
    route = route_to(Played(*steps))
    stream = streams.open(request, route)
    reader = stream.join()
    streams.start(stream)
    return stream, reader


async def ended(streams, *steps, **fields):
    """A stream that has ended, and was read."""
    stream, reader = opened(streams, *(steps or ("some text", STOP)), **fields)
    await read_all(reader)
    return stream


async def test_a_drain_ends_the_moment_the_last_stream_and_the_last_reader_are_gone(streams):
    await asyncio.wait_for(streams.wait_until_idle(), 10)
    stream, first = opened(streams, asyncio.Event(), retention=KEPT)
    second = stream.join()
    waiting = asyncio.create_task(streams.wait_until_idle())
    with first:
        pass
    await asyncio.sleep(0)
    assert not waiting.done()
    with second:
        pass
    await asyncio.wait_for(waiting, 10)
    assert streams.ended_count == 1


async def test_a_slot_is_free_again_when_its_stream_ended():
    async with asyncio.TaskGroup() as tasks:
        streams = Streams(Limits(max_streams=1), tasks)
        _, reader = opened(streams, asyncio.Event())
        with reader, pytest.raises(Overloaded) as caught:
            opened(streams)
        assert caught.value.limit == 1
        await asyncio.wait_for(streams.wait_until_idle(), 10)
        await ended(streams, retention=KEPT)
        await ended(streams, retention=KEPT)


async def test_readers_are_admitted_up_to_their_limit_and_a_refused_one_leaves_nothing():
    async with asyncio.TaskGroup() as tasks:
        streams = Streams(Limits(max_readers=2), tasks)
        stream, reader = opened(streams, asyncio.Event())
        with reader, stream.join():
            with pytest.raises(Overloaded):
                stream.join()
            with pytest.raises(Overloaded):
                opened(streams)
            assert streams.live_count == 1


async def test_an_id_holds_as_much_chance_as_a_key(streams):
    ids = {(await ended(streams)).id for _ in range(1000)}
    assert len(ids) == 1000
    assert min(len(id) for id in ids) * 4 >= 128


async def test_a_stream_is_found_until_its_time_has_passed_and_leaves_nothing(streams):
    stream = await ended(streams, retention=Retention(log_ttl_s=0.05), request_id="r")
    assert streams.find(stream.id) is stream
    async with asyncio.timeout(5):
        while streams.ended_count:
            await asyncio.sleep(0.01)
    with pytest.raises(StreamNotFound):
        streams.find(stream.id)
    assert streams.log_bytes == 0
    again = await ended(streams, request_id="r")
    assert again is not stream


async def test_who_reads_a_stream_when_its_time_passes_reads_on(streams):
    stream, reader = opened(streams, "some text", STOP, retention=Retention(log_ttl_s=0.0))
    await stream.log.wait_sealed()
    async with asyncio.timeout(5):
        while True:
            try:
                streams.find(stream.id)
                await asyncio.sleep(0.01)
            except StreamNotFound:
                break
    assert streams.log_bytes > 0
    assert len(await read_all(reader)) == 3
    assert streams.log_bytes == streams.ended_count == 0


async def test_another_tenant_does_not_find_it(streams):
    stream = await ended(streams, retention=KEPT)
    with pytest.raises(StreamNotFound):
        streams.find(stream.id, "another")


async def test_a_deleted_stream_is_forgotten_and_tells_so_to_who_was_still_reading(streams):
    stream, slow = opened(streams, "some text", STOP, retention=KEPT)
    await stream.log.wait_sealed()
    caught_up = stream.join(stream.log.last_sequence - 1)
    streams.delete(stream)
    with pytest.raises(StreamNotFound):
        streams.find(stream.id)
    with pytest.raises(StreamNotFound):
        await read_all(slow)
    assert (await read_all(caught_up))[-1].reason == FinishReason.STOP
    assert streams.log_bytes == 0


async def test_past_the_total_bound_the_streams_that_ended_first_go_first():
    async with asyncio.TaskGroup() as tasks:
        streams = Streams(Limits(max_total_log_bytes=1 << 20), tasks)
        kept = [await ended(streams, "x" * 100_000, STOP, retention=KEPT) for _ in range(20)]
        found = [stream for stream in kept if not_lost(streams, stream)]
        assert found == kept[-len(found) :]
        assert 5 <= len(found) <= 10
        assert streams.log_bytes <= 1 << 20


def not_lost(streams, stream):
    try:
        return streams.find(stream.id) is stream
    except StreamNotFound:
        return False


async def test_when_live_streams_take_all_the_room_the_next_one_is_refused():
    async with asyncio.TaskGroup() as tasks:
        streams = Streams(Limits(max_total_log_bytes=1 << 20), tasks)
        stream, reader = opened(streams, "x" * (2 << 20), asyncio.Event())
        with reader:
            await reader.take()
            await reader.take()
            assert not stream.log.sealed
            with pytest.raises(Overloaded) as caught:
                opened(streams)
            assert caught.value.limit == 1 << 20
        await asyncio.wait_for(streams.wait_until_idle(), 10)
        await ended(streams)


async def test_a_reader_of_a_stream_that_had_to_go_is_told_so():
    async with asyncio.TaskGroup() as tasks:
        streams = Streams(Limits(max_total_log_bytes=1 << 20), tasks)
        _, slow = opened(streams, "x" * 600_000, STOP, retention=KEPT)
        await asyncio.sleep(0)
        await ended(streams, "x" * 600_000, STOP, retention=KEPT)
        with pytest.raises(SlowReader):
            await read_all(slow)


async def test_a_request_id_attaches_to_the_stream_it_began(streams):
    stream, reader = opened(streams, asyncio.Event(), request_id="r", body_hash=b"1")
    again, second = opened(streams, request_id="r", body_hash=b"1")
    assert again is stream
    assert streams.live_count == 1
    with pytest.raises(RequestIdReused):
        opened(streams, request_id="r", body_hash=b"2")
    with pytest.raises(RequestIdReused):
        opened(streams, request_id="r", body_hash=b"")
    with reader, second:
        assert stream.reader_count == 2
    other, reader = opened(streams, asyncio.Event(), request_id="another", body_hash=b"2")
    assert other is not stream
    with reader:
        pass


@pytest.mark.parametrize("steps", [(), (Notice(NoticeKind.MODEL_CHANGED, "m-2"),)])
async def test_a_request_id_is_free_again_when_nothing_came_of_it(streams, steps):
    failing = (*steps, UpstreamUnavailable("down"))
    _, reader = opened(streams, *failing, request_id="r", retention=KEPT)
    with raises_failed(UpstreamUnavailable):
        await read_all(reader)
    stream = await ended(streams, request_id="r", retention=KEPT, body_hash=b"other")
    again, reader = opened(streams, request_id="r", body_hash=b"other")
    assert again is stream
    with reader:
        pass


async def test_a_request_id_is_free_again_when_its_caller_left_before_the_first_token(streams):
    stream, reader = opened(streams, asyncio.Event(), request_id="r", retention=KEPT)
    with reader:
        await reader.take()
    await asyncio.wait_for(stream.log.wait_sealed(), 10)
    assert stream.log.finished.reason == FinishReason.CANCELLED
    assert await ended(streams, request_id="r") is not stream


async def test_a_request_id_stays_taken_when_its_caller_left_after_the_first_token(streams):
    stream, reader = opened(streams, "some", asyncio.Event(), request_id="r", retention=KEPT)
    with reader:
        while (await reader.take())[-1][0] < 2:
            pass
    await asyncio.wait_for(stream.log.wait_sealed(), 10)
    assert opened(streams, request_id="r")[0] is stream


async def test_a_request_id_stays_taken_when_tokens_were_paid_for(streams):
    stream, reader = opened(
        streams, "some", UpstreamUnavailable("down"), request_id="r", retention=KEPT
    )
    with pytest.raises(Exception, match="down"):
        await read_all(reader)
    assert opened(streams, request_id="r")[0] is stream


async def test_what_ended_keeps_neither_its_producer_nor_the_frames_of_its_failure(streams, caplog):
    caplog.set_level("CRITICAL", "tokenwire_server.routing.attempts")  # records keep errors
    provider = Played("some", UpstreamUnavailable("down"))
    request = a_request(retention=KEPT)
    stream = streams.open(request, route_to(provider))
    for reader in (stream.join(), stream.join()):
        streams.start(stream)
        with pytest.raises(Exception, match="down"):
            await read_all(reader)
    reader = None
    gone = weakref.ref(provider)
    provider = request = None
    await asyncio.sleep(0)
    gc.collect()
    assert gone() is None
    assert stream.usage().output_tokens == 1
