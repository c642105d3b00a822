"""What keys and limits cost: a server whose callers need them, against one whose callers do not."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable

import msgspec
from callers import Unmeasurable
from jobs import FirstToken, FirstTokenResult, StreamsResult, Target
from measure import PROVIDER_PREFIX, load
from plan import KEYED_CPU_RATIO_LIMIT, KEYED_TTFT_ADDED_LIMIT_MS, Bar, Plan, Scenario
from processes import Processes

LIMITS = (
    "requests_per_minute=1000000,tokens_per_minute=1000000000,concurrent_streams=2000,"
    "messages_per_request=1000,bytes_per_request=1000000"
)
"""All that there are, for the key; the tenant has the same. None of them is ever reached."""


class KeyedPair(msgspec.Struct, frozen=True):
    """Without and with a key under the same load, one right after the other."""

    open: StreamsResult
    keyed: StreamsResult

    @property
    def cpu_ratio(self) -> float:
        return self.keyed.cpu_us_per_token["target"] / self.open.cpu_us_per_token["target"]


class Keyed(msgspec.Struct, frozen=True):
    scenario: Scenario
    pairs: list[KeyedPair]
    ttft_ms: dict[str, float]
    """Medians: open, keyed."""

    @property
    def bars(self) -> list[Bar]:
        """Every bar with its figure."""
        return [
            Bar(
                "keyed_ttft_added_ms",
                "keys and limits: added TTFT p50",
                self.ttft_ms["keyed"] - self.ttft_ms["open"],
                KEYED_TTFT_ADDED_LIMIT_MS,
                "ms",
            ),
            Bar(
                "keyed_cpu_ratio",
                f"keys and limits: CPU per token, {self.scenario.name}",
                statistics.median(pair.cpu_ratio for pair in self.pairs),
                KEYED_CPU_RATIO_LIMIT,
                "x",
            ),
        ]


def keyed(plan: Plan, processes: Processes, say: Callable[[str], None]) -> Keyed:
    """Measure it. Raises Unmeasurable when something fails on the way."""
    with processes.simulator() as simulator, processes.server(simulator) as unkeyed:
        database = processes.new_database("keyed")
        key = _new_key(database)
        with processes.server(simulator, database=database, tenant_limits=LIMITS) as server:
            targets = {
                "open": Target(unkeyed.address, "grpc", PROVIDER_PREFIX),
                "keyed": Target(server.address, "grpc", PROVIDER_PREFIX, key),
            }
            pids = {"open": unkeyed.pid, "keyed": server.pid}
            say("first token, without and with a key")
            first = processes.run(FirstToken(targets, plan.keyed_samples), FirstTokenResult)

            def one(name: str) -> StreamsResult:
                watch = {"target": pids[name], "simulator": simulator.pid}
                return processes.run(load(plan.keyed, targets[name], watch), StreamsResult)

            pairs = []
            for number in range(plan.keyed.pairs):
                say(f"{plan.keyed.name}, with a key, pair {number + 1} of {plan.keyed.pairs}")
                # Who goes first takes turns: a machine that warms up favours neither.
                names = ("open", "keyed") if number % 2 else ("keyed", "open")
                ran = {name: one(name) for name in names}
                pairs.append(KeyedPair(**ran))
    ttft_ms = {name: statistics.median(waited) for name, waited in first.ttft_ms.items()}
    return Keyed(plan.keyed, pairs, ttft_ms)


def _new_key(database: str) -> str:
    create = [sys.executable, "-m", "tokenwire_server", "keys", "create", "--tenant", "bench"]
    done = subprocess.run(
        [*create, "--limits", LIMITS, "--database", database], capture_output=True, text=True
    )
    if done.returncode:
        raise Unmeasurable(done.stderr)
    return done.stdout.strip()
