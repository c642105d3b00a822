"""Conformance suite for implementations of StreamLog."""

import asyncio
import gc
import itertools
import tracemalloc
import weakref
from functools import partial
from sys import getsizeof
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shared_log import SharedLog, memory_log, shared_logs

from tokenwire_server.errors import Failure, ServerStopped, SlowReader
from tokenwire_server.events import (
    Citation,
    CitationKind,
    Event,
    Finished,
    FinishReason,
    InvalidToolCall,
    JsonResult,
    JsonValue,
    JsonViolation,
    Logprobs,
    Notice,
    NoticeKind,
    ReasoningDelta,
    Started,
    TextDelta,
    TextInfo,
    TextPhase,
    Timings,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)
from tokenwire_server.streamlog.memory import STEP_BYTES, STREAM_BYTES, MemoryLog, entry_bytes
from tokenwire_server.streamlog.redis import copies
from tokenwire_server.streamlog.space import LogSpace

FINISHED = Finished(
    reason=FinishReason.STOP,
    model="m",
    provider="p",
    usage=Usage(input_tokens=1, output_tokens=2),
    timings=Timings(duration_s=1.0),
)
SEALED_S = 20
STOPPED = Failure.of(ServerStopped("stopped"), last_sequence=0, usage=FINISHED.usage)


@pytest.fixture(params=["memory", pytest.param("shared", marks=pytest.mark.process)])
async def new_log(request, monkeypatch):
    """Creates a log with a bound in bytes: one in memory, or one that is read in another process."""
    if request.param == "memory":
        yield memory_log
        return
    for name in ("LEASE_EVERY_S", "REPAIR_EVERY_S"):
        monkeypatch.setattr(copies, name, 0.02)
    async with shared_logs(request.getfixturevalue("redis_server").url) as create:
        yield create


@pytest.fixture
def new_memory_log():
    """Creates a log of which each entry is read at once."""
    return memory_log


async def settled(log):
    """Wait until what was appended to a log can be read. Return the log."""
    if isinstance(log, SharedLog):
        await log.settle()
    return log


def token(n):
    return TextDelta(f"t{n} ", 0)


async def test_sequences_start_at_one_and_are_contiguous(new_log):
    log = new_log(1 << 20)
    assert log.last_sequence == 0
    assert [log.append(token(n)) for n in range(5)] == [1, 2, 3, 4, 5]
    await settled(log)
    assert log.last_sequence == 5


async def test_a_cursor_is_exclusive_and_zero_is_the_beginning(new_log):
    log = new_log(1 << 20)
    for n in range(3):
        log.append(token(n))
    await settled(log)
    assert list(log.read(0)) == [token(0), token(1), token(2)]
    assert list(log.read(2)) == [token(2)]
    assert list(log.read(3)) == []


async def test_every_subscriber_is_called_at_each_entry_and_at_the_seal(new_log):
    log = new_log(1 << 20)
    calls = []
    for reader in "abc":
        log.subscribe(partial(calls.append, reader))
    log.append(token(0))
    await settled(log)
    assert calls == ["a", "b", "c"]
    log.fail(STOPPED)
    await settled(log)
    assert calls == ["a", "b", "c"] * 2


async def test_an_entry_can_be_read_when_its_subscriber_is_called(new_log):
    log = new_log(1 << 20)
    seen = []
    log.subscribe(lambda: seen.append((log.last_sequence, list(log.read(0))[-1], log.sealed)))
    log.append(token(0))
    await settled(log)
    log.finish(FINISHED)
    await settled(log)
    assert seen[0] == (1, token(0), False)
    assert seen[-1] == (2, FINISHED, True)


async def test_an_unsubscribed_callback_is_neither_called_nor_referenced(new_log):
    log = new_log(1 << 20)
    calls = []
    gone, stays = (partial(calls.append, name) for name in ("gone", "stays"))
    log.subscribe(gone)
    log.subscribe(stays)
    log.unsubscribe(gone)
    log.unsubscribe(gone)
    log.append(token(0))
    await settled(log)
    assert calls == ["stays"]
    kept = weakref.ref(gone)
    del gone
    gc.collect()
    assert kept() is None


async def test_a_cancelled_wait_for_the_seal_leaves_nothing_behind(new_log):
    log = new_log(1 << 20)
    waiting = asyncio.create_task(log.wait_sealed())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})
    kept = weakref.ref(waiting)
    del waiting
    gc.collect()
    assert kept() is None
    log.finish(FINISHED)


async def test_cancelled_waits_for_the_seal_do_not_accumulate_and_are_skipped(new_log):
    log = new_log(1 << 20)
    gc.collect()
    before = cancelled_futures()
    for _ in range(50):
        waiting = asyncio.create_task(log.wait_sealed())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting})
    del waiting
    gc.collect()
    assert cancelled_futures() - before < 50
    late, patient = (asyncio.create_task(log.wait_sealed()) for _ in range(2))
    await asyncio.sleep(0)
    late.cancel()
    log.finish(FINISHED)  # in the step in which one of two was cancelled
    await asyncio.wait_for(patient, SEALED_S)
    await asyncio.wait({late})


def cancelled_futures():
    return sum(issubclass(type(o), asyncio.Future) and o.cancelled() for o in gc.get_objects())


async def test_a_wait_for_the_seal_ends_at_the_seal_and_not_before(new_log):
    log = new_log(1 << 20)
    waiting = asyncio.create_task(log.wait_sealed())
    await asyncio.sleep(0)
    log.append(token(0))
    await asyncio.sleep(0)
    assert not waiting.done()
    log.finish(FINISHED)
    await asyncio.wait_for(waiting, SEALED_S)
    await asyncio.wait_for(log.wait_sealed(), SEALED_S)


async def test_a_read_is_bounded_and_the_next_one_continues(new_log):
    log = new_log(64 << 20)
    for n in range(20_000):
        log.append(token(n))
    await settled(log)
    read = []
    while entries := log.read(len(read)):
        assert len(entries) <= 10_000
        read += entries
    assert read == [token(n) for n in range(20_000)]


async def test_the_first_seal_wins(new_log):
    log = new_log(1 << 20)
    assert log.finish(FINISHED)
    assert not log.fail(STOPPED)
    assert not log.finish(FINISHED)
    await settled(log)
    assert log.sealed
    assert log.failure is None
    assert log.finished == FINISHED
    assert list(log.read(0)) == [FINISHED]

    log = new_log(1 << 20)
    assert log.fail(STOPPED)
    assert not log.finish(FINISHED)
    await settled(log)
    assert log.failure == STOPPED
    assert log.finished is None
    assert list(log.read(0)) == []


async def test_a_failure_has_no_sequence(new_log):
    log = new_log(1 << 20)
    log.append(token(0))
    log.fail(STOPPED)
    await settled(log)
    assert log.last_sequence == 1


async def test_nothing_is_appended_after_the_seal(new_log):
    log = new_log(1 << 20)
    log.finish(FINISHED)
    with pytest.raises(ValueError, match="sealed"):
        log.append(token(0))


async def test_beyond_the_bound_the_oldest_entries_are_dropped_and_reading_them_raises(new_log):
    log = new_log(64 * 1024)
    for n in range(10_000):
        log.append(token(n))
    await settled(log)
    with pytest.raises(SlowReader) as caught:
        log.read(0)
    earliest = caught.value.earliest_sequence
    assert 1 < earliest == log.earliest_sequence <= 10_000
    assert log.read(earliest - 1)[0] == token(earliest - 1)
    assert list(log.read(9_999)) == [token(9_999)]
    assert str(earliest) in str(caught.value)
    with pytest.raises(SlowReader):
        log.read(earliest - 2)


@pytest.mark.parametrize("word", ["token", "\u8bcd", "\U0001f600"], ids=["ascii", "cjk", "emoji"])
async def test_the_memory_of_a_log_stays_within_its_bound(new_memory_log, word):
    max_bytes = 1 << 20
    tracemalloc.start()
    try:
        log = new_memory_log(max_bytes)
        before = tracemalloc.get_traced_memory()[0]
        peak = 0
        for n in range(50_000):
            log.append(TextDelta(f"{word}{n} ", 0))
            if n % 1000 == 0:
                peak = max(peak, tracemalloc.get_traced_memory()[0] - before)
    finally:
        tracemalloc.stop()
    assert max_bytes * 0.7 < peak < max_bytes * 1.1


async def test_beyond_the_bound_entries_are_dropped_in_batches(new_memory_log):
    max_bytes = 64 * 1024
    log = new_memory_log(max_bytes)
    began = set()
    for n in range(10_000):
        log.append(token(n))
        began.add(log.earliest_sequence)
        if log.earliest_sequence > 1:
            assert max_bytes * 0.8 < log.byte_count <= max_bytes
    assert 2 < len(began) < 1000


async def test_an_entry_larger_than_the_bound_is_still_delivered(new_log):
    log = new_log(4096)
    big = TextDelta("x" * 10_000, 0)
    log.append(token(0))
    log.append(big)
    await settled(log)
    assert list(log.read(1)) == [big]


async def test_a_dropped_log_contains_only_its_end(new_log):
    log = new_log(1 << 20)
    for n in range(5):
        log.append(token(n))
    log.finish(FINISHED)
    await settled(log)
    log.drop()
    log.drop()
    assert (log.earliest_sequence, log.last_sequence) == (6, 6)
    assert 0 < log.byte_count < 200
    assert list(log.read(5)) == [FINISHED]
    assert list(log.read(6)) == []
    with pytest.raises(SlowReader):
        log.read(0)


async def test_a_dropped_log_that_failed_keeps_its_error(new_log):
    log = new_log(1 << 20)
    log.append(token(0))
    log.fail(STOPPED)
    await settled(log)
    log.drop()
    assert log.failure == STOPPED
    assert list(log.read(1)) == []
    with pytest.raises(SlowReader):
        log.read(0)


@given(st.lists(st.integers(0, 20_000), max_size=50), st.sampled_from([4096, 20_000, 1 << 20]))
def test_memory_is_counted_while_a_log_grows_and_freed_when_it_is_dropped(sizes, max_bytes):
    space = LogSpace(1 << 40, lambda: None)
    log = MemoryLog(max_bytes, space)
    assert space.used_bytes == STREAM_BYTES
    for size in sizes:
        log.append(TextDelta("x" * size, 0))
        largest = max(sizes) + 200
        assert log.byte_count <= space.used_bytes + (largest if log.byte_count > max_bytes else 0)
        assert space.used_bytes <= max_bytes + STEP_BYTES + STREAM_BYTES
    log.fail(STOPPED)
    assert space.used_bytes == log.byte_count + STREAM_BYTES
    for _ in range(2):
        log.drop()
        assert space.used_bytes == 0


@pytest.mark.parametrize(
    "of", [TextDelta, ReasoningDelta, ToolCallStarted, ToolCallDelta, ToolCall]
)
@pytest.mark.parametrize("letter", ["x", "\u00e9", "\u8bcd", "\U0001f600"])
def test_an_entry_counts_as_its_text_and_the_utf8_of_its_message(letter, of):
    text, more = letter * 10_000, "m" * 5000
    entry, texts = {
        TextDelta: (TextDelta(text, 0), [text]),
        ReasoningDelta: (ReasoningDelta(text, 0, more), [text, more]),
        ToolCallStarted: (ToolCallStarted(0, more, text), [text, more]),
        ToolCallDelta: (ToolCallDelta(0, text), [text]),
        ToolCall: (ToolCall(0, more, text, more), [text, more, more]),
    }[of]
    taken = sum(getsizeof(t) + (0 if t.isascii() else len(t.encode())) for t in texts)
    assert taken - 100 <= entry_bytes(entry) <= taken + 200


MEASURED = {
    TextDelta: lambda text: TextDelta(text(), 0),
    TextInfo: lambda text: TextInfo(0, TextPhase.COMMENTARY, text().encode()),
    ReasoningDelta: lambda text: ReasoningDelta(text(), 0, text(), text().encode()),
    ToolCallStarted: lambda text: ToolCallStarted(0, text(), text()),
    ToolCallDelta: lambda text: ToolCallDelta(0, text()),
    ToolCall: lambda text: ToolCall(0, text(), text(), text(), text().encode()),
    InvalidToolCall: lambda text: InvalidToolCall(0, text(), text(), text(), "is not JSON"),
    Citation: lambda text: Citation(
        0, CitationKind.URL, 1000 + len(text()), 2000 + len(text()), text(), text(), text(), 7
    ),
    Logprobs: lambda text: Logprobs(
        0,
        tuple(
            TokenLogprob(text(), float(n), text().encode(), (TokenLogprob(text(), float(n)),))
            for n in range(3)
        ),
    ),
    Notice: lambda text: Notice(NoticeKind.MODEL_CHANGED, text()),
    JsonValue: lambda text: JsonValue(0, text(), text()),
    JsonResult: lambda text: JsonResult(
        False, tuple(JsonViolation(text(), text()) for _ in range(3))
    ),
}
"""Events of each class but the two that a stream has only once, made of the texts of a function."""


def test_the_memory_of_every_event_is_measured():
    assert MEASURED.keys() == set(get_args(Event)) - {Started, Finished}


@pytest.mark.parametrize("kind", MEASURED)
@pytest.mark.parametrize("length", [3, 30, 300])
def test_an_entry_counts_as_the_memory_that_it_takes(kind, length):
    new, count = MEASURED[kind], 1000
    numbers = itertools.count(10**length)

    def text():
        return str(next(numbers))

    entries = [None] * count
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for n in range(count):
            entries[n] = new(text)
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert 0.85 * taken < sum(map(entry_bytes, entries)) < 1.25 * taken + 16 * count


def test_a_space_is_full_at_its_bound():
    space = LogSpace(100, lambda: None)
    space.take(99)
    assert not space.full
    space.take(1)
    assert space.full


async def test_a_full_space_calls_make_room_at_each_step():
    dropped = []

    def make_room():
        if others:
            dropped.append(others.pop(0))
            dropped[-1].drop()

    space = LogSpace(64 * 1024, make_room)
    others = [MemoryLog(1 << 20, space) for _ in range(2)]
    for other in others:
        other.append(TextDelta("x" * 20_000, 0))
        other.fail(STOPPED)
    log = MemoryLog(1 << 20, space)
    for n in range(1000):
        log.append(token(n))
    assert len(dropped) == 2
    assert space.full
