"""Records on their way into the database, whatever becomes of it; streams never wait."""

import asyncio
import sqlite3
import time
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import chain, repeat

import msgspec
import pytest

from tokenwire_server.events import Usage
from tokenwire_server.ledger import writer as writer_module
from tokenwire_server.ledger.query import UsageQuery
from tokenwire_server.ledger.record import Outcome
from tokenwire_server.ledger.retention import SETTLE_S, Retention
from tokenwire_server.ledger.store import UsageStore
from tokenwire_server.ledger.writer import Ledger
from tokenwire_server.storage import sqlite as sqlite_module
from tokenwire_server.storage.database import Database

ALL = UsageQuery(tenant=None)
WAIT_S = 20


def closed(record, tokens=9):
    return msgspec.structs.replace(
        record, outcome=Outcome.FINISHED, reason="STOP", usage=Usage(10, tokens)
    )


async def kept(store):
    return {record.stream_id: record for record in await store.page(ALL, size=100_000)}


async def until(condition, within_s=WAIT_S):
    """Poll until it is so; return how long it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < within_s
        await asyncio.sleep(0.005)
    return time.monotonic() - began


def said(caplog):
    return [
        (record.levelname, record.getMessage().partition(":")[0])
        for record in caplog.records
        if record.name == writer_module.__name__
    ]


@asynccontextmanager
async def running(ledger, open_records=tuple):
    task = asyncio.create_task(ledger.run(open_records))
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def ledger(store):
    return Ledger(store, "one")


@pytest.fixture
def impatient(monkeypatch):
    """Locks are waited for shortly, and the database is tried again soon."""
    monkeypatch.setattr(sqlite_module, "LOCK_WAIT_S", 0.1)
    monkeypatch.setattr(writer_module, "LONGEST_BACKOFF_S", 0.2)


async def test_a_record_is_in_the_database_within_a_second(ledger, store, record):
    open_records = {f"open {n}": record(f"open {n}", tokens=1) for n in range(2000)}
    async with running(ledger, lambda: list(open_records.values())):
        await until(lambda: ledger.written_count >= 2000)
        for n in range(5):
            new, began = record(str(n)), time.monotonic()
            ledger.begin(new)
            while (
                found := await store.page(UsageQuery(tenant=None, models=("fast",)), None, 3000)
            ) and new not in found:
                assert time.monotonic() - began < WAIT_S
                await asyncio.sleep(0.01)
            took_s = time.monotonic() - began
            print(f"in the database after {took_s:.2f} s, beside 2000 open streams")
            assert took_s < 1.5  # 0.4 on an idle machine
            await asyncio.sleep(0.07)
    assert ledger.written_count > 2000


async def test_a_stream_that_is_over_at_once_is_written_once(ledger, store, record):
    async with running(ledger):
        ledger.begin(record("1"))
        ledger.checkpoint(record("1", tokens=4))
        ledger.close(closed(record("1")))
        await until(lambda: ledger.written_count)
        await asyncio.sleep(0.3)
    assert ledger.written_count == 1
    assert await kept(store) == {"1": closed(record("1"))}


async def test_figures_of_open_streams_are_in_the_database_each_second(ledger, store, record):
    began = time.monotonic()

    def figures():
        yield record("1", tokens=int((time.monotonic() - began) * 1000))

    async with running(ledger, figures):
        ledger.begin(record("1"))
        await asyncio.sleep(1.7)
        for _ in range(10):
            await asyncio.sleep(0.17)
            age_ms = (time.monotonic() - began) * 1000
            ((_, found),) = (await kept(store)).items()
            assert found.usage.output_tokens > age_ms - 2000  # 1300 on an idle machine


async def test_of_a_stream_that_is_in_the_database_only_figures_are_written(
    ledger, store, sql, record
):
    open_records = {"1": record("1")}
    async with running(ledger, lambda: list(open_records.values())):
        ledger.begin(open_records["1"])
        await until(lambda: ledger.written_count)
        # In a thread: the ledger, which may have the lock, needs this one.
        await asyncio.to_thread(sql, "UPDATE tokenwire_usage_records SET tenant = 'another'")
        open_records["1"] = record("1", tokens=7)
        written = ledger.written_count
        await until(lambda: ledger.written_count >= written + 2)
        (found,) = (await kept(store)).values()
    assert (found.tenant, found.usage.output_tokens) == ("another", 7)


async def test_a_thousand_open_streams_stop_nobody(ledger, record):
    """Nor those whose figures take long to tell."""

    turns = 0
    turns_meanwhile = []

    def slow():
        began = turns
        for n in range(1000):
            time.sleep(0.0002)
            yield record(str(n))
        turns_meanwhile.append(turns - began)

    async def others():
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    watching = asyncio.create_task(others())
    async with running(ledger, slow):
        await until(lambda: ledger.written_count >= 1000)
    watching.cancel()
    assert turns_meanwhile[0] > 50  # every 2 ms; none, if all were taken at once


async def test_figures_that_cannot_be_had_keep_no_record_from_being_written(
    ledger, store, record, caplog
):
    def broken():
        raise ZeroDivisionError

    async with running(ledger, broken):
        ledger.begin(record("1"))
        await until(lambda: ledger.written_count)
    assert ("ERROR", "the figures of open streams cannot be had") in said(caplog)


async def test_a_flush_writes_all_and_gives_up_the_lease(ledger, store, record, sql):
    async with running(ledger) as task:
        await until(lambda: sql("SELECT instance_id FROM tokenwire_instances") == "one\n")
        for n in range(3000):
            ledger.close(closed(record(str(n))))
        assert await ledger.flush(WAIT_S)
        await asyncio.wait_for(task, WAIT_S)
    assert ledger.pending_count == 0
    assert len(await kept(store)) == 3000
    assert sql("SELECT instance_id FROM tokenwire_instances") == ""


async def test_cancelled_at_any_moment_nothing_is_lost_and_a_flush_writes_it(ledger, store, record):
    for n in range(60):
        ledger.begin(record(str(n)))
        ledger.close(closed(record(f"done {n}")))
        task = asyncio.create_task(ledger.run(tuple))
        await asyncio.sleep(n * 0.0002)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    assert await ledger.flush(WAIT_S)
    assert len(await kept(store)) == 120


async def test_a_turn_closes_the_records_of_lost_processes_and_deletes_old_ones(
    store, record, pause, sql
):
    created = time.time() - 50
    old = record("old", created_time=created - 50, outcome=Outcome.FINISHED)
    young = record("young", created_time=created, outcome=Outcome.FINISHED)
    gone = record("gone", created_time=created, instance_id="gone")
    await store.write([old, young, gone])
    pause("gone", 11)
    sql(f"UPDATE tokenwire_usage_records SET update_time = {created - 50} WHERE stream_id = 'old'")
    started = time.monotonic() - SETTLE_S
    moments = chain([started], repeat(started + SETTLE_S))
    retention = Retention(store, 75, monotonic=lambda: next(moments))
    await Ledger(store, "one", retention=retention).take_turn(tuple)
    found = await kept(store)
    assert {stream_id: each.outcome for stream_id, each in found.items()} == {
        "young": Outcome.FINISHED,
        "gone": Outcome.LOST,
    }


async def test_a_record_that_the_database_refuses_keeps_no_other_from_it(
    database_url, store, record, sql, impatient
):
    if database_url.startswith("sqlite"):
        sql(
            "CREATE TRIGGER refuse BEFORE INSERT ON tokenwire_usage_records WHEN NEW.stream_id = 'bad' "
            "BEGIN SELECT RAISE(ABORT, 'refused'); END"
        )
    else:
        sql("ALTER TABLE tokenwire_usage_records ADD CHECK (stream_id <> 'bad')")
    ledger = Ledger(store, "one")
    for n in range(20):
        ledger.begin(record("bad" if n == 7 else str(n)))
    async with running(ledger):
        await until(lambda: ledger.written_count == 19)
        ledger.begin(record("later"))
        await until(lambda: ledger.written_count == 20)
    assert ledger.pending_count == 1
    assert not await ledger.flush(0.5)


class Outage:
    """The database cannot be written between `start` and `stop`."""

    def __init__(self, start, stop):
        self._start, self._stop = start, stop

    async def start(self):
        await asyncio.to_thread(self._start)  # a transaction that goes on must be let end

    async def stop(self):
        await asyncio.to_thread(self._stop)


@pytest.fixture
def locked(database_url):
    connection = sqlite3.connect(
        database_url.removeprefix("sqlite:///"), isolation_level=None, check_same_thread=False
    )
    yield Outage(
        lambda: connection.execute("BEGIN IMMEDIATE"), lambda: connection.execute("ROLLBACK")
    )
    connection.close()


@pytest.fixture
def without_table(sql):
    table, hidden = "tokenwire_usage_records", "hidden"
    return Outage(
        lambda: sql(f"ALTER TABLE {table} RENAME TO {hidden}"),
        lambda: sql(f"ALTER TABLE {hidden} RENAME TO {table}"),
    )


async def streams_during(outage, ledger, store, record, caplog):
    """Streams begin, go on and end while there is no database: none waits, and all is written after."""
    async with running(ledger):
        ledger.begin(record("before"))
        await until(lambda: ledger.written_count)
        await outage.start()
        ledger.close(closed(record("before"), 1))
        await until(lambda: said(caplog))
        longest_s = 0.0
        for n in range(500):
            began = time.thread_time()
            ledger.begin(record(str(n)))
            ledger.checkpoint(record(str(n), tokens=1))
            ledger.close(closed(record(str(n))))
            longest_s = max(longest_s, time.thread_time() - began)
            await asyncio.sleep(0.001)
        assert longest_s < 0.05
        assert ledger.pending_count == 501
        await outage.stop()
        await until(lambda: not ledger.pending_count)
        await until(lambda: len(said(caplog)) == 2)
    found = await kept(store)
    assert found == {
        "before": closed(record("before"), 1),
        **{str(n): closed(record(str(n))) for n in range(500)},
    }
    assert said(caplog) == [
        ("ERROR", "usage records cannot be written"),
        ("WARNING", "usage records can be written again"),
    ]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_while_sqlite_is_locked_streams_go_on_and_nothing_is_lost(
    impatient, locked, ledger, store, record, caplog
):
    await streams_during(locked, ledger, store, record, caplog)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_database_is_not_said_to_be_back_because_nothing_is_to_be_written(
    impatient, locked, ledger, caplog
):
    async with running(ledger):
        await until(lambda: ledger._close_at > 0)  # all that is due was done
        await locked.start()
        ledger._renew_at = time.monotonic() + 60
        ledger._close_at = 0.0
        await until(lambda: said(caplog))
        await asyncio.sleep(0.6)
        assert said(caplog) == [("ERROR", "usage records cannot be written")]
        await locked.stop()
        await until(lambda: len(said(caplog)) == 2)


async def test_without_its_table_streams_go_on_and_nothing_is_lost(
    impatient, without_table, ledger, store, record, caplog
):
    await streams_during(without_table, ledger, store, record, caplog)


async def test_while_postgresql_is_down_streams_go_on_and_nothing_is_lost(
    impatient, own_postgresql, record, caplog
):
    async with Database(own_postgresql.new_database()) as database:
        await database.prepare(migrate=True)
        store = UsageStore(database)
        outage = Outage(own_postgresql.stop, own_postgresql.start)
        await streams_during(outage, Ledger(store, "one"), store, record, caplog)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_while_the_disk_is_full_streams_go_on_and_nothing_is_lost(
    impatient, database, ledger, store, record, caplog
):

    async def set_pages(most):
        async with AsyncExitStack() as stack:  # all the connections that there may be
            for _ in range(sqlite_module.MAX_CONNECTIONS):
                connection = await stack.enter_async_context(database.reading())
                await connection.exec_driver_sql(f"PRAGMA max_page_count = {most}")

    await set_pages(1)  # SQLite makes of it as many as there are
    many = [record(str(n), request_id="r" * 500) for n in range(200)]
    async with running(ledger):
        for each in many:
            ledger.begin(each)
        await until(lambda: said(caplog))
        assert "full" in caplog.text
        await set_pages(1_000_000)
        await until(lambda: not ledger.pending_count)
    assert await kept(store) == {each.stream_id: each for each in many}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_what_is_too_much_to_keep_is_counted_and_said(
    impatient, locked, store, record, caplog
):
    ledger = Ledger(store, "one", max_pending=100)
    async with running(ledger):
        await until(lambda: ledger._renew_at > 0)
        await locked.start()
        for n in range(250):
            ledger.begin(record(str(n)))
            ledger.close(closed(record(str(n))))
        assert (ledger.pending_count, ledger.dropped_count) == (100, 150)
        await asyncio.sleep(0.3)
        await locked.stop()
        await until(lambda: not ledger.pending_count)
        await until(lambda: "150 streams have ended without a usage record" in caplog.text)
    assert len(await kept(store)) == 100


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_flush_that_has_no_time_ends_in_time_and_says_what_is_gone(
    locked, ledger, record, caplog
):
    await locked.start()
    async with running(ledger):
        for n in range(7):
            ledger.close(closed(record(str(n))))
        await asyncio.sleep(0.3)
        began = time.monotonic()
        assert not await ledger.flush(0.5)
        assert time.monotonic() - began < 2
        await locked.stop()
    assert "the usage records of 7 streams are not written, and are gone" in caplog.text
