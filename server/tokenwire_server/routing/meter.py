"""What an answer used, and how fast it was. Pure: times are parameters."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import msgspec

from ..events import NO_USAGE, Delta, ReasoningDelta, TextDelta, Timings, ToolCallDelta, Usage
from ..pricing.estimate import Estimate
from ..pricing.tokens import OutputCount

TOGETHER_S = 0.0001
"""Deltas with a shorter gap arrived together. The chunks of one segment are decoded one after the other,
10 to 20 us apart."""
_BUCKETS_PER_E_FOLD = 20  # a bucket spans 5 %: its middle is within 2.5 % of every gap in it


def total_usage(before: Usage, attempt: Usage) -> Usage:
    """Return the usage of a stream's earlier attempts and of one more.

    Costs are added, because each attempt has its own prices. A cost is unknown if one of the two is. A count
    that one attempt does not report is that of the other.
    """
    if before == NO_USAGE:
        return attempt
    if attempt == NO_USAGE:
        return before
    tools = Counter(dict(before.server_tools))
    tools.update(dict(attempt.server_tools))
    costs = (before.cost_microusd, attempt.cost_microusd)
    return Usage(
        before.input_tokens + attempt.input_tokens,
        before.output_tokens + attempt.output_tokens,
        reasoning_tokens=_sum(before.reasoning_tokens, attempt.reasoning_tokens),
        cache_read_tokens=_sum(before.cache_read_tokens, attempt.cache_read_tokens),
        cache_write_tokens=_sum(before.cache_write_tokens, attempt.cache_write_tokens),
        long_cache_write_tokens=_sum(
            before.long_cache_write_tokens, attempt.long_cache_write_tokens
        ),
        server_tools=tuple(sorted(tools.items())),
        service_tier=attempt.service_tier or before.service_tier,
        cost_microusd=None if None in costs else _sum(*costs),
        estimated=before.estimated or attempt.estimated,
    )


def _sum(first: int | None, second: int | None) -> int | None:
    return first if second is None else second if first is None else first + second


class Meter:
    """Counts one answer. Times are seconds of one monotonic clock.

    The gaps between arrivals are kept in a histogram of 5 % buckets, so memory does not grow with the answer.
    """

    __slots__ = (
        "_arrivals",
        "_counted",
        "_estimate",
        "_first",
        "_first_text",
        "_gaps",
        "_last",
        "_output",
        "_reasoning_chars",
        "_reported_tokens",
        "_started",
        "chars",
    )

    def __init__(self, started: float, estimate: Estimate) -> None:
        self._started = started
        self._estimate = estimate
        self._first: float | None = None
        self._first_text: float | None = None
        self._last = self._counted = started
        self._output = OutputCount(estimate.counter)  # since the latest reported figures
        self._reported_tokens = 0
        self.chars = 0
        """Characters of the answer."""
        self._reasoning_chars = 0
        self._gaps: dict[int, int] = {}
        self._arrivals = 0

    @property
    def has_token(self) -> bool:
        """Whether the first token has arrived."""
        return self._first is not None

    def arrived(self, deltas: Sequence[Delta], now: float) -> None:
        """Count deltas that arrived together at `now`."""
        gap_s = now - self._counted
        if self._first is None:
            self._first = self._counted = now
            self._arrivals = 1
        elif gap_s >= TOGETHER_S:
            bucket = int(math.log(gap_s * 1e6) * _BUCKETS_PER_E_FOLD)
            self._gaps[bucket] = self._gaps.get(bucket, 0) + 1
            self._counted = now
            self._arrivals += 1
        self._last = now
        for delta in deltas:
            if isinstance(delta, TextDelta):
                text = delta.text
                if self._first_text is None:
                    self._first_text = now
            elif isinstance(delta, ReasoningDelta):
                text = delta.text
                self._reasoning_chars += len(text)
            elif isinstance(delta, ToolCallDelta):
                text = delta.arguments_json
            else:
                continue
            self.chars += len(text)
            self._output.add(text)

    def report(self, reported: Usage) -> None:
        """Take the provider's figures. If they differ from the earlier ones, they count all output so far.

        Some servers repeat the same figures with every token.
        """
        if not reported.estimated and reported.output_tokens != self._reported_tokens:
            self._reported_tokens = reported.output_tokens
            self._output = OutputCount(self._estimate.counter)

    def usage(self, reported: Usage | None, *, is_whole: bool = True) -> Usage:
        """Return the provider's figures, or a count of what arrived, marked as an estimate; with the cost.

        Reported figures marked as estimated contain a placeholder for the output: Anthropic sends such
        figures until the answer ends. They contain the true input, or 0 if the provider has not reported
        it. If an answer is not whole, the output after the latest figures is added to them.
        """
        if reported is None:
            usage = Usage(self._estimate.input_tokens, self._output.tokens, estimated=True)
        elif reported.estimated:
            output_tokens = self._reported_tokens + self._output.tokens
            if reported.input_tokens:
                usage = msgspec.structs.replace(
                    reported, output_tokens=output_tokens, reasoning_tokens=None
                )
            else:
                usage = msgspec.structs.replace(
                    reported,
                    input_tokens=self._estimate.input_tokens,
                    output_tokens=max(output_tokens, reported.output_tokens),
                )
        elif not is_whole and (later_tokens := self._output.tokens):
            output_tokens = reported.output_tokens + later_tokens
            usage = msgspec.structs.replace(reported, output_tokens=output_tokens, estimated=True)
        else:
            usage = reported
        tariff = self._estimate.tariff
        if tariff is None:
            return usage
        return msgspec.structs.replace(usage, cost_microusd=tariff.cost_microusd(usage))

    @property
    def ttft_s(self) -> float | None:
        """Seconds to the first token, or None before it."""
        return None if self._first is None else self._first - self._started

    @property
    def first_text_s(self) -> float | None:
        """Seconds to the first text, or None before it."""
        return None if self._first_text is None else self._first_text - self._started

    def timings(self, now: float, usage: Usage) -> Timings:
        """Return the timings of the answer if it ended at `now` with this usage."""
        if self._first is None:
            return Timings(duration_s=now - self._started)
        generating_s = self._last - self._first
        tokens = self._measured_tokens(usage)
        return Timings(
            duration_s=now - self._started,
            ttft_s=self.ttft_s,
            itl_p50_s=self._gap_quantile(0.50),
            itl_p99_s=self._gap_quantile(0.99),
            output_tokens_per_second=(
                (tokens - 1) / generating_s if generating_s > 0 and tokens > 1 else None
            ),
        )

    def _measured_tokens(self, usage: Usage) -> int:
        """Return the output tokens that were generated from the first arrival on, or 0 if unknown.

        Reasoning that is not sent is generated before the first arrival. If only a summary of it is sent,
        nobody knows how much was generated when. A text with fewer characters than its tokens is a summary.
        """
        reasoning_tokens = usage.reasoning_tokens or 0
        if self._reasoning_chars >= reasoning_tokens:
            return usage.output_tokens
        return 0 if self._reasoning_chars else usage.output_tokens - reasoning_tokens

    def _gap_quantile(self, quantile: float) -> float | None:
        total = self._arrivals - 1
        if total < 1:
            return None
        rank = math.ceil(quantile * total)
        seen = 0
        for bucket in sorted(self._gaps):
            seen += self._gaps[bucket]
            if seen >= rank:
                return math.exp((bucket + 0.5) / _BUCKETS_PER_E_FOLD) / 1e6
        return None
