"""What content filters and JSON values cost: servers with them, compared with a server without them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence

import msgspec
from jobs import StreamsResult, Target
from measure import PROVIDER_PREFIX, load
from plan import FILTERED_CPU_RATIO_LIMIT, Bar, Plan, Scenario
from processes import Processes, Running
from twenty_patterns import FILTERS

from tokenwire_server.simulator import generated_text

JSON_PREFIX = "json/"

NAMES = {
    "without": "no filters",
    "twenty": "20 patterns",
    "absent": "20 patterns that do not begin in the text",
    "values": "JSON values",
    "varied": "no filters, text with many words",
    "varied twenty": "20 patterns, text with many words",
}
BASES = {"varied twenty": "varied"}
"""What a name is compared with: `without`, if it is not here."""


class Content(msgspec.Struct, frozen=True):
    scenario: Scenario
    rounds: list[dict[str, StreamsResult]]
    """Runs under the same load, one directly after the other, by the names of `NAMES`."""

    def cpu_us(self, name: str) -> float:
        """Return the median of the server's CPU per token."""
        return statistics.median(each[name].cpu_us_per_token["target"] for each in self.rounds)

    def ratios(self, name: str) -> list[float]:
        """Return the CPU per token in each round, as a multiple of that without filters."""
        base = BASES.get(name, "without")
        return [
            each[name].cpu_us_per_token["target"] / each[base].cpu_us_per_token["target"]
            for each in self.rounds
        ]

    @property
    def bars(self) -> list[Bar]:
        """Return the bars with their figures."""
        texts = {
            "filtered_cpu_ratio": ("twenty", ""),
            "filtered_varied_cpu_ratio": ("varied twenty", ", many words"),
        }
        return [
            Bar(
                bar,
                f"20 patterns{words}: CPU per token, {self.scenario.name}",
                statistics.median(self.ratios(name)),
                FILTERED_CPU_RATIO_LIMIT,
                "x",
            )
            for bar, (name, words) in texts.items()
        ]


def content(plan: Plan, processes: Processes, say: Callable[[str], None]) -> Content:
    """Measure filters and JSON values. Raises Unmeasurable if something fails."""
    scenario = plan.content
    json_tokens = _json_tokens(scenario)
    with (
        processes.simulator() as simulator,
        processes.server(simulator, name="unfiltered-server") as without,
        processes.server(
            simulator, name="filtering-server", settings=_settings(FILTERS["twenty"])
        ) as twenty,
        processes.server(
            simulator, name="absent-server", settings=_settings(FILTERS["absent"])
        ) as absent,
        processes.server(
            simulator, name="varied-server", settings=_settings(FILTERS["twenty"])
        ) as varied_twenty,
        processes.server(
            simulator, name="values-server", settings=_answering(json_tokens, scenario, simulator)
        ) as values,
    ):
        servers = {
            "without": without,
            "twenty": twenty,
            "absent": absent,
            "values": values,
            "varied": without,
            "varied twenty": varied_twenty,
        }

        def one(name: str, number: int) -> StreamsResult:
            prefix = JSON_PREFIX if name == "values" else PROVIDER_PREFIX
            target = Target(servers[name].address, "grpc", prefix)
            watch = {"target": servers[name].pid, "simulator": simulator.pid}
            job = load(scenario, target, watch)
            if name == "values":
                job = msgspec.structs.replace(job, json_tokens=json_tokens)
            if name.startswith("varied"):
                # Each round has other texts, so that their words are not all known from the round before.
                seed = 1 + (number + 1) * scenario.streams
                job = msgspec.structs.replace(job, text_seed=seed)
            return processes.run(job, StreamsResult)

        rounds = []
        for number in range(scenario.pairs):
            say(f"{scenario.name}, filters and JSON values, round {number + 1} of {scenario.pairs}")
            # The order alternates, because a machine that warms up would favour one of them.
            names = list(servers)[:: 1 if number % 2 else -1]
            rounds.append({name: one(name, number) for name in names})
    return Content(scenario, rounds)


def _settings(filters: Mapping[str, object]) -> dict[str, str]:
    return {"TOKENWIRE_FILTERS": json.dumps(filters)}


def _json_tokens(scenario: Scenario) -> list[str]:
    """Return the tokens of a JSON answer that is as long as the longest stream of a scenario."""
    duration_s = scenario.ramp_s + scenario.settle_s + scenario.window_s
    *words, last = generated_text(int(duration_s * scenario.tokens_per_second) + 5)
    return ["[", *(f" {json.dumps(word.strip())}," for word in words), f" {json.dumps(last)}]"]


def _answering(
    json_tokens: Sequence[str], scenario: Scenario, simulator: Running
) -> dict[str, str]:
    """Return settings with a provider that gives the same answer to each request."""
    script = {"text": "".join(json_tokens), "itl_ms": 1000 / scenario.tokens_per_second}
    provider = {
        "kind": "openai-chat",
        "base_url": f"http://{simulator.address}/v1",
        "headers": {"x-simulator": json.dumps(script)},
    }
    return {"TOKENWIRE_PROVIDERS": json.dumps({JSON_PREFIX.rstrip("/"): provider})}
