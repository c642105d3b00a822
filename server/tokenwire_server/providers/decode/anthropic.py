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
from . import errors
from .arguments import is_object
from .base import MAX_NAME_CHARS, Complete
from .json import SurrogateJoiner, join_surrogates, loads, log_text
from .sse import SSEFramer

REDACTED = "redacted:"
"""Prefix of a signature with the data of a redacted block, which must be sent back as such a block."""
MAX_OPEN_BLOCKS = 64
"""Maximum number of open blocks; the provider sends one after another. An answer with more is broken."""
MAX_BUFFERED_CHARS = 2 * 2**20
"""Maximum length of ids, names, arguments and signatures of open blocks. An answer with more is broken."""

_COMPLETE = frozenset({FinishReason.STOP, FinishReason.TOOL_CALLS})
"""Finish reasons of answers that do not end within a tool call."""


class _OpenBlock:
    """A content block between its start and its stop."""

    __slots__ = (
        "buffered_chars",
        "fragments",
        "id",
        "index",
        "initial_input",
        "kind",
        "name",
        "signature",
    )

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.index = -1
        """Ordinal of the block, assigned when it first emits something."""
        self.id = ""
        self.name = ""
        self.fragments: list[str] = []
        """Fragments of a tool call's arguments."""
        self.initial_input = ""
        """Arguments in the start event. Some compatible servers send no fragments."""
        self.signature = ""
        self.buffered_chars = 0
        """Length of all texts that are kept for this block."""


_objects = msgspec.json.Decoder(dict[str, msgspec.Raw])


class AnthropicDecoder:
    """Decoder of one answer in the Messages format.

    `index` counts the blocks that emit something, in the order of their first delta. Empty blocks and
    ignored blocks do not count.

    A signature is emitted as one delta without text when its thinking block ends. A redacted block is
    emitted as one delta whose signature is `REDACTED` and the block's data.

    A tool call is complete when its block ends and its arguments are a JSON object. If they are not, it
    depends on the stop reason: if the answer was cut off (MAX_TOKENS, REFUSAL, ...), the call is never
    completed; otherwise the answer is broken. A call without arguments may have been cut off before them,
    so it is completed only at the start of the next block or at the stop reason.

    An unknown stop reason becomes STOP. An answer without a stop reason or without `message_stop` is
    broken.

    Until the provider reports the output tokens, `usage` contains its placeholder and is `estimated`.
    """

    def __init__(self, *, provider: str = "") -> None:
        self.end: Complete | UpstreamError | None = None
        self.usage: Usage | None = None
        self.response_id = ""
        self.model = ""
        self.problem = ""
        self._provider = provider
        self._framer = SSEFramer()
        self._surrogates = SurrogateJoiner()
        self._counts = wire.Usage()
        self._blocks: dict[int, _OpenBlock] = {}
        """Open blocks by the provider's index."""
        self._blocks_count = 0
        """Number of blocks that have emitted something."""
        self._buffered_chars = 0
        self._call_without_arguments: _OpenBlock | None = None
        """A tool call that ended without arguments, as long as it may have been cut off."""
        self._has_cut_call = False
        self._reason: FinishReason | None = None

    def feed(self, data: bytes) -> list[Delta]:
        if self.end is not None:
            return []
        return self._decode_events(self._framer.feed(data))

    def eof(self) -> list[Delta]:
        """Handle the end of the body. A complete last event counts even without its blank line."""
        if self.end is not None:
            return []
        deltas = self._decode_events(self._framer.eof())
        if self.end is None:
            self._fail("it ended without message_stop")
            deltas += self._surrogates.flush()
        return deltas

    def _decode_events(self, events: list[tuple[bytes, bytes]]) -> list[Delta]:
        deltas: list[Delta] = []
        for name, payload in events:
            self._decode_event(name, payload, deltas)
            if self.end is not None:
                break
        else:
            if self._framer.overflowed:
                self._fail("an event is too long")
        deltas = self._surrogates.join(deltas)
        if self.end is not None:
            deltas += self._surrogates.flush()
        return deltas

    def _decode_event(self, name: bytes, payload: bytes, deltas: list[Delta]) -> None:
        try:
            event = wire.read_event(payload)
        except msgspec.DecodeError as error:
            # The error may be in another server's or a proxy's format, which has no type of event.
            self.end = errors.from_event(payload) if name == b"error" else errors.find(payload)
            if self.end is None:
                self._fail("an event is invalid", log_text(payload, error))
            return
        match event.type:
            case "content_block_delta" if event.delta is not None:
                self._add_delta(event.index, event.delta, deltas)
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
                self.end = errors.from_event(payload)
            case "content_block_delta" | "content_block_start":
                self._fail("an event has no delta or content block")
            case _:
                pass  # ping and unknown events

    def _start(self, index: int, content: wire.Block, deltas: list[Delta]) -> None:
        self._complete_call_without_arguments(deltas)
        if index in self._blocks or len(self._blocks) >= MAX_OPEN_BLOCKS:
            self._fail("too many blocks are open, or a block started twice")
            return
        block = self._blocks[index] = _OpenBlock(content.type)
        match content.type:
            case "text":
                if content.text:
                    deltas.append(TextDelta(content.text, self._index_of(block)))
            case "thinking":
                if content.thinking:
                    deltas.append(ReasoningDelta(content.thinking, self._index_of(block)))
                self._keep_signature(block, content.signature)
            case "redacted_thinking":
                if content.data:
                    signature = REDACTED + content.data
                    deltas.append(ReasoningDelta("", self._index_of(block), signature))
            case "tool_use":
                block.id = content.id or ""
                block.name = content.name or ""
                deltas.append(ToolCallStarted(self._index_of(block), block.id, block.name))
                block.initial_input = _nonempty_object(content.input)
                chars = len(block.id) + len(block.name) + len(block.initial_input)
                self._count_chars(block, chars)
            case _:
                pass  # ignored content; its deltas must find an open block

    def _add_delta(self, index: int, delta: wire.Delta, deltas: list[Delta]) -> None:
        block = self._blocks.get(index)
        match delta.type:
            case "text_delta":
                if block is not None and block.kind == "text":
                    if delta.text:
                        deltas.append(TextDelta(delta.text, self._index_of(block)))
                    return
            case "thinking_delta":
                if block is not None and block.kind == "thinking":
                    if delta.thinking:
                        deltas.append(ReasoningDelta(delta.thinking, self._index_of(block)))
                    return
            case "signature_delta":
                if block is not None and block.kind == "thinking":
                    self._keep_signature(block, delta.signature)
                    return
            case "input_json_delta":
                if block is not None and block.kind == "tool_use":
                    if delta.partial_json:
                        block.fragments.append(delta.partial_json)
                        deltas.append(ToolCallDelta(block.index, delta.partial_json))
                        self._count_chars(block, len(delta.partial_json))
                    return
            case _:
                return  # citations and unknown deltas
        if block is None:
            self._fail("a delta belongs to a block that is not open")

    def _stop(self, index: int, deltas: list[Delta]) -> None:
        block = self._blocks.pop(index, None)
        if block is None:
            self._fail("a block ended that was not open")
            return
        self._buffered_chars -= block.buffered_chars
        if block.kind == "thinking" and block.signature:
            deltas.append(ReasoningDelta("", self._index_of(block), block.signature))
        elif block.kind == "tool_use":
            arguments = join_surrogates("".join(block.fragments))
            if block.initial_input and not arguments:
                arguments = block.initial_input
                deltas.append(ToolCallDelta(block.index, arguments))
            if is_object(arguments):
                deltas.append(ToolCall(block.index, block.id, block.name, arguments))
            elif not arguments.strip():
                self._call_without_arguments = block
            else:
                self._has_cut_call = True

    def _index_of(self, block: _OpenBlock) -> int:
        if block.index < 0:
            block.index = self._blocks_count
            self._blocks_count += 1
        return block.index

    def _count_chars(self, block: _OpenBlock, chars: int) -> None:
        """Count characters that are kept until the block ends."""
        block.buffered_chars += chars
        self._buffered_chars += chars
        if self._buffered_chars > MAX_BUFFERED_CHARS:
            self._fail(f"its open blocks are longer than {MAX_BUFFERED_CHARS} characters")

    def _keep_signature(self, block: _OpenBlock, signature: str | None) -> None:
        """Keep a block's signature. A later signature replaces it, as in the provider's SDKs."""
        if signature:
            self._count_chars(block, len(signature) - len(block.signature))
            block.signature = signature

    def _complete_call_without_arguments(self, deltas: list[Delta]) -> None:
        """Complete a call that ended without arguments. The answer continued, so it was not cut off."""
        call = self._call_without_arguments
        if call is not None:
            deltas.append(ToolCall(call.index, call.id, call.name, "{}"))
            self._call_without_arguments = None

    def _count(self, usage: wire.Usage | None, *, is_final: bool) -> None:
        """Update the cumulative figures. A figure that is not sent again keeps its value."""
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
            self._fail("it ended without a stop reason")
            return
        is_complete = self._reason in _COMPLETE
        if is_complete:
            self._complete_call_without_arguments(deltas)
        has_open_call = any(block.kind == "tool_use" for block in self._blocks.values())
        if is_complete and (self._has_cut_call or has_open_call):
            self._fail("the arguments of a tool call are not a JSON object")
            return
        self.end = Complete(self._reason)

    def _fail(self, why: str, provider_text: str = "") -> None:
        self.end = UpstreamBroken(
            f"the provider's answer is broken: {why}", provider_text=provider_text
        )


def _nonempty_object(raw: msgspec.Raw) -> str:
    """Return the text of a JSON object, or "" if it has no members or is not an object."""
    text = bytes(raw)
    try:
        return text.decode() if loads(_objects, text, keep_surrogates=False) else ""
    except msgspec.DecodeError:
        return ""
