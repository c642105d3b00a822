"""Two workers, compared with one server: how many tokens per second two cores would carry.

The machine may have no cores for two busy workers beside the simulator and the callers, so CPU time is counted
instead of tokens per second. Each worker has as many streams as the one server: a process that has more to do
at once needs less CPU per token.

A token also costs more CPU on a machine whose caches are shared by more busy processes, whatever they do. So the
one server is measured twice: beside a second one with as many streams, which keeps the machine as busy as two
workers do, and alone. The first comparison has the bar, because it is what workers cost.
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
    """One server, beside another one with as many streams."""
    alone: float
    """One server alone."""
    workers: float
    """Two workers and their supervisor, with twice the streams."""

    @property
    def speedup(self) -> float:
        return 2 * self.one / self.workers

    @property
    def speedup_of_alone(self) -> float:
        """The speedup with the cost of a busier machine."""
        return 2 * self.alone / self.workers


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
        processes.server(simulator, name="first-server", settings=_ONE) as first,
        processes.server(simulator, name="second-server", settings=_ONE) as second,
        processes.server(simulator, name="workers", settings=_TWO) as workers,
    ):
        setups = {
            "one": ([first, second], twice),
            "alone": ([first], scenario),
            "workers": ([workers], twice),
        }

        def cost(servers: list[Running], scenario: Scenario) -> float:
            target = Target(",".join(each.address for each in servers), "grpc", PROVIDER_PREFIX)
            watch = {f"server {number}": each.pid for number, each in enumerate(servers)}
            job = load(scenario, target, watch, channels=CHANNELS)
            spent = processes.run(job, StreamsResult).cpu_us_per_token
            return sum(spent[name] for name in watch)

        rounds = []
        for number in range(scenario.pairs):
            say(f"{scenario.name}, one and two workers, round {number + 1} of {scenario.pairs}")
            # The order alternates, because a machine that warms up would favour one of them.
            names = list(setups)[:: 1 if number % 2 else -1]
            rounds.append(Round(**{name: cost(*setups[name]) for name in names}))
    return Workers(scenario, rounds)
