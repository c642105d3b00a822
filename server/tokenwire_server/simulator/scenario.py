"""The script of an answer: one `Scenario` per request.

A scenario is chosen by the first of these that exists:

1. the header `x-simulator`, a JSON object of the fields below;
2. the request's model: `demo`, or `sim?key=value&...` with the fields below (percent-encoded as in
    any query string), so that the name of a model scripts an answer:
    `sim?tokens=200&itl_ms=20&reasoning=30&tools=2`;
3. the simulator's default.

Unknown fields and values out of range are refused with the provider's own 400.

A request to count input tokens has the faults that precede an answer, and is answered without a delay.
"""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import parse_qsl

import msgspec
from msgspec import Meta

Count = Annotated[int, Meta(ge=0, le=1_000_000)]
Milliseconds = Annotated[float, Meta(ge=0, le=3_600_000)]

StopReason = Literal[
    "stop", "stop_sequence", "length", "tool_calls", "content_filter", "refusal", "pause"
]
ReasoningField = Literal["reasoning_content", "reasoning", "reasoning_details", "think", "thinking"]
State = Literal["anthropic", "openai", "gemini", "openrouter", "minimax", "deepseek"]
CitationKind = Literal["url", "document", "search_result", "reference"]
RefusalCategory = Literal["cyber", "bio", "frontier_llm", "reasoning_extraction", "general_harms"]

DEFAULT_REFUSAL = "I can't help with that."


class ScenarioError(ValueError):
    """The scenario is invalid. The message names the field."""


class ScriptedCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One tool call."""

    name: str
    arguments: str
    """JSON text, or deliberately invalid text."""


class Scenario(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One scripted answer. `N tokens` below counts deltas of any kind: reasoning, text, arguments.

    At most one of the faults that end an answer (`drop_after`, `stall_after`, `error_event_after`,
    `missing_end`, `huge_line`) can be set. A fault after N tokens occurs after the last token if the answer
    has fewer, and always instead of the end marker.
    """

    # Content.
    text: str = ""
    """The answer, split into words. Empty: generated, see `tokens`."""
    tokens: Count = 50
    """Length of a generated answer, `generated_text(tokens)`."""
    text_seed: Count = 0
    """The generated answer is `varied_text(tokens, text_seed)`, which has many different words. 0: it has
    few."""
    reasoning: Count = 0
    """Length of generated reasoning before the answer, `generated_reasoning(reasoning)`."""
    reasoning_text: str = ""
    """The reasoning, split into words. Empty: generated, see `reasoning`."""
    reasoning_field: ReasoningField = "reasoning_content"
    """Chat Completions: where the reasoning is. `think`: in the text, between `<think>` tags. `thinking`: in
    parts of the content (Mistral). Otherwise in a field of this name."""
    tools: Annotated[int, Meta(ge=0, le=64)] = 0
    """Number of parallel tool calls after the text, of the request's tools in turn, otherwise of
    `tool_0`..."""
    calls: Annotated[tuple[ScriptedCall, ...], Meta(max_length=64)] = ()
    """Parallel tool calls after the text, each with its name and arguments. Replaces `tools`."""
    arguments: str = ""
    """Arguments of each call, as JSON text or deliberately invalid. Empty: `generated_arguments(i)`."""
    call_ids: Literal["opaque", "number", "function"] = "opaque"
    """Ids of the calls: random, JSON numbers (0, 1...), or `functions.NAME:0`..."""
    arg_fragments: Annotated[int, Meta(ge=1, le=1000)] = 4
    """Number of deltas for the arguments of each call. The deltas of several calls alternate."""
    refusal: str = ""
    """The model refuses with this text (`1`: a default text) and sends nothing else."""
    stop_reason: StopReason | Literal[""] = ""
    """Empty: the reason that fits the other fields (`length` at the request's limit of output tokens)."""
    finish_reason: str = ""
    """The provider's word for the end, sent as it is, in place of the one for `stop_reason`. Responses: the
    reason of an incomplete response, which cannot be `completed`."""
    native_finish_reason: str = ""
    """Chat Completions: the word of the provider behind a router, beside `finish_reason` (OpenRouter)."""
    refusal_category: RefusalCategory | Literal[""] = ""
    """Messages: the category in the details of a refusal. Empty: none is named."""
    refusal_explanation: str = ""
    """Messages: the explanation in the details of a refusal. Empty: there is none."""
    repeat: Literal["once", "forever"] = "once"
    """`forever`: the text is repeated without end, ignoring all limits of the request."""
    citations: Annotated[int, Meta(ge=0, le=1000)] = 0
    """Number of citations of the text. The one with the ordinal i cites token i of the text."""
    citation: CitationKind = "url"
    """What is cited: a web page, a document of the request (not in Chat Completions), a search result of the
    request (only in Messages), or a numbered reference (only in Chat Completions, by Mistral)."""
    state: State | Literal[""] = ""
    """The provider whose state the answer has and later requests must have, see `state` and the modules of
    the formats. Such an answer has reasoning, and calls no tools once the request has results of tools."""
    unsigned_calls: Literal["accepted", "refused"] = "accepted"
    """With `state=gemini`: tool calls of other providers. Gemini 3 refuses those after the user's last
    message, unless they have the signature `skip_thought_signature_validator`."""
    phase: Literal["", "commentary", "final_answer"] = ""
    """Responses: the phase of the message. Empty: it has none."""
    fallback_model: str = ""
    """Messages: another model takes over in the middle of the text, because the first one declines to
    continue."""
    fallback_after: Count = 5
    """Messages: the number of tokens of the text before `fallback_model` takes over."""
    cumulative: bool = False
    """Chat Completions: each delta of reasoning, text or arguments repeats all before it (DashScope)."""
    prompt_progress: Annotated[int, Meta(ge=0, le=1000)] = 0
    """Chat Completions: number of events before the first token that report the progress with the prompt,
    with timings (llama.cpp)."""
    surrogates: bool = False
    """Send characters above U+FFFF as two escaped UTF-16 halves, in two deltas."""

    # Usage.
    usage: bool = True
    """Whether usage is reported at all."""
    input_tokens: Annotated[int, Meta(ge=0)] | None = None
    """None: a quarter of the bytes of the request's fields that a model reads; the same for a count. Includes
    the cached tokens below."""
    output_tokens: Annotated[int, Meta(ge=0)] | None = None
    """None: the number of tokens sent."""
    reasoning_tokens: Annotated[int, Meta(ge=0)] | None = None
    """None: the number of reasoning tokens sent. Included in the output tokens."""
    cache_read_tokens: Annotated[int, Meta(ge=0)] = 0
    cache_write_tokens: Annotated[int, Meta(ge=0)] = 0
    long_cache_write_tokens: Annotated[int, Meta(ge=0)] = 0
    """Messages: the part of `cache_write_tokens` that is kept for an hour."""
    compaction_tokens: Annotated[int, Meta(ge=0)] = 0
    """Messages: output tokens of a compaction, which `usage.iterations` reports and the totals exclude."""
    web_searches: Annotated[int, Meta(ge=0)] = 0
    """Messages: number of web searches that the provider made."""
    service_tier: str = ""
    """The tier that the answer reports. Empty: the format's usual one."""
    usage_place: Literal["alone", "finish", "choice"] = "alone"
    """Chat Completions: usage has a chunk of its own, or is in the chunk with the finish reason, or in the
    choice of that chunk (Moonshot). Only the first one must be requested."""
    cached_tokens_place: Literal["details", "top"] = "details"
    """Chat Completions: whether the cached tokens are beside the total instead (Moonshot)."""
    float_usage: bool = False
    """Report fractional token counts: each is greater by 0.25."""

    # Pace. Token i is due at ttft + i * itl after the request, so lateness never accumulates.
    ttft_ms: Milliseconds = 0
    itl_ms: Milliseconds = 0
    """0: as fast as the client reads, many tokens in a write. Otherwise each token in its own write."""
    tokens_per_second: Annotated[float, Meta(ge=0, le=1_000_000)] = 0
    """An alternative to `itl_ms`."""
    jitter_ms: Milliseconds = 0
    """Maximum time by which a token is early or late."""
    seed: int = 0
    """Seed of the jitter."""

    # Noise that a client must ignore.
    pings: Count = 0
    """A ping (Messages) or a comment (other formats) after every N tokens. 0: none."""
    unknown: bool = False
    """Send events of unknown types, and empty events, before the first token."""
    bom: bool = False
    """Begin the body with U+FEFF."""
    crlf: bool = False
    """End lines with CR LF."""
    encoding: Literal["", "gzip", "deflate"] = ""
    """Compress the body of the answer. Each write ends on a byte boundary of the compressed data."""
    split: Annotated[int, Meta(ge=0, le=65536)] = 0
    """Split the body into writes of N bytes. The pace then applies to writes. 0: off."""

    # Faults before the answer.
    api_key: str = ""
    """The key that the request must have; otherwise the answer is 401. Empty: any key, or none."""
    status: Annotated[int, Meta(ge=400, le=599)] | None = None
    """Answer with this error status."""
    retry_after: str = ""
    """Value of the error's `retry-after` header: seconds, or a date."""
    retry_after_ms: str = ""
    """Value of the error's `retry-after-ms` header."""
    error_type: str = ""
    """Type of the error, also of an error event. Empty: the one that fits the status."""
    error_code: str = ""
    """Code of the error, likewise. Messages has no codes."""
    error_message: str = ""
    """Message of the error, likewise."""
    error_body: str = ""
    """The whole body of the error, sent as it is. Replaces the three fields above, except in an event."""
    instead: Literal["", "answer", "html", "error"] = ""
    """What a request for a stream gets instead, with the status 200: the whole answer as one JSON object, an
    HTML page, or the body of an error."""
    redirect: str = ""
    """Answer 307 with this Location."""
    drop_before_head: bool = False
    """Break the connection without an answer, as `drop` says."""
    silent: bool = False
    """Never answer."""
    headers_then_silent: bool = False
    """Send the head of the answer and nothing else."""

    # Faults in the answer.
    drop_after: Count | None = None
    """Break the connection after N tokens."""
    drop: Literal["close", "rst"] = "close"
    """How the connection breaks: with FIN (after the head, in the middle of the chunked body) or with RST."""
    stall_after: Count | None = None
    """Send nothing after N tokens, with the connection open."""
    error_event_after: Count | None = None
    """Send the provider's error event after N tokens, and end the body."""
    error_event: Literal["error", "failed"] = "error"
    """Responses: an `error` event, or `response.failed`."""
    garbage_after: Count | None = None
    """Send an invalid event after N tokens. All that follows is valid, including the end."""
    garbage: Literal["json", "binary", "utf8"] = "json"
    """Invalid JSON, bytes that are not text, or JSON with an incomplete UTF-8 character."""
    missing_end: bool = False
    """End the body after the last token, without a finish reason, usage and end marker."""
    end_marker: bool = True
    """Chat Completions and Messages: whether the end marker follows the finish reason and the usage."""
    huge_line: Annotated[int, Meta(ge=0, le=2**30)] = 0
    """Send one unfinished line of N bytes instead of the tokens, and end the body."""
    fault_attempts: Annotated[int, Meta(ge=0, le=1000)] = 0
    """Only the first N requests with this `key` have the faults. 0: all requests."""

    # Journal.
    key: str = ""
    """Name under which `GET /simulator/requests/KEY` finds the request, and `KEY:count` a request to count
    its tokens. Empty: the id of the answer."""

    def __post_init__(self) -> None:
        if self.itl_ms and self.tokens_per_second:
            raise ValueError("`itl_ms` and `tokens_per_second` exclude each other")
        if self.fault_attempts and not self.key:
            raise ValueError("`fault_attempts` needs a `key`")
        if self.input_tokens is not None and (
            self.input_tokens < self.cache_read_tokens + self.cache_write_tokens
        ):
            raise ValueError("`input_tokens` includes the cached ones, so it cannot be less")
        if self.long_cache_write_tokens > self.cache_write_tokens:
            raise ValueError("`cache_write_tokens` includes `long_cache_write_tokens`")
        if self.cumulative and self.repeat == "forever":
            raise ValueError("`cumulative` and `repeat=forever` exclude each other")
        endings = {
            "drop_after": self.drop_after is not None,
            "stall_after": self.stall_after is not None,
            "error_event_after": self.error_event_after is not None,
            "missing_end": self.missing_end,
            "huge_line": self.huge_line > 0,
        }
        chosen = [name for name, is_set in endings.items() if is_set]
        if len(chosen) > 1:
            raise ValueError(f"only one of `{'`, `'.join(chosen)}` can end an answer")

    @property
    def itl_s(self) -> float:
        """Seconds between two tokens. 0: no pace."""
        if self.tokens_per_second:
            return 1 / self.tokens_per_second
        return self.itl_ms / 1000

    @property
    def refusal_text(self) -> str:
        """Text of the refusal. Empty if the model does not refuse."""
        if self.refusal == "1" or (self.stop_reason == "refusal" and not self.refusal):
            return DEFAULT_REFUSAL
        return self.refusal

    def without_faults(self) -> Scenario:
        """Return the same answer without faults."""
        return msgspec.structs.replace(
            self,
            api_key="",
            status=None,
            instead="",
            redirect="",
            drop_before_head=False,
            silent=False,
            headers_then_silent=False,
            drop_after=None,
            stall_after=None,
            error_event_after=None,
            garbage_after=None,
            missing_end=False,
            end_marker=True,
            huge_line=0,
        )


def scenario_of_header(value: str) -> Scenario:
    """Return the scenario in an `x-simulator` header. Raises ScenarioError."""
    try:
        return _convert(msgspec.json.decode(value))
    except msgspec.DecodeError as error:
        raise ScenarioError(f"x-simulator: {error}") from None


def scenario_of_query(query: str) -> Scenario:
    """Return the scenario in a model's name, from the text after `sim?`. Raises ScenarioError."""
    if not query:
        return Scenario()
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True, errors="strict")
    except ValueError as error:
        raise ScenarioError(f"sim?: {error}") from None
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ScenarioError("sim?: a field is given twice")
    return _convert(fields)


def _convert(fields: object) -> Scenario:
    try:
        return msgspec.convert(fields, Scenario, strict=False)
    except msgspec.ValidationError as error:
        raise ScenarioError(f"scenario: {error}") from None
