"""Answers in which each delta repeats all that came before, as DashScope sends them on request."""

from __future__ import annotations

from . import wire

MAX_TEXTS = 4096
"""Maximum number of texts of an answer whose lengths are kept. Others are not shortened."""


class Increments:
    """Shortens each delta to what it adds to the earlier ones."""

    __slots__ = ("_lengths",)

    def __init__(self) -> None:
        self._lengths: dict[tuple[str, int], int] = {}

    def shorten(self, delta: wire.Delta) -> None:
        if isinstance(delta.content, str):
            delta.content = self._new("content", 0, delta.content)
        if delta.reasoning_content:
            delta.reasoning_content = self._new("reasoning", 0, delta.reasoning_content)
        if delta.reasoning:
            delta.reasoning = self._new("reasoning", 1, delta.reasoning)
        if delta.refusal:
            delta.refusal = self._new("refusal", 0, delta.refusal)
        for place, detail in enumerate(delta.reasoning_details or ()):
            for key in ("text", "summary"):
                if isinstance(detail, dict) and isinstance(detail.get(key), str):
                    detail[key] = self._new(key, place, detail[key])
        for position, call in enumerate(delta.tool_calls or ()):
            if call.function is not None and call.function.arguments:
                place = position if call.index is None else call.index
                call.function.arguments = self._new("call", place, call.function.arguments)

    def _new(self, kind: str, place: int, text: str) -> str:
        length = self._lengths.get((kind, place), 0)
        if len(text) > length and (length or len(self._lengths) < MAX_TEXTS):
            self._lengths[kind, place] = len(text)
        return text[length:]
