"""One suite for every implementation of StreamLog."""

import asyncio
import gc
import tracemalloc

import pytest

from tokenwire_server.errors import ServerStopped, SlowReader
from tokenwire_server.events import Finished, FinishReason, TextDelta, Timings, Usage
from tokenwire_server.streamlog.memory import MemoryLog

FINISHED = Finished(
    reason=FinishReason.STOP,
    model="m",
    provider="p",
    usage=Usage(input_tokens=1, output_tokens=2),
    timings=Timings(duration_s=1.0),
)


@pytest.fixture(params=[MemoryLog])
def new_log(request):
    return request.param


def token(n):
    return TextDelta(f"t{n} ", 0)


async def test_sequences_begin_at_one_and_are_contiguous(new_log):
    log = new_log(1 << 20)
    assert log.last_sequence == 0
    assert [log.append(token(n)) for n in range(5)] == [1, 2, 3, 4, 5]
    assert log.last_sequence == 5


async def test_a_cursor_is_exclusive_and_zero_is_the_beginning(new_log):
    log = new_log(1 << 20)
    for n in range(3):
        log.append(token(n))
    assert list(log.read(0)) == [token(0), token(1), token(2)]
    assert list(log.read(2)) == [token(2)]
    assert list(log.read(3)) == []


async def test_waiting_returns_at_once_when_there_is_something(new_log):
    log = new_log(1 << 20)
    log.append(token(0))
    await asyncio.wait_for(log.wait(0), 1)


async def test_every_waiting_reader_wakes_at_an_append(new_log):
    log = new_log(1 << 20)
    waiting = [asyncio.create_task(log.wait(0)) for _ in range(3)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    log.append(token(0))
    await asyncio.wait_for(asyncio.gather(*waiting), 1)


async def test_a_waiting_reader_wakes_when_the_log_is_sealed(new_log):
    log = new_log(1 << 20)
    waiting = asyncio.create_task(log.wait(0))
    await asyncio.sleep(0)
    log.fail(ServerStopped("stopped"))
    await asyncio.wait_for(waiting, 1)


async def test_a_cancelled_wait_leaves_nothing_behind(new_log):
    log = new_log(1 << 20)
    for _ in range(100):
        waiting = asyncio.create_task(log.wait(0))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    del waiting
    gc.collect()
    assert not [f for f in gc.get_referrers(log) if isinstance(f, asyncio.Task)]
    log.append(token(0))
    await asyncio.wait_for(log.wait(0), 1)


async def test_who_waits_for_the_seal_wakes_at_it_and_not_before(new_log):
    log = new_log(1 << 20)
    waiting = asyncio.create_task(log.wait_sealed())
    await asyncio.sleep(0)
    log.append(token(0))
    await asyncio.sleep(0)
    assert not waiting.done()
    log.finish(FINISHED)
    await asyncio.wait_for(waiting, 1)
    await asyncio.wait_for(log.wait_sealed(), 1)


async def test_a_read_is_bounded_and_goes_on_where_it_ended(new_log):
    log = new_log(64 << 20)
    for n in range(20_000):
        log.append(token(n))
    read = []
    while entries := log.read(len(read)):
        assert len(entries) <= 10_000
        read += entries
    assert read == [token(n) for n in range(20_000)]


async def test_the_first_seal_wins(new_log):
    log = new_log(1 << 20)
    assert log.finish(FINISHED)
    assert not log.fail(ServerStopped("too late"))
    assert not log.finish(FINISHED)
    assert log.sealed
    assert log.failure is None
    assert list(log.read(0)) == [FINISHED]

    log = new_log(1 << 20)
    stopped = ServerStopped("first")
    assert log.fail(stopped)
    assert not log.finish(FINISHED)
    assert log.failure is stopped
    assert list(log.read(0)) == []


async def test_a_failure_takes_no_sequence(new_log):
    log = new_log(1 << 20)
    log.append(token(0))
    log.fail(ServerStopped("stopped"))
    assert log.last_sequence == 1


async def test_nothing_is_appended_after_the_seal(new_log):
    log = new_log(1 << 20)
    log.finish(FINISHED)
    with pytest.raises(ValueError, match="sealed"):
        log.append(token(0))


async def test_past_its_bound_the_oldest_entries_go_and_who_needs_them_is_told(new_log):
    log = new_log(64 * 1024)
    for n in range(10_000):
        log.append(token(n))
    with pytest.raises(SlowReader) as caught:
        log.read(0)
    earliest = caught.value.earliest_sequence
    assert 1 < earliest <= 10_000
    assert log.read(earliest - 1)[0] == token(earliest - 1)
    assert list(log.read(9_999)) == [token(9_999)]
    assert str(earliest) in str(caught.value)
    with pytest.raises(SlowReader):
        log.read(earliest - 2)


@pytest.mark.parametrize("word", ["token", "\u8bcd", "\U0001f600"], ids=["ascii", "cjk", "emoji"])
async def test_the_memory_of_a_log_stays_within_its_bound(new_log, word):
    max_bytes = 1 << 20
    tracemalloc.start()
    try:
        log = new_log(max_bytes)
        before = tracemalloc.get_traced_memory()[0]
        peak = 0
        for n in range(50_000):
            log.append(TextDelta(f"{word}{n} ", 0))
            if n % 1000 == 0:
                peak = max(peak, tracemalloc.get_traced_memory()[0] - before)
    finally:
        tracemalloc.stop()
    assert max_bytes * 0.7 < peak < max_bytes * 1.1


async def test_one_entry_larger_than_the_bound_is_still_delivered(new_log):
    log = new_log(4096)
    big = TextDelta("x" * 10_000, 0)
    log.append(token(0))
    log.append(big)
    assert list(log.read(1)) == [big]
