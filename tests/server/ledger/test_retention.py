"""Which usage records are deleted, by which clock, and when none are."""

import asyncio
import time
from contextlib import suppress

import pytest

from tokenwire_server.ledger import retention as retention_module
from tokenwire_server.ledger import writer as writer_module
from tokenwire_server.ledger.query import UsageQuery
from tokenwire_server.ledger.record import Outcome
from tokenwire_server.ledger.retention import CHECK_EVERY_S, SETTLE_S, Retention
from tokenwire_server.ledger.store import UsageStore
from tokenwire_server.ledger.writer import Ledger

ALL = UsageQuery(tenant=None)
DAY_S = 86_400
KEEP_S = 31 * DAY_S
REFUSED = {
    "sqlite": "CREATE TRIGGER refuse BEFORE DELETE ON tokenwire_usage_records "
    "BEGIN SELECT RAISE(ABORT, 'kept by law'); END",
    "postgresql": "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN RAISE 'kept by law'; END $$; CREATE TRIGGER refuse BEFORE DELETE "
    "ON tokenwire_usage_records FOR EACH ROW EXECUTE FUNCTION refuse()",
}


class Clocks(UsageStore):
    """A store with clocks that can be set: the database's clock, and the two clocks of the process."""

    def __init__(self, database):
        super().__init__(database)
        self.database_s = self.process_s = time.time()
        self.monotonic_s = 0.0
        self.is_idle = False

    async def newest_time(self, before):
        return await super().newest_time(before) if self.is_idle else before

    async def database_time(self):
        return self.database_s

    def retention(self):
        return Retention(
            self, KEEP_S, clock=lambda: self.process_s, monotonic=lambda: self.monotonic_s
        )

    def advance(self, seconds):
        self.database_s += seconds
        self.process_s += seconds
        self.monotonic_s += seconds

    async def run(self, retention, seconds):
        """Advance the clocks by this time, with a check each minute."""
        for _ in range(int(seconds // CHECK_EVERY_S)):
            self.advance(CHECK_EVERY_S)
            await retention.run_due()

    async def ids(self):
        return {record.stream_id for record in await self.page(ALL, size=1000)}


@pytest.fixture
def clocks(database):
    return Clocks(database)


@pytest.fixture
def age(sql):
    """Make all records older by a number of seconds."""
    return lambda seconds: sql(
        f"UPDATE tokenwire_usage_records SET created_time = created_time - {seconds}, "
        f"update_time = update_time - {seconds}"
    )


def logged(caplog):
    return [
        record.getMessage() for record in caplog.records if record.name == retention_module.__name__
    ]


def ended(record, stream_id, **fields):
    fields = {"created_time": time.time(), "outcome": Outcome.FINISHED} | fields
    return record(stream_id, **fields)


async def test_the_database_has_a_clock(store):
    assert abs(await store.database_time() - time.time()) < 20


@pytest.mark.parametrize("wrong_by_s", [40 * DAY_S, -40 * DAY_S, 61])
async def test_while_the_process_s_clock_differs_nothing_is_deleted_and_it_is_logged_once(
    clocks, record, age, caplog, wrong_by_s
):
    caplog.set_level("INFO")
    await clocks.write([ended(record, f"{n}") for n in range(100)])
    age(40 * DAY_S)
    clocks.process_s += wrong_by_s
    retention = clocks.retention()
    await clocks.run(retention, SETTLE_S * 2)
    assert len(await clocks.ids()) == 100
    (line,) = logged(caplog)
    assert f"differs by {-wrong_by_s:+.0f} s" in line
    clocks.process_s -= wrong_by_s
    await clocks.run(retention, CHECK_EVERY_S)
    assert not await clocks.ids()
    assert logged(caplog)[1:] == [
        "the clocks agree again: old usage records are deleted",
        "deleted 100 usage records older than 31 days",
    ]


async def test_a_process_whose_clock_is_ahead_deletes_by_the_database_s_clock(clocks, record, age):
    clocks.process_s += 59
    retention = clocks.retention()
    await clocks.write([ended(record, "due")])
    age(KEEP_S + 10)
    await clocks.write([ended(record, "due by the process's clock")])
    age(KEEP_S - SETTLE_S - 30)  # "due" is twice as old now
    await clocks.run(retention, SETTLE_S)
    assert await clocks.ids() == {"due by the process's clock"}


async def test_in_the_first_hour_of_a_process_nothing_is_deleted(clocks, record, age):
    await clocks.write([ended(record, "old")])
    age(40 * DAY_S)
    retention = clocks.retention()
    await clocks.run(retention, SETTLE_S - CHECK_EVERY_S)
    assert await clocks.ids() == {"old"}
    await clocks.run(retention, CHECK_EVERY_S)
    assert not await clocks.ids()


@pytest.mark.parametrize("jump_s", [40 * DAY_S, -3600])
async def test_for_an_hour_after_the_database_s_clock_has_jumped_nothing_is_deleted(
    clocks, record, age, caplog, jump_s
):
    """This happens when the clock of this machine is set, which SQLite uses too."""
    retention = clocks.retention()
    await clocks.run(retention, SETTLE_S * 2)
    await clocks.write([ended(record, "old")])
    age(40 * DAY_S)
    clocks.database_s += jump_s
    clocks.process_s += jump_s
    await clocks.run(retention, SETTLE_S)
    assert await clocks.ids() == {"old"}
    (line,) = logged(caplog)
    assert line.startswith(f"the database's clock has jumped by {jump_s:+d} s")
    await clocks.run(retention, CHECK_EVERY_S)
    assert not await clocks.ids()


@pytest.mark.parametrize("used_since", [False, True])
async def test_if_records_are_old_at_the_start_nothing_is_deleted_for_a_day(
    clocks, record, age, caplog, used_since
):
    """This machine's clock may be 40 days ahead, and SQLite's with it, as it was before a restart."""
    clocks.is_idle = True
    await clocks.write([ended(record, "old")])
    age(40 * DAY_S)
    new = {"new"} if used_since else set()
    await clocks.write([ended(record, stream_id) for stream_id in new])
    retention = clocks.retention()
    await clocks.run(retention, DAY_S - CHECK_EVERY_S)
    assert await clocks.ids() == {"old"} | new
    (line,) = logged(caplog)
    assert line.startswith("the newest usage record before the last 24 h is 40.0 days old")
    await clocks.run(retention, CHECK_EVERY_S)
    assert await clocks.ids() == new


async def test_a_record_is_kept_from_its_end_on_whatever_clock_created_it(clocks, record, age):
    """Records of a process whose clock is slow, and of a stream that was open when the month began."""
    month_ago = time.time() - 31 * DAY_S
    await clocks.write(
        [
            ended(record, "slow clock", created_time=time.time() - 40 * DAY_S),
            ended(record, "long stream", created_time=month_ago - 3600, end_time=time.time()),
        ]
    )
    retention = clocks.retention()
    await clocks.run(retention, SETTLE_S * 2)
    assert len(await clocks.ids()) == 2
    age(31 * DAY_S)
    await clocks.run(retention, CHECK_EVERY_S)
    assert not await clocks.ids()


async def test_old_records_that_cannot_be_deleted_do_not_block_new_ones(
    database_url, clocks, record, sql, caplog
):
    old = record("old", created_time=1000.0, outcome=Outcome.FINISHED)
    await clocks.write([old])
    sql("UPDATE tokenwire_usage_records SET update_time = 1000")
    sql(REFUSED[database_url.partition(":")[0]])
    retention = clocks.retention()
    clocks.advance(SETTLE_S)
    ledger = Ledger(clocks, "one", retention=retention)
    running = asyncio.create_task(ledger.run(tuple))
    longest_s = 0.0
    for n in range(12):
        began, written = time.monotonic(), ledger.written_count
        ledger.begin(record(str(n), created_time=time.time()))
        while ledger.written_count == written:
            assert time.monotonic() - began < 20
            await asyncio.sleep(0.01)
        longest_s = max(longest_s, time.monotonic() - began)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert (
        longest_s < 4
    )  # 0.3 on an idle machine; up to 5 s, growing each time, if it counts as an outage
    assert old in await clocks.page(ALL)
    (line,) = logged(caplog)
    assert line.startswith("old usage records cannot be deleted: ")
    assert "kept by law" in line
    assert not [r for r in caplog.records if r.name == writer_module.__name__]
