"""Three times as many chats as a server can serve, at a rate that does not depend on its answers."""

import asyncio
import os
import sys
import time
from collections import Counter
from pathlib import Path

import grpc.aio
import msgspec
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from open_loop import FINISHED, Job, Result

OPEN_LOOP = Path(__file__).parent / "open_loop.py"
MODEL = "openai/sim?tokens=300&itl_ms=20"
"""An answer of 6 s."""
MAX_FIRST_S, MAX_GAP_P99_S = 1.0, 0.25
"""A stream is good if it finishes, its first event comes within the first of these times, and the 99th
percentile of the gaps between its events is within the second. The goodput is the number of good streams per
second."""
FIRST_RATE, RATE_STEP = 47, 1.25
STEP_S = 30
OVERLOAD = 3
WARM_UP_S, OVERLOAD_S, SETTLE_S = 75, 45, 15
DEADLINE_S = 30
MAX_WAITED = 0.15
"""Share of the time for which the server may have waited for a CPU. Beyond it, the server is not the bottleneck,
and its goodput depends on the other processes of the machine."""


async def offered(address, tmp_path, per_s, for_s):
    """Return the result of a load."""
    out = tmp_path / "result.json"
    job = Job(address, MODEL, per_s, for_s, DEADLINE_S)
    arguments = (str(OPEN_LOOP), msgspec.json.encode(job).decode(), str(out))
    load = await asyncio.create_subprocess_exec(sys.executable, *arguments)
    try:
        async with asyncio.timeout(for_s + DEADLINE_S + 60):
            assert await load.wait() == 0
    finally:
        if load.returncode is None:
            load.kill()
            await load.wait()
    return msgspec.json.decode(out.read_bytes(), type=Result)


def goodput(result, from_s, to_s):
    good = (
        call.end == FINISHED and call.first_s <= MAX_FIRST_S and call.gap_p99_s <= MAX_GAP_P99_S
        for call in result.calls
        if from_s <= call.start_s < to_s
    )
    return sum(good) / (to_s - from_s)


def quantile(values, share):
    ordered = sorted(values)
    return ordered[int(share * (len(ordered) - 1))] if ordered else 0.0


def ms(values):
    """Return the median and the 99th percentile as text."""
    return f"p50 {quantile(values, 0.5) * 1000:.1f} ms, p99 {quantile(values, 0.99) * 1000:.1f} ms"


def rss_bytes(process):
    pages = Path(f"/proc/{process.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def cpu_s(process):
    """Return the CPU time of a process so far, in seconds."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def waited_s(process):
    """Return for how long the main thread of a process was ready to run and had no CPU, in seconds."""
    return int(Path(f"/proc/{process.pid}/schedstat").read_text().split()[1]) / 1e9


async def peak_of(process, address, tmp_path):
    """Return the highest goodput over rising rates. Two rates that do not raise it end the search."""
    rate, peak, lower = FIRST_RATE, 0.0, 0
    while lower < 2:
        before_s = cpu_s(process)
        result = await offered(address, tmp_path, rate, STEP_S)
        found = goodput(result, SETTLE_S, STEP_S)
        took_ms = (cpu_s(process) - before_s) * 1000 / len(result.calls)
        print(
            f"{rate:.0f} streams/s offered: {found:.1f} good ones, {took_ms:.1f} ms of CPU each; calls "
            f"late by {ms(result.lateness_s)}; load average {os.getloadavg()[0]:.1f}"
        )
        lower = 0 if found > peak else lower + 1
        peak = max(peak, found)
        rate *= RATE_STEP
    return peak


async def check_health(address, took_s):
    """Check the health four times per second until cancelled."""
    async with grpc.aio.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        while True:
            began = time.monotonic()
            answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=10)
            took_s.append(time.monotonic() - began)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            await asyncio.sleep(0.25)


@pytest.mark.faults
@pytest.mark.timeout(800)
async def test_at_three_times_its_capacity_a_server_keeps_its_goodput(start, simulator, tmp_path):
    serve = ("serve", "--listen", "127.0.0.1:0")
    env = simulator.environ() | {"TOKENWIRE_OVERLOAD__MAX_LAG_S": "0.01"}  # other tests turn it off
    print()
    with start(*serve, env=env) as (process, address):
        peak = await peak_of(process, address, tmp_path)
    with start(*serve, env=env) as (process, address):
        # Memory grows meanwhile: finished answers stay readable for a minute, and what refusals need is
        # allocated once.
        await offered(address, tmp_path, OVERLOAD * peak, WARM_UP_S)
        before, health_s = rss_bytes(process), []
        checking = asyncio.create_task(check_health(address, health_s))
        before_s, idle_s, began = cpu_s(process), waited_s(process), time.monotonic()
        result = await offered(address, tmp_path, OVERLOAD * peak, OVERLOAD_S)
        elapsed_s = time.monotonic() - began
        used = (cpu_s(process) - before_s) / elapsed_s
        waited = (waited_s(process) - idle_s) / elapsed_s
        checking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await checking
        grown = rss_bytes(process) - before
    settled = goodput(result, SETTLE_S, OVERLOAD_S)
    refused = [call for call in result.calls if call.end == "OVERLOADED"]
    refused_s = [call.took_s for call in refused if call.start_s >= SETTLE_S]
    ends = Counter(call.end for call in result.calls)
    print(
        f"peak {peak:.1f} good streams/s; at {OVERLOAD * peak:.0f}/s, after {SETTLE_S} s: {settled:.1f} "
        f"({settled / peak:.0%}), with {used:.0%} of a core, and waiting for one {waited:.0%} of the "
        f"time\n{dict(ends)}; refusals {ms(refused_s)}; in the first {SETTLE_S} s "
        f"{ms([c.took_s for c in refused if c.start_s < SETTLE_S])}\n"
        f"health {ms(health_s)}; calls late by {ms(result.lateness_s)}; memory {grown / 2**20:+.0f} MiB; "
        f"load average {os.getloadavg()[0]:.1f}"
    )
    assert set(ends) == {FINISHED, "OVERLOADED"}
    assert grown <= 16 * 2**20
    if waited > MAX_WAITED:
        print("goodput and refusals are not judged: other processes took the CPU")
        return
    assert settled >= 0.9 * peak
    assert quantile(refused_s, 0.99) <= 0.02
