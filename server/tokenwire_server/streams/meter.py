"""What a stream used and how fast it was. Pure: the caller brings the clock."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from ..events import Delta, ReasoningDelta, TextDelta, Timings, ToolCallDelta, Usage
from ..request import ChatRequest, Image, Reasoning, Text, ToolCall, ToolResult

CHARS_PER_TOKEN = 4
"""Rule of thumb for estimates where the provider gave no figure; English text, common tokenizers."""
IMAGE_TOKENS = 1000
"""Rule of thumb for an image of ordinary size."""

_BUCKETS_PER_E_FOLD = 20  # a bucket spans 5 %: its middle is within 2.5 % of every gap in it


class Meter:
    """Counts what one stream produces. Times are seconds of one monotonic clock.

    Gaps are kept in a histogram of 5 % buckets, so memory does not grow with the answer.
    """

    __slots__ = ("_arrivals", "_chars", "_first", "_gaps", "_input_tokens", "_last", "_started")

    def __init__(self, started: float, input_tokens: int) -> None:
        self._started = started
        self._input_tokens = input_tokens  # estimated
        self._first: float | None = None
        self._last = started
        self._chars = 0
        self._gaps: dict[int, int] = {}
        self._arrivals = 0

    @property
    def has_token(self) -> bool:
        """The first token has come."""
        return self._first is not None

    def arrived(self, deltas: Sequence[Delta], now: float) -> None:
        """Count deltas that arrived together at `now`."""
        if self._first is None:
            self._first = now
        else:
            gap_us = (now - self._last) * 1e6
            bucket = int(math.log(gap_us) * _BUCKETS_PER_E_FOLD) if gap_us > 1 else 0
            self._gaps[bucket] = self._gaps.get(bucket, 0) + 1
        self._last = now
        self._arrivals += 1
        for delta in deltas:
            if isinstance(delta, TextDelta | ReasoningDelta):
                self._chars += len(delta.text)
            elif isinstance(delta, ToolCallDelta):
                self._chars += len(delta.arguments_json)

    def usage(self, reported: Usage | None) -> Usage:
        """The provider's figures, or an estimate marked as one.

        Reported figures marked as estimated are a provider's placeholder for the output, with the
        true input: Anthropic's, until the answer ends.
        """
        if reported is not None and not reported.estimated:
            return reported
        output_tokens = math.ceil(self._chars / CHARS_PER_TOKEN)
        if reported is not None:
            return msgspec.structs.replace(reported, output_tokens=output_tokens)
        return Usage(input_tokens=self._input_tokens, output_tokens=output_tokens, estimated=True)

    def timings(self, now: float, output_tokens: int) -> Timings:
        """The stream's timings if it ended at `now`."""
        if self._first is None:
            return Timings(duration_s=now - self._started)
        generating_s = self._last - self._first
        return Timings(
            duration_s=now - self._started,
            ttft_s=self._first - self._started,
            itl_p50_s=self._gap_quantile(0.50),
            itl_p99_s=self._gap_quantile(0.99),
            output_tokens_per_second=(
                (output_tokens - 1) / generating_s
                if generating_s > 0 and output_tokens > 1
                else None
            ),
        )

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


def estimate_input_tokens(request: ChatRequest) -> int:
    """A rough count of the request's tokens, from the length of what it says."""
    chars = sum(
        len(tool.name) + len(tool.description) + len(tool.parameters_json_schema)
        for tool in request.tools
    )
    images = 0
    for message in request.messages:
        for part in message.parts:
            if isinstance(part, Text | Reasoning | ToolResult):
                chars += len(part.text)
            elif isinstance(part, ToolCall):
                chars += len(part.name) + len(part.arguments_json)
            elif isinstance(part, Image):
                images += 1
    return math.ceil(chars / CHARS_PER_TOKEN) + images * IMAGE_TOKENS
