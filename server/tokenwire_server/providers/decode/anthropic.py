"""Anthropic Messages: how an answer is read. https://platform.claude.com/docs/en/build-with-claude/streaming

    message_start
      content_block_start, content_block_delta*, content_block_stop     for each block of content
    message_delta                                                       why it stopped, and usage
    message_stop                                                        the end marker

and, anywhere, `ping` and `error`. Events are told apart by the `type` in their data. The provider adds
events, blocks and deltas as it likes: those not known here pass without harm, and so does content that
is no part of the answer, such as the calls of tools that the provider runs itself.
"""

from __future__ import annotations

import msgspec

from ...errors import UpstreamBroken, UpstreamError
from ...events import (
    Delta,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)
from . import anthropic_wire as wire
from .arguments import is_object
from .base import MAX_NAME_CHARS, Complete
from .json import SurrogateJoiner, join_surrogates, loads, log_text
from .sse import SSEFramer

REDACTED = "redacted:"
"""Before the data of a redacted block, where a signature stands: it must go back as such a block."""
MAX_OPEN_BLOCKS = 64
"""Blocks begun and not ended at one time; the provider sends one after another. Past it: broken."""
MAX_HELD_CHARS = 2 * 2**20
"""Ids, names, arguments and signatures held until their blocks end. Past it: broken."""

_WHOLE = frozenset({FinishReason.STOP, FinishReason.TOOL_CALLS})
"""Ends that cut no tool call short."""


class _OpenBlock:
    """A block of content between its start and its stop."""

    __slots__ = (
        "fragments",
        "held_chars",
        "id",
        "index",
        "kind",
        "name",
        "signature",
        "whole_input",
    )

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.index = -1
        """Our ordinal, given when the block first emits something."""
        self.id = ""
        self.name = ""
        self.fragments: list[str] = []
        """Fragments of a tool call's arguments."""
        self.whole_input = ""
        """Arguments that came with the start: some compatible servers send no fragments."""
        self.signature = ""
        self.held_chars = 0
        """Length of all texts of this block that are held."""


_objects = msgspec.json.Decoder(dict[str, msgspec.Raw])


class AnthropicDecoder:
    """One answer in the Messages format (Decoder).

    `index` counts the blocks that emit something, in the order in which they first do: blocks that
    are not the caller's, and empty ones, take no number.

    A signature comes as one event without text when its thinking block ends; a redacted block is one
    event whose signature is `REDACTED` and its data. A tool call is whole when its block ends and its
    arguments are a JSON object. Where they are not, the stop reason judges: cut short (MAX_TOKENS,
    REFUSAL, ...), the call never becomes whole; otherwise the answer is broken. A call without any
    arguments may be one cut before its first, so it waits for the next block or the stop reason.

    A stop reason not known here is STOP: the provider did end the message, only the why is lost. An
    answer without a stop reason, or without `message_stop`, is broken.

    Until the provider gives its count of output, `usage` bears its placeholder and is `estimated`.
    """

    def __init__(self) -> None:
        self.end: Complete | UpstreamError | None = None
        self.usage: Usage | None = None
        self.response_id = ""
        self.model = ""
        self._framer = SSEFramer()
        self._surrogates = SurrogateJoiner()
        self._counts = wire.Usage()
        self._blocks: dict[int, _OpenBlock] = {}
        """Open blocks by the provider's index."""
        self._blocks_count = 0
        """Blocks that have emitted something."""
        self._held_chars = 0
        self._bare: _OpenBlock | None = None
        """A tool call that ended without arguments, while nothing tells whether it was cut."""
        self._has_cut_call = False
        self._reason: FinishReason | None = None

    def feed(self, data: bytes) -> list[Delta]:
        if self.end is not None:
            return []
        return self._take_all(self._framer.feed(data))

    def eof(self) -> list[Delta]:
        """The SDKs drop a last event without its blank line; whole, it is as good as with it."""
        if self.end is not None:
            return []
        deltas = self._take_all(self._framer.eof())
        if self.end is None:
            self._break("it ended without message_stop")
            deltas += self._surrogates.flush()
        return deltas

    def _take_all(self, events: list[tuple[bytes, bytes]]) -> list[Delta]:
        deltas: list[Delta] = []
        for _, payload in events:
            self._take(payload, deltas)
            if self.end is not None:
                break
        else:
            if self._framer.overflowed:
                self._break("an event is too long")
        deltas = self._surrogates.mend(deltas)
        if self.end is not None:
            deltas += self._surrogates.flush()
        return deltas

    def _take(self, payload: bytes, deltas: list[Delta]) -> None:
        try:
            event = wire.read_event(payload)
        except msgspec.DecodeError as error:
            self._break("an event is not what its format allows", log_text(payload, error))
            return
        match event.type:
            case "content_block_delta" if event.delta is not None:
                self._extend(event.index, event.delta, deltas)
            case "content_block_start" if event.content_block is not None:
                self._start(event.index, event.content_block, deltas)
            case "content_block_stop":
                self._stop(event.index, deltas)
            case "message_start":
                if event.message is not None:
                    self.response_id = join_surrogates((event.message.id or "")[:MAX_NAME_CHARS])
                    self.model = join_surrogates((event.message.model or "")[:MAX_NAME_CHARS])
                    self._count(event.message.usage, is_final=False)
            case "message_delta":
                if event.delta is not None and event.delta.stop_reason is not None:
                    stop_reason = event.delta.stop_reason
                    self._reason = wire.STOP_REASONS.get(stop_reason, FinishReason.STOP)
                self._count(event.usage, is_final=True)
            case "message_stop":
                self._finish(deltas)
            case "error":
                self.end = wire.error_of(event, payload)
            case "content_block_delta" | "content_block_start":
                self._break("an event lacks what it is about")
            case _:
                pass  # ping, and what the provider adds

    def _start(self, index: int, content: wire.Block, deltas: list[Delta]) -> None:
        self._settle_bare(deltas)
        if index in self._blocks or len(self._blocks) >= MAX_OPEN_BLOCKS:
            self._break("too many of its blocks are open, or one began twice")
            return
        block = self._blocks[index] = _OpenBlock(content.type)
        match content.type:
            case "text":
                if content.text:
                    deltas.append(TextDelta(content.text, self._number(block)))
            case "thinking":
                if content.thinking:
                    deltas.append(ReasoningDelta(content.thinking, self._number(block)))
                self._hold_signature(block, content.signature)
            case "redacted_thinking":
                if content.data:
                    signature = REDACTED + content.data
                    deltas.append(ReasoningDelta("", self._number(block), signature))
            case "tool_use":
                block.id = content.id or ""
                block.name = content.name or ""
                deltas.append(ToolCallStarted(self._number(block), block.id, block.name))
                block.whole_input = _nonempty_object(content.input)
                self._hold(block, len(block.id) + len(block.name) + len(block.whole_input))
            case _:
                pass  # content that is not the caller's; its deltas find it here

    def _extend(self, index: int, delta: wire.Delta, deltas: list[Delta]) -> None:
        block = self._blocks.get(index)
        match delta.type:
            case "text_delta":
                if block is not None and block.kind == "text":
                    if delta.text:
                        deltas.append(TextDelta(delta.text, self._number(block)))
                    return
            case "thinking_delta":
                if block is not None and block.kind == "thinking":
                    if delta.thinking:
                        deltas.append(ReasoningDelta(delta.thinking, self._number(block)))
                    return
            case "signature_delta":
                if block is not None and block.kind == "thinking":
                    self._hold_signature(block, delta.signature)
                    return
            case "input_json_delta":
                if block is not None and block.kind == "tool_use":
                    if delta.partial_json:
                        block.fragments.append(delta.partial_json)
                        deltas.append(ToolCallDelta(block.index, delta.partial_json))
                        self._hold(block, len(delta.partial_json))
                    return
            case _:
                return  # citations, and what the provider adds
        if block is None:
            self._break("a delta is of a block that is not open")

    def _stop(self, index: int, deltas: list[Delta]) -> None:
        block = self._blocks.pop(index, None)
        if block is None:
            self._break("a block ends that is not open")
            return
        self._held_chars -= block.held_chars
        if block.kind == "thinking" and block.signature:
            deltas.append(ReasoningDelta("", self._number(block), block.signature))
        elif block.kind == "tool_use":
            arguments = join_surrogates("".join(block.fragments))
            if block.whole_input and not arguments:
                arguments = block.whole_input
                deltas.append(ToolCallDelta(block.index, arguments))
            if is_object(arguments):
                deltas.append(ToolCall(block.index, block.id, block.name, arguments))
            elif not arguments.strip():
                self._bare = block
            else:
                self._has_cut_call = True

    def _number(self, block: _OpenBlock) -> int:
        if block.index < 0:
            block.index = self._blocks_count
            self._blocks_count += 1
        return block.index

    def _hold(self, block: _OpenBlock, chars: int) -> None:
        """Count characters that are held until the block ends."""
        block.held_chars += chars
        self._held_chars += chars
        if self._held_chars > MAX_HELD_CHARS:
            self._break(f"its open blocks are longer than {MAX_HELD_CHARS} characters")

    def _hold_signature(self, block: _OpenBlock, signature: str | None) -> None:
        """Keep a block's signature. A later one replaces it, as in the provider's own SDKs."""
        if signature:
            self._hold(block, len(signature) - len(block.signature))
            block.signature = signature

    def _settle_bare(self, deltas: list[Delta]) -> None:
        """A call without arguments was not cut: the answer went on after it."""
        if self._bare is not None:
            deltas.append(ToolCall(self._bare.index, self._bare.id, self._bare.name, "{}"))
            self._bare = None

    def _count(self, usage: wire.Usage | None, *, is_final: bool) -> None:
        """Take cumulative figures: each replaces its predecessor, one that is left out stands."""
        if usage is None:
            return
        counts = self._counts
        for name in wire.Usage.__struct_fields__:
            if (value := getattr(usage, name)) is not None:
                setattr(counts, name, value)
        cache_read = counts.cache_read_input_tokens
        cache_write = counts.cache_creation_input_tokens
        details = counts.output_tokens_details
        self.usage = Usage(
            input_tokens=(counts.input_tokens or 0) + (cache_read or 0) + (cache_write or 0),
            output_tokens=counts.output_tokens or 0,
            reasoning_tokens=details.thinking_tokens if details is not None else None,
            cache_read_tokens=cache_read,
            cache_write_tokens=cache_write,
            estimated=not is_final or usage.output_tokens is None,
        )

    def _finish(self, deltas: list[Delta]) -> None:
        if self._reason is None:
            self._break("it stopped without a stop reason")
            return
        is_whole = self._reason in _WHOLE
        if is_whole:
            self._settle_bare(deltas)
        has_open_call = any(block.kind == "tool_use" for block in self._blocks.values())
        if is_whole and (self._has_cut_call or has_open_call):
            self._break("the arguments of a tool call are not a JSON object")
            return
        self.end = Complete(self._reason)

    def _break(self, why: str, provider_text: str = "") -> None:
        self.end = UpstreamBroken(
            f"the provider's answer is broken: {why}", provider_text=provider_text
        )


def _nonempty_object(raw: msgspec.Raw) -> str:
    """The text of a JSON object that has members, else nothing."""
    text = bytes(raw)
    try:
        return text.decode() if loads(_objects, text, keeps_halves=False) else ""
    except msgspec.DecodeError:
        return ""
