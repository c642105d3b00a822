"""Other gateways under the same load, with the same simulator: `python tests/bench/peers.py --help`.

nginx forwards the bytes without interpreting them. LiteLLM's proxy is a gateway with a similar task. Both
answer with HTTP/SSE, so their callers use that. Tokenwire's callers use gRPC, or HTTP/SSE through the edge;
then the CPU of the edge and of the server are added up. Rounds alternate.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import socket
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import msgspec
import report
from callers import Unmeasurable
from jobs import FirstToken, FirstTokenResult, StreamsResult, Target
from measure import PROVIDER_PREFIX, load
from plan import EDGE_CPU_OF_LITELLM_LIMIT, Scenario
from processes import HERE, Processes, Running

TOOLS = HERE.parents[1] / ".tools"
INSTALL_LIMIT_S = 600.0
LITELLM_READY_LIMIT_S = 90.0
NOT_MEASURED = 2
WITH_EDGE = "tokenwire with edge"

NGINX_CONFIG = """
daemon off;
worker_processes 1;
error_log stderr;
pid {folder}/nginx.pid;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  scgi_temp_path {folder}/scgi;
  uwsgi_temp_path {folder}/uwsgi;
  upstream simulator {{ server {simulator}; keepalive 64; }}
  server {{
    listen {address};
    location / {{
      proxy_pass http://simulator;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""

LITELLM_CONFIG = """
model_list:
  - model_name: "*"
    litellm_params:
      model: "openai/*"
      api_base: "http://{simulator}/v1"
      api_key: "bench"
litellm_settings:
  telemetry: false
"""


class Peer(msgspec.Struct, frozen=True):
    """A running peer and its description."""

    name: str
    processes: tuple[Running, ...]
    """All processes that serve its callers. Their CPU is added up."""
    target: Target


@contextmanager
def nginx(processes: Processes, simulator: Running, folder: Path) -> Iterator[Peer | None]:
    """Start nginx as a reverse proxy without buffering. Return None if it is not installed."""
    binary = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if binary is None:
        print("skipped nginx: install it with `apt-get install nginx-light`")
        yield None
        return
    address = _free_address()
    config = folder / "nginx.conf"
    config.write_text(
        NGINX_CONFIG.format(folder=folder, simulator=simulator.address, address=address)
    )
    argv = [binary, "-p", str(folder), "-c", str(config)]
    with processes.start("nginx", argv, ready=_accepts(address)) as running:
        shown = subprocess.run([binary, "-v"], capture_output=True, text=True).stderr
        yield Peer(shown.strip().rpartition(" ")[2], (running,), Target(address, "sse"))


@contextmanager
def litellm(processes: Processes, simulator: Running, folder: Path) -> Iterator[Peer | None]:
    """Start LiteLLM's proxy with one worker, installed on first use. Return None if that fails."""
    home = TOOLS / "litellm"
    binary = home / "bin" / "litellm"
    if not binary.exists() and not _install_litellm(home):
        print(f"skipped LiteLLM: `uv pip install litellm[proxy]` into {home} failed")
        yield None
        return
    address = _free_address()
    host, _, port = address.partition(":")
    config = folder / "litellm.yaml"
    config.write_text(LITELLM_CONFIG.format(simulator=simulator.address))
    key = f"sk-{secrets.token_hex(32)}"  # required to start
    argv = [str(binary), "--config", str(config), "--host", host, "--port", port]
    with processes.start(
        "litellm",
        argv,
        env={
            "LITELLM_MASTER_KEY": key,
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_LOG": "ERROR",
        },
        ready=_answers(address, "/health/liveliness"),
        ready_limit_s=LITELLM_READY_LIMIT_S,
    ) as running:
        version = subprocess.run(
            [str(home / "bin" / "python"), "-c", _PRINT_LITELLM_VERSION],
            capture_output=True,
            text=True,
        )
        name = f"litellm/{version.stdout.strip()}"
        yield Peer(name, (running,), Target(address, "sse", api_key=key))


_PRINT_LITELLM_VERSION = "from importlib.metadata import version; print(version('litellm'))"


def _install_litellm(home: Path) -> bool:
    print(f"installing LiteLLM into {home}", file=sys.stderr)
    uv = [sys.executable, "-m", "uv"]
    python = str(home / "bin" / "python")
    for command in (
        [*uv, "venv", "--quiet", "--python", sys.executable, str(home)],
        [*uv, "pip", "install", "--quiet", "--python", python, "litellm[proxy]"],
    ):
        try:
            if subprocess.run(command, timeout=INSTALL_LIMIT_S).returncode != 0:
                return False
        except subprocess.TimeoutExpired:
            return False
    return True


def _free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def _accepts(address: str) -> Callable[[], str | None]:
    host, _, port = address.partition(":")

    def ready() -> str | None:
        try:
            with socket.create_connection((host, int(port)), timeout=1):
                return address
        except OSError:
            return None

    return ready


def _answers(address: str, path: str) -> Callable[[], str | None]:
    def ready() -> str | None:
        try:
            with urlopen(f"http://{address}{path}", timeout=2):
                return address
        except (URLError, OSError):
            return None

    return ready


def main() -> int:
    """Measure. Return 0 if the available peers were measured, or 2 if a measurement failed."""
    parser = argparse.ArgumentParser(prog="bench-peers", description=__doc__)
    parser.add_argument(
        "--streams", type=int, default=20, help="number of streams of 50 tokens/s (default: 20)"
    )
    parser.add_argument("--rounds", type=int, default=3)
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
    print(f"{'':24}{'CPU us/token':>14}{'ITL p50 / p99 ms':>20}{'TTFT added, idle, ms':>24}")
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
        print(f"{name:24}{row['cpu_us_per_token']:>14.1f}{gaps:>20}{row['ttft_added_ms']:>24.2f}")
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
