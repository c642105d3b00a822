"""`tokenwire bench`: the latency of a server and its provider, as a caller sees it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ...aio.client import AsyncClient
from ...errors import TokenwireError
from ..connection import Connection
from ..exit_codes import EXIT_ERROR
from ..latencies import histogram_lines, summary
from ..money import usd_text
from ..terminal import json_text, say, visible, write_stdout
from .chat_request import RequestOptions, chat_request

_TOKENS = frozenset({"text", "reasoning", "tool_call_delta"})


@dataclass
class Measurements:
    """The times of the requests, in seconds, and how the requests ended."""

    ttft_s: list[float] = field(default_factory=list)
    """Time from the call to the first token."""
    gap_s: list[float] = field(default_factory=list)
    """Time between two events with tokens."""
    duration_s: list[float] = field(default_factory=list)
    """Time from the call to the end of the answer."""
    output_tokens: int = 0
    cost_microusd: int = 0
    completed: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    """Failed requests by their reason."""


async def bench(
    connection: Connection,
    options: RequestOptions,
    *,
    request_count: int,
    concurrency: int,
    timeout_s: float | None,
    as_json: bool,
) -> int:
    """Send a request several times, and print the times as histograms. Return the exit code.

    When interrupted, cancel the open requests, and print the results so far.
    """
    measured = Measurements()
    say(
        f"{request_count} requests to {options.model} at {connection.target}, {concurrency} at a time"
    )
    began = time.monotonic()
    try:
        async with connection.client() as client:
            await _send_all(client, options, measured, request_count, concurrency, timeout_s)
    finally:
        took_s = time.monotonic() - began
        if as_json:
            write_stdout(json_text(_figures(measured, took_s)) + "\n")
        else:
            lines = report_lines(measured, took_s)
            write_stdout("".join(visible(line) + "\n" for line in lines))
    return EXIT_ERROR if measured.errors else 0


async def _send_all(
    client: AsyncClient,
    options: RequestOptions,
    measured: Measurements,
    request_count: int,
    concurrency: int,
    timeout_s: float | None,
) -> None:
    rest = iter(range(request_count))

    async def send_some() -> None:
        for _ in rest:
            try:
                await _measure(client, options, measured, timeout_s)
            except TokenwireError as error:
                measured.errors[error.reason or error.code.name] += 1

    async with asyncio.TaskGroup() as tasks:
        for _ in range(min(concurrency, request_count)):
            tasks.create_task(send_some())


async def _measure(
    client: AsyncClient, options: RequestOptions, measured: Measurements, timeout_s: float | None
) -> None:
    began = time.monotonic()
    last: float | None = None
    async with client.chat_stream(chat_request(options), timeout=timeout_s) as stream:
        async for event in stream:
            kind = event.WhichOneof("event")
            now = time.monotonic()
            if kind in _TOKENS:
                if last is None:
                    measured.ttft_s.append(now - began)
                else:
                    measured.gap_s.append(now - last)
                last = now
            elif kind == "finished":
                measured.duration_s.append(now - began)
                measured.output_tokens += event.finished.usage.output_tokens
                measured.cost_microusd += event.finished.usage.cost_microusd
                measured.completed += 1


def report_lines(measured: Measurements, took_s: float) -> Iterator[str]:
    """Return the measurements for people."""
    yield from histogram_lines("TTFT", measured.ttft_s)
    yield from histogram_lines("between tokens", measured.gap_s)
    yield from histogram_lines("whole answer", measured.duration_s)
    speed = measured.output_tokens / took_s if took_s else 0.0
    answers = "1 answer" if measured.completed == 1 else f"{measured.completed} answers"
    parts = [
        f"{answers} in {took_s:.1f} s",
        f"{measured.output_tokens} tokens",
        f"{speed:.1f} tokens/s",
    ]
    if measured.cost_microusd:
        parts.append(usd_text(measured.cost_microusd))
    yield ", ".join(parts)
    for reason, count in measured.errors.most_common():
        yield f"failed: {count} with {reason}"


def _figures(measured: Measurements, took_s: float) -> dict[str, Any]:
    """Return the measurements for programs. Times are in milliseconds."""
    return {
        "ttftMs": summary(measured.ttft_s),
        "betweenTokensMs": summary(measured.gap_s),
        "answerMs": summary(measured.duration_s),
        "tookMs": round(took_s * 1000, 3),
        "completed": measured.completed,
        "failed": dict(measured.errors),
        "outputTokens": str(measured.output_tokens),
        "costMicrousd": str(measured.cost_microusd),
    }
