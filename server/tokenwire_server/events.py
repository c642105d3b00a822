"""The entries of a stream's log, and the other events of readers. Pure values: no I/O, no clock.

`index` is the ordinal of a content block in the answer, from 0, across all kinds of content.
Entries are immutable and form no reference cycles, so the garbage collector does not track them
(`gc=False`): a log of 10,000 tokens adds nothing to a collection.

The tags and the order of the fields of entries are a stored format, see `streamlog.entries`: new fields go to
the end, and have a default.
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
    CONTEXT_FULL = 11
    INVALID_TOOL_CALLS = 12
    OTHER = 13


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
    long_cache_write_tokens: int | None = None
    """The part of `cache_write_tokens` that the provider keeps for an hour, at a higher price."""
    server_tools: tuple[tuple[str, int], ...] = ()
    """Calls of tools that the provider ran itself, such as ("web_search", 2), sorted by name."""
    service_tier: str = ""
    """The tier of service that the provider reports, in its own words. Empty if it reports none."""
    by_model: tuple[tuple[str, Usage], ...] = ()
    """The usage of each of several requests that the provider made for the answer, with the name of the
    model. Empty if there was one request, to the model that the provider reports. The figures add up to the
    usage."""
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


class Started(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="started"):
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


class TextDelta(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="text"):
    """A piece of the answer. Never empty."""

    text: str
    index: int


class ReasoningDelta(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="reasoning"):
    """A piece of reasoning. A signature or a state ends its block; only then may the text be empty."""

    text: str
    index: int
    signature: str = ""
    """Anthropic's signature of the block."""
    provider_state: bytes = b""
    """See `providers.state`."""


class TextPhase(enum.IntEnum):
    """The purpose of a text block. The values are those of TextPhase in the proto."""

    UNSPECIFIED = 0
    COMMENTARY = 1
    FINAL_ANSWER = 2


class TextInfo(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="text_info"):
    """What a text block has besides its text. Sent as a TextDelta without text.

    A class of its own, so that the deltas of tokens stay small.
    """

    index: int
    phase: TextPhase = TextPhase.UNSPECIFIED
    provider_state: bytes = b""
    """See `providers.state`."""


class ToolCallStarted(
    msgspec.Struct, frozen=True, gc=False, array_like=True, tag="tool_call_started"
):
    """The start of a tool call. Its fragments follow, possibly interleaved with those of other calls."""

    index: int
    id: str
    name: str


class ToolCallDelta(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="tool_call_delta"):
    """A fragment of a tool call's arguments: raw JSON text, never empty."""

    index: int
    arguments_json: str


class ToolCall(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="tool_call"):
    """A complete tool call. `arguments_json` is valid JSON, "{}" if there are no arguments."""

    index: int
    id: str
    name: str
    arguments_json: str
    provider_state: bytes = b""
    """See `providers.state`."""


class InvalidToolCall(
    msgspec.Struct, frozen=True, gc=False, array_like=True, tag="invalid_tool_call"
):
    """A tool call that the model completed, but whose arguments are not a JSON object."""

    index: int
    id: str
    name: str
    arguments_text: str
    problem: str


class CitationKind(enum.IntEnum):
    """The kind of source of a citation. The values are those of CitationKind in the proto."""

    UNSPECIFIED = 0
    URL = 1
    DOCUMENT = 2
    SEARCH_RESULT = 3


class Citation(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="citation"):
    """A source of a piece of the text block `index`. `start` and `end` count Unicode code points of the
    block.
    """

    index: int
    kind: CitationKind = CitationKind.UNSPECIFIED
    start: int | None = None
    end: int | None = None
    cited_text: str = ""
    url: str = ""
    title: str = ""
    document_index: int | None = None


class TokenLogprob(msgspec.Struct, frozen=True, gc=False):
    """The log probability of a token, and of the most likely tokens at its position."""

    token: str
    logprob: float
    token_bytes: bytes = b""
    top: tuple[TokenLogprob, ...] = ()


class Logprobs(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="logprobs"):
    """The log probabilities of consecutive tokens of the text block `index`."""

    index: int
    tokens: tuple[TokenLogprob, ...]


class NoticeKind(enum.IntEnum):
    """What a notice in a log reports. The values are those of NoticeKind in the proto."""

    RETRYING = 1
    FALLBACK = 2
    MODEL_CHANGED = 4


class Notice(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="notice"):
    """A change of the stream. It is no content."""

    kind: NoticeKind
    model: str = ""
    """With FALLBACK and MODEL_CHANGED: the model that is used from now on."""
    provider: str = ""
    """With FALLBACK and MODEL_CHANGED: the provider of that model."""
    attempt: int = 0
    """With RETRYING and FALLBACK: the number of the attempt that follows, counted from 1."""
    delay_s: float = 0.0
    """With RETRYING: the time until that attempt."""


class JsonValue(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="json_value"):
    """A complete value of the JSON answer in the text block `index`. Follows the delta that completed it."""

    index: int
    pointer: str
    """JSON Pointer (RFC 6901) of the value. Empty for the document itself."""
    value_json: str
    """The value's own text. Empty if it is omitted."""
    is_omitted: bool = False
    """Whether the text is left out because it is too long."""


class JsonViolation(msgspec.Struct, frozen=True, gc=False):
    """A rule that an answer breaks: of JSON, of its JSON Schema, or of Tokenwire's limits."""

    pointer: str
    """JSON Pointer (RFC 6901) of the value that breaks it. Empty for the document itself."""
    description: str


class JsonResult(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="json_result"):
    """Whether an answer as a whole is one JSON document that follows its schema."""

    is_valid: bool
    violations: tuple[JsonViolation, ...] = ()
    """Empty if the answer is valid. Further violations are left out."""
    is_unchecked: bool = False
    """Whether the answer was not checked with the schema. It is not valid then, as far as this is known."""


class Heartbeat(msgspec.Struct, frozen=True, gc=False):
    """A sign of life during silence. Made for one reader, never in a log."""


class CaughtUp(msgspec.Struct, frozen=True, gc=False):
    """The reader has received all past events of the log. Made for one reader, never in a log."""


class DrainNotice(msgspec.Struct, frozen=True, gc=False):
    """The server is about to stop. Made for one reader, never in a log."""

    left_s: float
    """The time after which the stream ends with SERVER_STOPPED, if it has not ended by then."""


class Refusal(msgspec.Struct, frozen=True, gc=False):
    """Why the provider refused, in its own words."""

    category: str = ""
    explanation: str = ""


class Finished(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="finished"):
    """The last entry of every stream that ended deliberately."""

    reason: FinishReason
    model: str
    provider: str
    usage: Usage
    timings: Timings
    provider_response_id: str = ""
    provider_finish_reason: str = ""
    """The provider's own name of the reason. Empty if the provider did not end the answer."""
    refusal: Refusal | None = None


Delta = (
    TextDelta
    | TextInfo
    | ReasoningDelta
    | ToolCallStarted
    | ToolCallDelta
    | ToolCall
    | InvalidToolCall
    | Citation
    | Logprobs
    | Notice
)
"""An event that a provider's decoder emits. The first one of a stream is its first token."""

AnswerEntry = Delta | JsonValue | JsonResult
"""An entry of a stream's log between Started and Finished."""

Event = Started | AnswerEntry | Finished
"""An entry of a stream's log."""

ReaderEvent = Event | Usage | Heartbeat | CaughtUp | DrainNotice
"""An event that a reader gets: an entry of the log, or an event made for this reader."""
