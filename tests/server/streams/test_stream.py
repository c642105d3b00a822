import asyncio

import pytest

from tokenwire_server.errors import ServerStopped, SlowReader, StreamFailure
from tokenwire_server.events import Finished, FinishReason, Started, TextDelta, Timings, Usage
from tokenwire_server.streamlog.memory import MemoryLog
from tokenwire_server.streams.stream import Stream

FINISHED = Finished(
    reason=FinishReason.STOP,
    model="m",
    provider="p",
    usage=Usage(input_tokens=1, output_tokens=2),
    timings=Timings(duration_s=1.0),
)


def used():
    return Usage(input_tokens=3, output_tokens=4, estimated=True)


@pytest.fixture
def gone():
    return []


@pytest.fixture
async def stream(gone):
    return Stream("id", "default", MemoryLog(1 << 20), gone.append)


async def endless(stream, cancelled):
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        cancelled.append(stream.interruption)
        stream.log.finish(FINISHED)


async def ended(producer):
    """Wait for a producer without cancelling it, as `wait_for` would."""
    done, _ = await asyncio.wait({producer}, timeout=1)
    assert done, "nobody cancelled it"


async def test_the_last_reader_to_leave_ends_the_generation(stream, gone):
    cancelled = []
    producer = asyncio.create_task(endless(stream, cancelled))
    stream.produced_by(producer, used)
    first, second = stream.join(), stream.join()
    await asyncio.sleep(0)
    stream.leave(first)
    await asyncio.sleep(0)
    assert not producer.cancelling()
    stream.leave(second)
    await ended(producer)
    assert cancelled == [None]
    await asyncio.sleep(0)
    assert gone == [stream]


async def test_leaving_twice_is_leaving_once(stream, gone):
    reader = stream.join()
    stream.leave(reader)
    stream.leave(reader)
    assert gone == [stream]


async def test_a_stream_that_never_began_is_gone_when_its_reader_leaves(stream, gone):
    with stream.join():
        assert gone == []
    assert gone == [stream]


async def test_a_finished_stream_is_gone_only_when_its_readers_are(stream, gone):
    async def produce():
        stream.log.finish(FINISHED)

    reader = stream.join()
    producer = asyncio.create_task(produce())
    stream.produced_by(producer, used)
    await producer
    await asyncio.sleep(0)
    assert gone == []
    stream.leave(reader)
    assert gone == [stream]
    assert not producer.cancelled()


async def test_a_reader_gets_everything_then_the_end(stream):
    reader = stream.join()
    stream.log.append(TextDelta("a", 0))
    stream.log.append(TextDelta("b", 0))
    assert await reader.take() == [(2, TextDelta("ab", 0))]
    stream.log.finish(FINISHED)
    assert await reader.take() == [(3, FINISHED)]
    assert await reader.take() == []


async def test_a_reader_gets_everything_then_the_failure(stream):
    reader = stream.join()
    stream.log.append(TextDelta("a", 0))
    stream.log.fail(ServerStopped("stopped"))
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
    stream = Stream("id", "default", MemoryLog(4096), lambda _: None)
    reader = stream.join()
    for _ in range(1000):
        stream.log.append(TextDelta("x" * 100, 0))
    with pytest.raises(SlowReader) as caught:
        await reader.take()
    assert caught.value.earliest_sequence > 1


async def test_an_error_that_leaves_a_reader_says_where_it_stood_and_what_was_used():
    stream = Stream("id", "default", MemoryLog(4096), lambda _: None)
    producer = asyncio.create_task(asyncio.sleep(0))
    stream.produced_by(producer, used)
    with pytest.raises(SlowReader) as caught, stream.join() as reader:
        stream.log.append(TextDelta("a", 0))
        await reader.take()
        for _ in range(1000):
            stream.log.append(TextDelta("x" * 100, 0))
        await reader.take()
    assert caught.value.at == StreamFailure("id", 1, used())
    await asyncio.gather(producer, return_exceptions=True)


async def test_a_producer_that_never_ran_a_step_seals_its_stream_all_the_same(stream):
    producer = asyncio.create_task(endless(stream, []))
    stream.produced_by(producer, used)
    reader = stream.join()
    stream.stop()
    with pytest.raises(ServerStopped):
        await asyncio.wait_for(reader.take(), 1)


async def test_a_stream_that_was_stopped_before_it_began_does_not_begin(stream):
    reader = stream.join()
    stream.stop()
    stream.produced_by(asyncio.create_task(endless(stream, [])), used)
    with pytest.raises(ServerStopped):
        await asyncio.wait_for(reader.take(), 1)


async def test_stopping_the_server_interrupts_the_producer_and_says_why(stream):
    cancelled = []
    producer = asyncio.create_task(endless(stream, cancelled))
    stream.produced_by(producer, used)
    stream.join()
    await asyncio.sleep(0)
    stream.stop()
    await ended(producer)
    assert isinstance(cancelled[0], ServerStopped)


async def test_only_a_stream_that_began_to_answer_tells_what_was_used(stream):
    stream.produced_by(asyncio.create_task(asyncio.sleep(0)), used)
    stream.log.append(Started("id", "m", "p", 0.0))
    before, after = SlowReader("too early"), SlowReader("later")
    stream.tell_usage(before, 1)
    stream.log.append(TextDelta("a", 0))
    stream.tell_usage(after, 2)
    assert before.at is None
    assert after.at == StreamFailure("id", 2, used())
