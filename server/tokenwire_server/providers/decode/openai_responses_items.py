"""The items of an OpenAI Responses answer, as they grow: parts of text and of reasoning, calls."""

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
"""Most parts of messages and of reasoning, and calls, in one answer, and most items in its final response. An
answer with more is broken."""
MAX_HELD_CHARS = 2 * 2**20
"""Ids and names of calls, held until the answer ends. Past it: broken."""

_OF_MESSAGES = frozenset({"output_text", "refusal"})
_OF_REASONING = frozenset({"summary_text", "reasoning_text"})


def sign(item_id: str, encrypted_content: str) -> str:
    """The signature of a reasoning item: `rs:ITEM_ID:ENCRYPTED_CONTENT`.

    A stateless conversation sends the item back, and `unsign` is how. Empty when there is nothing
    encrypted to send, or when the id could not be told apart from it again.
    """
    if not encrypted_content or not item_id or ":" in item_id:
        return ""
    return f"rs:{item_id}:{encrypted_content}"


def unsign(signature: str) -> tuple[str, str] | None:
    """Item id and encrypted content of a signature by `sign`; None for any other text."""
    kind, _, rest = signature.partition(":")
    item_id, _, encrypted_content = rest.partition(":")
    if kind != "rs" or not item_id or not encrypted_content:
        return None
    return item_id, encrypted_content


class _Growing:
    """A text that grows by deltas: how much of it was emitted, without keeping it.

    Counted in UTF-16, the same whether a character came whole or in two halves.
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
        """What `whole` has beyond what was emitted; nothing if that is not how it begins."""
        units = whole.encode("utf-16-le", "surrogatepass")
        if len(units) <= self.size or zlib.crc32(units[: self.size]) != self.crc:
            return ""
        return units[self.size :].decode("utf-16-le", "surrogatepass")


class _Call(_Growing):
    """A function call, and its arguments as they grow."""

    __slots__ = ("id", "is_whole", "name")

    def __init__(self, index: int, call_id: str, name: str) -> None:
        super().__init__(index)
        self.id = call_id
        self.name = name
        self.is_whole = False


class Items:
    """The items of one answer: what each event adds to them, as deltas.

    A block, with an `index` from its first delta, is each content part of a message, each function
    call, and each reasoning item as a whole: its signature must come back with all of its text. Its
    parts are separated by an empty line.

    What an event repeats is emitted as far as it goes on from what was streamed: servers that send
    few deltas, or none, lose nothing, and nothing comes twice.

    Methods append to `deltas`; they raise UpstreamBroken, and msgspec.DecodeError for an item that
    is not of its type's shape.
    """

    def __init__(self) -> None:
        self._parts: dict[tuple[str, int, int], _Growing] = {}
        """By the part's type, the provider's index of its item, and its index in that."""
        self._thoughts: dict[int, int] = {}
        """Our index of each reasoning item, by the provider's."""
        self._signed: set[int] = set()
        self._calls: dict[int, _Call] = {}
        """By the provider's index."""
        self._held_chars = 0
        self._blocks_count = 0
        self._has_nameless_call = False

    def finish_reason(self) -> FinishReason:
        """Why an answer of these items was completed. Raises UpstreamBroken if a call is not whole."""
        calls = self._calls.values()
        if self._has_nameless_call or not all(call.is_whole for call in calls):
            raise UpstreamBroken("a function call of the provider's answer is not whole")
        if calls:
            return FinishReason.TOOL_CALLS
        if any(part_type == "refusal" for part_type, _, _ in self._parts):
            return FinishReason.REFUSAL
        return FinishReason.STOP

    def grow(self, part_type: str, at: wire.Event, text: str, deltas: list[Delta]) -> None:
        """Append text to the part at a place, which begins with it if it is new."""
        if not text:
            return
        place = at.summary_index if part_type == "summary_text" else at.content_index
        key = (part_type, at.output_index, place)
        part = self._parts.get(key)
        if part is None:
            part = self._parts[key] = _Growing(self._begin_part(part_type, at, deltas))
        part.add(text)
        if part_type in _OF_MESSAGES:
            deltas.append(TextDelta(text, part.index))
        else:
            deltas.append(ReasoningDelta(text, part.index))

    def _begin_part(self, part_type: str, at: wire.Event, deltas: list[Delta]) -> int:
        """Index of the block that the part belongs to."""
        if part_type in _OF_MESSAGES:
            return self._next_index()
        index = self._thoughts.get(at.output_index)
        if index is None:
            index = self._thoughts[at.output_index] = self._next_index()
        else:
            self._check_bound()
            deltas.append(ReasoningDelta("\n\n", index))
        return index

    def _next_index(self) -> int:
        self._check_bound()
        self._blocks_count += 1
        return self._blocks_count - 1

    def _check_bound(self) -> None:
        if len(self._parts) + len(self._thoughts) + len(self._calls) >= MAX_PARTS:
            raise UpstreamBroken("the provider's answer has too many parts")

    def take_part(self, part: wire.Part, at: wire.Event, deltas: list[Delta]) -> None:
        """Emit what a part, as it stands, has beyond its deltas."""
        whole = part.refusal if part.type == "refusal" else part.text
        if not whole or (part.type not in _OF_MESSAGES and part.type not in _OF_REASONING):
            return
        place = at.summary_index if part.type == "summary_text" else at.content_index
        grown = self._parts.get((part.type, at.output_index, place))
        self.grow(part.type, at, whole if grown is None else grown.rest(whole), deltas)

    def _take_parts(self, parts: list[wire.Part] | None, at: int, deltas: list[Delta]) -> None:
        for place, part in enumerate(parts or ()):
            event = wire.Event(output_index=at, content_index=place, summary_index=place)
            self.take_part(part, event, deltas)

    def begin_item(self, item: msgspec.Raw, at: int, deltas: list[Delta]) -> None:
        """An item begins at the provider's index `at`."""
        if wire.read_typed(item).type == "function_call":
            self._begin_call(wire.read_function_call(item), at, deltas)

    def take_item(self, item: msgspec.Raw, at: int, deltas: list[Delta]) -> None:
        """Emit what a done item has beyond its deltas, and what comes with its end."""
        match wire.read_typed(item).type:
            case "message":
                self._take_parts(wire.read_message(item).content, at, deltas)
            case "reasoning":
                self._take_reasoning(wire.read_reasoning(item), at, deltas)
            case "function_call":
                self._take_call(wire.read_function_call(item), at, deltas)
            case _:
                pass

    def take_output(self, output: list[msgspec.Raw] | None, deltas: list[Delta]) -> None:
        """Emit of the final response's items what nothing came of before: by kind, since servers
        number or name them otherwise than in the stream. Calls still open are told by their id.
        """
        if output is not None and len(output) > MAX_PARTS:
            raise UpstreamBroken("the provider's answer has too many items")
        has_text = any(part_type in _OF_MESSAGES for part_type, _, _ in self._parts)
        has_thoughts = bool(self._thoughts)
        has_calls = bool(self._calls)
        open_calls = {call.id: at for at, call in self._calls.items() if not call.is_whole}
        for at, item in enumerate(output or ()):
            kind = wire.read_typed(item).type
            if kind == "function_call" and has_calls:
                call = wire.read_function_call(item)
                if call.call_id in open_calls:
                    self._take_call(call, open_calls[call.call_id], deltas)
            elif not (has_text if kind == "message" else has_thoughts and kind == "reasoning"):
                self.take_item(item, at, deltas)

    def _take_reasoning(self, item: wire.ReasoningItem, at: int, deltas: list[Delta]) -> None:
        self._take_parts(item.summary, at, deltas)
        self._take_parts(item.content, at, deltas)
        signature = sign(item.id or "", item.encrypted_content or "")
        # What is encrypted of an item that was cut off may be cut off too.
        if signature and item.status != "incomplete" and at not in self._signed:
            if at not in self._thoughts:
                self._thoughts[at] = self._next_index()
            self._signed.add(at)
            deltas.append(ReasoningDelta("", self._thoughts[at], signature))

    def _begin_call(self, item: wire.FunctionCall, at: int, deltas: list[Delta]) -> _Call | None:
        """The call that an item begins or goes on with; None while its id or name is not known."""
        call = self._calls.get(at)
        if call is not None and item.call_id in (call.id, "", None):
            return call
        if not item.call_id or not item.name:
            return None
        if call is not None and not call.is_whole:
            raise UpstreamBroken("the provider's answer has two function calls in one place")
        if call is not None:
            self._held_chars -= len(call.id) + len(call.name)
        self._held_chars += len(item.call_id) + len(item.name)
        if self._held_chars > MAX_HELD_CHARS:
            raise UpstreamBroken("the ids and names of the provider's function calls are too long")
        call = self._calls[at] = _Call(self._next_index(), item.call_id, item.name)
        deltas.append(ToolCallStarted(call.index, call.id, call.name))
        return call

    def grow_call(self, arguments_json: str, at: int, deltas: list[Delta]) -> None:
        """Append a fragment to the arguments of the call at the provider's index `at`."""
        call = self._calls.get(at)
        if call is not None and not call.is_whole and arguments_json:
            call.add(arguments_json)
            deltas.append(ToolCallDelta(call.index, arguments_json))

    def _take_call(self, item: wire.FunctionCall, at: int, deltas: list[Delta]) -> None:
        call = self._begin_call(item, at, deltas)
        if call is None:
            self._has_nameless_call = True
            return
        if call.is_whole or item.status == "incomplete":
            return
        arguments = item.arguments or ""
        if arguments.strip():
            if not is_object(arguments):
                return
            self.grow_call(call.rest(arguments), at, deltas)
        elif call.size:
            return
        else:
            arguments = "{}"
        call.is_whole = True
        deltas.append(ToolCall(call.index, call.id, call.name, arguments))
