"""A killed server loses at most the last second of its records, and an unavailable database loses none."""

import asyncio
import contextlib
import sqlite3
import time

from lost_runs import CLOSED_S, WRITTEN_S, Watched, kill_and_start_again, watching
from records_support import bill, is_open, logged, outcome, serving_ledger

CANNOT = "usage records cannot be written"
CAN_AGAIN = "usage records can be written again"
BUSY_WRITTEN_S = 3 * WRITTEN_S
"""Time limit on a busy machine, where the server writes late. `make faults` uses WRITTEN_S."""
UNDISTURBED_S = 0.5
"""Time limit between two tokens that are sent 50 ms apart."""


async def test_streams_of_a_killed_server_are_recorded_as_lost_with_figures_at_most_a_second_old(
    start, api_on, simulator, tmp_path
):
    database = f"sqlite:///{tmp_path}/t.db"
    await kill_and_start_again(
        start, api_on, simulator, database, tmp_path, 20, written_s=BUSY_WRITTEN_S
    )


async def test_another_replica_closes_the_records_of_a_killed_replica_and_no_others(
    start, api_on, simulator, postgresql, tmp_path
):
    database = postgresql.new_database()
    with (
        serving_ledger(start, api_on, simulator, database, tmp_path) as ledger_server,
        ledger_server.again() as living,
    ):
        async with watching(living, 10) as own:
            own_ids = {stream.stream_id for stream in own}
            async with watching(ledger_server.tenancy, 10) as watched:
                ledger_server.tenancy.process.kill()
                await asyncio.to_thread(ledger_server.tenancy.process.wait)

            def closed(records):
                ours = [record for record in records if record.stream_id in own_ids]
                assert all(map(is_open, ours))
                return not any(map(is_open, (r for r in records if r.stream_id not in own_ids)))

            records = await ledger_server.until(living, living.acme, closed, CLOSED_S)
            lost = [record for record in records if record.stream_id not in own_ids]
            assert {record.stream_id for record in lost} == {s.stream_id for s in watched}
            assert {outcome(record) for record in lost} == {"LOST"}
            before = {stream.stream_id: len(stream.arrivals) for stream in own}
        records = await ledger_server.until(
            living, living.acme, lambda found: not any(map(is_open, found)), 5
        )
        by_id = {record.stream_id: record for record in records}
        for stream in own:
            record = by_id[stream.stream_id]
            assert outcome(record) == "CANCELLED"
            assert record.usage.output_tokens >= before[stream.stream_id]


async def outlast(ledger_server, away, back, for_s):
    """Run 50 streams, of which some end and others start while the database is unavailable."""
    tenancy = ledger_server.tenancy
    async with watching(tenancy, 40) as lasting:
        async with watching(tenancy, 5) as ending, tenancy.api(tenancy.acme) as api:
            began = time.monotonic()
            await asyncio.to_thread(away)
            short = [Watched(api, number, "short") for number in range(30)]
            await asyncio.gather(*(stream.reading for stream in short))
            fresh = [Watched(api, number) for number in range(5)]
            await asyncio.gather(*(stream.received(20) for stream in fresh))
        while time.monotonic() - began < for_s:
            await asyncio.sleep(0.05)
        await asyncio.to_thread(back)
        streams = [*lasting, *ending, *short, *fresh]
        ids = {stream.stream_id for stream in streams}
        records = await ledger_server.until(
            tenancy, tenancy.acme, lambda found: {r.stream_id for r in found} >= ids, 15
        )
        assert {record.stream_id for record in records} == ids
        assert all(not stream.reading.done() for stream in lasting)
    for stream in fresh:
        stream.call.cancel()
    records = await ledger_server.until(
        tenancy, tenancy.acme, lambda found: not any(map(is_open, found)), 5
    )
    by_id = {record.stream_id: record for record in records}
    assert len(by_id) == len(records) == len(streams)
    for stream in streams:
        record = by_id[stream.stream_id]
        assert outcome(record) == ("FINISHED" if stream in short else "CANCELLED")
        assert record.usage.cost_microusd == bill(stream.provider, record.usage)
        assert record.usage.output_tokens >= len(stream.arrivals) - (stream in short)
        if stream.finished is not None:
            assert record.usage == stream.finished.usage
    gaps = sorted(gap for stream in lasting for gap in stream.gaps())
    p99_s = gaps[len(gaps) * 99 // 100]
    print(f"\n{for_s:g} s without: ITL p99 {p99_s * 1e3:.0f} ms, longest {gaps[-1] * 1e3:.0f} ms")
    assert p99_s <= UNDISTURBED_S
    lines = logged(tenancy).splitlines()
    assert len([line for line in lines if CANNOT in line]) == 1, lines
    assert len([line for line in lines if CAN_AGAIN in line]) == 1, lines
    assert "ERROR" in next(line for line in lines if CANNOT in line)
    assert not [line for line in lines if "Traceback" in line]


async def test_ten_seconds_without_postgresql_lose_no_record_and_disturb_no_stream(
    start, api_on, simulator, own_postgresql, tmp_path
):
    database = own_postgresql.new_database()
    with serving_ledger(start, api_on, simulator, database, tmp_path) as ledger_server:
        await outlast(ledger_server, own_postgresql.stop, own_postgresql.start, 10)


async def test_eight_seconds_of_a_locked_sqlite_lose_no_record_and_disturb_no_stream(
    start, api_on, simulator, tmp_path
):
    with (
        serving_ledger(
            start, api_on, simulator, f"sqlite:///{tmp_path}/t.db", tmp_path
        ) as ledger_server,
        contextlib.closing(
            sqlite3.connect(tmp_path / "t.db", isolation_level=None, check_same_thread=False)
        ) as holder,
    ):
        await outlast(
            ledger_server,
            lambda: holder.execute("BEGIN EXCLUSIVE"),
            lambda: holder.execute("ROLLBACK"),
            8,
        )
