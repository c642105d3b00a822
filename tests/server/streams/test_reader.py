"""What one reader gets, and when, on the edges: the end, silence, an error."""

import asyncio
import gc
import time
import traceback
import types

import pytest
from streams_support import Control, a_stream, fail, raises_failed, read_all

from tokenwire_server.errors import (
    Failure,
    ServerStopped,
    SlowReader,
    StreamFailed,
    StreamPosition,
)
from tokenwire_server.events import (
    CaughtUp,
    Finished,
    FinishReason,
    Heartbeat,
    Started,
    TextDelta,
    Timings,
    Usage,
)
from tokenwire_server.request import Delivery
from tokenwire_server.streams.merge import MAX_MERGED_CHARS

USED = Usage(input_tokens=1, output_tokens=2)
FINISHED = Finished(
    reason=FinishReason.STOP,
    model="m",
    provider="p",
    usage=USED,
    timings=Timings(duration_s=1.0),
)


@pytest.fixture
async def stream():
    return a_stream()


async def test_usage_that_is_due_when_the_stream_has_ended_costs_the_reader_nothing(stream):
    stream.log.append(Started("id", "m", "p", 0.0))
    reader = stream.join(delivery=Delivery(usage_s=0.01))
    await reader.take()
    stream.log.append(TextDelta("a", 0))
    stream.log.finish(FINISHED)
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
    fail(stream, ServerStopped("stopped"))
    depths = []
    for _ in range(5):
        try:
            await read_all(stream.join())
        except StreamFailed as stopped:
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


async def test_silence_makes_heartbeats_that_carry_the_cursor(stream):
    reader = stream.join(delivery=Delivery(heartbeat_s=0.03))
    stream.log.append(TextDelta("a", 0))
    assert await reader.take() == [(1, TextDelta("a", 0))]
    for _ in range(3):
        began = time.monotonic()
        assert await asyncio.wait_for(reader.take(), 10) == [(1, Heartbeat())]
        assert time.monotonic() - began >= 0.02
    assert stream.log.last_sequence == 1
    with reader:
        pass


async def test_a_reader_that_is_kept_busy_gets_no_heartbeat(stream):
    reader = stream.join(delivery=Delivery(heartbeat_s=0.05))
    async with asyncio.timeout(5):
        for n in range(20):
            await asyncio.sleep(0.02)
            stream.log.append(TextDelta("a", 0))
            assert await reader.take() == [(n + 1, TextDelta("a", 0))]
    with reader:
        pass


async def test_usage_is_sent_at_its_interval_whether_or_not_there_are_new_events(stream):
    stream.attach(Control(USED))
    with stream.join(delivery=Delivery(usage_s=0.03)) as reader:
        stream.log.append(TextDelta("a", 0))
        assert await reader.take() == [(1, TextDelta("a", 0))]
        assert await asyncio.wait_for(reader.take(), 10) == [(1, USED)]
        stream.log.append(TextDelta("b", 0))
        await asyncio.sleep(0.1)
        assert await reader.take() == [(1, USED)]
        assert await reader.take() == [(2, TextDelta("b", 0))]


async def test_events_are_returned_before_usage_that_is_due(stream):
    stream.attach(Control(USED))
    with stream.join(delivery=Delivery(usage_s=0.01)) as reader:
        await asyncio.sleep(0.05)
        stream.log.append(TextDelta("a", 0))
        assert await reader.take() == [(1, TextDelta("a", 0))]
        assert await reader.take() == [(1, USED)]


async def test_an_ended_stream_sends_no_usage_and_no_heartbeats(stream):
    with stream.join(delivery=Delivery(usage_s=0.01, heartbeat_s=0.01)) as reader:
        stream.log.finish(FINISHED)
        assert (await reader.take())[-1] == (1, FINISHED)
        await asyncio.sleep(0.05)
        assert await reader.take() == []


async def test_a_reader_gets_the_notice_caught_up_once_when_it_has_read_all_past_events(stream):
    for _ in range(3):
        stream.log.append(TextDelta("x" * MAX_MERGED_CHARS, 0))
    with stream.join(1, reports_caught_up=True) as reader:
        stream.log.append(TextDelta("joined later, but before it waits", 0))
        async with asyncio.timeout(5):
            taken = [(await reader.take())[0] for _ in range(4)]
        assert [sequence for sequence, _ in taken] == [2, 3, 4, 4]
        assert taken[-1] == (4, CaughtUp())
        stream.log.append(TextDelta("a", 0))
        assert await reader.take() == [(5, TextDelta("a", 0))]
        taking = asyncio.create_task(reader.take())
        await asyncio.sleep(0)
        assert not taking.done()
        taking.cancel()


async def test_a_reader_without_past_events_gets_the_notice_caught_up_at_once(stream):
    stream.log.append(TextDelta("a", 0))
    with stream.join(1, Delivery(heartbeat_s=0.01), reports_caught_up=True) as reader:
        await asyncio.sleep(0.05)
        assert await reader.take() == [(1, CaughtUp())]
        assert await asyncio.wait_for(reader.take(), 5) == [(1, Heartbeat())]


async def test_usage_that_is_due_early_neither_moves_nor_replaces_the_notice_of_past_events(stream):
    stream.attach(Control(USED))
    for text in ("a", "b"):
        stream.log.append(TextDelta(text, 0))
    with stream.join(1, Delivery(usage_s=0.01), reports_caught_up=True) as reader:
        await asyncio.sleep(0.05)
        assert await reader.take() == [(1, USED)]
        assert await reader.take() == [(2, TextDelta("b", 0))]
        async with asyncio.timeout(5):
            taken = [(await reader.take())[0] for _ in range(2)]
        assert (2, CaughtUp()) in taken


async def test_a_reader_of_a_stream_that_ends_first_gets_no_notice_caught_up(stream):
    stream.log.append(TextDelta("a", 0))
    with stream.join(reports_caught_up=True) as reader:
        assert await reader.take() == [(1, TextDelta("a", 0))]
        stream.log.finish(FINISHED)
        assert await reader.take() == [(2, FINISHED)]
        assert await reader.take() == []


async def test_nothing_refers_to_a_reader_that_has_left(stream):
    with stream.join(delivery=Delivery(usage_s=0.01, heartbeat_s=0.01)) as reader:
        pass
    gc.collect()
    seen = [r for r in gc.get_referrers(reader) if not isinstance(r, types.FrameType)]
    assert seen == []


async def test_a_reader_gets_all_events_then_the_end(stream):
    reader = stream.join()
    stream.log.append(TextDelta("a", 0))
    stream.log.append(TextDelta("b", 0))
    assert await reader.take() == [(2, TextDelta("ab", 0))]
    stream.log.finish(FINISHED)
    assert await reader.take() == [(3, FINISHED)]
    assert await reader.take() == []


async def test_a_reader_gets_all_events_then_the_failure(stream):
    reader = stream.join()
    stream.log.append(TextDelta("a", 0))
    fail(stream, ServerStopped("stopped"))
    assert await reader.take() == [(1, TextDelta("a", 0))]
    with raises_failed(ServerStopped):
        await reader.take()


async def test_each_reader_has_its_own_cursor(stream):
    stream.log.append(TextDelta("a", 0))
    early = stream.join()
    await early.take()
    stream.log.append(TextDelta("b", 0))
    late = stream.join(after_sequence=1)
    assert await early.take() == await late.take() == [(2, TextDelta("b", 0))]
    assert await stream.join().take() == [(2, TextDelta("ab", 0))]


async def test_a_reader_that_waits_gets_a_token_as_soon_as_there_is_one(stream):
    reader = stream.join()
    taking = asyncio.create_task(reader.take())
    await asyncio.sleep(0)
    stream.log.append(TextDelta("a", 0))
    assert await asyncio.wait_for(taking, 10) == [(1, TextDelta("a", 0))]


async def test_a_reader_that_fell_behind_the_log_gets_slow_reader():
    stream = a_stream(max_bytes=4096)
    reader = stream.join()
    for _ in range(1000):
        stream.log.append(TextDelta("x" * 100, 0))
    with pytest.raises(SlowReader) as caught:
        await reader.take()
    assert caught.value.earliest_sequence > 1


async def test_an_error_that_leaves_a_reader_carries_its_position_and_the_usage():
    stream = a_stream(max_bytes=4096)
    stream.attach(Control(USED))
    with pytest.raises(SlowReader) as caught, stream.join() as reader:
        stream.log.append(TextDelta("a", 0))
        await reader.take()
        reader.delivered = 1
        for _ in range(1000):
            stream.log.append(TextDelta("x" * 100, 0))
        await reader.take()
    assert caught.value.at == StreamPosition("id", 1, USED)


async def test_an_error_before_the_first_event_carries_the_stream_and_the_usage_too(stream):
    stream.attach(Control(USED))
    early = SlowReader("too early")
    with pytest.raises(SlowReader), stream.join():
        raise early
    assert early.at == StreamPosition("id", 0, USED)


async def test_a_stream_that_fails_before_its_first_content_reports_where_it_ended(stream):
    stream.log.append(Started("id", "m", "p", 0.0))
    stream.log.fail(Failure("UPSTREAM_AUTH", "no", last_sequence=1, usage=USED))
    with pytest.raises(StreamFailed) as caught, stream.join() as reader:
        while await reader.take():
            pass
    assert caught.value.at == StreamPosition("id", 1, USED)
