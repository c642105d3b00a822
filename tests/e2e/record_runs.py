"""Runs of any number of streams on a server with usage records."""

import asyncio
import signal
import time

from record_checks import check_ledger
from record_ways import die_with_their_caller, end_in_every_way, staying_open
from records_support import is_open, logged, serving_ledger

READABLE_S = 3.0


async def end_and_check(
    start, api_on, own_simulator, database, folder, count, late_tokens=20, seed=None
):
    """Run somewhat more than `count` tries that end in every way, the last ones with their server. Check
    their records.

    `late_tokens`: how many tokens may be on their way to the server when it closes the connection to the
    provider, at 20 a second; and half of it, on average, on their way to a caller that leaves.
    """
    seed = time.time_ns() if seed is None else seed
    share = count // 50
    began = time.monotonic()
    with (
        own_simulator() as simulator,
        serving_ledger(
            start, api_on, simulator, database, folder, TOKENWIRE_LOG_LEVEL="ERROR"
        ) as ledger_server,
    ):
        tenancy = ledger_server.tenancy
        print("seed", seed)
        tries = await end_in_every_way(tenancy, count - 2 * share, seed)
        tries += await die_with_their_caller(tenancy, len(tries), share)
        await asyncio.to_thread(simulator.wait_until_none_open, 10)
        records = await ledger_server.until(
            tenancy, tenancy.acme, lambda found: not any(map(is_open, found)), READABLE_S
        )
        assert not any(map(is_open, records))
        async with staying_open(tenancy, len(tries), share) as last:
            tenancy.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(tenancy.process.wait, 15)
        assert logged(tenancy) == ""
        with ledger_server.again() as again:
            records = await ledger_server.records(again, tenancy.acme)
            assert await ledger_server.records(again, tenancy.globex) == []
        summary = check_ledger(tries + last, records, simulator, late_tokens)
    print(f"\n{summary}; {time.monotonic() - began:.1f} s")
    return records
