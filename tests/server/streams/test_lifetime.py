"""What a stream leaves behind when it has ended, and what it does not."""

import asyncio
import gc
import time
import weakref

import pytest
from streams_support import Played, Streams, a_request, raises_failed, read_all, route_to

from tokenwire_server.config import Limits
from tokenwire_server.errors import StreamNotFound, UpstreamUnavailable
from tokenwire_server.events import Finished, FinishReason, Started, Timings, Usage
from tokenwire_server.providers.decode.base import Complete
from tokenwire_server.request import CacheUse, Retention
from tokenwire_server.streams.handle import StreamHandle

KiB = 1024
STOP = Complete(FinishReason.STOP)
KEPT = Retention(log_ttl_s=60.0)
FINISHED = Finished(
    reason=FinishReason.STOP,
    model="m",
    provider="p",
    usage=Usage(input_tokens=1, output_tokens=2),
    timings=Timings(duration_s=1.0),
)


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


async def is_gone(id):
    """Whether nothing keeps a stream any more, soon."""
    began = time.monotonic()
    while any(isinstance(kept, StreamHandle) and kept.id == id for kept in gc.get_objects()):
        if time.monotonic() - began > 5:
            return False
        await asyncio.sleep(0.01)
        gc.collect()
    return True


async def test_who_comes_too_late_to_cancel_leaves_the_closing_of_the_upstream_alone(streams):
    closing = asyncio.Event()
    provider = Played("text", STOP, closing=closing)
    request = a_request(retention=KEPT)
    stream = streams.open(request, route_to(provider))
    with stream.join():
        streams.start(stream)
        await asyncio.wait_for(stream.log.wait_sealed(), 5)
        (producer,) = (task for task in asyncio.all_tasks() if stream.id in task.get_name())
        stream.cancel()
        streams.stop_all()
        assert not producer.cancelling()
        closing.set()
        await asyncio.wait_for(provider.closed.wait(), 5)


@pytest.mark.parametrize("leaves_first", [True, False])
async def test_a_stream_that_may_go_on_for_long_is_not_kept_for_that_once_it_ended(
    streams, leaves_first
):
    going_on = asyncio.Event()
    steps = (going_on, "text", STOP)
    stream, reader = opened(streams, *steps, retention=Retention(linger_s=600.0))
    await asyncio.sleep(0.01)
    if leaves_first:
        with reader:
            pass
        going_on.set()
        await stream.log.wait_sealed()
    else:
        going_on.set()
        await read_all(reader)
    id = stream.id
    del stream, reader
    assert await is_gone(id)
    assert streams.ended_count == streams.log_bytes == 0


async def test_a_deleted_stream_is_not_kept_for_the_time_it_might_have_been_read(streams):
    stream = await ended(streams, retention=Retention(log_ttl_s=3600.0))
    id = stream.id
    streams.delete(stream)
    del stream
    assert await is_gone(id)


async def test_a_stream_that_is_kept_does_not_keep_its_producer(streams):
    stream, reader = opened(streams, "text", STOP, retention=KEPT)
    (task,) = (t for t in asyncio.all_tasks() if stream.id in t.get_name())
    await read_all(reader)
    assert task.done()
    kept = weakref.ref(task)
    del task
    await asyncio.sleep(0)
    gc.collect()
    assert kept() is None
    assert streams.find(stream.id) is stream


async def test_a_stream_that_has_ended_is_not_produced_again(streams):
    stream = await ended(streams, retention=KEPT, request_id="r", cache=CacheUse(b"k", 60.0, True))
    unasked = Played("again", STOP)
    for fields in ({"request_id": "r"}, {"cache": CacheUse(b"k", 60.0, True)}):
        request = a_request(**fields)
        attached = streams.open(request, route_to(unasked))
        reader = attached.join()
        streams.start(attached)
        assert len(await read_all(reader)) == 3
        assert (attached is stream) == ("request_id" in fields)
    for _ in range(3):
        await asyncio.sleep(0)
    assert unasked.opened == 0


async def test_a_stream_says_when_it_ended(streams):
    before = time.time()
    stream, reader = opened(streams, "text", STOP, retention=KEPT)
    assert stream.end_time is None
    await read_all(reader)
    assert before - 1 <= stream.created_time <= stream.end_time <= time.time() + 1


async def test_a_drain_waits_for_who_still_reads_a_stream_that_has_ended(streams):
    stream, reader = opened(streams, "text", STOP, retention=KEPT)
    await stream.log.wait_sealed()
    waiting = asyncio.create_task(streams.wait_until_idle())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    await read_all(reader)
    await asyncio.wait_for(waiting, 5)
    with stream.join():
        waiting = asyncio.create_task(streams.wait_until_idle())
        await asyncio.sleep(0.01)
        assert not waiting.done()
    await asyncio.wait_for(waiting, 5)


async def test_who_leaves_a_stream_whose_time_has_passed_leaves_it_to_the_others(streams):
    stream, first = opened(streams, "some text", STOP, retention=Retention(log_ttl_s=0.0))
    second = stream.join()
    await stream.log.wait_sealed()
    await asyncio.sleep(0.01)
    with pytest.raises(StreamNotFound):
        streams.find(stream.id)
    with first:
        pass
    assert len(await read_all(second)) == 3
    assert streams.ended_count == streams.log_bytes == 0


async def test_a_drain_waits_for_a_stream_that_goes_on_without_readers(streams):
    going_on = asyncio.Event()
    _, reader = opened(streams, going_on, STOP, retention=Retention(linger_s=60.0))
    with reader:
        pass
    waiting = asyncio.create_task(streams.wait_until_idle())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    going_on.set()
    await asyncio.wait_for(waiting, 5)


async def test_what_failed_does_not_take_its_id_from_who_has_it_now(streams):
    first, reader = opened(streams, UpstreamUnavailable("down"), request_id="r", retention=KEPT)
    with raises_failed(UpstreamUnavailable):
        await read_all(reader)
    second = await ended(streams, request_id="r", retention=KEPT)
    streams.delete(first)
    again, reader = opened(streams, request_id="r")
    assert again is second
    with reader:
        pass


async def test_a_stream_that_is_kept_longer_leaves_its_request_id_to_a_newer_stream(streams):
    first, reader = opened(
        streams, "text", STOP, request_id="r", retention=Retention(log_ttl_s=0.0)
    )
    await first.log.wait_sealed()
    await asyncio.sleep(0.01)
    newer = await ended(streams, request_id="r", retention=KEPT)

    streams.keep_readable(first)
    with reader:
        pass

    assert streams.find(first.id) is first
    again, reader = opened(streams, request_id="r")
    with reader:
        assert again is newer
    assert len(await read_all(first.join())) == 3


async def test_keeping_a_stream_longer_neither_restores_nor_shortens_anything(streams):
    deleted = await ended(streams, retention=KEPT)
    streams.delete(deleted)
    streams.keep_readable(deleted)
    with pytest.raises(StreamNotFound):
        streams.find(deleted.id)

    kept = await ended(streams, retention=Retention(log_ttl_s=3600.0))
    streams.keep_readable(kept)
    assert kept.retention.log_ttl_s == 3600.0


async def test_an_answer_without_a_token_is_an_answer_and_keeps_its_id(streams):
    stream = await ended(streams, STOP, request_id="r", retention=KEPT)
    assert stream.log.last_sequence == 2
    assert (await ended(streams, request_id="r")) is stream


async def test_as_many_small_streams_go_as_a_large_one_needs():
    async with asyncio.TaskGroup() as tasks:
        streams = Streams(Limits(max_total_log_bytes=1 << 20), tasks)
        while True:
            before = streams.ended_count
            await ended(streams, retention=KEPT)
            if streams.ended_count == before:  # from here on one goes for one that comes
                break
        _, reader = opened(streams, "x" * 500 * KiB, asyncio.Event())
        with reader:
            await reader.take()
            await reader.take()
            assert streams.log_bytes <= 1 << 20
            assert streams.ended_count < before * 0.6


async def test_what_ended_beside_a_stream_that_outgrew_the_room_goes_when_a_new_one_comes():
    async with asyncio.TaskGroup() as tasks:
        streams = Streams(Limits(max_total_log_bytes=1 << 20), tasks)
        huge, reader = opened(streams, "x" * (2 << 20), STOP, retention=KEPT)
        await read_all(reader)
        assert streams.log_bytes > 1 << 20
        await ended(streams, retention=KEPT)
        assert huge.log.earliest_sequence == huge.log.last_sequence


async def test_a_finished_answer_is_replayed_though_no_more_may_generate():
    async with asyncio.TaskGroup() as tasks:
        streams = Streams(Limits(max_streams=1), tasks)
        use = CacheUse(b"k", 60.0, True)
        await ended(streams, cache=use)
        _, busy = opened(streams, asyncio.Event())
        with busy:
            _, reader = opened(streams, cache=use)
            started, *_ = await read_all(reader)
            assert isinstance(started, Started)
            assert started.from_cache
