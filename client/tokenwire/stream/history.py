"""The messages of a conversation, and the turn that is being answered. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

from tokenwire.v1.chat_pb2 import Message

from ..enums import FinishReason
from ..messages import MessageLike
from ..wire.styles import to_messages
from .trimming import TrimPolicy

_BUSY = "a conversation answers one question at a time: use fork() for another one"

OnCut = Literal["hold", "keep", "drop"]
"""What happens to a turn whose answer was cut off."""

_COMPLETE = frozenset(
    {
        FinishReason.STOP,
        FinishReason.STOP_SEQUENCE,
        FinishReason.TOOL_CALLS,
        FinishReason.PAUSED,
        FinishReason.INVALID_TOOL_CALLS,
    }
)
"""Endings after which the answer is appended as it is."""


@dataclass(frozen=True, slots=True)
class CutTurn:
    """A turn whose answer was cut off by a limit, a filter, a refusal, an error, or its reader."""

    question: tuple[Message, ...]
    """The messages that were answered."""
    answer: Message
    """The answer as far as it was read, without tool calls, and without reasoning after its last text."""
    finish_reason: FinishReason | None
    """Why the answer ended. None: it was not read to its end."""

    @property
    def why(self) -> str:
        """Why the answer was cut off, as text."""
        if self.finish_reason is None:
            return "was not read to its end"
        return f"was cut off: {self.finish_reason}"


class Turn:
    """The turn that is being answered."""

    def __init__(self, before: Iterable[Message], question: Iterable[Message]) -> None:
        self.question = tuple(question)
        self.messages = (*before, *self.question)
        """What is sent."""
        self.answer: Message | None = None
        self.finish_reason: FinishReason | None = None

    def trim(self, policy: TrimPolicy, input_tokens: int | None) -> None:
        """Reduce the messages that are sent to those that a policy keeps.

        Raises:
            TypeError, ValueError: the policy does not return messages, or drops the newest one.
        """
        kept = tuple(policy(self.messages, input_tokens))
        for each in kept:
            if not isinstance(each, Message):
                raise TypeError(f"trim returned a {type(each).__name__}, not a Message")
        if not kept or kept[-1] != self.messages[-1]:
            raise ValueError("trim must keep the newest message at the end")
        self.messages = kept

    def finish(self, answer: Message, finish_reason: FinishReason | None) -> None:
        """Set the answer as far as it was read, and why it ended."""
        (self.answer,) = _copies([answer])
        self.finish_reason = finish_reason


class History:
    """The messages of a conversation. It changes when a turn is complete, never before.

    Args:
        messages: The conversation so far.
        on_cut: Keep a turn whose answer was cut off, drop it, or hold it until the caller decides.
    """

    def __init__(self, messages: Iterable[Message] = (), *, on_cut: OnCut = "hold") -> None:
        if on_cut not in (choices := get_args(OnCut)):
            raise ValueError(f"on_cut must be one of {', '.join(choices)}, not {on_cut!r}")
        self.messages = list(messages)
        self.on_cut: OnCut = on_cut
        self.cut: CutTurn | None = None
        self._held: tuple[Message, ...] = ()
        self._free = [None]
        """Who takes the element opens the turn. Taking it is atomic, as a lock, in all threads."""

    def append(self, messages: MessageLike | Iterable[MessageLike]) -> None:
        """Add messages that are not sent yet.

        Raises:
            RuntimeError: a turn is being answered, or is held.
            TypeError, ValueError: the messages are invalid.
        """
        self._check_free()
        self.messages += _copies(to_messages(messages))

    def next_messages(self, messages: MessageLike | Iterable[MessageLike] | None) -> list[Message]:
        """Return what would be sent, before it is trimmed."""
        return [*self.messages, *(() if messages is None else to_messages(messages))]

    @contextmanager
    def turn(self, messages: MessageLike | Iterable[MessageLike] | None) -> Iterator[Turn]:
        """Open a turn for the next messages, and close it with the block, however it is left.

        Raises:
            RuntimeError: a turn is being answered, or is held.
            TypeError, ValueError: the messages are invalid, or there are none.
        """
        self._check_free()
        question = [] if messages is None else _copies(to_messages(messages))
        if not question and not self.messages:
            raise ValueError("the conversation has no messages yet")
        try:
            self._free.pop()
        except IndexError:  # another thread has opened a turn since
            raise RuntimeError(_BUSY) from None
        try:
            self._check_not_held()
            turn = Turn(self.messages, question)
            try:
                yield turn
            finally:
                self._close(turn)
        finally:
            self._free.append(None)

    def keep_cut(self) -> None:
        """Append the held turn. Raises RuntimeError if there is none."""
        cut = self._take_cut()
        self.messages = [*self._held, *([cut.answer] if cut.answer.parts else [])]

    def drop_cut(self) -> CutTurn:
        """Remove and return the held turn. Raises RuntimeError if there is none."""
        return self._take_cut()

    def _close(self, turn: Turn) -> None:
        answer = turn.answer
        if answer is None:
            return
        if turn.finish_reason in _COMPLETE:
            self.messages = [*turn.messages, answer]
            return
        if turn.finish_reason is None and not answer.parts:
            return  # nothing was read: the question can simply be sent again
        self.cut = CutTurn(turn.question, _without_loose_ends(answer), turn.finish_reason)
        self._held = turn.messages
        if self.on_cut == "keep":
            self.keep_cut()
        elif self.on_cut == "drop":
            self.drop_cut()

    def _take_cut(self) -> CutTurn:
        if self.cut is None:
            raise RuntimeError("the conversation has no turn whose answer was cut off")
        cut, self.cut = self.cut, None
        return cut

    def _check_free(self) -> None:
        if not self._free:
            raise RuntimeError(_BUSY)
        self._check_not_held()

    def _check_not_held(self) -> None:
        if self.cut is not None:
            raise RuntimeError(
                f"the last answer {self.cut.why}; call keep_cut() or drop_cut() first, or set on_cut"
            )


def _without_loose_ends(answer: Message) -> Message:
    """Return a cut answer as it can be sent back: up to its last text, without tool calls."""
    parts = [part for part in answer.parts if not part.HasField("tool_call")]
    while parts and parts[-1].HasField("reasoning"):
        parts.pop()
    return Message(role=answer.role, parts=parts)


def _copies(messages: Iterable[Message]) -> list[Message]:
    copies = []
    for message in messages:
        copy = Message()
        copy.CopyFrom(message)
        copies.append(copy)
    return copies
