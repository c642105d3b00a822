"""The content blocks of an answer in Anthropic's Messages format."""

from __future__ import annotations

import msgspec

from ....events import (
    Delta,
    InvalidToolCall,
    ReasoningDelta,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    ToolCallStarted,
)
from ...state import tag
from ..arguments import check_object
from ..json import join_surrogates, loads
from ..openai_chat.blocks import generated_id
from . import wire
from .carried import CARRIED, MAX_CARRIED_CHARS, CarriedBlock, caller_state

REDACTED = "redacted:"
"""Prefix of a signature with the data of a redacted block, which must be sent back as such a block."""
MAX_OPEN_BLOCKS = 64
"""Maximum number of open blocks; the provider sends one after another. An answer with more is broken."""
MAX_BUFFERED_CHARS = 2 * 2**20
"""Maximum length of ids, names, arguments and signatures of open blocks. An answer with more is broken."""


class BrokenBlocksError(Exception):
    """The blocks of the answer violate the format. The message says how."""


class _Block:
    """A content block between its start and its stop."""

    __slots__ = (
        "buffered_chars",
        "carried",
        "fragments",
        "id",
        "index",
        "initial_input",
        "kind",
        "name",
        "signature",
        "state",
    )

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.carried: CarriedBlock | None = None
        self.index = -1
        """Ordinal of the block, assigned when it first emits something."""
        self.id = ""
        self.name = ""
        self.fragments: list[str] = []
        """Fragments of a tool call's arguments."""
        self.initial_input = ""
        """Arguments in the start event. Some compatible servers send no fragments."""
        self.signature = ""
        self.state = b""
        """Provider state of a tool call."""
        self.buffered_chars = 0
        """Length of all texts that are kept for this block."""


_TEXT = ("text", "")
_THINKING = ("thinking", "")
"""Kinds of blocks with text or thinking. A block that started without a type can have both."""

_objects = msgspec.json.Decoder(dict[str, msgspec.Raw])
_texts = msgspec.json.Decoder(str)


class Blocks:
    """Numbers the blocks of one answer and assembles its tool calls. Methods raise BrokenBlocksError.

    `index` counts the blocks that emit something, in the order of their first delta. Empty blocks and
    ignored blocks do not count.

    A signature is emitted as one delta without text when its thinking block ends. A redacted block is
    emitted as one delta whose signature is `REDACTED` and the block's data. Both get an empty provider
    state, so that they are sent back to this provider only. Some servers do not sign thinking: it gets an
    empty state as soon as it is certain that it was not cut off. Carried blocks are emitted as a delta of
    reasoning that has only their state.

    A tool call is complete when its block ends and its arguments are a JSON object. A call with other
    arguments, or without any, may have been cut off. So it is kept until the answer continues, which shows
    that the model completed it, or until the answer ends. Then the stop reason decides.
    """

    __slots__ = (
        "_buffered_chars",
        "_carried_chars",
        "_count",
        "_last_index",
        "_open",
        "_provider",
        "_state",
        "_undecided_call",
        "_unsigned_index",
        "has_call",
        "has_invalid_call",
        "response_id",
    )

    def __init__(self, provider: str) -> None:
        self.response_id = ""
        """The provider's id of the answer. Calls without an id get one that is made from it."""
        self.has_call = False
        """Whether a complete call was emitted."""
        self.has_invalid_call = False
        """Whether a call was emitted whose arguments are not a JSON object."""
        self._open: dict[int, _Block] = {}
        """Open blocks by the provider's index."""
        self._last_index = -1
        """The provider's index of the latest block."""
        self._count = 0
        """Number of blocks that have emitted something."""
        self._buffered_chars = 0
        self._undecided_call: _Block | None = None
        """A call that ended without a JSON object, while it is not known whether it was cut off."""
        self._unsigned_index: int | None = None
        """Index of thinking that ended without a signature, while it is not known whether it was cut off."""
        self._carried_chars = 0
        """Length of all carried blocks."""
        self._provider = provider
        self._state = tag(provider, b"")

    def start(
        self, index: int | None, content: wire.Block, payload: bytes, deltas: list[Delta]
    ) -> None:
        """Start a block. Without an index, it follows the latest one. `payload` is the whole event."""
        self._decide(deltas)
        if index is None:
            index = self._last_index + 1
        self._last_index = index
        if index in self._open or len(self._open) >= MAX_OPEN_BLOCKS:
            raise BrokenBlocksError("too many blocks are open, or a block started twice")
        block = self._open[index] = _Block(content.type or wire.type_of_block(content))
        match block.kind:
            case "text":
                if content.text:
                    deltas.append(TextDelta(content.text, self._index_of(block)))
                for citation in content.citations or ():
                    self._cite(block, citation, deltas)
            case "thinking":
                if content.thinking:
                    deltas.append(ReasoningDelta(content.thinking, self._index_of(block)))
                self._keep_signature(block, content.signature)
            case "redacted_thinking":
                if content.data:
                    signature = REDACTED + content.data
                    deltas.append(ReasoningDelta("", self._index_of(block), signature, self._state))
            case "tool_use":
                if not content.name:
                    raise BrokenBlocksError("a tool call has no name")
                index = self._index_of(block)
                block.id = content.id or generated_id(self.response_id, index)
                block.name = content.name
                deltas.append(ToolCallStarted(index, block.id, block.name))
                block.initial_input = _nonempty_object(content.input)
                if state := caller_state(content.caller):
                    block.state = tag(self._provider, state)
                chars = len(block.id) + len(block.name) + len(block.initial_input)
                self._count_chars(block, chars)
            case kind if kind in CARRIED:
                block.carried = CarriedBlock(payload)
                self._count_carried(block, block.carried.chars)
            case _:
                pass  # ignored content, but its deltas need an open block

    def add(self, index: int | None, delta: wire.Delta, deltas: list[Delta]) -> None:
        """Add a delta to a block. Without an index, it belongs to the latest block."""
        block = self._open.get(self._last_index if index is None else index)
        match delta.type:
            case "text_delta":
                if block is not None and block.kind in _TEXT:
                    if delta.text:
                        deltas.append(TextDelta(delta.text, self._index_of(block)))
                    return
            case "thinking_delta":
                if block is not None and block.kind in _THINKING:
                    if delta.thinking:
                        deltas.append(ReasoningDelta(delta.thinking, self._index_of(block)))
                    return
            case "signature_delta":
                if block is not None and block.kind in _THINKING:
                    self._keep_signature(block, delta.signature)
                    return
            case "input_json_delta":
                if block is not None and block.kind == "tool_use":
                    if delta.partial_json:
                        block.fragments.append(delta.partial_json)
                        deltas.append(ToolCallDelta(block.index, delta.partial_json))
                        self._count_chars(block, len(delta.partial_json))
                    return
            case "" if type_ := wire.type_of_delta(delta):
                delta.type = type_
                self.add(index, delta, deltas)
                return
            case "citations_delta":
                if block is not None and block.kind in _TEXT and delta.citation is not None:
                    self._cite(block, delta.citation, deltas)
                return
            case "compaction_delta":
                pass
            case _:
                return  # unknown deltas
        if block is not None and block.carried is not None:
            self._count_carried(block, block.carried.add(delta))
        elif block is None:
            raise BrokenBlocksError("a delta belongs to a block that is not open")

    def stop(self, index: int | None, deltas: list[Delta]) -> None:
        """Stop a block. Without an index, it is the latest one. Proxies stop a block twice."""
        if index is None:
            index = self._last_index
        block = self._open.pop(index, None)
        if block is None:
            if 0 <= index <= self._last_index:
                return
            raise BrokenBlocksError("a block ended that never began")
        if block.kind == "tool_use":
            self._stop_call(block, deltas)
            return
        self._buffered_chars -= block.buffered_chars
        if block.signature:
            deltas.append(ReasoningDelta("", self._index_of(block), block.signature, self._state))
        elif block.kind == "thinking" and block.index >= 0:
            self._decide(deltas)
            self._unsigned_index = block.index
        elif block.carried is not None and (state := block.carried.state()):
            state = tag(self._provider, state)
            deltas.append(ReasoningDelta("", self._index_of(block), provider_state=state))

    def finish(self, deltas: list[Delta], *, is_cut: bool) -> None:
        """Handle the end of the answer.

        `is_cut` means that a limit, a filter or a pause ended the answer, perhaps within a block. Then a call
        without complete arguments is left as it is, and so is thinking without a signature.
        """
        if is_cut:
            return
        if any(block.kind == "tool_use" for block in self._open.values()):
            raise BrokenBlocksError("a tool call has no end")
        call = self._undecided_call
        if call is not None and check_object(_arguments(call)).is_cut:
            raise BrokenBlocksError("the arguments of a tool call are cut off")
        self._decide(deltas)

    def _cite(self, block: _Block, citation: wire.Citation, deltas: list[Delta]) -> None:
        if citation.has_source:
            deltas.append(citation.event(self._index_of(block)))

    def _stop_call(self, block: _Block, deltas: list[Delta]) -> None:
        if block.initial_input and not block.fragments:
            block.fragments.append(block.initial_input)
            deltas.append(ToolCallDelta(block.index, block.initial_input))
        arguments = _arguments(block)
        if check_object(arguments).is_object:
            self._emit_call(block, arguments, deltas)
        else:
            self._decide_call(deltas)
            self._undecided_call = block

    def _decide(self, deltas: list[Delta]) -> None:
        """Complete the blocks that ended and might have been cut off: now it is known that they were not."""
        if self._undecided_call is not None:
            self._decide_call(deltas)
        if self._unsigned_index is not None:
            deltas.append(ReasoningDelta("", self._unsigned_index, provider_state=self._state))
            self._unsigned_index = None

    def _decide_call(self, deltas: list[Delta]) -> None:
        """Emit a call that ended without a JSON object, because the model completed it."""
        call, self._undecided_call = self._undecided_call, None
        if call is None:
            return
        arguments = _arguments(call)
        if arguments.strip() in ("", "null"):
            self._emit_call(call, "{}", deltas)
            return
        self.has_invalid_call = True
        self._buffered_chars -= call.buffered_chars
        problem = check_object(arguments).problem
        deltas.append(InvalidToolCall(call.index, call.id, call.name, arguments, problem))

    def _emit_call(self, block: _Block, arguments: str, deltas: list[Delta]) -> None:
        self.has_call = True
        self._buffered_chars -= block.buffered_chars
        deltas.append(ToolCall(block.index, block.id, block.name, arguments, block.state))

    def _index_of(self, block: _Block) -> int:
        if block.index < 0:
            block.index = self._count
            self._count += 1
        return block.index

    def _count_chars(self, block: _Block, chars: int) -> None:
        """Count characters that are kept until the block ends."""
        block.buffered_chars += chars
        self._buffered_chars += chars
        if self._buffered_chars > MAX_BUFFERED_CHARS:
            raise BrokenBlocksError(
                f"its open blocks are longer than {MAX_BUFFERED_CHARS} characters"
            )

    def _count_carried(self, block: _Block, chars: int) -> None:
        """Count characters of a carried block. If there are too many, the block is dropped."""
        self._carried_chars += chars
        if self._carried_chars > MAX_CARRIED_CHARS:
            block.carried = None

    def _keep_signature(self, block: _Block, signature: str | None) -> None:
        """Keep a block's signature. A later signature replaces it, as in the provider's SDKs."""
        if signature:
            self._count_chars(block, len(signature) - len(block.signature))
            block.signature = signature


def _arguments(call: _Block) -> str:
    return join_surrogates("".join(call.fragments))


def _nonempty_object(raw: msgspec.Raw) -> str:
    """Return the text of a JSON object, or "" if it has no members or is not an object.

    Some servers write the object as a text. Bytes that are not UTF-8 become U+FFFD.
    """
    text = bytes(raw).decode(errors="replace")
    try:
        if text.startswith('"'):
            text = loads(_texts, text.encode(), keep_surrogates=False)
        return text if loads(_objects, text.encode(), keep_surrogates=False) else ""
    except msgspec.DecodeError:
        return ""
