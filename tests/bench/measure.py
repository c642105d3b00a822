"""The measurements, one function each. All raise Unmeasurable if something fails."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import msgspec
from jobs import (
    FirstToken,
    FirstTokenResult,
    Flood,
    FloodResult,
    KeepOpen,
    KeepOpenResult,
    Streams,
    StreamsResult,
    Target,
    Wire,
    WireResult,
)
from plan import (
    CPU_RATIO_LIMIT,
    DELIVERED_SHARE_LIMIT,
    ITL_P99_ABOVE_FLOOR_LIMIT_MS,
    LOG_ENTRY_LIMIT_BYTES,
    SIMULATOR_LIMIT_TOKENS_PER_S,
    STREAM_LIMIT_KIB,
    TTFT_ABOVE_DIRECT_LIMIT_MS,
    WIRE_LIMIT_BYTES,
    Bar,
    Plan,
    Scenario,
)
from processes import Processes, Running

PROVIDER_PREFIX = "openai/"
KIB = 1024


class Pair(msgspec.Struct, frozen=True):
    """Floor and server under the same load, one directly after the other."""

    floor: StreamsResult
    server: StreamsResult

    @property
    def cpu_ratio(self) -> float:
        return self.server.cpu_us_per_token["target"] / self.floor.cpu_us_per_token["target"]

    @property
    def itl_p99_above_floor_ms(self) -> float:
        return self.server.itl_p99_ms - self.floor.itl_p99_ms


class ScenarioResult(msgspec.Struct, frozen=True):
    scenario: Scenario
    name: str
    pairs: list[Pair]

    def median(self, figure: Callable[[Pair], float]) -> float:
        """Return the median over the pairs."""
        return statistics.median(figure(pair) for pair in self.pairs)

    def medians(self, figure: Callable[[StreamsResult], float]) -> tuple[float, float]:
        """Return the medians of the floor's runs and of the server's runs."""
        return self.median(lambda pair: figure(pair.floor)), self.median(
            lambda pair: figure(pair.server)
        )


class Memory(msgspec.Struct, frozen=True):
    kib_per_stream: float
    bytes_per_log_entry: float
    rss_mib: dict[str, float]
    """The measurements for the slopes, by number of streams and tokens."""


class Results(msgspec.Struct, frozen=True):
    scenarios: list[ScenarioResult]
    headline: ScenarioResult
    ttft_ms: dict[str, float]
    """Medians: direct (to the simulator), floor, server."""
    wire: WireResult
    memory: Memory
    simulator_tokens_per_s: float
    simulator_cpu_us_per_token: float
    direct_burst_ttft_ms: dict[str, float]
    """The median time to the first token without a server, by the names of the bursts."""

    @property
    def bars(self) -> list[Bar]:
        """Return each bar with its figure."""
        name = self.headline.name
        largest = max(self.scenarios, key=lambda result: result.scenario.streams)
        return [
            Bar(
                "cpu_ratio",
                f"server CPU per token, {name}, against floor",
                self.headline.median(lambda pair: pair.cpu_ratio),
                CPU_RATIO_LIMIT,
                "x",
            ),
            Bar(
                "itl_p99_above_floor_ms",
                f"ITL p99 above floor's, {name}",
                self.headline.median(lambda pair: pair.itl_p99_above_floor_ms),
                ITL_P99_ABOVE_FLOOR_LIMIT_MS,
                "ms",
            ),
            Bar(
                "delivered_share",
                f"tokens delivered of those due, {largest.name}",
                largest.median(lambda pair: delivered_share(largest.scenario, pair.server)),
                DELIVERED_SHARE_LIMIT,
                "x",
                at_least=True,
            ),
            Bar(
                "ttft_above_direct_ms",
                "TTFT p50 above direct, idle",
                self.ttft_ms["server"] - self.ttft_ms["direct"],
                TTFT_ABOVE_DIRECT_LIMIT_MS,
                "ms",
            ),
            Bar(
                "stream_kib",
                "memory per open stream",
                self.memory.kib_per_stream,
                STREAM_LIMIT_KIB,
                "KiB",
            ),
            Bar(
                "log_entry_bytes",
                "memory per log entry",
                self.memory.bytes_per_log_entry,
                LOG_ENTRY_LIMIT_BYTES,
                "B",
            ),
            Bar(
                "wire_bytes",
                "wire, one-token text event",
                self.wire.bytes_per_token,
                WIRE_LIMIT_BYTES,
                "B",
            ),
            Bar(
                "simulator_tokens_per_s",
                "simulator, unpaced",
                self.simulator_tokens_per_s,
                SIMULATOR_LIMIT_TOKENS_PER_S,
                "tok/s",
                at_least=True,
            ),
        ]


def everything(plan: Plan, processes: Processes, say: Callable[[str], None]) -> Results:
    """Run all measurements of the plan. Memory is first, because it needs fresh processes, which start
    quickly.
    """
    with processes.simulator() as simulator:
        say("memory")
        memory = _memory(plan, processes, simulator)
        say("simulator")
        flood = processes.run(
            Flood(Target(simulator.address, "sse"), plan.flood_tokens, simulator.pid), FloodResult
        )
        with processes.floor() as floor, processes.server(simulator) as server:
            say("first token, idle")
            targets = {
                "direct": Target(simulator.address, "sse"),
                "floor": _grpc(floor),
                "server": _grpc(server),
            }
            first = processes.run(FirstToken(targets, plan.ttft_samples), FirstTokenResult)
            say("wire")
            wire = processes.run(Wire(_grpc(server)), WireResult)
            results = [
                _pairs(scenario, processes, simulator, floor, server, say)
                for scenario in plan.scenarios
            ]
        bursts = [scenario for scenario in plan.scenarios if scenario.burst_tokens]
        direct = {
            scenario.name: processes.run(
                load(scenario, Target(simulator.address, "sse"), {"simulator": simulator.pid}),
                StreamsResult,
            ).ttft_p50_ms
            for scenario in bursts
        }
    return Results(
        scenarios=results,
        headline=next(r for r in results if r.scenario == plan.headline),
        ttft_ms={name: statistics.median(waited) for name, waited in first.ttft_ms.items()},
        wire=wire,
        memory=memory,
        simulator_tokens_per_s=plan.flood_tokens / flood.seconds,
        simulator_cpu_us_per_token=flood.cpu_s * 1e6 / plan.flood_tokens,
        direct_burst_ttft_ms=direct,
    )


def delivered_share(scenario: Scenario, run: StreamsResult) -> float:
    """Return how many tokens came within the window, as a share of those that the provider sent in it."""
    return run.tokens / (scenario.streams * scenario.tokens_per_second * run.seconds)


def load(scenario: Scenario, target: Target, watch: dict[str, int], channels: int = 4) -> Streams:
    """Return the job that runs a scenario on a target."""
    return Streams(
        target,
        scenario.streams,
        scenario.tokens_per_second,
        scenario.ramp_s,
        scenario.settle_s,
        scenario.window_s,
        scenario.burst_tokens,
        channels,
        watch,
    )


def _grpc(running: Running) -> Target:
    return Target(running.address, "grpc", PROVIDER_PREFIX)


def _pairs(
    scenario: Scenario,
    processes: Processes,
    simulator: Running,
    floor: Running,
    server: Running,
    say: Callable[[str], None],
) -> ScenarioResult:
    def one(running: Running) -> StreamsResult:
        watch = {"target": running.pid, "simulator": simulator.pid}
        return processes.run(load(scenario, _grpc(running), watch), StreamsResult)

    pairs = []
    for number in range(scenario.pairs):
        say(f"{scenario.name}, pair {number + 1} of {scenario.pairs}")
        pairs.append(Pair(floor=one(floor), server=one(server)))
    return ScenarioResult(scenario, scenario.name, pairs)


def _memory(plan: Plan, processes: Processes, simulator: Running) -> Memory:
    few, many = plan.held_streams
    short, long = plan.held_tokens

    def memory_at(tokens: int, steps: list[int]) -> list[int]:
        # A used heap would hide the memory of a stream, so each ramp has a fresh process.
        with processes.server(simulator) as server:
            job = KeepOpen(_grpc(server), tokens, steps, server.pid)
            return processes.run(job, KeepOpenResult).rss_bytes

    few_short, many_short = memory_at(short, [few, many])
    (few_long,) = memory_at(long, [few])
    return Memory(
        kib_per_stream=(many_short - few_short) / (many - few) / KIB,
        bytes_per_log_entry=(few_long - few_short) / (few * (long - short)),
        rss_mib={
            f"{few} streams of {short} tokens": few_short / KIB**2,
            f"{many} streams of {short} tokens": many_short / KIB**2,
            f"{few} streams of {long} tokens": few_long / KIB**2,
        },
    )
