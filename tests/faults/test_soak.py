"""A random mix of calls and faults for a given time. Afterwards nothing is open, and the records are complete."""

import asyncio
import contextlib
import json
import os
import random
import socket
import sqlite3
import statistics
import time
from collections import Counter

import grpc.aio
import pytest
from e2e_calls import SMALL_WINDOW, reason
from soak_calls import ENDLESS, IDLE_S, KINDS, LABEL, LONGEST_S, STALL_S, Caller, chosen, rest
from tenants_support import Tenancy, bearer, keys
from test_metrics import Scrape

MINUTES, SEED = "TOKENWIRE_SOAK_MINUTES", "TOKENWIRE_SOAK_SEED"
"""Variables with the duration, and with the seed of the choice of calls."""
RETRIES = {
    "TOKENWIRE_RETRIES__BUDGET_PERCENT": "1000",
    "TOKENWIRE_RETRIES__BASE_S": "0.05",
    "TOKENWIRE_RETRIES__CAP_S": "0.1",
}
OPEN = ("streams_open", "readers", "log_bytes", "upstream_connections", "ledger_queue")
"""Metrics of what is open."""
AT_ONCE = 24
LOG_TTL_S = LINGER_S = 6
"""Short, so that streams expire soon; longer than a caller on a busy machine needs to come back."""
REVOKE_EVERY_S, SAMPLE_EVERY_S = 10, 2
REVOKED_WITHIN_S = 5
SETTLED_S = 30
"""Time limit for everything to end after the last call: linger, log_ttl, and the writing of records."""
MAX_SLOPE_MIB_PER_H, JUDGED_MINUTES = 40, 30
"""Maximum growth of the memory, if the calls took that long. In ten minutes noise alone can reach it."""


class Soak:
    """Makes calls of all kinds for some time, and collects what they show."""

    def __init__(self, caller, tenancy, server, metrics_url, seed):
        self._caller = caller
        self._tenancy = tenancy
        self._server = server
        self._metrics_url = metrics_url
        self._seed = seed
        self._number = 0
        self.counts = Counter()
        self.faults = []
        """Descriptions of the calls that saw something wrong. Those that hang are among them."""
        self.hung_count = 0
        self.slowest = {}
        """The longest time of each kind of call, in seconds, and the number of the call."""
        self.rss = []
        """Pairs of seconds since the beginning, and bytes."""

    async def run(self, minutes):
        """Make calls until the time is up, at least one of each kind. Each call ends within LONGEST_S."""
        began = time.monotonic()
        stop = began + 60 * minutes
        beside = [asyncio.create_task(self._sample(began)), asyncio.create_task(self._revoke())]
        await asyncio.gather(*(self._work(stop) for _ in range(AT_ONCE)))
        for task in beside:
            task.cancel()
        for ended in await asyncio.gather(*beside, return_exceptions=True):
            if not isinstance(ended, asyncio.CancelledError):
                self.faults.append(f"{ended!r}")
        return time.monotonic() - began

    async def _work(self, stop):
        while True:
            number = self._number
            if number >= len(KINDS) and time.monotonic() > stop:
                return
            self._number += 1
            kind, rng = chosen(self._seed, number)
            await self._call(kind.__name__, kind(self._caller, rng), number)
            await asyncio.sleep(rng.random() * 0.1)

    async def _call(self, name, call, number):
        began = time.monotonic()
        try:
            async with asyncio.timeout(LONGEST_S):
                await call
        except TimeoutError:
            self.hung_count += 1
            self.faults.append(f"{name} {number}: it hangs")
        except Exception as error:  # noqa: BLE001  # reported with all others at the end
            self.faults.append(f"{name} {number}: {error!r}"[:1000])
        self.counts[name] += 1
        self.slowest[name] = max(
            self.slowest.get(name, (0.0, 0)), (time.monotonic() - began, number)
        )

    async def _sample(self, began):
        while True:
            self.rss.append((time.monotonic() - began, self._server.rss_bytes()))
            await asyncio.to_thread(Scrape, self._metrics_url)
            await asyncio.sleep(SAMPLE_EVERY_S)

    async def _revoke(self):
        """Revoke keys while they have a stream."""
        tenancy = self._tenancy
        for number in range(10**6):
            key = await asyncio.to_thread(
                keys, "create", "--tenant", "globex", database=tenancy.database
            )
            await tenancy.taken(key)
            await self._call("revoked", self._revoked(key), number)
            await asyncio.sleep(REVOKE_EVERY_S)

    async def _revoked(self, key):
        caller, tenancy = self._caller, self._tenancy
        request = caller.request(random.Random(key), ENDLESS)
        call = caller.start(request, metadata=bearer(key))
        await caller.confirmed(request, call)
        await call.read()
        await asyncio.to_thread(keys, "revoke", key[:15], database=tenancy.database)
        revoked = time.monotonic()
        try:
            await rest(call)
        except grpc.aio.AioRpcError as error:
            assert reason(error) == "UNAUTHENTICATED"
        took_s = time.monotonic() - revoked
        assert took_s < 2 * REVOKED_WITHIN_S, f"its stream ended {took_s:.1f} s later"

    def report(self, took_s):
        """Print the figures."""
        total = sum(self.counts.values())
        print(
            f"\n{total} calls in {took_s / 60:.1f} minutes, {total / took_s:.0f} per second; "
            f"{self.hung_count} hung, {len(self.faults)} with faults; load {os.getloadavg()[0]:.1f}"
        )
        for name, count in sorted(self.counts.items()):
            longest_s, number = self.slowest[name]
            print(f"  {name}: {count}, the slowest ({number}) took {longest_s:.2f} s")
        for fault in self.faults[:20]:
            print(f"  {fault}")

    def slope_mib_per_h(self, took_s):
        """Print the memory over time, and return its growth in the second half, by least squares."""
        points = [(at_s / 3600, rss / 2**20) for at_s, rss in self.rss if at_s >= took_s / 2]
        slope = statistics.linear_regression(*zip(*points, strict=True)).slope
        at = [self.rss[len(self.rss) * n // 6][1] / 2**20 for n in range(6)] + [points[-1][1]]
        print(f"RSS {', '.join(f'{mib:.1f}' for mib in at)} MiB; slope {slope:+.1f} MiB/h")
        return slope


def check_records(caller, database, ended_count):
    """Check that each accepted call has one closed record, and that there are no others."""
    path = database.removeprefix("sqlite:///")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(
            "select stream_id, labels, outcome from tokenwire_usage_records"
        ).fetchall()
    labels = [json.loads(labels)[LABEL] for _, labels, _ in rows]
    outcomes = Counter(outcome for *_, outcome in rows)
    print(
        f"{len(rows)} records: {dict(outcomes)}; {ended_count} streams counted by the server; "
        f"{len(caller.stream_ids)} confirmed to callers; {len(caller.unconfirmed)} calls left before that; "
        f"{len(caller.refused)} refused or counts of tokens"
    )
    assert len(rows) == ended_count
    assert len(set(labels)) == len(labels), "a call has two records"
    unconfirmed = {
        id for (id, *_), label in zip(rows, labels, strict=True) if label in caller.unconfirmed
    }
    assert caller.stream_ids == {id for id, *_ in rows} - unconfirmed
    assert not caller.refused & set(labels)
    assert set(outcomes) == {"finished", "failed", "cancelled"}


async def soak(observed, simulator, api_on, database, minutes):
    """Run the mix, and check what is left. Return the growth of the memory in MiB per hour.

    It is None if the mix takes less than a minute.
    """
    acme = keys("create", "--tenant", "acme", database=database)
    variables = RETRIES | {
        "TOKENWIRE_DATABASE": database,
        "TOKENWIRE_LOG_LEVEL": "ERROR",  # so that the log must be empty
        "TOKENWIRE_METRICS_LISTEN": f"127.0.0.1:{free_port()}",
    }
    limits = {"log_ttl_s": LOG_TTL_S, "upstream_idle_s": IDLE_S, "reader_stall_s": STALL_S}
    metrics_url = f"http://{variables['TOKENWIRE_METRICS_LISTEN']}/metrics"
    with observed(variables, linger_s=LINGER_S, **limits) as server:
        tenancy = Tenancy(api_on, server.address, database, acme, None, simulator, None)
        async with (
            tenancy.channel() as wide,
            grpc.aio.insecure_channel(server.address, options=SMALL_WINDOW) as narrow,
        ):
            before = server.census()
            caller = Caller(server.address, acme, api_on, wide, narrow)
            mix = Soak(caller, tenancy, server, metrics_url, seed=os.environ.get(SEED, "1"))
            took_s = await mix.run(minutes)
        mix.report(took_s)
        slope = mix.slope_mib_per_h(took_s) if minutes >= 1 else None
        await asyncio.to_thread(simulator.wait_until_none_open, SETTLED_S)
        after, scrape = await settled(server, metrics_url)
        print(
            f"{after['tasks'] - before['tasks']:+} tasks, {after['files'] - before['files']:+} files; "
            f"{simulator.stats()['requests_total']} requests to the providers, none open"
        )
        for name in OPEN:
            assert scrape.value(name) == 0, name
        assert (after["live_streams"], after["ended_streams"], after["log_bytes"]) == (0, 0, 0)
        assert after["tasks"] <= before["tasks"] + 4  # connections to providers come and go
        assert scrape.value("ledger_drops_total") == 0
        check_records(caller, database, scrape.value("streams_total"))
        assert server.log() == ""
    assert not mix.faults, f"{len(mix.faults)} calls with faults; {SEED} chooses the calls"
    return slope


async def settled(server, metrics_url):
    """Return the census and the metrics when nothing is open, or when the time is up."""
    give_up = time.monotonic() + SETTLED_S
    while True:
        scrape = await asyncio.to_thread(Scrape, metrics_url)
        after = server.census()
        is_settled = not after["ended_streams"] and not any(map(scrape.value, OPEN))
        if is_settled or time.monotonic() > give_up:
            return after, scrape
        await asyncio.sleep(0.2)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


# The proxies of `soak_calls.cut` may leave a connection of this process to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


async def test_a_mix_of_all_calls_and_faults_leaves_only_its_records(
    observed, simulator, api_on, tmp_path
):
    await soak(observed, simulator, api_on, f"sqlite:///{tmp_path}/tokenwire.db", minutes=0.05)


@pytest.mark.soak
@pytest.mark.skipif(MINUTES not in os.environ, reason="runs with `make soak MINUTES=60`")
@pytest.mark.timeout(0)
async def test_hours_of_a_mix_of_all_calls_and_faults_leave_only_their_records(
    observed, simulator, api_on, tmp_path
):
    minutes = float(os.environ[MINUTES])
    slope = await soak(observed, simulator, api_on, f"sqlite:///{tmp_path}/tokenwire.db", minutes)
    assert minutes < JUDGED_MINUTES or slope <= MAX_SLOPE_MIB_PER_H
