"""Storing logs behind their streams, on a real Redis that loses data and goes away."""

import asyncio
import secrets
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tokenwire_server.config import RedisConfig
from tokenwire_server.errors import Failure, StoreUnavailable
from tokenwire_server.events import NO_USAGE, Finished, FinishReason, TextDelta, Timings
from tokenwire_server.streamlog.entries import StreamFacts
from tokenwire_server.streamlog.memory import MemoryLog
from tokenwire_server.streamlog.redis import writer as module
from tokenwire_server.streamlog.redis import written as written_module
from tokenwire_server.streamlog.redis.connect import connected
from tokenwire_server.streamlog.redis.store import LogStore, keys
from tokenwire_server.streamlog.redis.writer import LogWriter
from tokenwire_server.streamlog.space import LogSpace

FINISHED = Finished(FinishReason.STOP, "m", "p", NO_USAGE, Timings(1.0))
LIMIT_S = 20


class Written:
    """A stream whose log is stored, and what Redis has of it."""

    facts = StreamFacts("tenant", 1.5, 30.0)
    is_read_elsewhere = False

    def __init__(self, writer, store, *, max_bytes=1 << 20):
        self.id = secrets.token_hex(16)
        self.created_time = time.time()
        self.log = MemoryLog(max_bytes, LogSpace(1 << 30, lambda: None))
        self.writer, self.store = writer, store
        writer.add(self)

    @property
    def end_time(self):
        return self.created_time if self.log.sealed else None

    def append(self, count=1):
        for _ in range(count):
            self.log.append(TextDelta(f"t{self.log.last_sequence} ", 0))

    def fail(self):
        last_sequence = self.log.last_sequence
        self.log.fail(Failure("INTERNAL", "it failed", last_sequence, NO_USAGE))

    async def check(self):
        """Check that Redis has what the log has."""
        log = self.log
        part = await self.store.read(self.id, log.earliest_sequence - 1)
        assert part.last_sequence == log.last_sequence
        assert part.is_sealed == log.sealed
        entries = [entry for batch in part.batches for entry in batch.entries]
        assert entries[-len(log.read(log.earliest_sequence - 1)) :] == log.read(
            log.earliest_sequence - 1
        )
        assert part.batches[-1].failure == log.failure
        assert part.batches[-1].end_time == self.end_time
        assert part.facts == self.facts


def new_writer(store):
    return LogWriter(store, secrets.token_hex(8), open_ttl_s=60)


async def write_all(writer):
    async with asyncio.timeout(LIMIT_S):
        while writer.due_count:
            await writer.store_due()


@pytest.fixture
async def client(own_redis):
    async with connected(RedisConfig(url=own_redis.url)) as client:
        yield client


@pytest.fixture
def store(client):
    return LogStore(client)


@pytest.fixture
def writer(store):
    return new_writer(store)


@pytest.fixture
def new(writer, store):
    """Create a log that is stored."""

    def create(**options):
        return Written(writer, store, **options)

    return create


async def test_a_log_that_is_stored_again_is_not_kept_longer(new, writer, client):
    written = new()
    written.append()
    written.log.finish(FINISHED)
    await write_all(writer)
    writer._logs[written.id].ended_at -= 20
    await client.flushall()
    writer.check_all()
    await write_all(writer)
    await written.check()
    assert all([0 < await client.ttl(key) <= 10 for key in keys(written.id)[:2]])


@pytest.mark.parametrize("end", ["finish", "fail", "fail later"])
async def test_what_a_log_gets_is_stored_with_its_end(new, writer, client, end):
    written = new()
    written.append(3)
    await writer.store_due()
    await written.check()
    assert writer.due_count == 0
    written.append(2)
    if end == "finish":
        written.log.finish(FINISHED)
    else:
        if end == "fail later":
            await write_all(writer)
        written.fail()
    await write_all(writer)
    await written.check()
    assert all([0 < await client.ttl(key) <= 30 for key in keys(written.id)[:2]])


async def test_an_end_is_stored_although_what_is_stored_was_to_be_checked_again(new, writer):
    written = new()
    written.append(3)
    await write_all(writer)
    written.fail()
    writer.check_all()
    await write_all(writer)
    await written.check()


@pytest.mark.parametrize("is_failure", [False, True])
async def test_what_comes_during_a_write_is_stored_by_the_next_one(new, writer, is_failure):
    written = new()
    written.append()
    writing = asyncio.create_task(writer.store_due())
    await asyncio.sleep(0)
    if is_failure:
        written.fail()
    else:
        written.append()
        written.log.finish(FINISHED)
    await writing
    assert writer.due_count == 1
    await write_all(writer)
    await written.check()


@pytest.mark.parametrize("call", ["restore", "check_all", "remove and add"])
async def test_what_is_lost_during_a_write_is_stored_again(
    new, writer, store, client, monkeypatch, call
):
    written = new()
    written.append(3)
    await write_all(writer)
    append = store.append

    async def append_and_lose(appends):
        results = await append(appends)
        await client.flushall()
        if call == "restore":
            writer.restore(written.id)
        elif call == "check_all":
            writer.check_all()
        else:
            writer.remove(written.id)
            writer.add(written)
        return results

    monkeypatch.setattr(store, "append", append_and_lose)
    written.append()
    written.log.finish(FINISHED)
    await writer.store_due()
    monkeypatch.undo()
    await write_all(writer)
    await written.check()


async def test_large_logs_that_the_process_drops_are_not_kept_beyond_a_number_of_bytes(
    new, writer, own_redis
):
    own_redis.stop()
    logs = [new(max_bytes=1 << 26) for _ in range(4)]
    for written in logs:
        written.log.append(TextDelta("x" * (module.MAX_RELEASED_BYTES // 3), 0))
        written.log.finish(FINISHED)
        writer.release(written.id)
    assert [writer.stores(written.id) for written in logs] == [True, True, False, False]
    writer.remove(logs[0].id)
    last = logs[3]
    writer.add(last)
    writer.release(last.id)
    assert writer.stores(last.id)


async def test_a_large_log_is_stored_in_batches_in_turn_with_others(
    new, writer, store, monkeypatch
):
    monkeypatch.setattr(written_module, "MAX_ENTRIES", 10)
    monkeypatch.setattr(module, "MAX_APPENDS", 2)
    logs = [new() for _ in range(5)]
    for number, written in enumerate(logs):
        written.append(5 + 10 * number)
        written.fail()
    await writer.store_due()
    assert [len((await store.read(each.id, 0)).batches) for each in logs] == [1] * 5
    await write_all(writer)
    for number, written in enumerate(logs):
        await written.check()
        batches = (await store.read(written.id, 0)).batches
        sizes = [len(batch.entries) for batch in batches]
        assert sizes == [*[10] * number, 5]
        assert [batch.failure for batch in batches[:-1]] == [None] * number


async def test_a_batch_is_bounded_in_bytes_and_stores_an_entry_of_any_size(new, writer, store):
    written = new(max_bytes=1 << 20)
    texts = ["a" * 30_000] * 5 + ["b" * 200_000] + ["c" * 30_000] * 2
    for text in texts:
        written.log.append(TextDelta(text, 0))
    await write_all(writer)
    await written.check()
    batches = (await store.read(written.id, 0)).batches
    assert [[entry.text[0] for entry in batch.entries] for batch in batches] == [
        ["a", "a"], ["a", "a"], ["a"], ["b"], ["c", "c"]
    ]  # fmt: skip


@pytest.mark.parametrize("keeps", [False, True], ids=["empty", "as it was"])
async def test_streams_continue_while_redis_is_down_and_are_stored_when_it_is_back(
    new, writer, own_redis, keeps
):
    options = ("--appendonly", "yes", "--appendfsync", "always") if keeps else ()
    own_redis.stop()
    own_redis.start(*options)
    running, ended = new(), new()
    running.append(2)
    ended.append(2)
    ended.log.finish(FINISHED)
    await write_all(writer)
    own_redis.stop()
    running.append()
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await writer.store_due()
    assert writer.due_count == 1
    own_redis.start(*options)
    task = asyncio.create_task(writer.run())
    running.append()
    async with asyncio.timeout(LIMIT_S):
        while writer.due_count:
            await asyncio.sleep(0.01)
    task.cancel()
    await running.check()
    await ended.check()


async def test_logs_are_stored_within_a_second_after_an_outage(new, writer, own_redis, monkeypatch):
    monkeypatch.setattr(module.random, "uniform", lambda _, longest: longest)
    written = new()
    async with asyncio.TaskGroup() as tasks, asyncio.timeout(LIMIT_S):
        running = tasks.create_task(writer.run())
        own_redis.stop()
        written.append()
        await asyncio.sleep(2.4)
        own_redis.start()
        began = time.monotonic()
        while writer.due_count:
            await asyncio.sleep(0.01)
        assert time.monotonic() - began < 1.2
        running.cancel()


async def test_an_outage_is_logged_once_with_its_end(new, writer, own_redis, caplog, monkeypatch):
    monkeypatch.setattr(module, "FIRST_BACKOFF_S", 0.01)
    caplog.set_level("INFO")
    written = new()
    own_redis.stop()
    written.append()
    async with asyncio.TaskGroup() as tasks, asyncio.timeout(LIMIT_S):
        running = tasks.create_task(writer.run())
        await asyncio.sleep(0.05)
        own_redis.start()
        while writer.due_count:
            await asyncio.sleep(0.01)
        running.cancel()
    found = [record.message for record in caplog.records if record.name == module.__name__]
    assert len(found) == 2
    assert found[0].startswith("the logs of streams are not stored: Redis: ")
    assert found[1] == "the logs of streams are stored in Redis again"


async def test_what_is_dropped_before_it_is_stored_is_missing_at_the_beginning_only(new, writer):
    written = new(max_bytes=4096)
    written.append(10)
    await write_all(writer)
    written.append(200)
    assert written.log.earliest_sequence > 11
    await write_all(writer)
    await written.check()


async def test_a_log_that_another_process_stores_is_left_alone(new, writer, store, caplog):
    written = new()
    written.append(2)
    await write_all(writer)
    other = new_writer(store)
    other.add(written)
    await write_all(other)
    assert f"stream {written.id}: another process stores a log with this id" in caplog.messages
    written.append()
    assert (other.due_count, writer.due_count) == (0, 1)
    await write_all(writer)
    await written.check()


async def test_a_log_that_is_removed_is_stored_no_further(new, writer, store):
    written = new()
    written.append(2)
    await write_all(writer)
    written.append()
    writer.remove(written.id)
    writer.remove(written.id)
    written.append()
    assert writer.due_count == 0
    assert (await store.read(written.id, 0)).last_sequence == 2


async def test_at_the_end_of_the_process_all_is_stored_or_its_absence_is_logged(
    new, writer, own_redis, caplog
):
    written = new()
    written.append(3)
    assert await writer.flush(LIMIT_S)
    await written.check()
    written.append()
    own_redis.stop()
    assert not await writer.flush(LIMIT_S)
    assert "the logs of 1 streams are not stored" in caplog.text


steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 2), st.integers(1, 60)),
        st.tuples(st.sampled_from(["finish", "fail", "entries", "state"]), st.integers(0, 2)),
        st.sampled_from([("write",), ("write",), ("flush",)]),
    ),
    max_size=30,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(steps=steps)
async def test_whatever_redis_loses_it_has_what_the_logs_have_after_the_next_entry(
    steps, store, client
):
    writer = new_writer(store)
    logs = [Written(writer, store, max_bytes=4096) for _ in range(3)]
    for kind, *rest in steps:
        written = logs[rest[0]] if rest else None
        if kind == "write":
            await write_all(writer)
        elif kind == "flush":
            await client.flushdb()
        elif kind in ("entries", "state"):
            await client.delete(*[key for key in keys(written.id) if key.endswith(kind)])
        elif written.log.sealed:
            continue
        elif kind == "append":
            written.append(rest[1])
        elif kind == "finish":
            written.log.finish(FINISHED)
        else:
            written.append()
            written.fail()
    for written in logs:
        if not written.log.sealed:
            written.append()
    await write_all(writer)
    for written in logs:
        if not written.log.sealed:
            await written.check()
