"""Decoding of Anthropic's answers. https://platform.claude.com/docs/en/build-with-claude/streaming

    message_start
      content_block_start, content_block_delta*, content_block_stop     for each content block
    message_delta                                                       stop reason and usage
    message_stop                                                        the end marker

`ping` and `error` may occur anywhere. The `type` in an event's data identifies the event. Unknown events,
blocks and deltas are ignored, because the provider may add new ones. So is content that is not part of the
answer, such as calls of tools that the provider runs itself.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ....errors import UpstreamBroken, UpstreamError
from ....events import Delta, FinishReason, Notice, NoticeKind, TextDelta, Usage
from .. import errors
from ..base import MAX_NAME_CHARS, Complete
from ..finish_reasons import finish_reason
from ..json import SurrogateJoiner, join_surrogates, log_text
from ..repeated import BLANKS, RepeatedEvent
from ..sse import Item, SSEFramer
from . import wire
from .blocks import Blocks, BrokenBlocksError
from .usage import Bill
from .usage import Usage as UsageFigures

_CUT = frozenset(FinishReason) - {FinishReason.STOP, FinishReason.TOOL_CALLS}
"""Finish reasons of answers that may end within a tool call."""


class AnthropicDecoder:
    """Decoder of one answer in the Messages format.

    An answer without a stop reason or without `message_stop` is broken. An unknown stop reason becomes
    OTHER. A limit, a filter, a refusal or a pause may cut the answer off within a tool call. Then a call
    without complete arguments is never completed. After any other stop reason, an answer with such a call
    is broken.

    A field of another type than the format's costs only that field, see `lenient`.

    Until the provider reports the output tokens, `usage` contains its placeholder and is `estimated`. It is
    also `estimated` if the provider never reports the input tokens, which are then 0.
    """

    __slots__ = (
        "_bill",
        "_blocks",
        "_framer",
        "_has_stop_sequence",
        "_provider",
        "_repeated",
        "_repeated_index",
        "_stop_details",
        "_stop_reason",
        "_surrogates",
        "_text_index",
        "end",
        "model",
        "problem",
        "response_id",
        "usage",
    )

    def __init__(self, *, provider: str = "") -> None:
        self.end: Complete | UpstreamError | None = None
        self.usage: Usage | None = None
        self.response_id = ""
        self.model = ""
        self.problem = ""
        """The first fields that could not be read, for the operator's log: their paths and types."""
        self._provider = provider
        self._framer = SSEFramer()
        self._repeated = RepeatedEvent("text", (BLANKS,))
        self._repeated_index: int | None = None
        """The index of the block in the repeated event."""
        self._text_index: int | None = None
        """The index of the deltas of repeated events, until another event arrives."""
        self._surrogates = SurrogateJoiner()
        self._bill = Bill()
        self._blocks = Blocks(provider)
        self._stop_reason = ""
        self._has_stop_sequence = False
        self._stop_details: wire.StopDetails | None = None

    def feed(self, data: bytes) -> list[Delta]:
        if self.end is not None:
            return []
        delta = self._repeated.delta_of(data) if self._framer.is_between_events else None
        index = self._text_index
        if delta is not None and index is not None and not self._surrogates.halves:
            return [TextDelta(delta.text, index) if index else delta]
        items = self._repeated.feed(self._framer, data) if delta is None else [delta]
        deltas = self._decode(items)
        if self.end is not None or not (deltas and isinstance(deltas[-1], TextDelta)):
            return deltas
        if self._repeated.needs_template:
            self._learn(data, items[-1])
        return deltas

    def _add_text(self, text: str, deltas: list[Delta]) -> None:
        """Read the repeated event, with another text. The text has no surrogates."""
        if self._text_index is not None:
            deltas.append(TextDelta(text, self._text_index))
            return
        added: list[Delta] = []
        try:
            delta = wire.Delta(type="text_delta", text=text)
            self._blocks.add(self._repeated_index, delta, added)
        except BrokenBlocksError as error:
            self._fail(str(error))
        if added and isinstance(added[0], TextDelta):
            self._text_index = added[0].index
        deltas += added

    def _learn(self, data: bytes, item: Item) -> None:
        """Use the last event as the template of later ones, if it is a delta of text and nothing else."""
        if isinstance(item, TextDelta):
            return
        try:
            event = wire.read_event(item[1])
        except msgspec.DecodeError:
            return
        text = None if event.delta is None else event.delta.text
        if not text:
            return
        delta = wire.Delta(type="text_delta", text=text)
        only_text = wire.Event(type="content_block_delta", index=event.index, delta=delta)
        if event == only_text and self._repeated.learn(data, item[1], text):
            self._repeated_index = event.index

    def eof(self) -> list[Delta]:
        """Handle the end of the body. A complete last event counts even without its blank line."""
        if self.end is not None:
            return []
        deltas = self._decode(self._framer.eof())
        if self.end is None:
            self._fail("it ended without message_stop")
            deltas += self._surrogates.flush()
        return deltas

    def _decode(self, items: Iterable[Item]) -> list[Delta]:
        """Read events, and texts of repeated ones."""
        deltas: list[Delta] = []
        for item in items:
            if isinstance(item, TextDelta):
                self._add_text(item.text, deltas)
            else:
                self._text_index = None
                self._decode_event(*item, deltas)
            if self.end is not None:
                break
        else:
            if self._framer.overflowed:
                self._fail("an event is too long")
        deltas = self._surrogates.join(deltas)
        return deltas if self.end is None else deltas + self._surrogates.flush()

    def _decode_event(self, name: bytes, payload: bytes, deltas: list[Delta]) -> None:
        try:
            event = wire.read_event(payload)
            if not event.type:
                event = self._read_odd_event(name, payload)
        except msgspec.ValidationError:
            event = self._read_odd_event(name, payload)
        except msgspec.DecodeError as error:
            self._fail_unreadable(name, payload, error)
            return
        try:
            match event.type:
                case "content_block_delta":
                    if event.delta is not None:
                        self._blocks.add(event.index, event.delta, deltas)
                case "content_block_start":
                    block = event.content_block or wire.Block()
                    self._blocks.start(event.index, block, payload, deltas)
                    if block.to is not None and block.type == "fallback":
                        self._set_model(block.to.model, deltas)
                case "content_block_stop":
                    self._blocks.stop(event.index, deltas)
                case "message_start":
                    if event.message is not None:
                        self._start(event.message, deltas)
                case "message_delta":
                    self._count(event.usage, deltas, is_final=True)
                    if event.delta is not None:
                        self._read_ending(event.delta)
                case "message_stop":
                    self._count(event.usage, deltas, is_final=True)
                    self._finish(deltas)
                case "error":
                    self.end = errors.from_event(payload)
                case _ if name == b"error":
                    self.end = errors.from_event(payload)
                case _ if self.end is None and (not event.type or b'"error"' in payload):
                    self.end = errors.find(payload)
                case _:
                    pass  # ping and unknown events
        except BrokenBlocksError as error:
            self._fail(str(error))

    def _read_odd_event(self, name: bytes, payload: bytes) -> wire.Event:
        """Return an event that the strict decoder refuses, without what cannot be read of it."""
        try:
            event, unreadable = wire.read_odd_event(payload, name.decode(errors="replace"))
        except msgspec.DecodeError as error:
            self._fail_unreadable(name, payload, error)
            return wire.Event()
        if unreadable and not self.problem:
            self.problem = f"fields of its answer cannot be read: {unreadable}"
        return event

    def _start(self, message: wire.Message, deltas: list[Delta]) -> None:
        self.response_id = join_surrogates((message.id or "")[:MAX_NAME_CHARS])
        self._blocks.response_id = self.response_id
        self._set_model(message.model, deltas)
        self._bill.model = self._bill.model or self.model
        self._count(message.usage, deltas)

    def _count(
        self, usage: UsageFigures | None, deltas: list[Delta], *, is_final: bool = False
    ) -> None:
        if usage is not None:
            self.usage = self._bill.update(usage, is_final=is_final)
            self._set_model(self._bill.fallback_model, deltas)

    def _set_model(self, model: str | None, deltas: list[Delta]) -> None:
        """Set the model that answers, if the provider names one."""
        if not model:
            return
        model = join_surrogates(model[:MAX_NAME_CHARS])
        if self.model and self.model != model:
            deltas.append(Notice(NoticeKind.MODEL_CHANGED, model, self._provider))
        self.model = model

    def _read_ending(self, delta: wire.Delta) -> None:
        if delta.stop_reason:
            self._stop_reason = join_surrogates(delta.stop_reason[:MAX_NAME_CHARS])
        if delta.stop_sequence:
            self._has_stop_sequence = True
        if delta.stop_details is not None:
            self._stop_details = delta.stop_details
        if self._stop_reason and finish_reason(self._stop_reason) is None:
            self.end = errors.classify({"code": self._stop_reason.lower()})

    def _finish(self, deltas: list[Delta]) -> None:
        if not self._stop_reason:
            self._fail("it ended without a stop reason")
            return
        reason = finish_reason(self._stop_reason) or FinishReason.OTHER
        blocks = self._blocks
        blocks.finish(deltas, is_cut=reason in _CUT)
        if reason in (FinishReason.STOP, FinishReason.STOP_SEQUENCE):
            if blocks.has_call or (blocks.has_invalid_call and reason is FinishReason.STOP):
                reason = FinishReason.TOOL_CALLS
            elif self._has_stop_sequence:
                reason = FinishReason.STOP_SEQUENCE
        if reason is FinishReason.TOOL_CALLS and not blocks.has_call:
            if not blocks.has_invalid_call:
                self._fail("its stop reason reports tool calls, but it has none")
                return
            reason = FinishReason.INVALID_TOOL_CALLS
        refusal = None
        if reason is FinishReason.REFUSAL and self._stop_details is not None:
            refusal = self._stop_details.refusal()
        self.end = Complete(reason, self._stop_reason, refusal)

    def _fail_unreadable(self, name: bytes, payload: bytes, error: msgspec.DecodeError) -> None:
        # It may be an error in another server's or a proxy's format, which has no type of event.
        self.end = errors.from_event(payload) if name == b"error" else errors.find(payload)
        if self.end is None:
            self._fail("an event is invalid", log_text(payload, error))

    def _fail(self, why: str, provider_text: str = "") -> None:
        self.end = UpstreamBroken(
            f"the provider's answer is broken: {why}", provider_text=provider_text
        )
