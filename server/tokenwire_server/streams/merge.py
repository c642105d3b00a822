"""Merges neighbouring deltas, so that a reader that was busy gets few large events. Pure.

A delta is merged only with a direct neighbour of the same kind and block: the order and the concatenated
text never change. The signature or the state of reasoning ends a merge, because it belongs to all the text
before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

from ..events import Event, ReasoningDelta, TextDelta, ToolCallDelta

MAX_MERGED_CHARS = 16 * 1024
"""Most characters of a merged event, which are at most 64 KiB of UTF-8; and of all merged events that one
call returns, because they are copies that a reader keeps while its write is blocked."""

Positioned = tuple[int, Event]
"""An event, and the sequence of its last log entry."""

_Mergeable = TextDelta | ReasoningDelta | ToolCallDelta


def merge(entries: Sequence[Event], after_sequence: int) -> list[Positioned]:
    """Return the entries after `after_sequence`, with neighbouring deltas merged: at least one event.

    If there are many entries, only the first are returned: call again with the last returned sequence.
    """
    count = len(entries)
    if count == 1:  # a reader that keeps up takes one token at a time
        return [(after_sequence + 1, entries[0])]
    merged: list[Positioned] = []
    first = 0
    merged_chars = 0
    is_full = False
    while first < count and not is_full:
        event = entries[first]
        end = first + 1
        if isinstance(event, _Mergeable):
            pieces = [_text(event)]
            chars = len(pieces[0])
            last = event
            while end < count and _can_merge(following := entries[end], last):
                piece = _text(following)
                chars += len(piece)
                if merged_chars + chars > MAX_MERGED_CHARS:
                    is_full = True
                    break
                pieces.append(piece)
                last = following
                end += 1
            if len(pieces) > 1:
                event = _with_text(last, "".join(pieces))
                merged_chars += len(_text(event))
        merged.append((after_sequence + end, event))
        first = end
    return merged


def _can_merge(following: Event, event: _Mergeable) -> TypeGuard[_Mergeable]:
    return (
        isinstance(following, _Mergeable)
        and type(following) is type(event)
        and following.index == event.index
        and not (isinstance(event, ReasoningDelta) and (event.signature or event.provider_state))
    )


def _text(event: _Mergeable) -> str:
    return event.arguments_json if isinstance(event, ToolCallDelta) else event.text


def _with_text(event: _Mergeable, text: str) -> _Mergeable:
    if isinstance(event, TextDelta):
        return TextDelta(text, event.index)
    if isinstance(event, ReasoningDelta):
        return ReasoningDelta(text, event.index, event.signature, event.provider_state)
    return ToolCallDelta(event.index, text)
