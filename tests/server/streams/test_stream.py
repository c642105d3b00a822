import asyncio
import gc
import time
import types

import pytest
from streams_support import a_stream

from tokenwire_server.errors import (
    ResumePointAhead,
    ResumePointExpired,
    ServerStopped,
    SlowReader,
    StreamFailure,
)
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
from tokenwire_server.streams import stream as stream_module
from tokenwire_server.streams.stream import Progress

FINISHED = Finished(
    reason=FinishReason.STOP,
    model="m",
    provider="p",
    usage=Usage(input_tokens=1, output_tokens=2),
    timings=Timings(duration_s=1.0),
)


USED = Usage(input_tokens=3, output_tokens=4, estimated=True)
STARTED = Started("id", "m", "p", 0.0)


class Production:
    """What a stream asks of the producer that feeds it, without one."""

    def __init__(self, stream):
        self._stream = stream

    def usage(self):
        return USED

    def progress(self):
        return Progress(USED, attempts=1)

    def seal_interrupted(self):
        if self._stream.interruption is None:
            self._stream.finish(FINISHED)
        else:
            self._stream.fail(self._stream.interruption)


@pytest.fixture
async def stream(keeper):
    return a_stream(keeper=keeper)


async def endless(stream, cancelled):
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        cancelled.append(stream.interruption)
        Production(stream).seal_interrupted()


def produced(stream, cancelled=None):
    """Let a task that never ends by itself produce a stream."""
    producer = asyncio.create_task(endless(stream, [] if cancelled is None else cancelled))
    stream.produced_by(producer, Production(stream))
    return producer


async def ended(producer):
    """Wait for a producer without cancelling it, as `wait_for` would."""
    done, _ = await asyncio.wait({producer}, timeout=1)
    assert done, "nobody cancelled it"


async def test_the_last_reader_to_leave_ends_the_generation(stream, keeper):
    cancelled = []
    producer = produced(stream, cancelled)
    first, second = stream.join(), stream.join()
    await asyncio.sleep(0)
    stream.leave(first)
    await asyncio.sleep(0)
    assert not producer.cancelling()
    stream.leave(second)
    await ended(producer)
    assert cancelled == [None]
    assert keeper.ended_streams == [stream]


async def test_leaving_twice_is_leaving_once(stream, keeper):
    reader, _ = stream.join(), stream.join()
    stream.leave(reader)
    stream.leave(reader)
    assert keeper.readers == stream.reader_count == 1


async def test_leaving_a_finished_stream_leaves_its_producer_alone(stream):
    closing = asyncio.Event()

    async def produce():
        stream.finish(FINISHED)
        await closing.wait()

    reader = stream.join()
    producer = asyncio.create_task(produce())
    stream.produced_by(producer, Production(stream))
    await asyncio.sleep(0)
    stream.leave(reader)
    assert not producer.cancelling()
    closing.set()
    await producer


async def test_a_stream_that_continues_waits_for_its_readers_to_come_back():
    stream = a_stream(linger_s=60.0)
    producer = produced(stream)
    stream.leave(stream.join())
    await asyncio.sleep(0)
    assert not producer.cancelling()
    stream.leave(stream.join())
    stream.cancel()
    await ended(producer)


async def test_a_stream_that_nobody_came_back_to_is_cancelled_after_its_linger():
    stream = a_stream(linger_s=0.05)
    cancelled = []
    producer = produced(stream, cancelled)
    reader = stream.join()
    await asyncio.sleep(0)
    stream.leave(reader)
    began = time.monotonic()
    await ended(producer)
    assert time.monotonic() - began >= 0.04
    assert cancelled == [None]


async def test_a_reader_that_comes_back_in_time_stops_the_clock():
    stream = a_stream(linger_s=0.05)
    producer = produced(stream)
    stream.leave(stream.join())
    back = stream.join()
    await asyncio.sleep(0.2)
    assert not producer.cancelling()
    stream.leave(back)
    await ended(producer)


async def test_the_upstream_is_left_to_close_in_peace_however_many_want_it_closed(stream):
    closing, closed = asyncio.Event(), []

    async def produce():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await closing.wait()
            closed.append(True)
            Production(stream).seal_interrupted()

    producer = asyncio.create_task(produce())
    stream.produced_by(producer, Production(stream))
    reader = stream.join()
    await asyncio.sleep(0)
    stream.cancel()
    await asyncio.sleep(0)
    stream.cancel()
    stream.leave(reader)
    stream.stop()
    await asyncio.sleep(0)
    closing.set()
    await producer
    assert closed == [True]
    assert stream.log.finished is FINISHED


async def test_a_cursor_that_the_log_cannot_serve_is_refused_with_what_it_holds():
    stream = a_stream(max_bytes=4096)
    for _ in range(1000):
        stream.log.append(TextDelta("x" * 100, 0))
    earliest = stream.log.earliest_sequence
    with pytest.raises(ResumePointExpired) as expired:
        stream.join(earliest - 2)
    with pytest.raises(ResumePointAhead) as ahead:
        stream.join(1001)
    for caught in expired, ahead:
        assert (caught.value.earliest_sequence, caught.value.latest_sequence) == (earliest, 1000)
    assert (await stream.join(earliest - 1).take())[-1][0] > earliest
    assert stream.reader_count == 1


async def test_silence_makes_heartbeats_that_bear_the_cursor(stream):
    reader = stream.join(delivery=Delivery(heartbeat_s=0.03))
    stream.log.append(TextDelta("a", 0))
    assert await reader.take() == [(1, TextDelta("a", 0))]
    for _ in range(3):
        began = time.monotonic()
        assert await asyncio.wait_for(reader.take(), 1) == [(1, Heartbeat())]
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


async def test_usage_comes_at_its_interval_whether_or_not_there_is_news(stream):
    produced(stream)
    with stream.join(delivery=Delivery(usage_s=0.03)) as reader:
        stream.log.append(TextDelta("a", 0))
        assert await reader.take() == [(1, TextDelta("a", 0))]
        assert await asyncio.wait_for(reader.take(), 1) == [(1, USED)]
        stream.log.append(TextDelta("b", 0))
        await asyncio.sleep(0.1)
        assert await reader.take() == [(1, USED)]
        assert await reader.take() == [(2, TextDelta("b", 0))]


async def test_what_comes_first_comes_first_though_the_usage_is_due(stream):
    produced(stream)
    with stream.join(delivery=Delivery(usage_s=0.01)) as reader:
        await asyncio.sleep(0.05)
        stream.log.append(TextDelta("a", 0))
        assert await reader.take() == [(1, TextDelta("a", 0))]
        assert await reader.take() == [(1, USED)]


async def test_an_ended_stream_makes_no_more_usage_and_no_heartbeats(stream):
    with stream.join(delivery=Delivery(usage_s=0.01, heartbeat_s=0.01)) as reader:
        stream.finish(FINISHED)
        assert (await reader.take())[-1] == (1, FINISHED)
        await asyncio.sleep(0.05)
        assert await reader.take() == []


async def test_a_reader_that_left_is_called_no_more(stream):
    with stream.join(delivery=Delivery(usage_s=0.01, heartbeat_s=0.01)) as reader:
        pass
    gc.collect()
    seen = [r for r in gc.get_referrers(reader) if not isinstance(r, types.FrameType)]
    assert seen == []


async def test_a_reader_gets_everything_then_the_end(stream):
    reader = stream.join()
    stream.log.append(TextDelta("a", 0))
    stream.log.append(TextDelta("b", 0))
    assert await reader.take() == [(2, TextDelta("ab", 0))]
    stream.finish(FINISHED)
    assert await reader.take() == [(3, FINISHED)]
    assert await reader.take() == []


async def test_a_reader_gets_everything_then_the_failure(stream):
    reader = stream.join()
    stream.log.append(TextDelta("a", 0))
    stream.fail(ServerStopped("stopped"))
    assert await reader.take() == [(1, TextDelta("a", 0))]
    with pytest.raises(ServerStopped):
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
    assert await asyncio.wait_for(taking, 1) == [(1, TextDelta("a", 0))]


async def test_a_reader_that_fell_behind_the_log_is_told():
    stream = a_stream(max_bytes=4096)
    reader = stream.join()
    for _ in range(1000):
        stream.log.append(TextDelta("x" * 100, 0))
    with pytest.raises(SlowReader) as caught:
        await reader.take()
    assert caught.value.earliest_sequence > 1


async def test_an_error_that_leaves_a_reader_says_where_it_stood_and_what_was_used():
    stream = a_stream(max_bytes=4096)
    producer = produced(stream)
    with pytest.raises(SlowReader) as caught, stream.join() as reader:
        stream.log.append(TextDelta("a", 0))
        await reader.take()
        reader.delivered = 1
        for _ in range(1000):
            stream.log.append(TextDelta("x" * 100, 0))
        await reader.take()
    assert caught.value.at == StreamFailure("id", 1, USED)
    await ended(producer)


async def test_a_producer_that_never_ran_a_step_seals_its_stream_all_the_same(stream):
    produced(stream)
    reader = stream.join()
    stream.stop()
    with pytest.raises(ServerStopped):
        await asyncio.wait_for(reader.take(), 1)


async def test_a_stream_that_was_stopped_before_it_began_does_not_begin(stream):
    reader = stream.join()
    stream.stop()
    produced(stream)
    with pytest.raises(ServerStopped):
        await asyncio.wait_for(reader.take(), 1)


async def test_stopping_the_server_interrupts_the_producer_and_says_why(stream):
    cancelled = []
    producer = produced(stream, cancelled)
    stream.join()
    await asyncio.sleep(0)
    stream.stop()
    await ended(producer)
    assert isinstance(cancelled[0], ServerStopped)


async def test_only_a_stream_that_began_to_answer_tells_what_was_used(stream):
    produced(stream)
    stream.log.append(Started("id", "m", "p", 0.0))
    before, after = SlowReader("too early"), SlowReader("later")
    stream.tell_usage(before, 1)
    stream.log.append(TextDelta("a", 0))
    stream.tell_usage(after, 2)
    assert before.at is None
    assert after.at == StreamFailure("id", 2, USED)


async def test_a_clock_that_is_set_back_makes_no_stream_shorter(monkeypatch):
    found = a_stream()
    elapsed_s = 1.5
    clock = types.SimpleNamespace(
        time=lambda: found.created_time - 86_400, monotonic=lambda: found.opened + elapsed_s
    )
    monkeypatch.setattr(stream_module, "time", clock)
    found.fail(ServerStopped("the stream ended with its server"))
    assert found.end_time - found.created_time == pytest.approx(elapsed_s)
