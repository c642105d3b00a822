"""The CPU of a stream besides its tokens: opening, admitting and closing it, without usage records.

Each stream has one token. From the server's CPU, that of the request to the provider is subtracted: what a bare
aiohttp client in the load process needs for the same answer. What remains includes the work of gRPC, which the
floor shows, and one token.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import msgspec
from jobs import ShortStreams, ShortStreamsResult, Target
from measure import PROVIDER_PREFIX
from plan import STREAM_CPU_LIMIT_MS, Bar, Plan
from processes import Processes


class StreamCost(msgspec.Struct, frozen=True):
    """The CPU of streams, by the number of them that are opened at once."""

    runs: dict[int, ShortStreamsResult]

    def medians_ms(self, at_once: int) -> dict[str, float]:
        """Return the CPU of one stream of the floor and of the server, and that of a request."""
        run = self.runs[at_once]
        return {name: statistics.median(spent_us) / 1000 for name, spent_us in run.cpu_us.items()}

    def besides_request_ms(self, at_once: int) -> float:
        """Return the median over the rounds."""
        spent_us = self.runs[at_once].cpu_us
        pairs = zip(spent_us["server"], spent_us["request"], strict=True)
        return statistics.median(server - request for server, request in pairs) / 1000

    @property
    def bars(self) -> list[Bar]:
        """Return the bar with its figure."""
        most = max(self.runs)
        return [
            Bar(
                "stream_cpu_ms",
                f"CPU per stream besides its request, {most} at once",
                self.besides_request_ms(most),
                STREAM_CPU_LIMIT_MS,
                "ms",
            )
        ]


def stream_cost(plan: Plan, processes: Processes, say: Callable[[str], None]) -> StreamCost:
    """Measure streams of one token. Raises Unmeasurable if something fails."""
    runs = {}
    with (
        processes.simulator() as simulator,
        processes.floor() as floor,
        processes.server(simulator) as server,
    ):
        targets = {
            "floor": Target(floor.address, "grpc"),
            "request": Target(simulator.address, "sse"),
            "server": Target(server.address, "grpc", PROVIDER_PREFIX),
        }
        watch = {"floor": floor.pid, "server": server.pid}
        for at_once, streams in plan.short_streams.items():
            say(f"streams of one token, {at_once} at once, {plan.short_stream_rounds} rounds")
            job = ShortStreams(targets, watch, plan.short_stream_rounds, streams, at_once)
            runs[at_once] = processes.run(job, ShortStreamsResult)
    return StreamCost(runs)
