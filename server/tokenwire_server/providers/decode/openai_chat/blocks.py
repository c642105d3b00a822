"""The content blocks of a Chat Completions answer, which the format does not number.

Consecutive deltas of one kind form a block. Tool calls are an exception: they may be interleaved, and the
`index` that the format has for them identifies each call, if the server sends it.
"""

from __future__ import annotations

from hashlib import blake2s
from typing import Any

import msgspec

from ....events import (
    Citation,
    Delta,
    InvalidToolCall,
    Logprobs,
    ReasoningDelta,
    TextDelta,
    TextInfo,
    ToolCall,
    ToolCallDelta,
    ToolCallStarted,
)
from ...state import tag
from ..arguments import Arguments, check_object
from ..json import dumps, join_surrogates
from .reasoning_details import ReasoningDetails

MAX_CALLS = 4096
"""Maximum number of tool calls in one answer."""
MAX_BUFFERED_CHARS = 2 * 2**20
"""Maximum length of the ids, names and arguments of all calls, which are kept until the answer ends."""
MAX_WAITING_CHARS = 256 * 1024
"""Maximum size of the citations and log probabilities that wait for their text. Others are dropped."""
LOGPROB_CHARS = 100
"""Size of a token with its log probability, for MAX_WAITING_CHARS."""


class ToolCallsTooLargeError(Exception):
    """The answer's tool calls exceed MAX_CALLS or MAX_BUFFERED_CHARS."""


class IncompleteToolCallError(Exception):
    """A tool call of a finished answer has no name, or arguments that stop in mid-object."""


class _Call:
    __slots__ = ("arguments", "has_id", "id", "index", "name", "state")

    def __init__(self) -> None:
        self.id = ""
        """Id from the server, or the generated id once the call has a name."""
        self.has_id = False
        """Whether the id is from the server."""
        self.name = ""
        self.index = -1
        """Ordinal of the block, assigned with the name."""
        self.arguments = Arguments()
        self.state = b""
        """Data of the provider, which it needs back with the call."""


class Blocks:
    """Numbers the blocks of one answer and assembles its tool calls.

    Servers identify calls in different ways. Some send each call in one fragment, all with the same index
    or without one. Some repeat the id or the name in every fragment, or send a new id in each. So a
    fragment starts a new call if it has a name, and either its id or name differs from the current call at
    its index, or the arguments of that call are already complete.

    Some servers cut the name in pieces. After a call with an id, names without one are pieces of its name
    until anything else arrives, so a call is announced only then. A fragment without a name is enough:
    arguments may take a model a minute, and most servers first send them empty.

    A call without an id gets an id generated from the answer's id and the block's index, so that the tool
    result can refer to it.
    """

    __slots__ = (
        "_at",
        "_buffered_chars",
        "_calls",
        "_count",
        "_details",
        "_details_index",
        "_index",
        "_open",
        "_provider",
        "_text_index",
        "_text_state",
        "_unannounced",
        "_waiting",
        "_waiting_chars",
    )

    def __init__(self, provider: str = "") -> None:
        """`provider` is the name that provider state is tagged with."""
        self._provider = provider
        self._count = 0
        self._open: str | None = None
        """Kind of the block that the next delta of the same kind continues."""
        self._index = -1
        self._calls: list[_Call] = []
        self._at: dict[int | str, _Call] = {}
        """The latest call by index. Calls without an index are found by id."""
        self._unannounced: _Call | None = None
        """The latest call, while more pieces of its name may follow."""
        self._buffered_chars = 0
        self._text_index = -1
        """Index of the latest text block. -1: there is none."""
        self._text_state: TextInfo | None = None
        """The state of the latest text block that has one."""
        self._waiting: list[Citation | Logprobs] = []
        """What belongs to the first text block, which has not begun."""
        self._waiting_chars = 0
        self._details: ReasoningDetails | None = None
        self._details_index = -1
        """Index of the block of reasoning that the details belong to."""

    @property
    def is_empty(self) -> bool:
        return not self._count

    @property
    def has_calls(self) -> bool:
        return bool(self._calls)

    def text(self, text: str, deltas: list[Delta], kind: str = "text") -> None:
        """Continue a block of text, or begin one. `kind` is "text" or "refusal"."""
        if self._open == kind:
            deltas.append(TextDelta(text, self._index))
            return
        self._begin(kind, deltas)
        self._text_index = self._index
        deltas.append(TextDelta(text, self._index))
        if self._waiting:
            self._attach_waiting(deltas)

    def add_text(self, delta: TextDelta, deltas: list[Delta]) -> None:
        """Continue a block of text, or begin one. The delta itself is used if its index fits."""
        if self._open == "text" and self._index == delta.index:
            deltas.append(delta)
        else:
            self.text(delta.text, deltas)

    def text_state(self, state: Any, deltas: list[Delta]) -> None:
        """Set data that the provider needs back with the latest text. It is sent at the end, once."""
        data = dumps(state)
        if not data:
            return
        if self._text_index < 0:
            self._begin("text", deltas)
            self._text_index = self._index
            self._attach_waiting(deltas)
        if self._text_state is not None and self._text_state.index != self._text_index:
            deltas.append(self._text_state)
        data = tag(self._provider, data)
        self._text_state = TextInfo(self._text_index, provider_state=data)

    def attach(self, delta: Citation | Logprobs, deltas: list[Delta]) -> None:
        """Add a delta that belongs to the latest text block, or else to the next one. Sets its index."""
        if self._text_index >= 0:
            deltas.append(msgspec.structs.replace(delta, index=self._text_index))
            return
        self._waiting_chars += _size(delta)
        if self._waiting_chars <= MAX_WAITING_CHARS:
            self._waiting.append(delta)

    def _attach_waiting(self, deltas: list[Delta]) -> None:
        waiting, self._waiting = self._waiting, []
        for delta in waiting:
            self.attach(delta, deltas)

    def reasoning(self, text: str, deltas: list[Delta]) -> None:
        if self._open != "reasoning":
            self._begin("reasoning", deltas)
        deltas.append(ReasoningDelta(text, self._index))

    def reasoning_details(self, details: list[Any], deltas: list[Delta]) -> None:
        """Add details of a block of reasoning. They are sent as its state when it ends."""
        if self._open != "reasoning":
            self._begin("reasoning", deltas)
        self._details_index = self._index
        if self._details is None:
            self._details = ReasoningDetails()
        self._details.add(details)

    def call(
        self,
        place: int | None,
        id_: str,
        name: str,
        arguments: str,
        state: Any,
        deltas: list[Delta],
        response_id: str,
    ) -> None:
        """Add a fragment of a tool call. Raises ToolCallsTooLargeError.

        `state` is data that the provider needs back with the call.
        """
        call = self._find(place, id_, name, arguments)
        if call is None:
            if not (id_ or name or arguments):
                return
            call = self._begin_call(place, id_)
        if state:
            call.state = dumps(state)
            self._count_chars(call.state)
        if name and not call.name:
            self._count_chars(name if call.id else name + id_)
            self._begin(None, deltas)
            call.name = name
            call.index = self._index
            call.has_id = bool(call.id or id_)
            call.id = call.id or id_ or generated_id(response_id, call.index)
            self._unannounced = call
            if earlier := call.arguments.text:  # they arrived before the name
                self._announce(deltas)
                deltas.append(ToolCallDelta(call.index, earlier))
        elif name and call is self._unannounced and name != call.name:
            self._count_chars(name)
            call.name += name
        if not name and call is self._unannounced:
            self._announce(deltas)
        if arguments:
            self._announce(deltas)
            self._open = None
            self._count_chars(arguments)
            call.arguments.add(arguments)
            if call.name:
                deltas.append(ToolCallDelta(call.index, arguments))

    def complete_calls(self, deltas: list[Delta], *, is_cut: bool) -> bool:
        """Add the calls after the end of the answer, in the order of their blocks.

        `is_cut` means that a limit or a filter cut the answer off, perhaps within a call. Then calls whose
        arguments are not a JSON object are left out, and so is the last call if it has no arguments.
        Otherwise a call raises IncompleteToolCallError if its arguments stop within an object, and is added
        as invalid if they are anything else. Returns whether there are valid calls.
        """
        self._end_block(deltas)
        if self._text_state is not None:
            deltas.append(self._text_state)
        has_valid = False
        for call in sorted(self._calls, key=lambda call: call.index):
            arguments = join_surrogates(call.arguments.text)
            if arguments.strip() in ("", "null") and not (is_cut and call is self._calls[-1]):
                arguments = "{}"
            problem = check_object(arguments).problem
            if call.name and not problem:
                has_valid = True
                state = tag(self._provider, call.state) if call.state else b""
                deltas.append(ToolCall(call.index, call.id, call.name, arguments, state))
            elif is_cut:
                continue
            elif not call.name or call.arguments.is_open():
                raise IncompleteToolCallError
            else:
                invalid = InvalidToolCall(call.index, call.id, call.name, arguments, problem)
                deltas.append(invalid)
        return has_valid

    def _count_chars(self, text: str | bytes) -> None:
        """Count a text that is kept until the answer ends. Raises ToolCallsTooLargeError."""
        self._buffered_chars += len(text)
        if self._buffered_chars > MAX_BUFFERED_CHARS:
            raise ToolCallsTooLargeError

    def _announce(self, deltas: list[Delta]) -> None:
        """Add the start of the latest call, whose name is now complete."""
        if self._unannounced is not None:
            call, self._unannounced = self._unannounced, None
            deltas.append(ToolCallStarted(call.index, call.id, call.name))

    def _end_block(self, deltas: list[Delta]) -> None:
        """Add what is known only at the end of the latest block."""
        self._announce(deltas)
        if self._details is not None and (data := self._details.take()):
            state = tag(self._provider, data)
            deltas.append(ReasoningDelta("", self._details_index, provider_state=state))

    def _begin(self, kind: str | None, deltas: list[Delta]) -> None:
        self._end_block(deltas)
        self._open = kind
        self._index = self._count
        self._count += 1

    def _begin_call(self, place: int | None, id_: str) -> _Call:
        if len(self._calls) == MAX_CALLS:
            raise ToolCallsTooLargeError
        self._count_chars(id_)
        call = _Call()
        call.id = id_
        self._calls.append(call)
        if place is not None:
            self._at[place] = call
        elif id_:
            self._at[id_] = call
        return call

    def _find(self, place: int | None, id_: str, name: str, arguments: str) -> _Call | None:
        """Return the call that a fragment continues, or None if it starts a new call."""
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
        if call is self._unannounced and call.has_id and not id_:
            return call
        if id_ or name != call.name or (arguments and call.arguments.is_object()):
            return None
        return call


def _size(delta: Citation | Logprobs) -> int:
    if isinstance(delta, Logprobs):
        return LOGPROB_CHARS * sum(1 + len(token.top) for token in delta.tokens)
    return LOGPROB_CHARS + len(delta.cited_text) + len(delta.url) + len(delta.title)


def generated_id(response_id: str, index: int) -> str:
    """Return an id for the call of a block, for servers that send none.

    It does not depend on where the bytes were cut, and differs in each answer of a conversation.
    """
    source = f"{response_id}/{index}".encode("utf-8", "surrogatepass")
    return f"call_{blake2s(source, digest_size=12).hexdigest()}"
