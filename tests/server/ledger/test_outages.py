"""Streams and their records while the database cannot be written."""

import asyncio
import sqlite3
import time
from contextlib import AsyncExitStack

import pytest

from tokenwire_server.ledger.store import UsageStore
from tokenwire_server.ledger.writer import Ledger
from tokenwire_server.storage import sqlite as sqlite_module
from tokenwire_server.storage.database import Database

from .writer_support import closed, kept, running, said, until


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
async def test_while_sqlite_is_locked_streams_continue_and_nothing_is_lost(
    impatient, locked, ledger, store, record, caplog
):
    await streams_during(locked, ledger, store, record, caplog)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_recovery_is_not_logged_just_because_nothing_is_pending(
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


async def test_without_its_table_streams_continue_and_nothing_is_lost(
    impatient, without_table, ledger, store, record, caplog
):
    await streams_during(without_table, ledger, store, record, caplog)


async def test_while_postgresql_is_down_streams_continue_and_nothing_is_lost(
    impatient, own_postgresql, record, caplog
):
    async with Database(own_postgresql.new_database()) as database:
        await database.prepare(migrate=True)
        store = UsageStore(database)
        outage = Outage(own_postgresql.stop, own_postgresql.start)
        await streams_during(outage, Ledger(store, "one"), store, record, caplog)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_while_the_disk_is_full_streams_continue_and_nothing_is_lost(
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
async def test_records_that_are_dropped_are_counted_and_logged(
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
async def test_a_flush_that_runs_out_of_time_ends_and_logs_what_is_lost(
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
    assert "the usage records of 7 streams are not written and are lost" in caplog.text
