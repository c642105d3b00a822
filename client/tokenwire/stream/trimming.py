"""Policies that shorten a conversation before it is sent. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from tokenwire.v1.chat_pb2 import ROLE_SYSTEM, ROLE_USER, Message

from .._checks import check_int

TrimPolicy = Callable[[Sequence[Message], int | None], Iterable[Message]]
"""A function that gets the messages that are about to be sent, and returns those to keep.

The second argument is the number of input tokens that the server counted, or None without `count_for_trim`.
The policy must not change the messages."""


def keep_last(count: int) -> TrimPolicy:
    """Return a policy that keeps the last `count` messages, and all system messages.

    System messages do not count. The messages that are kept begin with a message of the user, and a tool
    result is kept together with its call. So up to one turn more may be kept. If there is no such beginning,
    all messages are kept.

    Raises:
        ValueError: `count` is below 1.
    """
    if check_int(count, "count") < 1:
        raise ValueError(f"count must be at least 1, not {count}")

    def policy(messages: Sequence[Message], _input_tokens: int | None) -> list[Message]:
        own = [i for i, message in enumerate(messages) if message.role != ROLE_SYSTEM]
        start = _beginning(messages, own[-count] if count < len(own) else 0)
        return [
            message
            for i, message in enumerate(messages)
            if i >= start or message.role == ROLE_SYSTEM
        ]

    return policy


def _beginning(messages: Sequence[Message], start: int) -> int:
    """Return the last index up to `start` that begins a turn and does not separate a call from its result."""
    calls: dict[str, int] = {}
    needed: list[int] = []  # for each message, the first one that it needs
    for i, message in enumerate(messages):
        needed.append(min([i, *(calls.get(id_, i) for id_ in _result_ids(message))]))
        calls.update(dict.fromkeys(_call_ids(message), i))
    for i in range(len(messages) - 2, -1, -1):  # also the messages that later ones need
        needed[i] = min(needed[i], needed[i + 1])
    while start > 0 and not (messages[start].role == ROLE_USER and needed[start] == start):
        start -= 1
    return start


def _call_ids(message: Message) -> list[str]:
    return [part.tool_call.id for part in message.parts if part.HasField("tool_call")]


def _result_ids(message: Message) -> list[str]:
    return [part.tool_result.tool_call_id for part in message.parts if part.HasField("tool_result")]
