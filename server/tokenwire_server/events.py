"""What can stand in a stream's log, and how a stream can end. Pure values: no I/O, no clock.

`index` is the ordinal of a content block in the answer, from 0, across all kinds of content.
Entries are immutable and hold no cycles, so the garbage collector does not track them (`gc=False`):
a log of 10,000 tokens adds nothing to a collection.
"""

from __future__ import annotations

import enum

import msgspec


class FinishReason(enum.IntEnum):
    """Why a stream ended deliberately. Values are those of the proto's FinishReason."""

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
    """Tokens of one stream, cumulative.

    One convention for all providers: `input_tokens` includes what was read from and written to the
    prompt cache, `output_tokens` includes reasoning. None: the provider does not say.
    """

    input_tokens: int
    output_tokens: int
    reasoning_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    cost_microusd: int | None = None
    """Millionths of a US dollar. None: the price is not known. No provider says it: prices do."""
    estimated: bool = False


NO_USAGE = Usage(input_tokens=0, output_tokens=0, cost_microusd=0)
"""The usage of a stream for which no provider worked. It costs nothing, whatever the price."""


class Timings(msgspec.Struct, frozen=True, gc=False):
    """How fast a stream was, in seconds from the acceptance of its request. None: not measurable."""

    duration_s: float
    ttft_s: float | None = None
    itl_p50_s: float | None = None
    itl_p99_s: float | None = None
    output_tokens_per_second: float | None = None


class Started(msgspec.Struct, frozen=True, gc=False):
    """Sequence 1 of every stream."""

    stream_id: str
    model: str
    provider: str
    created_time: float
    """Seconds since the epoch, UTC."""
    request_id: str = ""
    estimated_input_tokens: int = 0
    estimated_cost_microusd: int | None = None
    """Of the input alone. None: the price is not known."""
    from_cache: bool = False
    """A replay of an earlier answer; no provider is asked."""


class TextDelta(msgspec.Struct, frozen=True, gc=False):
    """A piece of the answer. Never empty."""

    text: str
    index: int


class ReasoningDelta(msgspec.Struct, frozen=True, gc=False):
    """A piece of reasoning. A signature closes its block; only then may the text be empty."""

    text: str
    index: int
    signature: str = ""


class ToolCallStarted(msgspec.Struct, frozen=True, gc=False):
    """A tool call begins; its fragments follow, perhaps between those of other calls."""

    index: int
    id: str
    name: str


class ToolCallDelta(msgspec.Struct, frozen=True, gc=False):
    """A fragment of a tool call's arguments: raw JSON text, never empty."""

    index: int
    arguments_json: str


class ToolCall(msgspec.Struct, frozen=True, gc=False):
    """A whole tool call. `arguments_json` is valid JSON; no arguments are "{}"."""

    index: int
    id: str
    name: str
    arguments_json: str


class Heartbeat(msgspec.Struct, frozen=True, gc=False):
    """Nothing happened for a while. Made for one reader, never in a log."""


class Finished(msgspec.Struct, frozen=True, gc=False):
    """The last entry of every stream that ended deliberately."""

    reason: FinishReason
    model: str
    provider: str
    usage: Usage
    timings: Timings
    provider_response_id: str = ""


Delta = TextDelta | ReasoningDelta | ToolCallStarted | ToolCallDelta | ToolCall
"""What a provider's decoder emits. The first of them in a stream is its first token."""

Event = Started | Delta | Finished
"""An entry of a stream's log."""

ReaderEvent = Event | Usage | Heartbeat
"""What a reader gets: the log's entries, and what is made for it alone."""
