"""The cost of a part of the server: a server with it, compared with a server without it."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable

import msgspec
from callers import Unmeasurable
from jobs import FirstToken, FirstTokenResult, StreamsResult, Target
from measure import PROVIDER_PREFIX, load
from one_stream import FIRST_TOKEN_MODEL
from plan import (
    KEYED_CPU_RATIO_LIMIT,
    KEYED_TTFT_ADDED_LIMIT_MS,
    LEDGER_CPU_RATIO_LIMIT,
    LEDGER_TTFT_ADDED_LIMIT_MS,
    Bar,
    Plan,
    Scenario,
)
from processes import HERE, Processes, Running

LIMITS = (
    "requests_per_minute=1000000,tokens_per_minute=1000000000,concurrent_streams=2000,"
    "messages_per_request=1000,bytes_per_request=1000000"
)
"""All limits of a key. The tenant has the same. None of them is ever reached."""


class Pair(msgspec.Struct, frozen=True):
    """One run without the part and one with it, under the same load, one directly after the other."""

    without: StreamsResult
    having: StreamsResult

    @property
    def cpu_ratio(self) -> float:
        return self.having.cpu_us_per_token["target"] / self.without.cpu_us_per_token["target"]


class Added(msgspec.Struct, frozen=True):
    part: str
    what: str
    scenario: Scenario
    pairs: list[Pair]
    ttft_ms: dict[str, float]
    """Medians of an idle server: without the part, and with it."""
    ttft_limit_ms: float
    cpu_limit: float

    @property
    def bars(self) -> list[Bar]:
        """Return each bar with its figure."""
        return [
            Bar(
                f"{self.part}_ttft_added_ms",
                f"{self.what}: added TTFT p50",
                self.ttft_ms["having"] - self.ttft_ms["without"],
                self.ttft_limit_ms,
                "ms",
            ),
            Bar(
                f"{self.part}_cpu_ratio",
                f"{self.what}: CPU per token, {self.scenario.name}",
                statistics.median(pair.cpu_ratio for pair in self.pairs),
                self.cpu_limit,
                "x",
            ),
        ]


def keyed(plan: Plan, processes: Processes, say: Callable[[str], None]) -> Added:
    """Measure the cost of keys and limits. Raises Unmeasurable if something fails."""
    with processes.simulator() as simulator, processes.server(simulator) as unkeyed:
        database = processes.new_database("keyed")
        key = _new_key(database)
        with processes.server(simulator, database=database, tenant_limits=LIMITS) as server:
            pairs, ttft_ms = _measure(plan, processes, say, simulator, unkeyed, server, key)
    return Added(
        "keyed",
        "keys and limits",
        plan.added,
        pairs,
        ttft_ms,
        KEYED_TTFT_ADDED_LIMIT_MS,
        KEYED_CPU_RATIO_LIMIT,
    )


def ledger(plan: Plan, processes: Processes, say: Callable[[str], None]) -> Added:
    """Measure the cost of counting, pricing, limiting and recording every stream. Raises Unmeasurable."""
    with (
        processes.simulator() as simulator,
        processes.server(
            simulator, name="unrecorded-server", program=HERE / "unrecorded.py"
        ) as without,
        processes.server(
            simulator, name="recording-server", settings=_priced(plan.added)
        ) as server,
    ):
        pairs, ttft_ms = _measure(plan, processes, say, simulator, without, server)
    return Added(
        "ledger",
        "ledger",
        plan.added,
        pairs,
        ttft_ms,
        LEDGER_TTFT_ADDED_LIMIT_MS,
        LEDGER_CPU_RATIO_LIMIT,
    )


def _measure(
    plan: Plan,
    processes: Processes,
    say: Callable[[str], None],
    simulator: Running,
    without: Running,
    having: Running,
    key: str = "",
) -> tuple[list[Pair], dict[str, float]]:
    targets = {
        "without": Target(without.address, "grpc", PROVIDER_PREFIX),
        "having": Target(having.address, "grpc", PROVIDER_PREFIX, key),
    }
    pids = {"without": without.pid, "having": having.pid}
    say("first token, without and with it")
    first = processes.run(FirstToken(targets, plan.added_samples), FirstTokenResult)

    def one(name: str) -> StreamsResult:
        watch = {"target": pids[name], "simulator": simulator.pid}
        return processes.run(load(plan.added, targets[name], watch), StreamsResult)

    pairs = []
    for number in range(plan.added.pairs):
        say(f"{plan.added.name}, without and with it, pair {number + 1} of {plan.added.pairs}")
        # The order alternates, because a machine that warms up would favour one of them.
        names = ("without", "having") if number % 2 else ("having", "without")
        pairs.append(Pair(**{name: one(name) for name in names}))
    return pairs, {name: statistics.median(waited) for name, waited in first.ttft_ms.items()}


def _priced(load: Scenario) -> dict[str, str]:
    """Return settings in which every answer of the load has a price and is checked against a limit that it
    never reaches.
    """
    itl_ms = 1000 / load.tokens_per_second
    longest = int((load.ramp_s + load.settle_s + load.window_s) * load.tokens_per_second) + 10
    names = [f"sim?tokens={tokens}&itl_ms={itl_ms:g}" for tokens in range(longest)]
    prices = {"prices": {"input": "1", "output": "5"}}
    models = {f"{PROVIDER_PREFIX}{name}": prices for name in (*names, FIRST_TOKEN_MODEL)}
    return {
        "TOKENWIRE_MODELS": json.dumps(models),
        "TOKENWIRE_TENANTS": json.dumps({"*": {"spend_usd_per_day": "1000000"}}),
    }


def _new_key(database: str) -> str:
    create = [sys.executable, "-m", "tokenwire_server", "keys", "create", "--tenant", "bench"]
    done = subprocess.run(
        [*create, "--limits", LIMITS, "--database", database], capture_output=True, text=True
    )
    if done.returncode:
        raise Unmeasurable(done.stderr)
    return done.stdout.strip()
