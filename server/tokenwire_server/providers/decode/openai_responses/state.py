"""The data of an answer that the Responses API needs back with the next request, besides its content.

The decoder writes it as JSON into the provider state of a block, see `providers.state`. The encoder reads
it. Ids of messages and calls are not part of it: the API stores nothing, and refuses ids that it does not
know.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec

from ...state import tag
from ..json import join_surrogates
from .parts import MAX_PARTS

SEPARATOR = "\n\n"
"""Separates the parts of a reasoning item in the text of its block."""

_Length = Annotated[int, msgspec.Meta(ge=0)]  # less than 0 would repeat the text
_State = TypeVar("_State", "ReasoningState", "TextState", "CallState")


class ReasoningState(msgspec.Struct, omit_defaults=True, frozen=True):
    """The state of a reasoning item. Without encrypted content, its text was not a summary."""

    id: str = ""
    encrypted_content: str = ""
    parts: Annotated[tuple[tuple[str, _Length], ...], msgspec.Meta(max_length=MAX_PARTS)] = ()
    """Types of the parts, and their lengths in UTF-16 code units. SEPARATOR is between their texts."""

    def split(self, text: str) -> list[tuple[str, str]]:
        """Return the types and the texts of the parts. They are one summary if the lengths do not fit."""
        units = text.encode("utf-16-le", "surrogatepass")
        texts: list[tuple[str, str]] = []
        position = 0
        for part_type, length in self.parts:
            piece = units[position : position + 2 * length]
            texts.append((part_type, piece.decode("utf-16-le", "replace")))
            position += 2 * (length + len(SEPARATOR))
        if SEPARATOR.join(piece for _, piece in texts) == text:
            return [(part_type, piece) for part_type, piece in texts if piece]
        return [(self.parts[0][0], text)] if self.parts else [("summary_text", text)]


class TextState(msgspec.Struct, omit_defaults=True, frozen=True):
    """The state of a text block."""

    phase: str = ""
    """ "commentary" or "final_answer": models answer worse if it is not sent back."""


class CallState(msgspec.Struct, omit_defaults=True, frozen=True):
    """The state of a function call."""

    namespace: str = ""
    """The namespace of a function that the model found with tool search."""


def write(provider: str, state: ReasoningState | TextState | CallState) -> bytes:
    """Return the provider state that the API carries."""
    texts = {
        name: join_surrogates(value)
        for name, value in msgspec.structs.asdict(state).items()
        if isinstance(value, str)
    }
    return tag(provider, msgspec.json.encode(msgspec.structs.replace(state, **texts)))


def read(kind: type[_State], data: bytes | None) -> _State | None:
    """Return the state of a block. None if it has none, or if the caller changed it."""
    if data is None:
        return None
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
