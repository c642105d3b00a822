"""The items of an OpenAI Responses answer: parts of text and of reasoning, and function calls."""

from __future__ import annotations

import zlib

import msgspec

from ...errors import UpstreamBroken
from ...events import (
    Delta,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    ToolCallStarted,
)
from . import openai_responses_wire as wire
from .arguments import is_object

MAX_PARTS = 4096
"""Maximum number of parts and calls in one answer, and of items in its final response. An answer with more is
broken."""
MAX_BUFFERED_CHARS = 2 * 2**20
"""Maximum length of the ids and names of calls, which are kept until the answer ends. An answer with more is
broken."""

_OF_MESSAGES = frozenset({"output_text", "refusal"})
_OF_REASONING = frozenset({"summary_text", "reasoning_text"})


def sign(item_id: str, encrypted_content: str) -> str:
    """Return the signature of a reasoning item, `rs:ITEM_ID:ENCRYPTED_CONTENT`.

    A stateless conversation sends the item back, which `unsign` restores. The signature is empty if there
    is no encrypted content, or if the id contains a colon.
    """
    if not encrypted_content or not item_id or ":" in item_id:
        return ""
    return f"rs:{item_id}:{encrypted_content}"


def unsign(signature: str) -> tuple[str, str] | None:
    """Return the item id and the encrypted content of a signature by `sign`, or None for any other text."""
    kind, _, rest = signature.partition(":")
    item_id, _, encrypted_content = rest.partition(":")
    if kind != "rs" or not item_id or not encrypted_content:
        return None
    return item_id, encrypted_content


class _EmittedText:
    """The size and checksum of a text that was emitted as deltas. The text itself is not kept.

    The text counts as UTF-16, so that the halves of a surrogate pair may arrive together or separately.
    """

    __slots__ = ("crc", "index", "size")

    def __init__(self, index: int) -> None:
        self.index = index
        self.size = 0
        self.crc = 0

    def add(self, piece: str) -> None:
        units = piece.encode("utf-16-le", "surrogatepass")
        self.size += len(units)
        self.crc = zlib.crc32(units, self.crc)

    def rest(self, whole: str) -> str:
        """Return the part of `whole` after the emitted text, or "" if `whole` does not begin with it."""
        units = whole.encode("utf-16-le", "surrogatepass")
        if len(units) <= self.size or zlib.crc32(units[: self.size]) != self.crc:
            return ""
        return units[self.size :].decode("utf-16-le", "surrogatepass")


class _Call(_EmittedText):
    """A function call. The emitted text is its arguments."""

    __slots__ = ("id", "is_complete", "name")

    def __init__(self, index: int, call_id: str, name: str) -> None:
        super().__init__(index)
        self.id = call_id
        self.name = name
        self.is_complete = False


class Items:
    """The items of one answer. Converts events to deltas.

    These are blocks: each content part of a message, each function call, and each reasoning item as a
    whole, because its signature must be sent back with all of its text. The parts of a reasoning item are
    separated by an empty line. A block gets its `index` with its first delta.

    If an event repeats a text, only what was not streamed yet is emitted. So nothing is lost from servers
    that send few deltas or none, and nothing is emitted twice.

    Methods append to `deltas`. They raise UpstreamBroken, and msgspec.DecodeError for an item whose fields
    do not fit its type.
    """

    def __init__(self) -> None:
        self._parts: dict[tuple[str, int, int], _EmittedText] = {}
        """Emitted parts by type, the provider's index of their item, and their index in the item."""
        self._reasoning_indexes: dict[int, int] = {}
        """Block index of each reasoning item, by the provider's index."""
        self._signed: set[int] = set()
        self._calls: dict[int, _Call] = {}
        """Calls by the provider's index."""
        self._buffered_chars = 0
        self._blocks_count = 0
        self._has_nameless_call = False

    def finish_reason(self) -> FinishReason:
        """Return the finish reason of a completed answer. Raises UpstreamBroken if a call is incomplete."""
        calls = self._calls.values()
        if self._has_nameless_call or not all(call.is_complete for call in calls):
            raise UpstreamBroken("a function call of the provider's answer is incomplete")
        if calls:
            return FinishReason.TOOL_CALLS
        if any(part_type == "refusal" for part_type, _, _ in self._parts):
            return FinishReason.REFUSAL
        return FinishReason.STOP

    def append_text(self, part_type: str, at: wire.Event, text: str, deltas: list[Delta]) -> None:
        """Append text to the part at the event's indexes. Create the part if it is new."""
        if not text:
            return
        place = at.summary_index if part_type == "summary_text" else at.content_index
        key = (part_type, at.output_index, place)
        part = self._parts.get(key)
        if part is None:
            part = self._parts[key] = _EmittedText(self._begin_part(part_type, at, deltas))
        part.add(text)
        if part_type in _OF_MESSAGES:
            deltas.append(TextDelta(text, part.index))
        else:
            deltas.append(ReasoningDelta(text, part.index))

    def _begin_part(self, part_type: str, at: wire.Event, deltas: list[Delta]) -> int:
        """Return the index of the block that the part belongs to."""
        if part_type in _OF_MESSAGES:
            return self._next_index()
        index = self._reasoning_indexes.get(at.output_index)
        if index is None:
            index = self._reasoning_indexes[at.output_index] = self._next_index()
        else:
            self._check_bound()
            deltas.append(ReasoningDelta("\n\n", index))
        return index

    def _next_index(self) -> int:
        self._check_bound()
        self._blocks_count += 1
        return self._blocks_count - 1

    def _check_bound(self) -> None:
        if len(self._parts) + len(self._reasoning_indexes) + len(self._calls) >= MAX_PARTS:
            raise UpstreamBroken("the provider's answer has too many parts")

    def update_part(self, part: wire.Part, at: wire.Event, deltas: list[Delta]) -> None:
        """Emit the text of a part that was not streamed yet."""
        whole = part.refusal if part.type == "refusal" else part.text
        if not whole or (part.type not in _OF_MESSAGES and part.type not in _OF_REASONING):
            return
        place = at.summary_index if part.type == "summary_text" else at.content_index
        emitted = self._parts.get((part.type, at.output_index, place))
        text = whole if emitted is None else emitted.rest(whole)
        self.append_text(part.type, at, text, deltas)

    def _update_parts(self, parts: list[wire.Part] | None, at: int, deltas: list[Delta]) -> None:
        for place, part in enumerate(parts or ()):
            event = wire.Event(output_index=at, content_index=place, summary_index=place)
            self.update_part(part, event, deltas)

    def begin_item(self, item: msgspec.Raw, at: int, deltas: list[Delta]) -> None:
        """Begin an item at the provider's index `at`."""
        if wire.read_typed(item).type == "function_call":
            self._begin_call(wire.read_function_call(item), at, deltas)

    def finish_item(self, item: msgspec.Raw, at: int, deltas: list[Delta]) -> None:
        """Emit the content of a finished item that was not streamed yet, its signature, or its call."""
        match wire.read_typed(item).type:
            case "message":
                self._update_parts(wire.read_message(item).content, at, deltas)
            case "reasoning":
                self._finish_reasoning(wire.read_reasoning(item), at, deltas)
            case "function_call":
                self._finish_call(wire.read_function_call(item), at, deltas)
            case _:
                pass

    def add_missing(self, output: list[msgspec.Raw] | None, deltas: list[Delta]) -> None:
        """Emit items of the final response whose kind was not streamed.

        Servers may number and name the items differently than in the stream, so only their kinds are
        compared. Open calls are found by their id.
        """
        if output is not None and len(output) > MAX_PARTS:
            raise UpstreamBroken("the provider's answer has too many items")
        has_text = any(part_type in _OF_MESSAGES for part_type, _, _ in self._parts)
        has_reasoning = bool(self._reasoning_indexes)
        has_calls = bool(self._calls)
        open_calls = {call.id: at for at, call in self._calls.items() if not call.is_complete}
        for at, item in enumerate(output or ()):
            kind = wire.read_typed(item).type
            if kind == "function_call" and has_calls:
                call = wire.read_function_call(item)
                if call.call_id in open_calls:
                    self._finish_call(call, open_calls[call.call_id], deltas)
            elif not (has_text if kind == "message" else has_reasoning and kind == "reasoning"):
                self.finish_item(item, at, deltas)

    def _finish_reasoning(self, item: wire.ReasoningItem, at: int, deltas: list[Delta]) -> None:
        self._update_parts(item.summary, at, deltas)
        self._update_parts(item.content, at, deltas)
        signature = sign(item.id or "", item.encrypted_content or "")
        # The encrypted content of an incomplete item may be incomplete, too.
        if signature and item.status != "incomplete" and at not in self._signed:
            if at not in self._reasoning_indexes:
                self._reasoning_indexes[at] = self._next_index()
            self._signed.add(at)
            deltas.append(ReasoningDelta("", self._reasoning_indexes[at], signature))

    def _begin_call(self, item: wire.FunctionCall, at: int, deltas: list[Delta]) -> _Call | None:
        """Return the call of an item, which may be new, or None if its id or name is unknown."""
        call = self._calls.get(at)
        if call is not None and item.call_id in (call.id, "", None):
            return call
        if not item.call_id or not item.name:
            return None
        if call is not None and not call.is_complete:
            raise UpstreamBroken("the provider's answer has two function calls with one index")
        if call is not None:
            self._buffered_chars -= len(call.id) + len(call.name)
        self._buffered_chars += len(item.call_id) + len(item.name)
        if self._buffered_chars > MAX_BUFFERED_CHARS:
            raise UpstreamBroken("the ids and names of the provider's function calls are too long")
        call = self._calls[at] = _Call(self._next_index(), item.call_id, item.name)
        deltas.append(ToolCallStarted(call.index, call.id, call.name))
        return call

    def append_arguments(self, arguments_json: str, at: int, deltas: list[Delta]) -> None:
        """Append a fragment to the arguments of the call at the provider's index `at`."""
        call = self._calls.get(at)
        if call is not None and not call.is_complete and arguments_json:
            call.add(arguments_json)
            deltas.append(ToolCallDelta(call.index, arguments_json))

    def _finish_call(self, item: wire.FunctionCall, at: int, deltas: list[Delta]) -> None:
        call = self._begin_call(item, at, deltas)
        if call is None:
            self._has_nameless_call = True
            return
        if call.is_complete or item.status == "incomplete":
            return
        arguments = item.arguments or ""
        if arguments.strip():
            if not is_object(arguments):
                return
            self.append_arguments(call.rest(arguments), at, deltas)
        elif call.size:
            return
        else:
            arguments = "{}"
        call.is_complete = True
        deltas.append(ToolCall(call.index, call.id, call.name, arguments))
