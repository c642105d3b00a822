"""What one reader gets, and when, on the edges: the end, silence, an error."""

import asyncio
import time
import traceback

import pytest
from streams_support import a_stream, read_all

from tokenwire_server.errors import ServerStopped
from tokenwire_server.events import (
    Finished,
    FinishReason,
    Heartbeat,
    Started,
    TextDelta,
    Timings,
    Usage,
)
from tokenwire_server.request import Delivery

USED = Usage(input_tokens=1, output_tokens=2)
FINISHED = Finished(
    reason=FinishReason.STOP,
    model="m",
    provider="p",
    usage=USED,
    timings=Timings(duration_s=1.0),
)


@pytest.fixture
async def stream(keeper):
    return a_stream(keeper=keeper)


async def test_usage_that_is_due_when_the_stream_has_ended_costs_the_reader_nothing(stream):
    stream.log.append(Started("id", "m", "p", 0.0))
    reader = stream.join(delivery=Delivery(usage_s=0.01))
    await reader.take()
    stream.log.append(TextDelta("a", 0))
    stream.finish(FINISHED)
    await asyncio.sleep(0.05)
    events = [event for event in await read_all(reader) if not isinstance(event, Usage)]
    assert events == [TextDelta("a", 0), FINISHED]


async def test_the_first_heartbeat_does_not_come_before_its_time(stream):
    with stream.join(delivery=Delivery(heartbeat_s=0.1)) as reader:
        began = time.monotonic()
        assert await asyncio.wait_for(reader.take(), 5) == [(0, Heartbeat())]
        assert time.monotonic() - began >= 0.08


async def test_silence_is_counted_from_the_last_event(stream):
    with stream.join(delivery=Delivery(heartbeat_s=0.3)) as reader:
        await asyncio.sleep(0.2)
        stream.log.append(TextDelta("a", 0))
        await reader.take()
        began = time.monotonic()
        assert await asyncio.wait_for(reader.take(), 5) == [(1, Heartbeat())]
        assert time.monotonic() - began >= 0.25


async def test_silence_is_no_longer_than_its_interval_whenever_it_begins(stream):
    async def later():
        await asyncio.sleep(0.8)
        for _ in range(10):  # were the loop late, both would be due at once
            await asyncio.sleep(0)

    with stream.join(delivery=Delivery(heartbeat_s=0.5)) as reader:
        await asyncio.sleep(0.05)
        stream.log.append(TextDelta("a", 0))
        await reader.take()
        taking, limit = asyncio.create_task(reader.take()), asyncio.create_task(later())
        done, _ = await asyncio.wait({taking, limit}, return_when=asyncio.FIRST_COMPLETED)
        assert taking in done
        assert await taking == [(1, Heartbeat())]
        await limit


async def test_usage_comes_again_and_again(stream):
    with stream.join(delivery=Delivery(usage_s=0.01)) as reader:
        for _ in range(5):
            ((sequence, event),) = await asyncio.wait_for(reader.take(), 5)
            assert (sequence, type(event)) == (0, Usage)


async def test_an_error_tells_what_reached_the_caller_not_what_was_taken_for_him(stream):
    error = ServerStopped("stopped")

    async def read():
        with stream.join() as reader:
            for index in range(3):
                stream.log.append(TextDelta("a", index))
            taken = await reader.take()
            assert [sequence for sequence, _ in taken] == [1, 2, 3]
            reader.delivered = 2
            raise error

    with pytest.raises(ServerStopped):
        await read()
    assert error.at.last_sequence == 2


async def test_an_error_before_anything_was_delivered_tells_the_cursor_that_was_asked_for(stream):
    for index in range(7):
        stream.log.append(TextDelta("a", index))
    error = ServerStopped("stopped")
    with pytest.raises(ServerStopped), stream.join(5):
        raise error
    assert error.at.last_sequence == 5


async def test_an_error_that_many_readers_get_gathers_none_of_their_frames(stream):
    stream.log.append(TextDelta("a", 0))
    stream.fail(ServerStopped("stopped"))
    depths = []
    for _ in range(5):
        try:
            await read_all(stream.join())
        except ServerStopped as stopped:
            depths.append(len(traceback.extract_tb(stopped.__traceback__)))
    assert len(depths) == 5
    assert len(set(depths)) == 1


async def test_a_waiting_reader_that_was_cancelled_reads_on_where_it_was(stream):
    with stream.join() as reader:
        taking = asyncio.create_task(reader.take())
        await asyncio.sleep(0)
        stream.log.append(TextDelta("a", 0))
        taking.cancel()  # in the step in which it was woken
        stream.log.append(TextDelta("b", 0))
        await asyncio.wait({taking})
        assert taking.cancelled()
        assert await reader.take() == [(2, TextDelta("ab", 0))]
