"""The cost of a part of the server: a server with it, compared with a server without it."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

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
    OPERATED_CPU_RATIO_LIMIT,
    OPERATED_TTFT_ADDED_LIMIT_MS,
    SHARED_CPU_RATIO_LIMIT,
    SHARED_TTFT_ADDED_LIMIT_MS,
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

_PLAIN = {"TOKENWIRE_LOG_STREAMS": "false", "TOKENWIRE_RETRIES__MAX_ATTEMPTS": "1"}
"""Settings that turn off what is on by default."""
_OPERATED = {
    "TOKENWIRE_METRICS_LISTEN": "127.0.0.1:0",
    "TOKENWIRE_METRICS_TENANT_LABEL": "true",
    "TOKENWIRE_LOG_FORMAT": "json",
    "TOKENWIRE_OTEL__TRACES": "true",
    "TOKENWIRE_OTEL__METRICS": "true",
    "OTEL_METRIC_EXPORT_INTERVAL": "1000",
}
"""Settings that turn on everything for the operator."""
_METRICS = re.compile(r"http://127\.0\.0\.1:\d+/metrics")


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
            pairs, ttft_ms = _measure(plan, processes, say, simulator, unkeyed, server, key=key)
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


def operated(plan: Plan, processes: Processes, say: Callable[[str], None]) -> Added:
    """Measure the cost of everything that is for the operator: metrics that are scraped every second, traces
    and metrics that are sent to a collector, a log of all streams as JSON, retries. Raises Unmeasurable.

    Each pair has two new processes: the CPU time of two processes with the same settings differs by up to
    14 %, for as long as they run.
    """
    pairs, medians_ms = [], []
    count = 2 * plan.headline.pairs - 1
    with processes.simulator() as simulator, processes.collector() as collector:
        collecting = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{collector.address}"}
        for number in range(count):
            say(f"pair {number + 1} of {count}")
            with (
                processes.server(
                    simulator, name=f"plain-server-{number}", settings=_PLAIN
                ) as without,
                processes.server(
                    simulator, name=f"operated-server-{number}", settings=_OPERATED | collecting
                ) as server,
                _scraping(server),
            ):
                scenario = msgspec.structs.replace(plan.headline, pairs=1)
                found, ttft_ms = _measure(
                    plan,
                    processes,
                    say,
                    simulator,
                    without,
                    server,
                    scenario=scenario,
                    first=number,
                )
            pairs += found
            medians_ms.append(ttft_ms)
    return Added(
        "operated",
        "metrics, traces, logs and retries",
        plan.headline,
        pairs,
        {name: statistics.median(each[name] for each in medians_ms) for name in medians_ms[0]},
        OPERATED_TTFT_ADDED_LIMIT_MS,
        OPERATED_CPU_RATIO_LIMIT,
    )


def shared(plan: Plan, processes: Processes, say: Callable[[str], None]) -> Added:
    """Measure the cost of storing the logs of all streams in Redis. Raises Unmeasurable."""
    with (
        processes.simulator() as simulator,
        processes.redis() as redis,
        processes.server(simulator, name="local-server") as without,
        processes.server(
            simulator,
            name="sharing-server",
            settings={"TOKENWIRE_REDIS__URL": f"redis://{redis.address}"},
        ) as server,
    ):
        pairs, ttft_ms = _measure(
            plan, processes, say, simulator, without, server, scenario=plan.headline
        )
    return Added(
        "shared",
        "logs in Redis",
        plan.headline,
        pairs,
        ttft_ms,
        SHARED_TTFT_ADDED_LIMIT_MS,
        SHARED_CPU_RATIO_LIMIT,
    )


@contextmanager
def _scraping(server: Running) -> Iterator[None]:
    """Scrape the metrics of a server every second, as Prometheus does. Raises Unmeasurable."""
    found = _METRICS.search(server.log.read_text())
    if found is None:
        raise Unmeasurable(f"{server.log} does not name the address of the metrics")
    stopped = threading.Event()

    def scrape() -> int:
        count = 0
        while not stopped.wait(1.0):
            with urllib.request.urlopen(found[0], timeout=5) as answer:
                count += b"tokenwire_streams_total" in answer.read()
        return count

    with ThreadPoolExecutor(1) as thread:
        scraper = thread.submit(scrape)
        try:
            yield
        finally:
            stopped.set()
    if not scraper.result():
        raise Unmeasurable("no metrics were scraped")


def _measure(
    plan: Plan,
    processes: Processes,
    say: Callable[[str], None],
    simulator: Running,
    without: Running,
    having: Running,
    *,
    key: str = "",
    scenario: Scenario | None = None,
    first: int = 0,
) -> tuple[list[Pair], dict[str, float]]:
    """`first` is the number of the first pair, if the pairs are measured in several calls. It decides which of
    the two is measured first.
    """
    scenario = scenario or plan.added
    targets = {
        "without": Target(without.address, "grpc", PROVIDER_PREFIX),
        "having": Target(having.address, "grpc", PROVIDER_PREFIX, key),
    }
    pids = {"without": without.pid, "having": having.pid}
    say("first token, without and with it")
    waits = processes.run(FirstToken(targets, plan.added_samples), FirstTokenResult)

    def one(name: str) -> StreamsResult:
        watch = {"target": pids[name], "simulator": simulator.pid}
        return processes.run(load(scenario, targets[name], watch), StreamsResult)

    pairs = []
    for number in range(first, first + scenario.pairs):
        if scenario.pairs > 1:
            say(f"{scenario.name}, without and with it, pair {number + 1} of {scenario.pairs}")
        # The order alternates, because a machine that warms up would favour one of them.
        names = ("without", "having") if number % 2 else ("having", "without")
        pairs.append(Pair(**{name: one(name) for name in names}))
    return pairs, {name: statistics.median(waited) for name, waited in waits.ttft_ms.items()}


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
