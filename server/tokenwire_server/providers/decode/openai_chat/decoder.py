"""Decoding of OpenAI Chat Completions answers, from OpenAI and all compatible servers.

data: {"id", "model", "choices": [{"index": 0, "delta": {...}, "finish_reason": null}]}     many
data: {..., "choices": [{"delta": {}, "finish_reason": "stop"}]}
data: {..., "choices": [], "usage": {...}}                        if usage was requested
data: [DONE]                                                      the end marker
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from ....errors import UpstreamBroken, UpstreamError
from ....events import Delta, FinishReason, TextDelta
from ....events import Usage as UsageFigures
from .. import errors, lenient
from ..base import MAX_NAME_CHARS, Complete
from ..finish_reasons import finish_reason, is_finish_reason
from ..json import SurrogateJoiner, join_surrogates, log_text
from ..repeated import PADDING, RepeatedEvent
from ..sse import Item, SSEFramer
from . import wire
from .blocks import Blocks, IncompleteToolCallError, ToolCallsTooLargeError
from .extras import citations, logprobs, references
from .increments import Increments
from .reasoning_details import text_of
from .think_tags import TaggedText, ThinkTags
from .usage import Usage, latest, usage_figures

_WHOLE = frozenset({FinishReason.STOP, FinishReason.STOP_SEQUENCE, FinishReason.TOOL_CALLS})
"""Finish reasons of answers that the model completed. Others may end within a tool call."""
_GENERAL = frozenset({FinishReason.STOP, FinishReason.TOOL_CALLS, FinishReason.OTHER})
"""Finish reasons that a more specific one replaces."""
_NO_END_MARKER = "the provider's answer ended without its end marker"
_NO_DONE_MARKER = (
    "its answer ends without `data: [DONE]`; if it never sends it, set `done_marker = false`"
)

_decode = wire.CHUNK.decode


class OpenAIChatDecoder:
    """Decoder of one answer in the Chat Completions format.

    An answer is complete if it ends with a finish reason and then `data: [DONE]`. Without a finish reason it
    is broken, unless the server never sends the field, not even null (Snowflake): then it ends with STOP.
    With `done_marker=False`, a finish reason and the end of the body are enough. With None they are enough
    too, but the missing marker is reported in `problem`.

    Finish reasons are those of `finish_reasons.FINISH_REASONS`. An answer with tool calls ends with
    TOOL_CALLS even if the server sends "stop", as several do; one with a refusal ends with REFUSAL. vLLM's
    `stop_reason` distinguishes STOP_SEQUENCE from STOP. OpenRouter's `native_finish_reason` counts if it is
    more specific.

    Tool calls are completed at the end of the answer: they may be interleaved, finish reasons may be
    repeated, and nothing else marks the end of a call. Missing arguments and null become "{}". If the
    arguments of a call are complete, but not a JSON object, the call is invalid; without a valid call the
    answer ends with INVALID_TOOL_CALLS. If the arguments stop within an object, the answer is broken,
    because the server lost a part of it, unless it reports that the answer was cut off (MAX_TOKENS,
    CONTENT_FILTER and the like): then that call is not completed.

    Reasoning comes in fields of its own, in parts of the content, in `reasoning_details`, or with
    `think_tags` in the text. What a provider needs back with the next request becomes provider state: the
    `reasoning_details` of each block, and Gemini's `extra_content` of a call or of the text. If a server
    sends a text of reasoning both as details and in a field, only the one that came first is read.

    With `cumulative`, each delta repeats the earlier ones.

    A field of another type than the format's costs only that field, see `lenient`.

    Only the first choice is read, because Tokenwire requests one.
    """

    __slots__ = (
        "_add_delta",
        "_blocks",
        "_done_marker",
        "_framer",
        "_has_choice",
        "_increments",
        "_is_refusal",
        "_joiner",
        "_reason",
        "_reasoning_source",
        "_repeated",
        "_sends_reasons",
        "_tagged",
        "_text",
        "_word",
        "end",
        "model",
        "problem",
        "response_id",
        "usage",
    )

    def __init__(
        self,
        *,
        done_marker: bool | None = True,
        think_tags: Literal["none", "pair", "closing"] = "none",
        cumulative: bool = False,
        provider: str = "",
    ) -> None:
        self.end: Complete | UpstreamError | None = None
        self.usage: UsageFigures | None = None
        self.response_id = ""
        self.model = ""
        self.problem = ""
        self._done_marker = done_marker
        self._framer = SSEFramer()
        self._joiner: SurrogateJoiner | None = None
        """Created when the first lone surrogate arrives."""
        self._blocks = Blocks(provider)
        self._tagged: TaggedText | None = None
        self._text: Callable[[str, list[Delta]], None] = self._blocks.text
        self._add_delta: Callable[[TextDelta, list[Delta]], None] = self._blocks.add_text
        if think_tags != "none":
            tags = ThinkTags(is_open=think_tags == "closing")
            self._tagged = TaggedText(self._blocks, tags)
            self._text, self._add_delta = self._tagged.add, self._tagged.add_delta
        self._increments = Increments() if cumulative else None
        self._repeated = RepeatedEvent("content", (PADDING,))
        self._reasoning_source: Literal["", "field", "details"] = ""
        self._reason: FinishReason | None = None
        self._word = ""
        """The server's own word for the finish reason."""
        self._has_choice = False
        self._sends_reasons = False
        """Whether the server sends finish reasons, even if null."""
        self._is_refusal = False

    def feed(self, data: bytes) -> list[Delta]:
        if self.end is not None:
            return []
        deltas: list[Delta] = []
        delta = (
            self._repeated.delta_of(data)
            if self._framer.is_between_events and self._joiner is None
            else None
        )
        if delta is not None:
            self._add_delta(delta, deltas)
            return deltas
        item: Item = b"", b""
        for item in self._repeated.feed(self._framer, data):
            if isinstance(item, TextDelta):
                self._add_delta(item, deltas)
                continue
            self._decode_event(*item, deltas)
            if self.end is not None:
                break
        else:
            if self._repeated.needs_template and deltas and isinstance(deltas[-1], TextDelta):
                self._learn(data, item)
            if self._framer.overflowed:
                self.end = UpstreamBroken("an event of the provider's answer is too long")
        return deltas if self._joiner is None else self._join_surrogates(self._joiner, deltas)

    def _learn(self, data: bytes, item: Item) -> None:
        """Use the last event as the template of later ones, if it has text and nothing else."""
        if isinstance(item, TextDelta) or item[0] or self._increments is not None:
            return
        text = wire.text_alone(item[1])
        if text:
            self._repeated.learn(data, item[1], text)

    def eof(self) -> list[Delta]:
        """Handle the end of the body. A complete last event counts even without its blank line."""
        if self.end is not None:
            return []
        deltas: list[Delta] = []
        for name, payload in self._framer.eof():
            self._decode_event(name, payload, deltas, if_unreadable=_NO_END_MARKER)
        if self.end is None:
            if self._done_marker or self._reason is None:
                self.end = UpstreamBroken(_NO_END_MARKER)
            else:
                if self._done_marker is None and not self.problem:
                    self.problem = _NO_DONE_MARKER
                self._finish(self._reason, deltas)
        return deltas if self._joiner is None else self._join_surrogates(self._joiner, deltas)

    def _join_surrogates(self, joiner: SurrogateJoiner, deltas: list[Delta]) -> list[Delta]:
        self.response_id = join_surrogates(self.response_id)
        self.model = join_surrogates(self.model)
        deltas = joiner.join(deltas)
        return deltas if self.end is None else deltas + joiner.flush()

    def _decode_event(
        self,
        name: bytes,
        payload: bytes,
        deltas: list[Delta],
        if_unreadable: str = "an event of the provider's answer cannot be read",
    ) -> None:
        try:
            chunk = _decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            if payload.startswith(b"[DONE]"):  # the SDK has the same check
                self._done(deltas)
                return
            if not payload.strip():
                return
            try:
                chunk, unreadable = lenient.read(wire.CHUNK, payload)
            except msgspec.DecodeError as error:
                text = log_text(payload, error)
                self.end = UpstreamBroken(if_unreadable, provider_text=text)
                return
            if self._joiner is None:
                self._joiner = SurrogateJoiner()
            if unreadable and not self.problem:
                self.problem = f"fields of its answer cannot be read: {unreadable}"
        if not self.response_id and chunk.id:
            self.response_id = chunk.id[:MAX_NAME_CHARS]
        if not self.model and chunk.model:
            self.model = chunk.model[:MAX_NAME_CHARS]
        if chunk.choices:
            for choice in chunk.choices:
                if not choice.index:
                    self._read_choice(choice, deltas)
        if chunk.usage is not None:
            self._read_usage(chunk.usage, chunk.service_tier)
        if chunk.x_groq is not None:
            self._read_groq(chunk.x_groq)
        if chunk.error or name == b"error" or chunk.choices is None:
            self._read_error(name, chunk, payload)

    def _read_error(self, name: bytes, chunk: wire.Chunk, payload: bytes) -> None:
        if chunk.error or name == b"error":
            # More specific than a finish reason "error".
            if self.end is None or isinstance(self.end, UpstreamError):
                self.end = errors.from_event(payload)
        elif self.end is None:
            self.end = errors.find(payload)

    def _read_choice(self, choice: wire.Choice, deltas: list[Delta]) -> None:
        self._has_choice = True
        delta = choice.delta
        if delta is None and self._blocks.is_empty:
            delta = choice.message  # after deltas, the message only repeats them
        if delta is not None:
            if self._increments is not None:
                self._increments.shorten(delta)
            content = delta.content
            if reasoning := delta.reasoning_content or delta.reasoning:
                self._read_reasoning(reasoning, "field", deltas)
            if delta.reasoning_details:
                self._blocks.reasoning_details(delta.reasoning_details, deltas)
                self._read_reasoning(text_of(delta.reasoning_details), "details", deltas)
            if content:
                if isinstance(content, str):
                    self._text(content, deltas)
                else:
                    self._read_parts(content, deltas)
            if delta.refusal:
                self._read_refusal(delta.refusal, deltas)
            if delta.tool_calls:
                self._read_calls(delta.tool_calls, deltas)
            if delta.function_call or delta.annotations or delta.extra_content:
                self._read_extras(delta, deltas)
        reason = choice.finish_reason
        if reason is None:
            self._sends_reasons = True
        elif reason is not msgspec.UNSET:
            self._read_reason(reason, choice)
        if choice.logprobs or choice.error or choice.usage:
            self._read_choice_extras(choice, deltas)

    def _read_extras(self, delta: wire.Delta, deltas: list[Delta]) -> None:
        if delta.function_call is not None:
            self._read_calls([wire.ToolCall(function=delta.function_call)], deltas)
        for citation in citations(delta.annotations or []):
            self._blocks.attach(citation, deltas)
        if delta.extra_content:
            self._blocks.text_state(delta.extra_content, deltas)

    def _read_choice_extras(self, choice: wire.Choice, deltas: list[Delta]) -> None:
        if choice.logprobs is not None and (tokens := logprobs(choice.logprobs)) is not None:
            self._blocks.attach(tokens, deltas)
        if choice.usage is not None:
            self._read_usage(choice.usage)
        if choice.error:
            self.end = errors.classify({"error": choice.error})

    def _read_reasoning(
        self, text: str, source: Literal["field", "details"], deltas: list[Delta]
    ) -> None:
        if text and self._reasoning_source in ("", source):
            self._reasoning_source = source
            self._blocks.reasoning(text, deltas)

    def _read_parts(self, parts: list[wire.Part], deltas: list[Delta]) -> None:
        for part in parts:
            match part.type:
                case "thinking" | "reasoning":
                    thinking = part.thinking or part.summary or part.text or ""
                    if isinstance(thinking, list):
                        thinking = "".join(piece.text or "" for piece in thinking)
                    self._read_reasoning(thinking, "field", deltas)
                case "reference":
                    for reference in references(part.reference_ids or []):
                        self._blocks.attach(reference, deltas)
                case "refusal":
                    if part.refusal:
                        self._read_refusal(part.refusal, deltas)
                case "text" | "output_text" | "":
                    if part.text:
                        self._text(part.text, deltas)

    def _read_refusal(self, text: str, deltas: list[Delta]) -> None:
        self._is_refusal = True
        self._blocks.text(text, deltas, "refusal")

    def _read_calls(self, fragments: list[wire.ToolCall], deltas: list[Delta]) -> None:
        if self._tagged is not None:
            self._tagged.flush(deltas)
        try:
            for fragment in fragments:
                function = fragment.function or wire.Function()
                self._blocks.call(
                    fragment.index,
                    fragment.id or "",
                    function.name or "",
                    function.arguments or "",
                    fragment.extra_content,
                    deltas,
                    self.response_id,
                )
        except ToolCallsTooLargeError:
            self.end = UpstreamBroken("the tool calls of the provider's answer are too large")

    def _read_reason(self, word: str | bool, choice: wire.Choice) -> None:
        self._sends_reasons = True
        if word is True:
            word = "true"
        if not is_finish_reason(word):
            return
        reason = finish_reason(word)
        native = choice.native_finish_reason
        if native is not None and is_finish_reason(native):
            native_reason = finish_reason(native)
            if native_reason not in _GENERAL:
                word, reason = native, native_reason
        if reason is None:
            if self.end is None:
                self.end = errors.classify({"code": word.lower()})
            return
        if (
            reason is FinishReason.STOP
            and choice.stop_reason
            and isinstance(choice.stop_reason, str)
        ):
            reason = FinishReason.STOP_SEQUENCE
        if reason in _GENERAL and self._reason is not None and self._reason not in _GENERAL:
            return  # a proxy added its own finish reason after that of the provider
        self._reason, self._word = reason, word[:MAX_NAME_CHARS]

    def _read_usage(self, usage: Usage, service_tier: str | None = None) -> None:
        figures = usage_figures(usage, service_tier)
        if figures is not None:
            self.usage = latest(self.usage, figures)

    def _read_groq(self, groq: wire.XGroq) -> None:
        """Read Groq's extension, which may be the only place of usage and errors."""
        if groq.usage is not None:
            self._read_usage(groq.usage)
        if groq.error and self.end is None:
            self.end = errors.classify({"error": groq.error})

    def _done(self, deltas: list[Delta]) -> None:
        if self._reason is not None:
            self._finish(self._reason, deltas)
        elif self._has_choice and not self._sends_reasons:
            self._finish(FinishReason.STOP, deltas)
        else:
            self.end = UpstreamBroken("the provider's answer ended without a finish reason")

    def _finish(self, reason: FinishReason, deltas: list[Delta]) -> None:
        if self._tagged is not None:
            self._tagged.flush(deltas)
        has_calls = self._blocks.has_calls
        if reason is FinishReason.TOOL_CALLS and not has_calls:
            self.end = UpstreamBroken(
                "the provider's finish reason reports tool calls, but its answer has none"
            )
            return
        try:
            has_valid_call = self._blocks.complete_calls(deltas, is_cut=reason not in _WHOLE)
        except IncompleteToolCallError:
            self.end = UpstreamBroken("a tool call of the provider's answer is incomplete")
            return
        if has_calls and reason in _WHOLE:
            reason = FinishReason.TOOL_CALLS if has_valid_call else FinishReason.INVALID_TOOL_CALLS
        elif self._is_refusal and reason in _WHOLE:
            reason = FinishReason.REFUSAL
        self.end = Complete(reason, join_surrogates(self._word))
