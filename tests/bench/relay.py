"""The server compared with a bare relay, and with the floor.

The floor calls no provider, and the figures of a server cannot come near it. The relay does the minimum with a
provider. Both show how much of a figure can be changed at all.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import msgspec
from jobs import FirstToken, FirstTokenResult, StreamsResult, Target
from measure import PROVIDER_PREFIX, load
from plan import RELAY_CPU_RATIO_LIMIT, Bar, Plan
from processes import Processes


class Relayed(msgspec.Struct, frozen=True):
    """Runs of each load, by the name of the load and of what was measured, and the waits for a first token."""

    runs: dict[str, dict[str, list[StreamsResult]]]
    ttft_ms: dict[str, float]
    """Medians of one stream at a time, on an idle server."""

    def median(self, scenario: str, name: str, figure: Callable[[StreamsResult], float]) -> float:
        """Return the median of a figure over the rounds."""
        return statistics.median(map(figure, self.runs[scenario][name]))

    @property
    def bars(self) -> list[Bar]:
        """Return the bar of the first load with its figure."""
        first = next(iter(self.runs))
        pairs = zip(self.runs[first]["server"], self.runs[first]["relay"], strict=True)
        ratio = statistics.median(cpu_us(server) / cpu_us(relay) for server, relay in pairs)
        name = f"CPU per token, {first}, server / relay"
        return [Bar("relay_cpu_ratio", name, ratio, RELAY_CPU_RATIO_LIMIT, "x")]


def cpu_us(run: StreamsResult) -> float:
    """Return the CPU time of one token."""
    return run.cpu_us_per_token["target"]


def relayed(plan: Plan, processes: Processes, say: Callable[[str], None]) -> Relayed:
    """Measure in rounds. Raises Unmeasurable if something fails."""
    runs: dict[str, dict[str, list[StreamsResult]]] = {}
    with (
        processes.simulator() as simulator,
        processes.floor() as floor,
        processes.relay(simulator) as relay,
        processes.server(simulator) as server,
    ):
        targets = {
            "floor": (Target(floor.address, "grpc"), floor.pid),
            "relay": (Target(relay.address, "grpc"), relay.pid),
            "server": (Target(server.address, "grpc", PROVIDER_PREFIX), server.pid),
        }
        say("first tokens of the relay")
        idle = {"direct": Target(simulator.address, "sse")}
        idle |= {name: target for name, (target, _) in targets.items()}
        first = processes.run(FirstToken(idle, plan.ttft_samples), FirstTokenResult)
        for scenario in plan.relayed:
            found = runs.setdefault(scenario.name, {name: [] for name in targets})
            for number in range(scenario.pairs):
                say(f"relay, {scenario.name}, round {number + 1} of {scenario.pairs}")
                for name, (target, pid) in targets.items():
                    job = load(scenario, target, {"target": pid, "simulator": simulator.pid})
                    found[name].append(processes.run(job, StreamsResult))
    waited_ms = {name: statistics.median(waited) for name, waited in first.ttft_ms.items()}
    return Relayed(runs, waited_ms)
