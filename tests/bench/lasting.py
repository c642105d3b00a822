"""The measurements of streams that outlast a call: resumed, shared and retained streams."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from typing import Literal

import msgspec
from jobs import (
    Audience,
    AudienceResult,
    Last,
    Resume,
    ResumeResult,
    Retain,
    RetainResult,
    Target,
)
from plan import (
    FROZEN_GAP_P99_ABOVE_LIVE_LIMIT_MS,
    FROZEN_GROWTH_LIMIT,
    RESUME_FIRST_LIMIT_MS,
    RESUME_WHOLE_LIMIT_MS,
    RETAINED_COST_LIMIT,
    Bar,
    Crowd,
    Plan,
)
from processes import Processes, Running, census

PROVIDER_PREFIX = "openai/"
LASTS: tuple[Last, ...] = ("process", "channel")
ASCII, WIDE = "x" * 180, "\N{CJK UNIFIED IDEOGRAPH-6F22}" * 180
"""Texts of a token. A wide one, 540 bytes on the wire, blocks the writer of a frozen reader within a
second."""
WARMING_TOKENS_PER_SECOND = 100
RETAINED_TOKENS = 5
WARMING_STREAMS = 100


class CrowdPair(msgspec.Struct, frozen=True):
    """Two runs with the same readers: all live, and with the last one frozen, one directly
    after the other.
    """

    live: AudienceResult
    frozen: AudienceResult

    @property
    def gap_p99_above_live_ms(self) -> float:
        return self.frozen.gap_p99_ms - self.live.gap_p99_ms


class Growth(msgspec.Struct, frozen=True):
    """Growth of a server's memory while one stream exceeds its log's bound with its last reader frozen."""

    last: Last
    text: Literal["ASCII", "wide"]
    tokens: int
    grown_bytes: int
    """Growth of the resident memory, from when all readers had begun to its maximum."""
    max_log_bytes: int

    @property
    def by_bound(self) -> float:
        return self.grown_bytes / self.max_log_bytes


class Retained(msgspec.Struct, frozen=True):
    """Memory of a stream that has ended and can still be read."""

    streams: int
    rss_bytes_per_stream: float
    counted_bytes_per_stream: float
    """Bytes that the server counts against `limits.max_total_log_bytes`."""

    @property
    def cost(self) -> float:
        return self.rss_bytes_per_stream / self.counted_bytes_per_stream


class Lasting(msgspec.Struct, frozen=True):
    resume_tokens: int
    resume: ResumeResult
    crowds: dict[Last, list[CrowdPair]]
    growths: list[Growth]
    retained: Retained

    def gap_p99_above_live_ms(self, last: Last) -> float:
        return statistics.median(pair.gap_p99_above_live_ms for pair in self.crowds[last])

    @property
    def bars(self) -> list[Bar]:
        """Return each bar with its figure."""
        bars = [
            Bar(
                "resume_first_ms",
                f"resume of {self.resume_tokens:,} tokens, first event",
                statistics.median(self.resume.first_event_ms),
                RESUME_FIRST_LIMIT_MS,
                "ms",
            ),
            Bar(
                "resume_whole_ms",
                f"resume of {self.resume_tokens:,} tokens, whole answer",
                statistics.median(self.resume.whole_ms),
                RESUME_WHOLE_LIMIT_MS,
                "ms",
            ),
        ]
        bars += [
            Bar(
                f"frozen_{last}_gap_p99_above_live_ms",
                f"a frozen {last}: gap p99 of others above all live",
                self.gap_p99_above_live_ms(last),
                FROZEN_GAP_P99_ABOVE_LIVE_LIMIT_MS,
                "ms",
            )
            for last in self.crowds
        ]
        bars += [
            Bar(
                f"frozen_{growth.last}_{growth.text.lower()}_growth",
                f"a frozen {growth.last}: memory by log's bound, {growth.text} text",
                growth.by_bound,
                FROZEN_GROWTH_LIMIT,
                "x",
            )
            for growth in self.growths
        ]
        bars.append(
            Bar(
                "retained_cost",
                "retained stream: memory by what is counted",
                self.retained.cost,
                RETAINED_COST_LIMIT,
                "x",
            )
        )
        return bars


def lasting(plan: Plan, processes: Processes, say: Callable[[str], None]) -> Lasting:
    """Run all of these measurements. Raises Unmeasurable if something fails."""
    with processes.simulator() as simulator:
        say(f"{plan.retained_streams:,} retained streams")
        retained = _retained(plan.retained_streams, processes, simulator)
        growths = [
            growth
            for last in plan.crowd.memory_lasts
            for growth in _growths(plan.crowd, last, processes, simulator, say)
        ]
        with processes.server(simulator) as server:
            say("resume")
            resume = processes.run(
                Resume(_target(server), plan.resume_tokens, plan.resume_samples), ResumeResult
            )
            crowds = {last: _pairs(plan.crowd, last, processes, server, say) for last in LASTS}
    return Lasting(plan.resume_tokens, resume, crowds, growths, retained)


def _retained(streams: int, processes: Processes, simulator: Running) -> Retained:
    with processes.observed_server(simulator) as server:

        def retain(count: int) -> dict[str, int]:
            job = Retain(_target(server), count, RETAINED_TOKENS)
            processes.run(job, RetainResult)
            return census(server)

        before, after = retain(WARMING_STREAMS), retain(streams)

    def grown(figure: str) -> float:
        return (after[figure] - before[figure]) / streams

    return Retained(streams, grown("rss_bytes"), grown("log_bytes"))


def _growths(
    crowd: Crowd,
    last: Last,
    processes: Processes,
    simulator: Running,
    say: Callable[[str], None],
) -> Iterator[Growth]:
    """Measure each growth on a fresh server that has served such readers before, so that its heap has no
    unrelated free space.
    """
    texts: dict[Literal["ASCII", "wide"], str] = {"ASCII": ASCII, "wide": WIDE}
    for name, text in texts.items():
        say(f"{crowd.readers} readers of one stream, a frozen {last}: memory, {name} text")
        with processes.observed_server(simulator, max_log_bytes=crowd.max_log_bytes) as server:
            frozen = Audience(
                _target(server),
                last,
                frozen=True,
                readers=crowd.readers,
                text=text,
                tokens_per_second=crowd.memory_tokens_per_second,
                settle_s=0,
                window_s=crowd.memory_window_s,
                watch_pid=server.pid,
            )
            warming = msgspec.structs.replace(
                frozen, frozen=False, tokens_per_second=WARMING_TOKENS_PER_SECOND, window_s=1
            )
            processes.run(warming, AudienceResult)
            ran = processes.run(frozen, AudienceResult)
        grown_bytes = ran.rss_most_bytes - ran.rss_bytes
        yield Growth(last, name, ran.tokens, grown_bytes, crowd.max_log_bytes)


def _pairs(
    crowd: Crowd, last: Last, processes: Processes, server: Running, say: Callable[[str], None]
) -> list[CrowdPair]:
    def one(*, frozen: bool) -> AudienceResult:
        job = Audience(
            _target(server),
            last,
            frozen,
            crowd.readers,
            WIDE,
            crowd.tokens_per_second,
            crowd.settle_s,
            crowd.window_s,
            server.pid,
        )
        return processes.run(job, AudienceResult)

    pairs = []
    for number in range(crowd.pairs):
        say(f"{crowd.readers} readers, the last a {last}: pair {number + 1} of {crowd.pairs}")
        pairs.append(CrowdPair(live=one(frozen=False), frozen=one(frozen=True)))
    return pairs


def _target(running: Running) -> Target:
    return Target(running.address, "grpc", PROVIDER_PREFIX)
