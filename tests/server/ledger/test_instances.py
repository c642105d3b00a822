"""Leases of processes, and the records of processes that are gone."""

import asyncio
import time

import pytest

from tokenwire_server.ledger import instances as instances_module
from tokenwire_server.ledger.instances import new_instance_id
from tokenwire_server.ledger.query import UsageQuery
from tokenwire_server.ledger.record import Outcome
from tokenwire_server.ledger.store import UsageStore
from tokenwire_server.storage.database import Database

ALL = UsageQuery(tenant=None)
LAPSED = 11


async def kept(store):
    return {record.stream_id: record for record in await store.page(ALL, size=10_000)}


async def outcomes(store):
    return {stream_id: record.outcome for stream_id, record in (await kept(store)).items()}


async def test_records_of_a_process_that_is_gone_are_lost_with_their_last_figures(
    store, record, pause
):
    created = time.time() - 60
    await store.instances.renew("one")
    await store.write(
        [
            record("open", tokens=7, created_time=created),
            record("done", outcome=Outcome.FINISHED, reason="STOP"),
        ]
    )
    before = time.time()
    pause("one", LAPSED)
    assert await store.instances.close_lost() == 1
    found = await kept(store)
    lost = found["open"]
    assert (lost.outcome, lost.reason, lost.partial) == (Outcome.LOST, "PRODUCER_LOST", True)
    assert lost.usage == record("open", tokens=7).usage
    assert lost.end_time == pytest.approx(before - LAPSED, abs=2)  # of its last figures
    assert found["done"] == record("done", outcome=Outcome.FINISHED, reason="STOP")
    assert await store.instances.close_lost() == 0


async def test_a_lost_stream_never_ends_before_it_began(store, record, pause):
    later = time.time() + 3600  # the clock of its process
    await store.write([record("ahead", created_time=later)])
    pause("one", LAPSED)
    assert await store.instances.close_lost() == 1
    assert (await kept(store))["ahead"].end_time == later


@pytest.mark.parametrize("lease_s", [None, 1, 3])
async def test_no_record_of_a_process_with_a_lease_is_closed_as_lost(
    store, record, sql, pause, lease_s
):
    await store.write([record("silent")])
    pause("one", 3600)
    await store.instances.renew("one")
    if lease_s:
        sql(
            f"UPDATE tokenwire_instances SET lease_expire_time = lease_expire_time - {10 - lease_s}"
        )
    assert await store.instances.close_lost() == 0
    sql("UPDATE tokenwire_instances SET lease_expire_time = lease_expire_time - 11")
    assert await store.instances.close_lost() == 1


@pytest.mark.parametrize("leased", [True, False], ids=["lapsed", "no row"])
async def test_a_record_that_was_just_written_is_not_closed_as_lost(store, record, pause, leased):
    if leased:
        await store.instances.renew("one")
        pause("one", 3600)
    await store.write([record("fresh")])
    assert await store.instances.close_lost() == 0
    pause("one", 9)
    assert await store.instances.close_lost() == 0
    pause("one", 2)
    assert await store.instances.close_lost() == 1


async def test_a_process_that_resumes_replaces_lost_records(store, record, pause):
    await store.write([record("open"), record("done")])
    pause("one", LAPSED)
    assert await store.instances.close_lost() == 2
    await store.instances.renew("one")
    done = record("done", outcome=Outcome.FINISHED, reason="STOP", tokens=9)
    await store.write([record("open", tokens=5), done])
    assert await kept(store) == {"open": record("open", tokens=5), "done": done}
    assert await store.instances.close_lost() == 0


async def test_concurrent_closing_closes_each_lost_record_once(database_url, record, pause):
    async with Database(database_url) as database:
        await database.prepare(migrate=True)
        store = UsageStore(database)
        await store.write([record(str(n)) for n in range(500)])
        await store.write([record(f"living {n}", instance_id="two") for n in range(500)])
        await store.instances.renew("two")
        pause("one", LAPSED)
        async with Database(database_url) as another:
            stores = [store, UsageStore(another)] * 5
            closed = await asyncio.gather(*(each.instances.close_lost() for each in stores))
        assert sum(closed) == 500
        found = await kept(store)
    assert len(found) == 1000
    for each in found.values():
        assert each.outcome is (Outcome.LOST if each.instance_id == "one" else Outcome.OPEN)


async def test_closing_lost_records_does_not_wait_for_their_process(store, database, pause, record):
    """It does not block their writes either."""
    if not database.name.startswith("postgresql"):
        pytest.skip("SQLite has one writer at a time")
    await store.write([record("1"), record("2")])
    pause("one", LAPSED)
    async with database.writing() as connection:
        await connection.exec_driver_sql(
            "UPDATE tokenwire_usage_records SET output_tokens = 1 WHERE stream_id = '1'"
        )
        assert await store.instances.close_lost() == 1
    assert await outcomes(store) == {"1": Outcome.OPEN, "2": Outcome.LOST}


async def test_one_call_closes_a_bounded_number(store, record, pause, monkeypatch):
    monkeypatch.setattr(instances_module, "CLOSE_BATCH", 10)
    await store.write([record(str(n)) for n in range(25)])
    pause("one", LAPSED)
    assert [await store.instances.close_lost() for _ in range(4)] == [10, 10, 5, 0]


async def test_the_lease_of_a_process_is_removed_when_it_has_no_open_records(
    store, record, sql, pause
):
    for name in ("one", "two", "living"):
        await store.instances.renew(name)
    await store.write([record("1")])
    pause("one", LAPSED)
    pause("two", LAPSED)
    await store.write([record("1", tokens=1)])  # its lease is over, and it has just written
    rows = "SELECT instance_id FROM tokenwire_instances ORDER BY instance_id"
    await store.instances.close_lost()
    assert sql(rows) == "living\none\n"
    pause("one", LAPSED)
    await store.instances.close_lost()
    assert sql(rows) == "living\n"


async def test_a_released_lease_is_removed_and_a_renewed_one_keeps_its_start(store, sql):
    await store.instances.renew("one")
    row = "SELECT started_time, lease_expire_time FROM tokenwire_instances"
    started, expires = map(float, sql(row).split("|"))
    assert expires - started == pytest.approx(10, abs=0.5)
    await asyncio.sleep(0.05)
    await store.instances.renew("one")
    again, later = map(float, sql(row).split("|"))
    assert again == started
    assert later >= expires + 0.04
    await store.instances.release("one")
    assert sql(row) == ""


async def test_the_clocks_of_machines_do_not_matter(store, record, monkeypatch):
    """Only the database's clock matters, which is the same for all."""
    await store.instances.renew("one")
    await store.write([record("1")])
    monkeypatch.setattr(time, "time", lambda: 4e9)
    assert await store.instances.close_lost() == 0
    assert await outcomes(store) == {"1": Outcome.OPEN}


def test_a_restarted_process_has_another_id():
    assert len({new_instance_id() for _ in range(1000)}) == 1000
