"""How far an installation grows: the first bottleneck of one process, one machine, several machines, and so on.

`python tests/bench/scale.py` measures what a stream costs Redis and PostgreSQL, takes the costs of a server from
the results of the benchmark (`python tests/bench --part all`), and extrapolates to a million streams. What a
machine offers is assumed: see `Machine`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import secrets
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import readings
from callers import Unmeasurable
from processes import Processes, Running

from tokenwire_server.config import RedisConfig
from tokenwire_server.events import TextDelta
from tokenwire_server.streamlog.entries import StreamFacts
from tokenwire_server.streamlog.redis.connect import connected
from tokenwire_server.streamlog.redis.presence import RENEW_EVERY_S
from tokenwire_server.streamlog.redis.store import Append, LogId, LogStore
from tokenwire_server.streamlog.redis.writer import WRITE_EVERY_S

BUSY = 0.7
"""The share of a core, of a network or of a memory that is used: the rest is for bursts and failures."""
GOAL = 1_000_000
PROVIDER_BYTES = 303
"""Bytes of one token as a provider sends it."""
TTL_S = 60.0


class Load(msgspec.Struct, frozen=True):
    """What the streams do."""

    tokens_per_second: float = 50.0
    tokens: int = 500
    """Tokens of an answer."""

    @property
    def duration_s(self) -> float:
        return self.tokens / self.tokens_per_second


class Machine(msgspec.Struct, frozen=True):
    """What is assumed of a machine."""

    cores: int = 16
    memory_gib: float = 64
    network_gbit: float = 10


class Costs(msgspec.Struct, frozen=True):
    """What was measured."""

    server_us: float
    """CPU time of a server for a token, without Redis."""
    shared_us: float
    """The same with Redis."""
    stream_bytes: float
    """Memory of a server for an open stream, without its entries."""
    entry_bytes: float
    """Memory of a server for one token in the log."""
    wire_bytes: float
    """Bytes on the wire to the caller for one token."""
    batch_us: float
    """CPU time of Redis for one batch of a stream."""
    stored_bytes: float
    """Memory of Redis for a whole answer."""
    lease_us: float
    """CPU time of Redis for looking at the lease of one process."""


class Stage(msgspec.Struct, frozen=True):
    """One way to install it, the most streams that it carries, and why not more."""

    name: str
    streams: int
    bottleneck: str
    needs: str


def stages(costs: Costs, load: Load, machine: Machine, goal: int = GOAL) -> Iterator[Stage]:
    """Yield ways to install it, each larger than the one before, until one carries the goal."""
    rate = load.tokens_per_second
    answer = costs.stream_bytes + costs.entry_bytes * load.tokens
    held = answer * (1 + TTL_S / load.duration_s)  # with those that ended and are still kept

    def by_cpu(us: float) -> float:
        return BUSY * 1e6 / (rate * us)

    memory = BUSY * machine.memory_gib * 2**30
    network = BUSY * machine.network_gbit * 1e9 / 8 / (rate * (costs.wire_bytes + PROVIDER_BYTES))
    one = {"the process's core": by_cpu(costs.server_us), "its memory": memory / held}
    yield _stage("one process, no Redis", one, "--workers and Redis")

    # Each batch takes Redis's only thread for a while.
    batches = min(rate, 1 / WRITE_EVERY_S)
    per_redis = BUSY * 1e6 / (batches * costs.batch_us)
    per_process = by_cpu(costs.shared_us)
    workers = machine.cores - 2  # Redis, and the rest of the system
    limits = {
        "the cores of the machine": workers * per_process,
        "the memory of the machine": memory / (held + costs.stored_bytes),
        "the network of the machine": network,
        "Redis's core": per_redis,
    }
    yield _stage(f"one machine with {workers} workers and Redis", limits, "more machines")

    def machines(streams: float) -> int:
        return math.ceil(streams / (machine.cores * per_process))

    def leases(processes: float) -> float:
        """CPU time of Redis for all processes that look at the leases of all others, for a second."""
        return processes * processes / RENEW_EVERY_S * costs.lease_us / 1e6

    limits = {
        "Redis's core": per_redis,
        "Redis's memory": memory / (costs.stored_bytes * (1 + TTL_S / load.duration_s)),
    }
    whole = _stage(
        "several machines with one Redis", limits, "a Redis for each part of the tenants"
    )
    yield msgspec.structs.replace(whole, name=f"{machines(whole.streams)} machines with one Redis")

    # Parts of the tenants, each an installation of its own: what one part needs does not grow any more.
    parts = math.ceil(goal / whole.streams)
    share = goal / parts
    processes = share / per_process
    spent = leases(processes)
    if spent > 1 - BUSY:
        raise ValueError(f"the leases of {processes:.0f} processes take {spent:.2f} cores of Redis")
    yield Stage(
        f"{parts} parts, each with {machines(share)} machines and one Redis",
        parts * whole.streams,
        "what directs tenants to their part",
        f"{parts * machines(share):,} machines in all",
    )


def _stage(name: str, limits: dict[str, float], needs: str) -> Stage:
    bottleneck, streams = min(limits.items(), key=lambda limit: limit[1])
    return Stage(name, int(streams), bottleneck, needs)


async def measure_redis(redis: Running, load: Load, streams: int) -> dict[str, float]:
    """Measure what the stored logs of streams cost Redis, by its CPU time and its memory."""
    async with connected(RedisConfig(url=f"redis://{redis.address}/0")) as client:
        store, facts = LogStore(client), StreamFacts("tenant", time.time(), TTL_S)
        logs = [LogId(secrets.token_hex(16), secrets.token_hex(8)) for _ in range(streams)]
        entries = [TextDelta(" token", 0)] * max(1, round(load.tokens_per_second * WRITE_EVERY_S))
        before = (await client.info("memory"))["used_memory"]
        began_s, batches = readings.cpu_s(redis.pid), 0
        for first in range(1, load.tokens + 1, len(entries)):
            for start in range(0, streams, 256):
                appends = [
                    Append(log, facts, first, entries, 1, 3600.0)
                    for log in logs[start : start + 256]
                ]
                await store.append(appends)
                batches += len(appends)
        spent_s = readings.cpu_s(redis.pid) - began_s
        stored_bytes = ((await client.info("memory"))["used_memory"] - before) / streams
        processes = [f"tokenwire:{{processes}}:{secrets.token_hex(8)}" for _ in range(500)]
        began_s, rounds = readings.cpu_s(redis.pid), 400
        for _ in range(rounds):
            await client.mget(processes)
        lease_s = readings.cpu_s(redis.pid) - began_s
    return {
        "batch_us": spent_s / batches * 1e6,
        "stored_bytes": stored_bytes,
        "lease_us": lease_s / rounds / len(processes) * 1e6,
    }


def _of_benchmark(path: Path) -> dict[str, float]:
    """Return the costs of a server from the results of the benchmark. Raises Unmeasurable."""
    try:
        results = json.loads(path.read_bytes())
    except OSError as error:
        raise Unmeasurable(f"{path}: {error.strerror}: run the benchmark first") from error
    bars = {bar["key"]: bar["measured"] for bar in results["bars"]}
    try:
        pairs = results["shared"]["pairs"]
        figures = {
            name: sorted(pair[name]["cpu_us_per_token"]["target"] for pair in pairs)
            for name in ("without", "having")
        }
        return {
            "server_us": figures["without"][len(pairs) // 2],
            "shared_us": figures["having"][len(pairs) // 2],
            "stream_bytes": bars["stream_kib"] * 1024,
            "entry_bytes": bars["log_entry_bytes"],
            "wire_bytes": bars["wire_bytes"],
        }
    except KeyError as error:
        raise Unmeasurable(f"{path} has no {error}: run all parts of the benchmark") from error


def main() -> int:
    """Measure, extrapolate and print. Return 2 if something cannot be measured."""
    parser = argparse.ArgumentParser(prog="scale", description=__doc__)
    parser.add_argument("results", type=Path, nargs="?", default=Path("bench-out/bench.json"))
    parser.add_argument("--streams", type=int, default=1000, help="streams that Redis stores")
    arguments = parser.parse_args()
    load, machine = Load(), Machine()
    try:
        servers = _of_benchmark(arguments.results)
        with Processes(Path("bench-out/logs")).redis() as redis:
            stored = asyncio.run(measure_redis(redis, load, arguments.streams))
    except Unmeasurable as error:
        print(f"could not measure: {error}", file=sys.stderr)
        return 2
    costs = Costs(**servers, **stored)
    for name, value in msgspec.structs.asdict(costs).items():
        print(f"{name:14} {value:12,.2f}")
    print(f"\n{load}\n{machine}\n")
    for stage in stages(costs, load, machine):
        print(
            f"{stage.streams:>10,} streams: {stage.name}; then {stage.bottleneck} -> {stage.needs}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
