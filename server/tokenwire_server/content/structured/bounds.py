"""The limits of structured output, and the limited list of violations."""

from __future__ import annotations

from ...events import JsonViolation

MAX_DEPTH = 64
"""Most containers of a document that are open at once."""
MAX_DOCUMENT_CHARS = 2 * 2**20
MAX_VALUE_CHARS = 64 * 1024
"""A longer value is sent without its text. These are at most 256 KiB of UTF-8."""
MAX_NUMBER_CHARS = 64 * 1024
MAX_VALUES = 128 * 1024
MAX_POINTER_CHARS = 4096
MAX_SENT_VALUES = 16 * 1024
"""Later values of a document are not sent: the log of a stream is limited."""
MAX_SENT_POINTERS_CHARS = 2**20
"""The same, for the characters of all pointers. A long name repeats in each pointer below it."""
MAX_CONTAINERS_CHARS = 4 * 2**20
"""Containers past this total are sent without their text. A character repeats in all containers around it."""
MAX_VIOLATIONS = 32
MAX_DESCRIPTION_CHARS = 512


class Violations:
    """The first violations of an answer."""

    def __init__(self) -> None:
        self.is_representable = True
        """Whether all values have a form that all parsers agree on."""
        self._found: list[JsonViolation] = []

    def add(self, pointer: str, description: str) -> None:
        if len(self._found) < MAX_VIOLATIONS:
            self._found.append(violation(pointer, description))

    def add_first(self, pointer: str, description: str) -> None:
        """Add a violation that is reported whatever else is found."""
        self._found = [violation(pointer, description), *self._found[: MAX_VIOLATIONS - 1]]

    def __len__(self) -> int:
        return len(self._found)

    @property
    def found(self) -> tuple[JsonViolation, ...]:
        return tuple(self._found)


def violation(pointer: str, description: str) -> JsonViolation:
    """Return a violation whose texts are within the limits."""
    if len(description) > MAX_DESCRIPTION_CHARS:
        description = description[: MAX_DESCRIPTION_CHARS - 3] + "..."
    return JsonViolation(pointer[:MAX_POINTER_CHARS], description)
