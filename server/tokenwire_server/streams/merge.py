"""Joining neighbouring deltas, so that a reader who was busy gets few large events. Pure.

A delta joins only its direct neighbour, of the same kind and block: order and concatenated text
never change. A reasoning signature ends a merge, because it belongs to all the text before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

from ..events import Event, ReasoningDelta, TextDelta, ToolCallDelta

MAX_MERGED_CHARS = 16 * 1024
"""Bound of a joined event, at most 64 KiB of UTF-8 whatever the characters, and of what one call joins:
a joined event is a copy, and a reader whose write is blocked holds on to it."""

Positioned = tuple[int, Event]
"""An event, and the sequence of the last entry in it."""

_Joinable = TextDelta | ReasoningDelta | ToolCallDelta


def merge(entries: Sequence[Event], after_sequence: int) -> list[Positioned]:
    """Join what can be joined of the entries that follow `after_sequence`; of the first of them, when
    they are many: at least one event, and read on.
    """
    merged: list[Positioned] = []
    count = len(entries)
    first = 0
    joined_chars = 0
    is_full = False
    while first < count and not is_full:
        event = entries[first]
        end = first + 1
        if isinstance(event, _Joinable):
            pieces = [_text(event)]
            chars = len(pieces[0])
            last = event
            while end < count and _joins(following := entries[end], last):
                piece = _text(following)
                chars += len(piece)
                if joined_chars + chars > MAX_MERGED_CHARS:
                    is_full = True
                    break
                pieces.append(piece)
                last = following
                end += 1
            if len(pieces) > 1:
                event = _with_text(last, "".join(pieces))
                joined_chars += len(_text(event))
        merged.append((after_sequence + end, event))
        first = end
    return merged


def _joins(following: Event, event: _Joinable) -> TypeGuard[_Joinable]:
    return (
        isinstance(following, _Joinable)
        and type(following) is type(event)
        and following.index == event.index
        and not (isinstance(event, ReasoningDelta) and event.signature)
    )


def _text(event: _Joinable) -> str:
    return event.arguments_json if isinstance(event, ToolCallDelta) else event.text


def _with_text(event: _Joinable, text: str) -> _Joinable:
    if isinstance(event, TextDelta):
        return TextDelta(text, event.index)
    if isinstance(event, ReasoningDelta):
        return ReasoningDelta(text, event.index, event.signature)
    return ToolCallDelta(event.index, text)
