"""Streams that are watched while their server is killed or its database is unavailable."""

import asyncio
import time
from contextlib import asynccontextmanager
from itertools import pairwise

import grpc
import grpc.aio
from e2e_calls import PROVIDERS
from records_support import bill, is_open, outcome, serving_ledger, usage_calls

WRITTEN_S = 1.0
"""Time until an event must be in the database."""
CLOSED_S = 30.0
"""Leases last 10 s, other processes check every 5 s, and a server must start."""
SETTLED_WORDS = 40


class Watched:
    """One stream, with the time at which its caller received each token."""

    def __init__(self, api, number, script="steady"):
        self.provider = PROVIDERS[number % 3]
        self.call = api.chat_stream(api.request(f"{script}-{self.provider}"))
        self.stream_id = ""
        self.arrivals = []
        self.finished = None
        self.reading = asyncio.create_task(self._read())

    async def _read(self):
        try:
            async for event in self.call:
                if event.HasField("started"):
                    self.stream_id = event.started.stream_id
                    self.began = time.monotonic()
                self.arrivals += [time.monotonic()] * len(event.text.text.split())
                if event.HasField("finished"):
                    self.finished = event.finished
        except (grpc.aio.AioRpcError, asyncio.CancelledError):
            pass  # its server died, or it was cancelled

    async def received(self, words):
        while len(self.arrivals) < words:
            assert not self.reading.done()
            await asyncio.sleep(0.01)

    def lost_s(self, record, at):
        """Return how long before `at` the first token arrived that a record does not count. 0 if it counts
        all.
        """
        counted = record.usage.output_tokens
        return at - self.arrivals[counted] if counted < len(self.arrivals) else 0.0

    def gaps(self):
        return [after - before for before, after in pairwise(self.arrivals)]


@asynccontextmanager
async def watching(tenancy, count, script="steady"):
    """Open streams, and wait until each has received several tokens."""
    async with tenancy.api(tenancy.acme) as api:
        watched = [Watched(api, number, script) for number in range(count)]
        try:
            await asyncio.gather(*(stream.received(SETTLED_WORDS) for stream in watched))
            yield watched
        finally:
            for stream in watched:
                stream.call.cancel()
            await asyncio.gather(*(stream.reading for stream in watched))


async def kill_and_start_again(
    start, api_on, simulator, database, folder, count, *, written_s=WRITTEN_S
):
    """Kill a server during `count` streams, and start it again. Each token must be in the database after
    `written_s`.
    """
    with serving_ledger(start, api_on, simulator, database, folder) as ledger_server:
        tenancy = ledger_server.tenancy
        async with watching(tenancy, count) as watched, tenancy.api(tenancy.acme) as api:
            worst_s = await worst_lost_s(tenancy, watched)
            late = [Watched(api, number) for number in range(5)]
            await asyncio.gather(*(stream.received(1) for stream in late))
            killed = time.monotonic()
            tenancy.process.kill()
            await asyncio.to_thread(tenancy.process.wait)
            await asyncio.gather(*(stream.reading for stream in late))
        with ledger_server.again() as again:
            records = await ledger_server.until(
                again, again.acme, lambda found: not any(map(is_open, found)), CLOSED_S
            )
        lost_s = check_lost(watched, late, records, killed)
    print(
        f"\n{count} streams, {len(records)} records; lost: what came at most {lost_s:.2f} s before the "
        f"end; at the worst moment of four seconds it had been {worst_s:.2f} s"
    )
    assert max(lost_s, worst_s) <= written_s


async def worst_lost_s(tenancy, watched, for_s=4.0):
    """Return the maximum that a kill at any moment of some seconds would have lost."""
    by_id = {stream.stream_id: stream for stream in watched}
    worst_s = 0.0
    until = time.monotonic() + for_s
    async with usage_calls(tenancy, tenancy.acme) as usage:
        while (asked := time.monotonic()) < until:
            records = (await usage.list(page_size=1000)).usage_records
            lost_s = [by_id[record.stream_id].lost_s(record, asked) for record in records]
            worst_s = max(worst_s, *lost_s)
            await asyncio.sleep(0.02)
    return worst_s


def check_lost(watched, late, records, killed):
    """Check that each stream that had started a second before the kill has one record. Return the age of the
    oldest figures, in seconds.
    """
    by_id = {record.stream_id: record for record in records}
    assert len(by_id) == len(records)
    for stream in watched:
        assert stream.began < killed - WRITTEN_S
        assert stream.stream_id in by_id
    assert set(by_id) <= {stream.stream_id for stream in (*watched, *late)}
    for record in records:
        assert (outcome(record), record.reason, record.partial) == ("LOST", "PRODUCER_LOST", True)
        assert record.end_time.ToNanoseconds() >= record.created_time.ToNanoseconds()
        assert record.usage.cost_microusd == bill(record.provider, record.usage)
    return max(stream.lost_s(by_id[stream.stream_id], killed) for stream in watched)
