"""Decoding of OpenAI Responses. https://platform.openai.com/docs/api-reference/responses-streaming

    response.created, response.in_progress
      response.output_item.added ... response.output_item.done     for each item of the answer
    response.completed | response.incomplete | response.failed     the end marker, and usage

`error` may occur anywhere. In a message or reasoning item, each part has a start event, deltas, and an end
event with its whole text; so do the arguments of a function call. The `type` in an event's data identifies
the event. Unknown events and items, such as built-in tools, are ignored, and so is the `[DONE]` that some
compatible servers send.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from ....errors import UpstreamBroken, UpstreamError
from ....events import Delta, FinishReason, ReasoningDelta, TextDelta, Usage
from .. import errors
from ..base import MAX_NAME_CHARS, Complete
from ..finish_reasons import finish_reason
from ..json import SurrogateJoiner, join_surrogates, loads, log_text
from ..repeated import NUMBER, PADDING, RepeatedEvent
from ..sse import Item, SSEFramer
from . import wire
from .items import Items
from .parts import Part
from .usage import TOOLS, ToolCounts, usage_of

_UNREADABLE = "an event of the provider's answer cannot be read"
_NO_END_MARKER = "the provider's answer ended without its end marker"

_DELTAS = {
    "response.output_text.delta": "output_text",
    "response.refusal.delta": "refusal",
    "response.reasoning_summary_text.delta": "summary_text",
    "response.reasoning_text.delta": "reasoning_text",
}
_PARTS = {
    "response.content_part.added": "",
    "response.content_part.done": "",
    "response.output_text.done": "output_text",
    "response.refusal.done": "refusal",
    "response.reasoning_summary_part.added": "summary_text",
    "response.reasoning_summary_part.done": "summary_text",
    "response.reasoning_summary_text.done": "summary_text",
    "response.reasoning_text.done": "reasoning_text",
}
"""Events with the whole text of a part so far, and the type of the part if the event does not name it."""


class OpenAIResponsesDecoder:
    """Decoder of one answer in the Responses format. `Items` documents its blocks.

    A field of another type than the format's costs only that field, see `lenient`.

    If a call is not complete at the end, the answer is broken, unless the provider reports the answer as
    incomplete. `Call` says when a call is complete.
    """

    __slots__ = (
        "_framer",
        "_items",
        "_joiner",
        "_reader",
        "_repeated",
        "_repeated_event",
        "_repeated_part",
        "_tools",
        "end",
        "model",
        "response_id",
        "usage",
    )

    def __init__(self, *, provider: str = "") -> None:
        self.end: Complete | UpstreamError | None = None
        self.usage: Usage | None = None
        self.response_id = ""
        self.model = ""
        self._framer = SSEFramer()
        self._joiner = SurrogateJoiner()
        self._items = Items(provider)
        self._tools = ToolCounts()
        self._reader = wire.Reader()
        self._repeated = RepeatedEvent("delta", (NUMBER, PADDING))
        self._repeated_event = wire.Event()
        self._repeated_part: Part | None = None
        """The part of the text of repeated events, until another event arrives."""

    @property
    def problem(self) -> str:
        """The first fields that could not be read, for the operator's log: their paths and types."""
        unreadable = self._reader.unreadable
        return f"fields of its answer cannot be read: {unreadable}" if unreadable else ""

    def feed(self, data: bytes) -> list[Delta]:
        if self.end is not None:
            return []
        delta = self._repeated.delta_of(data) if self._framer.is_between_events else None
        if delta is not None and self._repeated_part is not None and not self._joiner.halves:
            deltas: list[Delta] = []
            self._repeated_part.append(delta.text, deltas)
            return deltas
        items = self._repeated.feed(self._framer, data) if delta is None else [delta]
        deltas = self._read(items, if_unreadable=_UNREADABLE)
        if self.end is not None:
            return deltas + self._joiner.flush()
        if self._framer.overflowed:
            self.end = UpstreamBroken("an event of the provider's answer is too long")
            return deltas + self._joiner.flush()
        if self._repeated.needs_template and deltas and _has_text(deltas[-1]):
            self._learn(data, items[-1])
        return deltas

    def _learn(self, data: bytes, item: Item) -> None:
        """Use the last event as the template of later ones, if it is a delta of text and nothing else."""
        if isinstance(item, TextDelta):
            return
        try:
            event = wire.EVENT.decode(item[1])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return
        is_text = event.type in _DELTAS and event.delta and not event.logprobs
        if is_text and self._repeated.learn(data, item[1], event.delta):
            self._repeated_event = event

    def eof(self) -> list[Delta]:
        if self.end is not None:
            return []
        # The framer returns the last event even if it was cut off. Then it is not a JSON object.
        deltas = self._read(self._framer.eof(), if_unreadable=_NO_END_MARKER)
        if self.end is None:
            self.end = UpstreamBroken(_NO_END_MARKER)
        return deltas + self._joiner.flush()

    def _read(self, items: Iterable[Item], *, if_unreadable: str) -> list[Delta]:
        """Read events, and texts of repeated ones."""
        deltas: list[Delta] = []
        for item in items:
            name, payload = (b"", b"") if isinstance(item, TextDelta) else item
            try:
                if isinstance(item, TextDelta):
                    self._add_text(item.text, deltas)
                else:
                    self._repeated_part = None
                    self._decode_event(name, payload, deltas)
            except UpstreamError as error:
                self.end = error
            except msgspec.DecodeError as error:
                if not _is_ignored(payload):
                    text = log_text(payload, error)
                    self.end = UpstreamBroken(if_unreadable, provider_text=text)
            if self.end is not None:
                break
        return self._joiner.join(deltas)

    def _add_text(self, text: str, deltas: list[Delta]) -> None:
        """Read the repeated event, with another text. The text has no surrogates."""
        part = self._repeated_part
        if part is None:
            event = self._repeated_event
            part = self._items.part_of(_DELTAS[event.type], event, deltas)
            self._repeated_part = part
        part.append(text, deltas)

    def _decode_event(self, name: bytes, payload: bytes, deltas: list[Delta]) -> None:
        try:
            event = wire.EVENT.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            event = self._read_odd_event(name, payload)
        if not event.type:
            event.type = name.decode(errors="replace")
        part_type = _DELTAS.get(event.type)
        if part_type is not None:
            self._items.append_text(part_type, event, deltas)
        elif (handler := _HANDLERS.get(event.type)) is not None:
            handler(self, event, payload, deltas)
        elif name == b"error":
            self._on_error(event, payload, deltas)
        elif b'"error"' in payload:
            self._on_untyped(event, payload, deltas)

    def _read_odd_event(self, name: bytes, payload: bytes) -> wire.Event:
        """Return an event that the strict decoder refuses, without what cannot be read of it."""
        try:
            return loads(wire.EVENT, payload)  # with lone surrogates
        except msgspec.ValidationError:
            if _is_ignored(payload):
                return wire.Event(type="ignored")
        event: wire.Event
        if b"function_call_arguments.delta" in payload:
            event = self._reader.read(wire.ARGUMENTS_DELTA, payload)
        else:
            event = self._reader.read(wire.EVENT, payload)
        if event.type not in _DELTAS and event.type not in _HANDLERS:
            event.type = name.decode(errors="replace")  # a number, for example
        return event

    def _on_part(self, event: wire.Event, payload: bytes, deltas: list[Delta]) -> None:
        content = self._reader.read(wire.PART_EVENT, payload)
        part = content.part or wire.Part(
            _PARTS[event.type], content.text, content.refusal, logprobs=content.logprobs
        )
        self._items.update_part(part, event, deltas)

    def _on_annotation(self, event: wire.Event, payload: bytes, deltas: list[Delta]) -> None:
        self._items.cite(self._reader.read(wire.ANNOTATION_EVENT, payload), event, deltas)

    def _on_item_added(self, event: wire.Event, payload: bytes, deltas: list[Delta]) -> None:
        item = self._reader.read_item(self._reader.read(wire.ITEM_EVENT, payload).item)
        self._items.begin_item(item, event.output_index, deltas)

    def _on_item_done(self, event: wire.Event, payload: bytes, deltas: list[Delta]) -> None:
        raw = self._reader.read(wire.ITEM_EVENT, payload).item
        item = self._reader.read_item(raw)
        self._items.finish_item(item, event.output_index, deltas)
        if item.type in TOOLS:
            self._tools.add(self._reader.read_server_tool_call(raw), event.output_index)

    def _on_arguments_delta(self, event: wire.Event, _: bytes, deltas: list[Delta]) -> None:
        self._items.append_arguments(event, deltas)

    def _on_arguments_done(self, event: wire.Event, payload: bytes, deltas: list[Delta]) -> None:
        self._items.update_arguments(self._reader.read(wire.ARGUMENTS_DONE, payload), event, deltas)

    def _on_begin(self, _: wire.Event, payload: bytes, __: list[Delta]) -> None:
        self._read_head(self._reader.read(wire.BEGIN, payload).response or wire.ResponseHead())

    def _on_end(self, event: wire.Event, payload: bytes, deltas: list[Delta]) -> None:
        response = self._reader.read(wire.END, payload).response or wire.Response()
        self._read_head(response)
        output = self._read_output(response)
        self.usage = usage_of(response, self._tools) or self.usage
        status = event.type.removeprefix("response.")
        if status == "completed" and response.status in ("incomplete", "failed", "cancelled"):
            status = response.status
        match status:
            case "completed" | "incomplete":
                self._items.add_missing(output, deltas)
                is_cut = status == "incomplete"
                end = self._items.finish(deltas, response_id=self.response_id, is_cut=is_cut)
                self.end = _incomplete(wire.details_of(response)) if is_cut else end
            case "failed":
                error = response.error
                code = str(error.code) if isinstance(error, wire.Error) else ""
                if finish_reason(code) != FinishReason.CONTENT_FILTER:
                    raise errors.classify({"error": msgspec.to_builtins(error)})
                self.end = Complete(
                    FinishReason.CONTENT_FILTER, join_surrogates(code[:MAX_NAME_CHARS])
                )
            case _:
                raise UpstreamBroken("the provider cancelled its answer")

    def _read_head(self, response: wire.ResponseHead) -> None:
        if response.id:
            self.response_id = join_surrogates(response.id[:MAX_NAME_CHARS])
        if response.model:
            self.model = join_surrogates(response.model[:MAX_NAME_CHARS])

    def _read_output(self, response: wire.Response) -> list[wire.Item]:
        output = []
        for index, raw in enumerate(response.output or ()):
            item = self._reader.read_item(raw)
            output.append(item)
            if item.type in TOOLS:
                self._tools.add(self._reader.read_server_tool_call(raw), index, is_final=True)
        return output

    def _on_error(self, _: wire.Event, payload: bytes, __: list[Delta]) -> None:
        raise errors.from_event(payload)

    def _on_untyped(self, _: wire.Event, payload: bytes, __: list[Delta]) -> None:
        """Handle an event without a known type, which may be an error in another server's format."""
        if (error := errors.find(payload)) is not None:
            raise error


_Handler = Callable[[OpenAIResponsesDecoder, wire.Event, bytes, list[Delta]], None]
_HANDLERS: dict[str, _Handler] = {
    **dict.fromkeys(_PARTS, OpenAIResponsesDecoder._on_part),
    "response.output_text.annotation.added": OpenAIResponsesDecoder._on_annotation,
    "response.function_call_arguments.delta": OpenAIResponsesDecoder._on_arguments_delta,
    "response.function_call_arguments.done": OpenAIResponsesDecoder._on_arguments_done,
    "response.output_item.added": OpenAIResponsesDecoder._on_item_added,
    "response.output_item.done": OpenAIResponsesDecoder._on_item_done,
    "response.created": OpenAIResponsesDecoder._on_begin,
    "response.queued": OpenAIResponsesDecoder._on_begin,
    "response.in_progress": OpenAIResponsesDecoder._on_begin,
    "response.completed": OpenAIResponsesDecoder._on_end,
    "response.incomplete": OpenAIResponsesDecoder._on_end,
    "response.failed": OpenAIResponsesDecoder._on_end,
    "response.cancelled": OpenAIResponsesDecoder._on_end,
    "error": OpenAIResponsesDecoder._on_error,
    "": OpenAIResponsesDecoder._on_untyped,
}


def _is_ignored(payload: bytes) -> bool:
    """Return whether an event that cannot be decoded is of an unknown type, or `[DONE]`."""
    try:
        kind = loads(wire.TYPED, payload).type
    except msgspec.DecodeError:
        return payload.strip() == b"[DONE]"
    return bool(kind) and kind not in _DELTAS and kind not in _HANDLERS


def _incomplete(details: wire.IncompleteDetails | None) -> Complete:
    word = (details.reason if details is not None else None) or "incomplete"
    reason = finish_reason(word)
    if reason is None:
        raise UpstreamBroken(
            "the provider failed before the end of its answer", error_type=errors.name(word)
        )
    # The answer is incomplete, whatever the word is.
    if reason in (FinishReason.STOP, FinishReason.TOOL_CALLS):
        reason = FinishReason.OTHER
    return Complete(reason, join_surrogates(word[:MAX_NAME_CHARS]))


def _has_text(delta: Delta) -> bool:
    return isinstance(delta, TextDelta | ReasoningDelta)
