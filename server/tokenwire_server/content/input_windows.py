"""Divides the texts of a request into windows for a moderation service. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from .input_text import InputText


class InputPart(msgspec.Struct, frozen=True):
    """A text of a request, or a part of it."""

    path: str
    text: str


class InputWindow(msgspec.Struct, frozen=True):
    """Texts that are checked together."""

    parts: tuple[InputPart, ...]
    """At least one, in the order of the request."""

    @property
    def text(self) -> str:
        return "\n".join(part.text for part in self.parts)


def input_windows(
    texts: Iterable[InputText], window_chars: int, overlap_chars: int
) -> Iterator[InputWindow | None]:
    """Yield windows with `window_chars` new characters each, and fewer in the last one. Yield None after each
    small step.

    Short texts share a window. A text that continues in another window begins there with its last
    `overlap_chars` characters.
    """
    parts: list[tuple[str, list[str]]] = []
    chars = 0
    for text in texts:
        before = ""
        is_new = True
        for piece in text.pieces():
            start = 0
            while start < len(piece):
                new = piece[start : start + window_chars - chars]
                if is_new:
                    parts.append((text.path, [before]))
                    is_new = False
                parts[-1][1].append(new)
                before = (before + new)[-overlap_chars:] if overlap_chars else ""
                chars += len(new)
                start += len(new)
                if chars == window_chars:
                    yield _window(parts)
                    parts, chars, is_new = [], 0, True
            yield None
    if parts:
        yield _window(parts)


def _window(parts: Iterable[tuple[str, list[str]]]) -> InputWindow:
    return InputWindow(tuple(InputPart(path, "".join(pieces)) for path, pieces in parts))
