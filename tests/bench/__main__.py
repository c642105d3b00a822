"""Measure the server and the floor on this machine: `python tests/bench --help`.

Everything runs in separate processes: the simulator as provider, the server, the floor, and a fresh load
process for each run.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import report
from added import keyed, ledger, operated, shared
from callers import Unmeasurable
from client_cost import client_cost
from content import content
from hops import count_hops
from http_edge import http_edge
from lasting import lasting
from measure import everything
from plan import FULL, QUICK, TINY
from processes import Processes
from relay import relayed
from replicas import replicas
from several_workers import several_workers
from stream_cost import stream_cost

MISSED, NOT_MEASURED = 1, 2
ADDED = {"keyed": keyed, "ledger": ledger, "operated": operated, "shared": shared}
PARTS = (
    "hops",
    "tokens",
    "streams",
    "relay",
    "lasting",
    *ADDED,
    "content",
    "edge",
    "replicas",
    "workers",
    "client",
)


def main() -> int:
    """Measure. Return 0, 1 if --check is given and a limit was missed, or 2 if a measurement failed."""
    arguments = _parser().parse_args()
    plan = QUICK if arguments.quick else TINY if arguments.tiny else FULL
    if arguments.pairs:
        plan = plan.with_pairs(arguments.pairs)
    began = time.monotonic()

    def say(what: str) -> None:
        print(f"{time.monotonic() - began:5.0f} s  {what}", file=sys.stderr)

    processes = Processes(arguments.out / "logs", pin=arguments.pin, fork=arguments.tiny)
    try:
        parts = PARTS if arguments.part == "all" else (arguments.part,)
        # They come first: without valgrind they fail at once.
        hops = count_hops(plan.hop_tokens, say) if "hops" in parts else None
        tokens = everything(plan, processes, say) if "tokens" in parts else None
        opened = stream_cost(plan, processes, say) if "streams" in parts else None
        passed = relayed(plan, processes, say) if "relay" in parts else None
        streams = lasting(plan, processes, say) if "lasting" in parts else None
        added = [ADDED[part](plan, processes, say) for part in parts if part in ADDED]
        filtered = content(plan, processes, say) if "content" in parts else None
        edge = http_edge(plan, processes, say) if "edge" in parts else None
        two = replicas(plan, processes, say) if "replicas" in parts else None
        workers = several_workers(plan, processes, say) if "workers" in parts else None
        client = client_cost(plan, processes, say) if "client" in parts else None
    except Unmeasurable as error:
        print(f"could not measure: {error}", file=sys.stderr)
        return NOT_MEASURED
    about = report.machine()
    bars = [
        bar
        for results in (
            *(hops, tokens, opened, passed, streams, *added),
            *(filtered, edge, workers, two, client),
        )
        if results
        for bar in results.bars
    ]
    parts_measured = (hops, tokens, opened, passed, streams, added, filtered, edge, workers, client)
    report.save(arguments.out / "bench.json", about, bars, *parts_measured)
    if tokens and not arguments.tiny:
        import plot  # matplotlib takes a second to import

        plot.save(arguments.out / "bench", tokens, about)
    print(report.text(about, bars, *parts_measured))
    if arguments.check and not all(bar.met for bar in bars):
        return MISSED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="take about a third of the time")
    size.add_argument(
        "--tiny", action="store_true", help="take seconds, to test that everything works"
    )
    parser.add_argument(
        "--part",
        choices=(*PARTS, "all"),
        default="all",
        help="hops: instructions of each step of a token's path, compared with budgets; "
        "tokens: compared with the floor; streams: cost of a stream besides its tokens; "
        "relay: compared with a bare relay of a provider; "
        "lasting: resumed, shared and retained streams; keyed: "
        "cost of keys and limits; ledger: cost of counting, pricing and recording; operated: cost of metrics, "
        "traces, logs and retries; shared: cost of logs in Redis; content: cost of content filters and JSON "
        "values; edge: the HTTP edge, compared with gRPC and "
        "with a bare Starlette server; replicas: readers at another server; "
        "workers: two worker processes, compared with one; client: the Python client, compared with bare gRPC",
    )
    parser.add_argument(
        "--pairs", type=_count, help="number of pairs of each load (default: 5, quick: 3)"
    )
    parser.add_argument("--check", action="store_true", help="exit with 1 if a limit is missed")
    parser.add_argument(
        "--pin", action="store_true", help="run the measured process on a separate core"
    )
    parser.add_argument("--out", type=Path, default=Path("bench-out"), help="folder for results")
    return parser


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return count


if __name__ == "__main__":
    if not hasattr(os, "sched_getaffinity"):
        sys.exit("the benchmark reads /proc: it runs on Linux only")
    sys.exit(main())
