"""What the simulator answers, and how: one `Scenario` per request.

A scenario is chosen, first match wins, by

1. the header `x-simulator`, a JSON object of the fields below;
2. the request's model: `demo`, or `sim?key=value&...` with the fields below (percent-encoded as in
   any query string), so that a model's name alone scripts an answer:
   `sim?tokens=200&itl_ms=20&reasoning=30&tools=2`;
3. the simulator's default.

Unknown fields and values out of range are refused with the provider's own 400.

A request to count input tokens has the faults that come before an answer, and is answered at once.
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

DEFAULT_REFUSAL = "I can't help with that."


class ScenarioError(ValueError):
    """The scenario is not one. The message names the field."""


class ScriptedCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One tool call."""

    name: str
    arguments: str
    """JSON text, or broken on purpose."""


class Scenario(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One scripted answer. `N tokens` below counts deltas of any kind: reasoning, text, arguments.

    At most one of the faults that end an answer (`drop_after`, `stall_after`, `error_event_after`,
    `missing_end`, `huge_line`) can be set. A fault after N tokens comes after the last token when
    the answer has fewer, and always instead of the end marker.
    """

    # What is said.
    text: str = ""
    """The answer, split into words. Empty: generated, see `tokens`."""
    tokens: Count = 50
    """Length of a generated answer: `generated_text(tokens)`."""
    reasoning: Count = 0
    """Length of generated reasoning before the answer: `generated_reasoning(reasoning)`."""
    reasoning_text: str = ""
    """The reasoning, split into words, instead of generated one."""
    reasoning_field: Literal["reasoning_content", "reasoning"] = "reasoning_content"
    """Chat Completions: under which name the compatible server writes reasoning."""
    tools: Annotated[int, Meta(ge=0, le=64)] = 0
    """Parallel tool calls after the text: of the request's tools in turn, else of `tool_0`..."""
    calls: Annotated[tuple[ScriptedCall, ...], Meta(max_length=64)] = ()
    """Parallel tool calls after the text, each with its own name and arguments, instead of `tools`."""
    arguments: str = ""
    """Arguments of each call, as JSON text, or broken on purpose. Empty: `generated_arguments(i)`."""
    arg_fragments: Annotated[int, Meta(ge=1, le=1000)] = 4
    """In how many deltas each call's arguments come; those of several calls in turn."""
    refusal: str = ""
    """The model refuses, in these words (`1`: in default ones), and says nothing else."""
    stop_reason: StopReason | Literal[""] = ""
    """Empty: what follows from the rest (`length` at the request's limit of output tokens)."""
    repeat: Literal["once", "forever"] = "once"
    """`forever`: the text begins again and again, past any limit of the request."""
    surrogates: bool = False
    """Characters past U+FFFF come as two escaped UTF-16 halves, in two deltas."""

    # What it cost.
    usage: bool = True
    """Whether usage is told at all."""
    input_tokens: Annotated[int, Meta(ge=0)] | None = None
    """None: a quarter of the bytes of the request's fields that a model reads, the same for a count.
    Includes the cached tokens below."""
    output_tokens: Annotated[int, Meta(ge=0)] | None = None
    """None: the tokens sent."""
    reasoning_tokens: Annotated[int, Meta(ge=0)] | None = None
    """None: the reasoning tokens sent. Part of the output tokens."""
    cache_read_tokens: Annotated[int, Meta(ge=0)] = 0
    cache_write_tokens: Annotated[int, Meta(ge=0)] = 0

    # When. Token i is due at ttft + i * itl after the request: lateness never accumulates.
    ttft_ms: Milliseconds = 0
    itl_ms: Milliseconds = 0
    """0: as fast as the reader reads, many tokens in a write. Else each token in its own."""
    tokens_per_second: Annotated[float, Meta(ge=0, le=1_000_000)] = 0
    """Another way to say `itl_ms`."""
    jitter_ms: Milliseconds = 0
    """Each token is early or late by at most this."""
    seed: int = 0
    """Of the jitter."""

    # Noise that a client must ignore.
    pings: Count = 0
    """After every N tokens a ping (Messages) or a comment (the others). 0: none."""
    unknown: bool = False
    """Before the first token, events of types that nobody knows, and empty ones."""
    bom: bool = False
    """The body begins with U+FEFF."""
    crlf: bool = False
    """Lines end with CR LF."""
    split: Annotated[int, Meta(ge=0, le=65536)] = 0
    """The body comes N bytes a write, wherever that cuts. The pace then holds for writes. 0: off."""

    # Faults before the answer.
    api_key: str = ""
    """The key that the request must bear, else 401. Empty: any, or none."""
    status: Annotated[int, Meta(ge=400, le=599)] | None = None
    """Answer with this error."""
    retry_after: str = ""
    """Value of the error's `retry-after` header."""
    redirect: str = ""
    """Answer 307 with this Location."""
    silent: bool = False
    """Never answer."""
    headers_then_silent: bool = False
    """Send the head of the answer and never anything else."""

    # Faults in the answer.
    drop_after: Count | None = None
    """After N tokens the connection breaks."""
    drop: Literal["close", "rst"] = "close"
    """How: FIN in the middle of the chunked body, or RST."""
    stall_after: Count | None = None
    """After N tokens silence, with the connection open."""
    error_event_after: Count | None = None
    """After N tokens the provider's error event, and a clean end of the body."""
    error_event: Literal["error", "failed"] = "error"
    """Responses: an `error` event, or `response.failed`."""
    garbage_after: Count | None = None
    """After N tokens something that is no event. What follows it is right again, the end too."""
    garbage: Literal["json", "binary", "utf8"] = "json"
    """Broken JSON, bytes that are no text, or JSON with half a UTF-8 character."""
    missing_end: bool = False
    """The body ends cleanly, without the end marker."""
    huge_line: Annotated[int, Meta(ge=0, le=2**30)] = 0
    """Instead of the tokens one line of that many bytes, never ended; then a clean end of the body."""
    fault_attempts: Annotated[int, Meta(ge=0, le=1000)] = 0
    """Only the first N requests of this `key` meet the faults. 0: all of them."""

    # The books.
    key: str = ""
    """Name under which `GET /simulator/requests/KEY` finds the request, and `KEY:count` one to count
    its tokens. Empty: the answer's id."""

    def __post_init__(self) -> None:
        if self.itl_ms and self.tokens_per_second:
            raise ValueError("`itl_ms` and `tokens_per_second` exclude each other")
        if self.fault_attempts and not self.key:
            raise ValueError("`fault_attempts` needs a `key`")
        if self.input_tokens is not None and (
            self.input_tokens < self.cache_read_tokens + self.cache_write_tokens
        ):
            raise ValueError("`input_tokens` includes the cached ones, so it cannot be less")
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
        """Seconds between two tokens; 0: unpaced."""
        if self.tokens_per_second:
            return 1 / self.tokens_per_second
        return self.itl_ms / 1000

    @property
    def refusal_text(self) -> str:
        """The words of the refusal; empty: the model does not refuse."""
        if self.refusal == "1" or (self.stop_reason == "refusal" and not self.refusal):
            return DEFAULT_REFUSAL
        return self.refusal

    def without_faults(self) -> Scenario:
        """The same answer from a healthy provider."""
        return msgspec.structs.replace(
            self,
            api_key="",
            status=None,
            redirect="",
            silent=False,
            headers_then_silent=False,
            drop_after=None,
            stall_after=None,
            error_event_after=None,
            garbage_after=None,
            missing_end=False,
            huge_line=0,
        )


def scenario_of_header(value: str) -> Scenario:
    """The scenario of an `x-simulator` header. Raises ScenarioError."""
    try:
        return _convert(msgspec.json.decode(value))
    except msgspec.DecodeError as error:
        raise ScenarioError(f"x-simulator: {error}") from None


def scenario_of_query(query: str) -> Scenario:
    """The scenario of what follows `sim?` in a model's name. Raises ScenarioError."""
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
