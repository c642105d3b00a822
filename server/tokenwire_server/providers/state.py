"""Provider state: opaque data that a provider needs back with the next request, such as signatures.

A decoder tags it with the name of the provider that made it, `NAME NUL DATA`. Callers receive it as
`provider_state` and send it with the next request. Then `without_foreign_state` removes the tag, and all
state that another provider made. So a dialect sees only data that its own decoder wrote, unless the caller
changed it. A dialect ignores what it cannot read.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ..request import Message, Part, Reasoning, Text, ToolCall

MAX_STATE_BYTES = 4 * 2**20
"""Maximum size of the state of one part in a request."""

_Stateful = Text | ToolCall | Reasoning


def tag(provider: str, data: bytes) -> bytes:
    """Return the state that the API carries for data of a provider. The data may be empty."""
    return provider.encode() + b"\0" + data


def untag(provider: str, state: bytes) -> bytes | None:
    """Return the data of a state, or None if another provider made it."""
    maker, separator, data = state.partition(b"\0")
    return data if separator and maker == provider.encode() else None


def latest_maker(messages: Sequence[Message]) -> str | None:
    """Return the provider that made the latest state in a conversation, or None if there is none."""
    for message in reversed(messages):
        for part in message.parts:
            if isinstance(part, _Stateful) and part.state is not None:
                maker, separator, _ = part.state.partition(b"\0")
                if separator:
                    return maker.decode(errors="replace")
    return None


def without_foreign_state(messages: Sequence[Message], provider: str) -> tuple[Message, ...]:
    """Return the messages as a dialect gets them: the state of each part is the data of this provider.

    `state` of a part is None if it has none from this provider. Reasoning of another provider also loses
    its signature.
    """
    return tuple(
        msgspec.structs.replace(
            message, parts=tuple(_own(part, provider) for part in message.parts)
        )
        if any(isinstance(part, _Stateful) and part.state is not None for part in message.parts)
        else message
        for message in messages
    )


def _own(part: Part, provider: str) -> Part:
    if not isinstance(part, _Stateful) or part.state is None:
        return part
    data = untag(provider, part.state)
    if data is None and isinstance(part, Reasoning):
        return msgspec.structs.replace(part, state=None, signature="")
    return msgspec.structs.replace(part, state=data)
