"""Processes that start, crash, pause and resume, on a database that is sometimes unavailable."""

import asyncio
import contextlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import scaled
from tokenwire_server.errors import StoreUnavailable
from tokenwire_server.events import Usage
from tokenwire_server.ledger import writer as writer_module
from tokenwire_server.ledger.query import UsageQuery
from tokenwire_server.ledger.record import Outcome
from tokenwire_server.ledger.writer import Ledger

ALL = UsageQuery(tenant=None)
USAGE_PROCESS = Path(__file__).parents[2] / "usage_process.py"

OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(
            ["begin", "go on", "go on", "close", "turn", "turn", "turn", "crash", "pause", "away"]
        ),
        st.integers(0, 2),
        st.integers(0, 3),
    ),
    min_size=8,
    max_size=40,
)


class Process:
    """A ledger whose turns a test takes, and its streams."""

    def __init__(self, store, name):
        self.name = name
        self.ledger = Ledger(store, name)
        self.open = {}

    async def turn(self):
        """Take turns until everything is written. Raises StoreUnavailable."""
        await self.ledger.take_turn(lambda: list(self.open.values()))
        while self.ledger.pending_count:
            await self.ledger.take_turn(tuple)


class World:
    """Processes, and the expected content of the database in `rows`."""

    def __init__(self, store, sql, pause, record):
        self.store, self.sql, self.pause, self.record = store, sql, pause, record
        self.rows, self.gone, self.lapsed, self.ended = {}, [], set(), {}
        self.away = False
        self.count = 0
        self.processes = [self._started() for _ in range(3)]

    def _started(self):
        self.count += 1
        return Process(self.store, f"process-{self.count}")

    def begin(self, process, _):
        self.count += 1
        stream_id = f"stream-{self.count}"
        process.open[stream_id] = self.record(stream_id, instance_id=process.name)
        process.ledger.begin(process.open[stream_id])

    def go_on(self, process, which):
        for stream_id in list(process.open)[which : which + 1]:
            record = process.open[stream_id]
            tokens = record.usage.output_tokens + 1
            process.open[stream_id] = msgspec.structs.replace(record, usage=Usage(10, tokens))

    def close(self, process, which):
        for stream_id in list(process.open)[which : which + 1]:
            record = process.open.pop(stream_id)
            closed = msgspec.structs.replace(record, outcome=Outcome.FINISHED)
            process.ledger.close(closed)
            self.ended[stream_id] = (process, closed)

    def crash(self, process, _):
        self.gone.append(process)
        self.processes[self.processes.index(process)] = self._started()

    def let_pass(self, process, _):
        """Pause a process for longer than its lease, while the others run."""
        if not self.away:
            self.pause(process.name)
            self.lapsed.add(process.name)

    async def turn(self, process, _):
        process.ledger._close_at = 0.0  # each turn closes what is lost
        if self.away:
            with pytest.raises(StoreUnavailable):
                await process.turn()
            self.lapsed.discard(process.name)  # leases can be renewed
            return
        for _ in range(3):  # what PostgreSQL had prepared fails once when a table comes back
            with contextlib.suppress(StoreUnavailable):
                await process.turn()
                break
        else:
            raise AssertionError("it cannot be written")
        self.lapsed.discard(process.name)
        self._written(process)
        for stream_id, row in self.rows.items():
            if row.outcome is Outcome.OPEN and row.instance_id in self.lapsed:
                self.rows[stream_id] = msgspec.structs.replace(row, outcome=Outcome.LOST)
        await self.check()

    def _written(self, process):
        self.rows |= process.open
        for stream_id, (owner, closed) in list(self.ended.items()):
            if owner is process:
                self.rows[stream_id] = closed
                del self.ended[stream_id]

    def toggle(self, *_):
        old, new = "tokenwire_usage_records", "hidden"
        if self.away:
            old, new = new, old
        self.sql(f"ALTER TABLE {old} RENAME TO {new}")
        self.away = not self.away

    async def check(self):
        def told(records):
            return {r.stream_id: (r.outcome, r.usage, r.instance_id, r.partial) for r in records}

        rows = [
            msgspec.structs.replace(row, partial=row.outcome is Outcome.LOST)
            for row in self.rows.values()
        ]
        assert told(await self.store.page(ALL, size=1000)) == told(rows)


@settings(max_examples=scaled(25))
@given(operations=OPERATIONS)
async def test_after_any_crashes_each_stream_has_one_correct_record(
    store, sql, pause, record, monkeypatch, operations
):
    monkeypatch.setattr(writer_module, "CHECKPOINT_EVERY_S", 0.0)
    monkeypatch.setattr(writer_module, "RENEW_S", 0.0)
    sql("DELETE FROM tokenwire_usage_records")
    sql("DELETE FROM tokenwire_instances")
    world = World(store, sql, pause, record)
    do = {"go on": world.go_on, "away": world.toggle, "pause": world.let_pass}
    try:
        for operation, who, which in operations:
            act = do.get(operation) or getattr(world, operation)
            if (done := act(world.processes[who], which)) is not None:
                await done
    finally:
        if world.away:
            world.toggle()
    for process in world.gone:
        world.let_pass(process, 0)
    for process in world.processes * 2:
        await world.turn(process, 0)
    for process in world.processes:
        for stream_id in process.open:
            assert world.rows[stream_id].outcome is Outcome.OPEN
    living = {process.name for process in world.processes}
    assert all(
        row.instance_id in living for row in world.rows.values() if row.outcome is Outcome.OPEN
    )
    assert set(sql("SELECT instance_id FROM tokenwire_instances").split()) == living


@pytest.mark.process
async def test_a_killed_process_loses_a_second_at_most(database_url, store, pause):
    process = subprocess.Popen(
        [sys.executable, "-W", "error", USAGE_PROCESS, database_url, "one"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "ready\n"
        await asyncio.sleep(3)
        process.send_signal(signal.SIGKILL)
        killed_at = time.time()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    pause("one", 11)
    await store.instances.close_lost()
    found = {r.stream_id: r for r in await store.page(ALL, size=100_000)}
    last = max(int(stream_id.partition("/")[2]) for stream_id in found)
    assert set(found) == {f"one/{n}" for n in range(last + 1)}  # none between is missing
    youngest_s = killed_at - max(each.created_time for each in found.values())
    ages_s = []
    for each in found.values():
        if each.outcome is Outcome.LOST:
            ages_s.append(killed_at - each.created_time - each.usage.output_tokens / 1000)
        else:
            assert each.outcome is Outcome.FINISHED
    print(f"lost: {youngest_s:.2f} s of beginnings, {max(ages_s):.2f} s of figures")
    assert len(ages_s) > 100
    assert youngest_s < 2  # 0.3 on an idle machine
    assert max(ages_s) < 3  # 1.3 on an idle machine
