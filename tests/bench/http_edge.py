"""The cost of the edge: its latency above gRPC, and its CPU compared with a bare Starlette server."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import msgspec
from jobs import FirstToken, FirstTokenResult, StreamsResult, Target
from measure import PROVIDER_PREFIX, Pair, ScenarioResult, load
from plan import EDGE_CPU_RATIO_LIMIT, EDGE_TTFT_ADDED_LIMIT_MS, Bar, Plan
from processes import Processes, Running


class Edge(msgspec.Struct, frozen=True):
    """The edge, and what it is compared with."""

    load: ScenarioResult
    """Pairs under the same load: the bare server is the floor, the edge is the server."""
    server_cpu_us_per_token: float
    """Median of the CPU of the Tokenwire server behind the edge."""
    ttft_ms: dict[str, float]
    """Medians of an idle server: over gRPC, and through the edge."""

    @property
    def bars(self) -> list[Bar]:
        """Return each bar with its figure."""
        return [
            Bar(
                "edge_ttft_added_ms",
                "edge: added TTFT p50, idle, over gRPC",
                self.ttft_ms["edge"] - self.ttft_ms["grpc"],
                EDGE_TTFT_ADDED_LIMIT_MS,
                "ms",
            ),
            Bar(
                "edge_cpu_ratio",
                f"edge: CPU per token, {self.load.name}, bare Starlette",
                self.load.median(lambda pair: pair.cpu_ratio),
                EDGE_CPU_RATIO_LIMIT,
                "x",
            ),
        ]


def http_edge(plan: Plan, processes: Processes, say: Callable[[str], None]) -> Edge:
    """Measure the edge. Raises Unmeasurable if something fails."""
    scenario = plan.added
    with (
        processes.simulator() as simulator,
        processes.server(simulator) as server,
        processes.edge(server) as running,
        processes.bare_sse() as bare,
    ):
        targets = {
            "grpc": Target(server.address, "grpc", PROVIDER_PREFIX),
            "edge": Target(running.address, "edge", PROVIDER_PREFIX),
        }
        say("first token, over gRPC and through the edge")
        first = processes.run(FirstToken(targets, plan.added_samples), FirstTokenResult)

        def one(target: Target, measured: Running) -> StreamsResult:
            watch = {"target": measured.pid, "server": server.pid, "simulator": simulator.pid}
            return processes.run(load(scenario, target, watch), StreamsResult)

        runs: dict[str, Callable[[], StreamsResult]] = {
            "floor": lambda: one(Target(bare.address, "edge"), bare),
            "server": lambda: one(targets["edge"], running),
        }
        pairs = []
        for number in range(scenario.pairs):
            say(f"{scenario.name}, bare and edge, pair {number + 1} of {scenario.pairs}")
            # The order alternates, because a machine that warms up would favour one of them.
            names = ("floor", "server") if number % 2 else ("server", "floor")
            pairs.append(Pair(**{name: runs[name]() for name in names}))
    return Edge(
        load=ScenarioResult(scenario, scenario.name, pairs),
        server_cpu_us_per_token=statistics.median(
            pair.server.cpu_us_per_token["server"] for pair in pairs
        ),
        ttft_ms={name: statistics.median(waited) for name, waited in first.ttft_ms.items()},
    )
