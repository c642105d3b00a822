"""The entries of a stream's log, and the other events of readers. Pure values: no I/O, no clock.

`index` is the ordinal of a content block in the answer, from 0, across all kinds of content.
Entries are immutable and form no reference cycles, so the garbage collector does not track them
(`gc=False`): a log of 10,000 tokens adds nothing to a collection.
"""

from __future__ import annotations

import enum

import msgspec


class FinishReason(enum.IntEnum):
    """Why a stream ended deliberately. The values are those of FinishReason in the proto."""

    STOP = 1
    STOP_SEQUENCE = 2
    MAX_TOKENS = 3
    TOOL_CALLS = 4
    CONTENT_FILTER = 5
    REFUSAL = 6
    PAUSED = 7
    TIME_LIMIT = 8
    CANCELLED = 9
    BUDGET = 10


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Token counts and cost of one stream, cumulative.

    One convention for all providers: `input_tokens` includes tokens read from and written to the prompt
    cache, and `output_tokens` includes reasoning. A count is None if the provider does not report it.
    """

    input_tokens: int
    output_tokens: int
    reasoning_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    cost_microusd: int | None = None
    """Millionths of a US dollar, computed from prices. None if the price is unknown."""
    estimated: bool = False
    """Whether these figures are not all the provider's."""


NO_USAGE = Usage(input_tokens=0, output_tokens=0, cost_microusd=0)
"""The usage of a stream for which no provider worked. It costs nothing, whatever the price."""


class Timings(msgspec.Struct, frozen=True, gc=False):
    """Latency and speed of a stream. Times count from the request's acceptance. None if not measurable."""

    duration_s: float
    ttft_s: float | None = None
    itl_p50_s: float | None = None
    itl_p99_s: float | None = None
    output_tokens_per_second: float | None = None


class Started(msgspec.Struct, frozen=True, gc=False):
    """The first entry of every stream, with sequence 1."""

    stream_id: str
    model: str
    provider: str
    created_time: float
    """Seconds since the epoch, UTC."""
    request_id: str = ""
    estimated_input_tokens: int = 0
    estimated_cost_microusd: int | None = None
    """Cost of the input alone. None if the price is unknown."""
    from_cache: bool = False
    """Whether the answer is a replay of an earlier one. No provider is called."""


class TextDelta(msgspec.Struct, frozen=True, gc=False):
    """A piece of the answer. Never empty."""

    text: str
    index: int


class ReasoningDelta(msgspec.Struct, frozen=True, gc=False):
    """A piece of reasoning. A signature ends its block; only then may the text be empty."""

    text: str
    index: int
    signature: str = ""


class ToolCallStarted(msgspec.Struct, frozen=True, gc=False):
    """The start of a tool call. Its fragments follow, possibly interleaved with those of other calls."""

    index: int
    id: str
    name: str


class ToolCallDelta(msgspec.Struct, frozen=True, gc=False):
    """A fragment of a tool call's arguments: raw JSON text, never empty."""

    index: int
    arguments_json: str


class ToolCall(msgspec.Struct, frozen=True, gc=False):
    """A complete tool call. `arguments_json` is valid JSON, "{}" if there are no arguments."""

    index: int
    id: str
    name: str
    arguments_json: str


class Heartbeat(msgspec.Struct, frozen=True, gc=False):
    """A sign of life during silence. Made for one reader, never in a log."""


class Finished(msgspec.Struct, frozen=True, gc=False):
    """The last entry of every stream that ended deliberately."""

    reason: FinishReason
    model: str
    provider: str
    usage: Usage
    timings: Timings
    provider_response_id: str = ""


Delta = TextDelta | ReasoningDelta | ToolCallStarted | ToolCallDelta | ToolCall
"""An event that a provider's decoder emits. The first one of a stream is its first token."""

Event = Started | Delta | Finished
"""An entry of a stream's log."""

ReaderEvent = Event | Usage | Heartbeat
"""An event that a reader gets: an entry of the log, or an event made for this reader."""
