"""The content blocks of a Chat Completions answer, which the format itself does not number.

A block goes on while deltas of its kind follow one another. Tool calls are the exception: they may
run side by side, each told apart by the format's own `index`, where the server sends one.
"""

from __future__ import annotations

from hashlib import blake2s

from ...events import Delta, ReasoningDelta, TextDelta, ToolCall, ToolCallDelta, ToolCallStarted
from .arguments import Arguments, is_object
from .json import join_surrogates

MAX_CALLS = 4096
"""Tool calls of one answer. Past it: TooMuch."""
MAX_HELD_CHARS = 2 * 2**20
"""Ids, names and arguments held until the answer ends, all calls together. Past it: TooMuch."""


class TooMuch(Exception):  # says what it is
    """The answer's tool calls exceed what is held of them."""


class NotWhole(Exception):  # says what it is
    """A tool call of a finished answer has no name, or arguments that are not a JSON object."""


class _Call:
    __slots__ = ("arguments", "id", "index", "name")

    def __init__(self) -> None:
        self.id = ""
        """As the server gave it."""
        self.name = ""
        self.index = -1
        """Our ordinal, given with the name."""
        self.arguments = Arguments()


class Blocks:
    """Numbers the blocks of one answer and puts its tool calls together.

    Servers differ in how they tell calls apart. Some send each call whole and all under one index,
    or without any; some repeat id or name in every fragment, or make up a new id for each. So a
    fragment begins a call when it bears a name, and its id or name is not that of the call at its
    place, or that call's arguments are whole already.

    A call without an id gets one, made of the answer's id and the block's index, so that its result
    can refer to it.
    """

    __slots__ = ("_at", "_calls", "_count", "_held_chars", "_index", "_open")

    def __init__(self) -> None:
        self._count = 0
        self._open: str | None = None
        """Kind of the block that the next delta of the same kind goes on with."""
        self._index = -1
        self._calls: list[_Call] = []
        self._at: dict[int | str, _Call] = {}
        """The latest call at each index, and for calls that came without an index at each id."""
        self._held_chars = 0

    @property
    def has_calls(self) -> bool:
        return bool(self._calls)

    def text(self, text: str, kind: str = "text") -> TextDelta:
        """Go on with a block of text. `kind` tells an answer from a refusal."""
        if self._open != kind:
            self._begin(kind)
        return TextDelta(text, self._index)

    def reasoning(self, text: str) -> ReasoningDelta:
        if self._open != "reasoning":
            self._begin("reasoning")
        return ReasoningDelta(text, self._index)

    def call(
        self,
        place: int | None,
        id_: str,
        name: str,
        arguments: str,
        deltas: list[Delta],
        response_id: str,
    ) -> None:
        """Take a fragment of a tool call. Raises TooMuch."""
        call = self._find(place, id_, name, arguments)
        if call is None:
            call = self._begin_call(place, id_)
        if name and not call.name:
            self._hold(name if call.id else name + id_)
            call.name = name
            call.id = call.id or id_
            self._begin(None)
            call.index = self._index
            shown_id = call.id or _made_id(response_id, call.index)
            deltas.append(ToolCallStarted(call.index, shown_id, name))
            call.id = shown_id
            if held := call.arguments.text:  # they came before the name
                deltas.append(ToolCallDelta(call.index, held))
        if arguments:
            self._open = None
            self._hold(arguments)
            call.arguments.add(arguments)
            if call.name:
                deltas.append(ToolCallDelta(call.index, arguments))

    def whole_calls(self, *, is_cut: bool) -> list[ToolCall]:
        """The calls, in the order of their blocks. The answer has ended.

        `is_cut`: it was cut short, at its limit or by a filter, and perhaps in a call: calls without
        whole arguments are left out then, and so is the last if it has none yet. Otherwise they
        raise NotWhole.
        """
        whole: list[ToolCall] = []
        for call in sorted(self._calls, key=lambda call: call.index):
            arguments = join_surrogates(call.arguments.text)
            if arguments.strip() in ("", "null") and not (is_cut and call is self._calls[-1]):
                arguments = "{}"
            if call.name and is_object(arguments):
                whole.append(ToolCall(call.index, call.id, call.name, arguments))
            elif not is_cut:
                raise NotWhole
        return whole

    def _hold(self, text: str) -> None:
        """Count a text that is held until the answer ends. Raises TooMuch."""
        self._held_chars += len(text)
        if self._held_chars > MAX_HELD_CHARS:
            raise TooMuch

    def _begin(self, kind: str | None) -> None:
        self._open = kind
        self._index = self._count
        self._count += 1

    def _begin_call(self, place: int | None, id_: str) -> _Call:
        if len(self._calls) == MAX_CALLS:
            raise TooMuch
        self._hold(id_)
        call = _Call()
        call.id = id_
        self._calls.append(call)
        if place is not None:
            self._at[place] = call
        elif id_:
            self._at[id_] = call
        return call

    def _find(self, place: int | None, id_: str, name: str, arguments: str) -> _Call | None:
        """The call that a fragment goes on with; None: it begins one."""
        if place is not None:
            call = self._at.get(place)
        elif id_ and name:
            call = self._at.get(id_)
        elif self._calls:
            call = self._at.get(id_, self._calls[-1])
        else:
            call = None
        if call is None or not name or not call.name or (id_ and id_ == call.id):
            return call
        if id_ or name != call.name or (arguments and call.arguments.is_object()):
            return None
        return call


def _made_id(response_id: str, index: int) -> str:
    # The same wherever the bytes were cut, and another one in each answer of a conversation.
    source = f"{response_id}/{index}".encode("utf-8", "surrogatepass")
    return f"call_{blake2s(source, digest_size=12).hexdigest()}"
