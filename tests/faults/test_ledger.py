"""The ledger under faults at full size: killed processes, locks, floods. Figures are printed."""

import asyncio
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
import pytest

from tokenwire_server.events import Usage
from tokenwire_server.ledger.query import UsageQuery
from tokenwire_server.ledger.record import Outcome, UsageRecord
from tokenwire_server.ledger.store import UsageStore
from tokenwire_server.ledger.writer import Ledger
from tokenwire_server.storage.database import Database

pytestmark = pytest.mark.faults

ALL = UsageQuery(tenant=None)
USAGE_PROCESS = Path(__file__).parents[1] / "usage_process.py"
HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=20)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
async def store(database_url):
    async with Database(database_url) as database:
        await database.prepare(migrate=True)
        yield UsageStore(database)


def record(n, **fields):
    return UsageRecord(
        stream_id=str(n),
        instance_id="here",
        tenant=f"tenant-{n % 5}",
        key_prefix="tw_0123456789ab",
        request_id=f"request-{n}",
        labels={"team": f"team-{n % 20}", "env": "prod"},
        model_asked="openai/gpt-5",
        created_time=time.time(),
        provider="openai",
        model="gpt-5",
        **fields,
    )


def closed(begun):
    return msgspec.structs.replace(
        begun, outcome=Outcome.FINISHED, reason="STOP", usage=Usage(1000, 200, cost_microusd=123)
    )


@asynccontextmanager
async def running(ledger, open_records=tuple):
    task = asyncio.create_task(ledger.run(open_records))
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def watched():
    """Record the pauses of the event loop, in seconds."""
    pauses = []

    async def watch():
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.001)
            pauses.append(time.perf_counter() - began - 0.001)

    task = asyncio.create_task(watch())
    try:
        yield pauses
    finally:
        task.cancel()


async def kept(store):
    return {r.stream_id: r for r in await store.page(ALL, None, 1_000_000)}


async def until(condition, within_s=60):
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < within_s
        await asyncio.sleep(0.01)
    return time.monotonic() - began


async def test_a_flood_of_records_does_not_block_streams(store, database_url):
    ledger, count = Ledger(store, "here"), 50_000
    records = [record(n) for n in range(count)]
    ends = list(map(closed, records))
    async with running(ledger), watched() as pauses:
        began = time.monotonic()
        for first in range(0, count, 500):
            for begun, end in zip(
                records[first : first + 500], ends[first : first + 500], strict=True
            ):
                ledger.begin(begun)
                ledger.checkpoint(begun)
                ledger.close(end)
            await asyncio.sleep(0)
        await until(lambda: not ledger.pending_count)
        took_s = time.monotonic() - began
    pauses.sort()
    print(
        f"\n{database_url.partition(':')[0]}: {count / took_s:.0f} records/s; pauses of the loop: "
        f"p99 {pauses[len(pauses) * 99 // 100] * 1000:.1f} ms, most {pauses[-1] * 1000:.1f} ms"
    )
    assert (await store.summary(ALL))[0].record_count == count
    assert pauses[len(pauses) * 99 // 100] < 0.025


@pytest.mark.parametrize("restarted", [False, True], ids=["a replica lives", "it starts again"])
async def test_streams_of_a_killed_process_become_lost_after_its_lease(
    store, database_url, restarted
):
    process = started(database_url, "killed")
    ledger = Ledger(store, "here")
    mine = record(1)
    try:
        await asyncio.sleep(3)
    finally:
        process.kill()
        process.wait()
    killed_at = time.monotonic()
    if restarted:
        await asyncio.sleep(1)
    async with running(ledger, lambda: [mine]):
        ledger.begin(mine)
        while True:
            outcomes = Counter(r.outcome for r in (await kept(store)).values())
            if outcomes[Outcome.LOST]:
                break
            assert time.monotonic() - killed_at < 20
            await asyncio.sleep(0.1)
        took_s = time.monotonic() - killed_at
        await asyncio.sleep(1)
    outcomes = Counter(r.outcome for r in (await kept(store)).values())
    print(f"\nlost {took_s:.1f} s after the kill: {dict(outcomes)}")
    assert 8 < took_s < 16.5
    assert outcomes[Outcome.OPEN] == 1
    assert (await kept(store))["1"].outcome is Outcome.OPEN


def started(url, name):
    process = subprocess.Popen(
        [sys.executable, USAGE_PROCESS, url, name], stdout=subprocess.PIPE, text=True
    )
    with process.stdout:
        assert process.stdout.readline() == "ready\n"
    return process


async def test_each_killed_process_loses_at_most_a_second_of_figures(store, database_url):
    chance, killed = random.Random(7), {}
    processes = {}
    for n in range(12):
        processes[f"p{n}"] = started(database_url, f"p{n}")
        await asyncio.sleep(chance.uniform(0.2, 1.2))
        if len(processes) > 2:
            name = chance.choice(list(processes))
            process = processes.pop(name)
            process.kill()
            killed[name] = time.time()
            process.wait()
    for name, process in processes.items():
        process.kill()
        killed[name] = time.time()
        process.wait()
    ledger = Ledger(store, "here")
    async with running(ledger):
        await asyncio.sleep(16)
    numbers, youngest, worst_s = {}, Counter(), 0.0
    for stream_id, found in (await kept(store)).items():
        name, _, number = stream_id.partition("/")
        numbers.setdefault(name, set()).add(int(number))
        youngest[name] = max(youngest[name], found.created_time)
        if found.outcome is Outcome.LOST:
            age_s = killed[name] - found.created_time
            worst_s = max(worst_s, age_s - found.usage.output_tokens / 1000)
        else:
            assert found.outcome is Outcome.FINISHED
    beginnings_s = max(killed[name] - youngest[name] for name in youngest)
    print(
        f"\nof {len(killed)} killed: {beginnings_s:.2f} s of beginnings, {worst_s:.2f} s of figures"
    )
    for found in numbers.values():
        assert found == set(range(max(found) + 1))
    assert beginnings_s < 1.5
    assert worst_s < 2.5


async def beside(outage, ledger, store, streams_per_s=200):
    """Run streams during `outage`. None of them waits, and each has its record afterwards."""
    count, longest_s = 0, 0.0
    async with running(ledger):
        await until(lambda: ledger.pending_count == 0)
        task = asyncio.create_task(outage)
        while not task.done():
            begun = record(count)
            began = time.perf_counter()
            ledger.begin(begun)
            ledger.checkpoint(begun)
            ledger.close(closed(begun))
            longest_s = max(longest_s, time.perf_counter() - began)
            count += 1
            await asyncio.sleep(1 / streams_per_s)
        await task
        most = ledger.pending_count
        caught_up_s = await until(lambda: not ledger.pending_count)
    print(
        f"\n{count} streams, {most} of them waiting at the end; written {caught_up_s:.1f} s later; "
        f"the longest was kept for {longest_s * 1e6:.0f} us"
    )
    assert set(await kept(store)) == {str(n) for n in range(count)}
    assert ledger.dropped_count == 0


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_no_record_is_lost_while_another_process_has_the_lock(store, database_url):
    async def locked():
        path = database_url.removeprefix("sqlite:///")
        holder = await asyncio.create_subprocess_exec(
            sys.executable, "-c", HOLDER, path, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        await holder.stdout.readline()
        await asyncio.sleep(12)
        await holder.communicate(b"")

    await beside(locked(), Ledger(store, "here"), store)


async def test_no_record_is_lost_while_postgresql_does_not_answer(own_postgresql):
    async def frozen():
        own_postgresql.signal_backends(signal.SIGSTOP)
        await asyncio.sleep(12)
        own_postgresql.signal_backends(signal.SIGCONT)

    async with Database(own_postgresql.new_database()) as database:
        await database.prepare(migrate=True)
        store = UsageStore(database)
        await beside(frozen(), Ledger(store, "here"), store)


async def test_no_record_is_lost_while_postgresql_is_down(own_postgresql):
    async def down():
        await asyncio.to_thread(own_postgresql.stop)
        await asyncio.sleep(6)
        await asyncio.to_thread(own_postgresql.start)

    async with Database(own_postgresql.new_database()) as database:
        await database.prepare(migrate=True)
        store = UsageStore(database)
        await beside(down(), Ledger(store, "here"), store)
