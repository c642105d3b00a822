"""The cost of the Python client: its import, and the CPU of an event, compared with bare gRPC."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable

import msgspec
from callers import Unmeasurable
from jobs import Read, ReadResult
from plan import CLIENT_CPU_RATIO_LIMIT, CLIENT_IMPORT_RATIO_LIMIT, Bar, Plan, Scenario
from processes import Processes

IMPORTS = {
    "bare": (
        "import grpc.aio, google.protobuf.descriptor_pool, google.protobuf.message, "
        "google.protobuf.symbol_database, google.protobuf.internal.builder"
    ),
    "client": "import tokenwire; tokenwire.AsyncClient()",
}
"""What is run in fresh interpreters. The first has what every generated module and stub imports."""


class ClientCost(msgspec.Struct, frozen=True):
    """The client, and what it is compared with."""

    scenario: Scenario
    read: ReadResult
    import_ms: dict[str, list[float]]
    """CPU time of each fresh interpreter, by the names of `IMPORTS`, in the order of the runs."""

    @property
    def import_ratio(self) -> float:
        """Return the median ratio of neighbouring runs."""
        runs = zip(self.import_ms["bare"], self.import_ms["client"], strict=True)
        return statistics.median(client / bare for bare, client in runs)

    @property
    def cpu_ratios(self) -> list[float]:
        """Return the ratio of each round."""
        rounds = zip(self.read.stub_cpu_us, self.read.client_cpu_us, strict=True)
        return [client / stub for stub, client in rounds]

    @property
    def bars(self) -> list[Bar]:
        """Return each bar with its figure."""
        return [
            Bar(
                "client_import_ratio",
                "client: import and first client, grpc and protobuf",
                self.import_ratio,
                CLIENT_IMPORT_RATIO_LIMIT,
                "x",
            ),
            Bar(
                "client_cpu_ratio",
                f"client: CPU per event, {self.scenario.name}, bare stub",
                statistics.median(self.cpu_ratios),
                CLIENT_CPU_RATIO_LIMIT,
                "x",
            ),
        ]


def client_cost(plan: Plan, processes: Processes, say: Callable[[str], None]) -> ClientCost:
    """Measure the client. Raises Unmeasurable if something fails."""
    scenario = plan.client
    say(f"import, {plan.client_imports} times")
    import_ms: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for number in range(-1, plan.client_imports):  # the first run compiles
        for name, code in IMPORTS.items():
            spent_ms = _run_ms(code)
            if number >= 0:
                import_ms[name].append(spent_ms)
    say(f"{scenario.name}, stub and client, {scenario.pairs} rounds")
    with processes.floor() as floor:
        job = Read(
            floor.address,
            scenario.pairs,
            scenario.streams,
            scenario.tokens_per_second,
            scenario.ramp_s,
            scenario.settle_s,
            scenario.window_s,
        )
        read = processes.run(job, ReadResult)
    return ClientCost(scenario, read, import_ms)


def _run_ms(code: str) -> float:
    """Return the CPU time of a fresh interpreter that runs the code, in milliseconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Bytecode that is not written would be compiled in each run.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    if subprocess.run([sys.executable, "-c", code], env=env).returncode != 0:
        raise Unmeasurable(f"it failed: {code}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return spent_s * 1000
