"""Two workers, compared with one server: how many tokens per second two cores would carry.

The machine may have no cores for two busy workers beside the simulator and the callers, so CPU time is counted
instead of tokens per second. Two workers get twice the streams of the one server, so each process is as busy
as the one: a process that has more to do at once needs less CPU per token. So two workers that cost the same
per token carry twice the tokens. Workers share caches and the memory with each other, as on any machine.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import msgspec
from jobs import StreamsResult, Target
from measure import PROVIDER_PREFIX, load
from plan import WORKERS_SPEEDUP_LIMIT, Bar, Plan, Scenario
from processes import Processes, Running

CHANNELS = 32
"""Connections of the callers. The kernel spreads them over the workers at random."""

_ONE = {"TOKENWIRE_RESUME": "false"}
_TWO = {**_ONE, "TOKENWIRE_WORKERS": "2"}


class Round(msgspec.Struct, frozen=True):
    """CPU in us per token of all processes of the server, under the same load, one after the other."""

    one: float
    """One server."""
    workers: float
    """Two workers and their supervisor, with twice the streams."""

    @property
    def speedup(self) -> float:
        return 2 * self.one / self.workers


class Workers(msgspec.Struct, frozen=True):
    scenario: Scenario
    rounds: list[Round]

    def median(self, figure: Callable[[Round], float]) -> float:
        """Return the median over the rounds."""
        return statistics.median(figure(each) for each in self.rounds)

    @property
    def bars(self) -> list[Bar]:
        """Return the bar with its figure."""
        return [
            Bar(
                "workers_speedup",
                "two workers against one, by CPU per token",
                self.median(lambda each: each.speedup),
                WORKERS_SPEEDUP_LIMIT,
                "x",
                at_least=True,
            )
        ]


def several_workers(plan: Plan, processes: Processes, say: Callable[[str], None]) -> Workers:
    """Measure two workers. Raises Unmeasurable if something fails."""
    scenario = plan.workers
    twice = msgspec.structs.replace(scenario, streams=2 * scenario.streams)
    with (
        processes.simulator() as simulator,
        processes.server(simulator, name="one-server", settings=_ONE) as one,
        processes.server(simulator, name="workers", settings=_TWO) as workers,
    ):

        def cost(server: Running, scenario: Scenario) -> float:
            target = Target(server.address, "grpc", PROVIDER_PREFIX)
            job = load(scenario, target, {"server": server.pid}, channels=CHANNELS)
            return processes.run(job, StreamsResult).cpu_us_per_token["server"]

        rounds = []
        for number in range(scenario.pairs):
            say(f"{scenario.name}, one and two workers, round {number + 1} of {scenario.pairs}")
            # The order alternates, because a machine that warms up would favour one of them.
            if number % 2:
                rounds.append(Round(one=cost(one, scenario), workers=cost(workers, twice)))
            else:
                rounds.append(Round(workers=cost(workers, twice), one=cost(one, scenario)))
    return Workers(scenario, rounds)
