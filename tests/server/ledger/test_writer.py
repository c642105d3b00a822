"""Writing of records in the background, with and without failures of the database."""

import asyncio
import time
from contextlib import suppress
from itertools import chain, repeat

from tokenwire_server.ledger.query import UsageQuery
from tokenwire_server.ledger.record import Outcome
from tokenwire_server.ledger.retention import SETTLE_S, Retention
from tokenwire_server.ledger.writer import Ledger

from .writer_support import WAIT_S, closed, kept, running, said, until


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
            assert took_s < 3  # 0.4 on an idle machine
            await asyncio.sleep(0.07)
    assert ledger.written_count > 2000


async def test_a_stream_that_ends_at_once_is_written_once(ledger, store, record):
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


async def test_only_figures_are_written_of_a_stream_that_has_a_row(ledger, store, sql, record):
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


async def test_a_thousand_open_streams_do_not_block_other_tasks(ledger, record):
    """Even if their figures take long to collect."""

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


async def test_an_error_in_the_figures_does_not_block_records(ledger, store, record, caplog):
    def broken():
        raise ZeroDivisionError

    async with running(ledger, broken):
        ledger.begin(record("1"))
        await until(lambda: ledger.written_count)
    assert ("ERROR", "the figures of open streams cannot be collected") in said(caplog)


async def test_a_flush_writes_all_records_and_releases_the_lease(ledger, store, record, sql):
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


async def test_a_record_that_the_database_rejects_does_not_block_others(
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
