"""Compare Tokenwire with other gateways under the same load, with the same simulator.

nginx forwards the bytes without interpreting them. LiteLLM's proxy and Portkey's gateway have a task like
Tokenwire's. All of them answer with HTTP/SSE, so their callers use that. Tokenwire's callers use gRPC, or
HTTP/SSE through the edge; then the CPU of the edge and of the server are added up. Rounds alternate.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import msgspec
import report
from callers import Unmeasurable
from jobs import FirstToken, FirstTokenResult, StreamsResult, Target
from measure import PROVIDER_PREFIX, load
from peer_gateways import Peer, litellm, nginx, portkey
from plan import EDGE_CPU_OF_LITELLM_LIMIT, Scenario
from processes import Processes

NOT_MEASURED = 2
WITH_EDGE = "tokenwire with edge"


def main() -> int:
    """Measure. Return 0 if the available peers were measured, or 2 if a measurement failed."""
    parser = argparse.ArgumentParser(prog="bench-peers", description=__doc__)
    parser.add_argument(
        "--streams", type=int, default=20, help="number of streams of 50 tokens/s (default: 20)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds (default: 3)")
    parser.add_argument("--pin", action="store_true", help="run the peers on a separate core")
    parser.add_argument("--out", type=Path, default=Path("bench-out"), help="folder for results")
    arguments = parser.parse_args()
    folder = arguments.out.absolute() / "peers"
    folder.mkdir(parents=True, exist_ok=True)
    scenario = Scenario(arguments.streams, 50, arguments.rounds, ramp_s=0.5, window_s=4)
    try:
        _compare(scenario, Processes(arguments.out / "logs", pin=arguments.pin), folder)
    except Unmeasurable as error:
        print(f"could not measure: {error}", file=sys.stderr)
        return NOT_MEASURED
    return 0


def _compare(scenario: Scenario, processes: Processes, folder: Path) -> None:
    with ExitStack() as stack:
        simulator = stack.enter_context(processes.simulator())
        server = stack.enter_context(processes.server(simulator))
        edge = stack.enter_context(processes.edge(server))
        others = (
            stack.enter_context(nginx(processes, simulator, folder)),
            stack.enter_context(portkey(processes, simulator)),
            stack.enter_context(litellm(processes, simulator, folder)),
        )
        over_grpc = Target(server.address, "grpc", PROVIDER_PREFIX)
        through_edge = Target(edge.address, "edge", PROVIDER_PREFIX)
        peers = [
            Peer("tokenwire", (server,), over_grpc),
            Peer(WITH_EDGE, (edge, server), through_edge),
            *(peer for peer in others if peer),
        ]
        idle = {"direct": Target(simulator.address, "sse")} | {p.name: p.target for p in peers}
        first = processes.run(FirstToken(idle, samples=50), FirstTokenResult)
        runs: dict[str, list[StreamsResult]] = {peer.name: [] for peer in peers}
        for _ in range(scenario.pairs):
            for peer in peers:
                watch = {f"target {n}": p.pid for n, p in enumerate(peer.processes)}
                watch["simulator"] = simulator.pid
                job = load(scenario, peer.target, watch)
                runs[peer.name].append(processes.run(job, StreamsResult))
    waited_ms = {name: statistics.median(waited) for name, waited in first.ttft_ms.items()}
    _report(scenario, runs, waited_ms, folder)


def _report(
    scenario: Scenario,
    runs: dict[str, list[StreamsResult]],
    ttft_ms: dict[str, float],
    folder: Path,
) -> None:
    about = report.machine()
    print(f"{scenario.name}, {about['cores']} cores of {about['cpu']}, {about['time']}")
    print(f"{'':24}{'CPU us/token':>14}{'ITL p50 / p99 ms':>20}{'first token later by, ms':>28}")
    rows = []
    for name, results in runs.items():
        row = {
            "name": name,
            "cpu_us_per_token": _median(results, _cpu_us_per_token),
            "itl_p50_ms": _median(results, lambda run: run.itl_p50_ms),
            "itl_p99_ms": _median(results, lambda run: run.itl_p99_ms),
            "ttft_added_ms": ttft_ms[name] - ttft_ms["direct"],
        }
        rows.append(row)
        gaps = f"{row['itl_p50_ms']:.1f} / {row['itl_p99_ms']:.1f}"
        print(f"{name:24}{row['cpu_us_per_token']:>14.1f}{gaps:>20}{row['ttft_added_ms']:>28.2f}")
    print(f"CPU, and time between tokens (ITL): medians of {scenario.pairs} rounds.")
    print("First token: compared with the simulator itself, one stream at a time.")
    spent_us = {row["name"]: row["cpu_us_per_token"] for row in rows}
    for name, us in spent_us.items():
        if name.startswith("litellm"):
            ratio = spent_us[WITH_EDGE] / us
            mark = "pass" if ratio <= EDGE_CPU_OF_LITELLM_LIMIT else "FAIL"
            limit = f"limit {EDGE_CPU_OF_LITELLM_LIMIT:g}x"
            print(f"{mark}  {WITH_EDGE}: {ratio:.2f}x the CPU per token of {name} ({limit})")
    whole = {"machine": about, "scenario": msgspec.to_builtins(scenario), "peers": rows}
    (folder / "peers.json").write_bytes(msgspec.json.format(msgspec.json.encode(whole)))


def _cpu_us_per_token(run: StreamsResult) -> float:
    return sum(us for name, us in run.cpu_us_per_token.items() if name.startswith("target"))


def _median(results: list[StreamsResult], figure: Callable[[StreamsResult], float]) -> float:
    return statistics.median(figure(result) for result in results)


if __name__ == "__main__":
    sys.exit(main())
