"""Who joins and leaves a stream, and what that does to its generation."""

import asyncio

import pytest
from streams_support import Control, RecordingReaderHost, a_stream

from tokenwire_server.errors import ResumePointAhead, ResumePointExpired
from tokenwire_server.events import (
    NO_USAGE,
    Finished,
    FinishReason,
    TextDelta,
    Timings,
)

FINISHED = Finished(
    reason=FinishReason.STOP,
    model="m",
    provider="p",
    usage=NO_USAGE,
    timings=Timings(duration_s=1.0),
)


@pytest.fixture
def control():
    return Control()


@pytest.fixture
def host():
    return RecordingReaderHost()


def opened(control, **fields):
    """Return a stream with a generation that only records what it is asked to do."""
    stream = a_stream(**fields)
    stream.attach(control)
    return stream


async def test_the_generation_is_cancelled_when_the_last_reader_leaves(control):
    stream = opened(control)
    first, second = stream.join(), stream.join()
    stream.leave(first)
    assert not control.is_cancelled
    stream.leave(second)
    assert control.is_cancelled


async def test_leaving_twice_counts_once(control, host):
    stream = opened(control, host=host)
    reader, _ = stream.join(), stream.join()
    stream.leave(reader)
    stream.leave(reader)
    assert host.readers == stream.reader_count == 1
    assert not control.is_cancelled


async def test_the_last_reader_of_a_finished_stream_cancels_nothing(control):
    stream = opened(control)
    reader = stream.join()
    stream.log.finish(FINISHED)
    stream.leave(reader)
    assert not control.is_cancelled


async def test_a_stream_that_continues_runs_without_readers_until_its_linger_has_passed(control):
    stream = opened(control, linger_s=0.05)
    stream.leave(stream.join())
    assert not control.is_cancelled
    await asyncio.wait_for(control.cancelled.wait(), 5)


async def test_a_reader_that_comes_back_stops_the_linger(control):
    stream = opened(control, linger_s=0.05)
    stream.leave(stream.join())
    back = stream.join()
    await asyncio.sleep(0.2)
    assert not control.is_cancelled
    stream.leave(back)
    await asyncio.wait_for(control.cancelled.wait(), 5)


async def test_a_stream_can_be_cancelled_while_it_lingers(control):
    stream = opened(control, linger_s=60.0)
    stream.leave(stream.join())
    stream.cancel()
    assert control.is_cancelled


async def test_a_cursor_outside_of_the_log_is_refused_with_the_bounds_of_the_log(control):
    stream = opened(control, max_bytes=4096)
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
