"""The report: a table for people, JSON for programs."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import readings
from added import Added
from client_cost import ClientCost
from content import NAMES, Content
from hops import Hops, hop_lines
from http_edge import Edge
from lasting import Lasting
from measure import Results, ScenarioResult
from plan import Bar
from processes import HERE
from relay import Relayed, cpu_us
from several_workers import Workers
from stream_cost import StreamCost

BUSY_OTHERS_CORES = 0.1
"""Cores used by other processes above which the report has a warning."""
_HEADS = "{:28}{:>8}{:>9}{:>8}{:>15}{:>14}{:>11}{:>9}"
_LIBRARIES = ("grpcio", "protobuf", "uvloop", "aiohttp", "openai", "anthropic", "msgspec")


def machine() -> dict[str, Any]:
    """Return the machine and the version of the measurement."""
    return {
        "cpu": readings.cpu_model(),
        "cores": os.cpu_count(),
        "os": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in _LIBRARIES},
        "commit": _git("rev-parse", "--short", "HEAD") or "none",
        "modified": bool(_git("status", "--porcelain")),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def text(
    about: dict[str, Any],
    bars: Sequence[Bar],
    hops: Hops | None = None,
    tokens: Results | None = None,
    streams: StreamCost | None = None,
    relayed: Relayed | None = None,
    lasting: Lasting | None = None,
    added: Sequence[Added] = (),
    content: Content | None = None,
    edge: Edge | None = None,
    workers: Workers | None = None,
    client: ClientCost | None = None,
) -> str:
    """Return all figures as text of at most 100 characters per line."""
    lines = [
        f"Tokenwire benchmark, commit {about['commit']}, {about['time']}",
        f"{about['cores']} cores of {about['cpu']}, {about['os']}",
        f"CPython {about['python']}, grpcio {about['grpcio']}, protobuf {about['protobuf']}",
        "",
        *(hop_lines(hops) if hops else ()),
        *(_tokens(tokens) if tokens else ()),
        *(_streams(streams) if streams else ()),
        *(_relayed(relayed) if relayed else ()),
        *(_lasting(lasting) if lasting else ()),
        *(line for results in added for line in _added(results)),
        *(_content(content) if content else ()),
        *(_edge(edge) if edge else ()),
        *(_workers(workers) if workers else ()),
        *(_client(client) if client else ()),
        f"      {'bar':56}{'limit':>18}{'measured':>16}",
    ]
    for bar in bars:
        sign = ">=" if bar.at_least else "<="
        mark = "pass" if bar.met else "FAIL"
        lines.append(
            f"{mark}  {bar.name:56}{sign + ' ' + _figure(bar.limit, bar.unit):>18}"
            f"{_figure(bar.measured, bar.unit):>16}"
        )
    if tokens:
        others = max(max(r.medians(lambda run: run.others_cores)) for r in tokens.scenarios)
        if others > BUSY_OTHERS_CORES:
            lines += ["", f"Other processes kept up to {others:.1f} cores busy: take it with care."]
    return "\n".join(lines)


def _tokens(results: Results) -> list[str]:
    idle = ", ".join(f"{name} {waited:.2f} ms" for name, waited in results.ttft_ms.items())
    return [
        f"{'':28}{'CPU us/token':^25}{'ITL p50 / p99 ms':^29}{'TTFT p50 ms':>18}",
        _HEADS.format("load", "floor", "server", "ratio", "floor", "server", "floor", "server"),
        *(_row(result) for result in results.scenarios),
        "",
        *(_burst(result, results) for result in results.scenarios if result.scenario.burst_tokens),
        _joined(results),
        f"TTFT p50 idle, one stream at a time: {idle}",
        f"wire: {results.wire.bytes_per_token:.1f} B for {results.wire.text_bytes_per_token:.1f} B of text",
        f"simulator: {results.simulator_cpu_us_per_token:.1f} us of CPU per unpaced token",
        "",
    ]


def _streams(results: StreamCost) -> list[str]:
    lines = ["CPU ms/stream of one token, and the server's besides the request:"]
    for at_once in results.runs:
        medians = results.medians_ms(at_once).items()
        spent = ", ".join(f"{name} {spent_ms:.2f}" for name, spent_ms in medians)
        lines.append(
            f"  {at_once} at once: {spent}; besides {results.besides_request_ms(at_once):.2f}"
        )
    return [*lines, ""]


def _relayed(results: Relayed) -> list[str]:
    idle = ", ".join(f"{name} {waited:.2f}" for name, waited in results.ttft_ms.items())
    lines = [f"TTFT p50 idle, ms: {idle}", f"{'':28}{'CPU us/token':>24}{'TTFT p50 ms':>24}"]
    lines.append(f"{'load':28}" + 2 * f"{'floor':>8}{'relay':>8}{'server':>8}")
    for scenario, runs in results.runs.items():
        cpu = "".join(f"{results.median(scenario, name, cpu_us):>8.1f}" for name in runs)
        first = "".join(
            f"{results.median(scenario, name, lambda run: run.ttft_p50_ms):>8.1f}" for name in runs
        )
        lines.append(f"{scenario:28}{cpu}{first}")
    return [*lines, ""]


def _lasting(results: Lasting) -> list[str]:
    resume, retained = results.resume, results.retained

    def spread(figures_ms: list[float]) -> str:
        return f"{statistics.median(figures_ms):.1f} (worst {figures_ms[-1]:.1f})"

    lines = [
        (
            f"resume of {results.resume_tokens:,} tokens, {len(resume.whole_ms)} times, in {resume.events}"
            f" events: first {spread(resume.first_event_ms)} ms, whole {spread(resume.whole_ms)} ms"
        ),
        (
            f"  on a cold channel: first {spread(resume.cold_first_event_ms)} ms, "
            f"whole {spread(resume.cold_whole_ms)} ms"
        ),
    ]
    for last, pairs in results.crowds.items():
        live, frozen = (
            statistics.median(figures)
            for figures in zip(
                *((pair.live.gap_p99_ms, pair.frozen.gap_p99_ms) for pair in pairs), strict=True
            )
        )
        lines.append(
            f"readers of one stream, the last a {last}: gap p99 of the others "
            f"{live:.1f} ms, {frozen:.1f} ms when it is frozen"
        )
    lines += [
        (
            f"{retained.streams:,} retained streams: {retained.rss_bytes_per_stream:,.0f} B each, "
            f"counted as {retained.counted_bytes_per_stream:,.0f} B"
        ),
        "",
    ]
    return lines


def _added(results: Added) -> list[str]:
    waited = ", ".join(f"{name} {ms:.2f} ms" for name, ms in results.ttft_ms.items())
    cpu = {
        name: statistics.median(
            getattr(pair, name).cpu_us_per_token["target"] for pair in results.pairs
        )
        for name in ("without", "having")
    }
    spent = ", ".join(f"{name} {us:.1f}" for name, us in cpu.items())
    ratios = ", ".join(f"{pair.cpu_ratio:.3f}" for pair in results.pairs)
    return [
        f"{results.what}: TTFT p50 idle, without and having it: {waited}",
        f"  CPU us/token, {results.scenario.name}: {spent}; ratios of the pairs: {ratios}",
        "",
    ]


def _content(results: Content) -> list[str]:
    lines = [f"CPU us/token, {results.scenario.name}, and the ratios of the rounds to no filters:"]
    for name, what in NAMES.items():
        ratios = results.ratios(name)
        each = ", ".join(f"{ratio:.3f}" for ratio in ratios)
        compared = (
            f"  {statistics.median(ratios):.3f}x ({each})" if ratios != [1] * len(ratios) else ""
        )
        lines.append(f"  {what:42}{results.cpu_us(name):>7.1f}{compared}")
    return [*lines, ""]


def _edge(results: Edge) -> list[str]:
    waited = ", ".join(f"{name} {ms:.2f} ms" for name, ms in results.ttft_ms.items())
    bare, edge = results.load.medians(lambda run: run.cpu_us_per_token["target"])
    gaps = results.load.medians(lambda run: run.itl_p99_ms)
    ratios = ", ".join(f"{pair.cpu_ratio:.2f}" for pair in results.load.pairs)
    merged = results.load.median(lambda pair: pair.server.tokens / pair.server.messages)
    return [
        f"edge: TTFT p50 idle, one stream at a time: {waited}",
        (
            f"  CPU us/token, {results.load.name}: bare Starlette {bare:.1f}, edge {edge:.1f}, "
            f"the server behind it {results.server_cpu_us_per_token:.1f}"
        ),
        (
            f"  ratios of the pairs: {ratios}; ITL p99: bare {gaps[0]:.1f} ms, edge {gaps[1]:.1f} ms; "
            f"{merged:.2f} tokens in a read"
        ),
        "",
    ]


def _workers(results: Workers) -> list[str]:
    one, alone, workers = (
        results.median(lambda each, name=name: getattr(each, name))
        for name in ("one", "alone", "workers")
    )
    ratios = ", ".join(f"{each.speedup:.2f}" for each in results.rounds)
    of_alone = results.median(lambda each: each.speedup_of_alone)
    return [
        f"CPU us/token, {results.scenario.name} and process: one server beside another one {one:.1f},",
        f"  one server alone {alone:.1f}, two workers {workers:.1f}",
        f"  speedup of two workers by round: {ratios}; against one server alone: {of_alone:.2f}",
        "",
    ]


def _client(results: ClientCost) -> list[str]:
    imports = ", ".join(
        f"{name} {statistics.median(spent_ms):.0f} ms"
        for name, spent_ms in results.import_ms.items()
    )
    stub = statistics.median(results.read.stub_cpu_us)
    client = statistics.median(results.read.client_cpu_us)
    ratios = sorted(results.cpu_ratios)
    middle = f"{ratios[len(ratios) // 4]:.2f} to {ratios[-1 - len(ratios) // 4]:.2f}"
    return [
        f"client: CPU of a fresh interpreter that imports: {imports}",
        f"  CPU us/event, {results.scenario.name}: bare stub {stub:.1f}, client {client:.1f}",
        f"  the middle half of the ratios of {len(ratios)} rounds: {middle}",
        "",
    ]


def json(
    about: dict[str, Any],
    bars: Sequence[Bar],
    hops: Hops | None,
    tokens: Results | None,
    streams: StreamCost | None,
    relayed: Relayed | None,
    lasting: Lasting | None,
    added: Sequence[Added],
    content: Content | None,
    edge: Edge | None,
    workers: Workers | None,
    client: ClientCost | None,
) -> bytes:
    """Return all measurements as JSON, including each pair of each scenario."""
    whole = {
        "machine": about,
        "bars": [{**msgspec.to_builtins(bar), "met": bar.met} for bar in bars],
        **({"hops": msgspec.to_builtins(hops)} if hops else {}),
        **(msgspec.to_builtins(tokens) if tokens else {}),
        **({"streams": msgspec.to_builtins(streams, str_keys=True)} if streams else {}),
        **({"relay": msgspec.to_builtins(relayed)} if relayed else {}),
        **({"lasting": msgspec.to_builtins(lasting)} if lasting else {}),
        **{results.part: msgspec.to_builtins(results) for results in added},
        **({"content": msgspec.to_builtins(content)} if content else {}),
        **({"edge": msgspec.to_builtins(edge)} if edge else {}),
        **({"workers": msgspec.to_builtins(workers)} if workers else {}),
        **({"client": msgspec.to_builtins(client)} if client else {}),
    }
    return msgspec.json.format(msgspec.json.encode(whole))


def _row(result: ScenarioResult) -> str:
    floor_us, server_us = result.medians(lambda run: run.cpu_us_per_token["target"])
    floor_p50_ms, server_p50_ms = result.medians(lambda run: run.itl_p50_ms)
    floor_p99_ms, server_p99_ms = result.medians(lambda run: run.itl_p99_ms)
    floor_ttft_ms, server_ttft_ms = result.medians(lambda run: run.ttft_p50_ms)
    ratio = result.median(lambda pair: pair.cpu_ratio)
    floor_gaps = f"{floor_p50_ms:.1f} / {floor_p99_ms:.1f}"
    server_gaps = f"{server_p50_ms:.1f} / {server_p99_ms:.1f}"
    return (
        f"{result.name:28}{floor_us:>8.1f}{server_us:>9.1f}{ratio:>7.2f}x"
        f"{floor_gaps:>15}{server_gaps:>14}{floor_ttft_ms:>11.1f}{server_ttft_ms:>9.1f}"
    )


def _burst(result: ScenarioResult, results: Results) -> str:
    floor, server = result.medians(lambda run: run.tokens / run.seconds)
    direct_ms = results.direct_burst_ttft_ms[result.name]
    return (
        f"{result.name}: floor {floor:,.0f} tok/s, server {server:,.0f} tok/s; "
        f"TTFT p50 direct {direct_ms:.1f} ms"
    )


def _joined(results: Results) -> str:
    """Return how much the server merges. On a busy machine it merges more, which makes tokens cheaper."""
    means = (
        f"{result.median(lambda pair: pair.server.tokens / pair.server.messages):.2f}"
        for result in results.scenarios
    )
    return f"tokens in an event of the server, by load: {', '.join(means)}"


def _figure(value: float, unit: str) -> str:
    if value >= 1000:
        return f"{value:,.0f} {unit}"
    return f"{value:.2f} {unit}" if value < 100 else f"{value:.0f} {unit}"


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=HERE, capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def save(
    path: Path,
    about: dict[str, Any],
    bars: Sequence[Bar],
    hops: Hops | None,
    tokens: Results | None,
    streams: StreamCost | None,
    relayed: Relayed | None,
    lasting: Lasting | None,
    added: Sequence[Added],
    content: Content | None,
    edge: Edge | None,
    workers: Workers | None,
    client: ClientCost | None,
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        json(
            *(about, bars, hops, tokens, streams, relayed),
            *(lasting, added, content, edge, workers, client),
        )
    )
