"""The values of a JSON answer, each as soon as it is complete."""

from __future__ import annotations

import enum
import re

from ...events import JsonValue, JsonViolation
from .bounds import Violations
from .scanner import WHITESPACE, Scanner

_MAX_BACKTICKS = 64

_fence_line = re.compile(r"(`{3,64})(?:json)?[ \t]{0,64}\r?\n", re.IGNORECASE).match
_cut_fence_line = re.compile(
    r"(?:`{1,2}|`{3,64}(?:j(?:s(?:on?)?)?\Z|(?:json)?[ \t]{0,64}\r?))\Z", re.IGNORECASE
).match
"""What may become the first line of a fence."""


class JsonState(enum.Enum):
    """How far a document is."""

    WAITING = "waiting"
    """It has not begun."""
    INSIDE = "inside"
    COMPLETE = "complete"
    INVALID = "invalid"
    """No text can complete it, or it was cut off, or it exceeds a limit. No value follows."""


_WAITING, _INSIDE, _COMPLETE, _INVALID = JsonState


class JsonValues:
    r"""Finds the values of the JSON document that a text is, while the text arrives.

    The text of a value is its own part of the document, with its whitespace; numbers and escapes stay as they
    are. Nothing is repaired: after the first character that no document can have there, no value follows.

    A Markdown fence around the document, text after it, a name that an object has twice, half of a surrogate
    pair, and a number that is too large for a double are violations. They do not end the values.

    The text itself has no surrogates: decoders join or replace them. See `bounds` for the limits.
    """

    __slots__ = (
        "_after",
        "_chars",
        "_fence",
        "_index",
        "_scanner",
        "_start",
        "_violations",
        "state",
    )

    def __init__(self, index: int = 0, *, skipped_chars: int = 0) -> None:
        """`index` is that of the text block. Positions include `skipped_chars` before the first piece."""
        self.state = JsonState.WAITING
        self._index = index
        self._chars = skipped_chars
        """Number of characters before the document; then of those before and in it."""
        self._violations = Violations()
        self._scanner: Scanner | None = None
        self._start = ""
        """What may become the first line of a fence."""
        self._fence = ""
        """The backticks before the document."""
        self._after: str | None = ""
        """What may become the fence after the document. None if other text is there."""

    @property
    def violations(self) -> tuple[JsonViolation, ...]:
        """What is wrong with the text so far: that it is invalid first, then in the order of the text."""
        return self._violations.found

    @property
    def invalid_at(self) -> int | None:
        """Position of the first character that no document can have there, or that exceeds a limit.

        The end of the text if the document was cut off. None if it is complete, or has not ended.
        """
        if self.state is not _INVALID:
            return None
        at = self._scanner.invalid_at if self._scanner is not None else None
        return self._chars + (at or 0)

    @property
    def is_representable(self) -> bool:
        """Whether the document has neither half of a surrogate pair nor a number too large for a double."""
        return self._violations.is_representable

    @property
    def document(self) -> str | None:
        """The document's text. None unless it is complete."""
        if self.state is not _COMPLETE or self._scanner is None:
            return None
        return self._scanner.text

    def refuse(self, pointer: str, description: str) -> None:
        """Add a violation that is found elsewhere."""
        self._violations.add(pointer, description)

    def feed(self, text: str) -> list[JsonValue]:
        """Read a piece of text. Return the values that it completes, in the order in which they end."""
        values: list[JsonValue] = []
        scanner = self._scanner
        if scanner is None:
            text = self._read_start(text)
            scanner = self._scanner
            if scanner is None:
                return values
        if self.state is _INSIDE:
            read_chars = scanner.feed(text, values)
            if not scanner.is_over:
                return values
            self._end(scanner)
            text = text[read_chars:]
        if self.state is _COMPLETE and self._after is not None:
            self._read_after(self._after, text)
        return values

    def finish(self) -> list[JsonValue]:
        """End the text. Return the last value if the document is a number. Call it once."""
        values: list[JsonValue] = []
        if self.state is _WAITING:
            self.state = _INVALID
            self._violations.add_first("", "the answer has no JSON")
        elif self.state is _INSIDE and self._scanner is not None:
            self._scanner.finish(values)
            self._end(self._scanner)
        if self._after and len(self._after) < len(self._fence):
            self._refuse_after(self._after)
        return values

    def _end(self, scanner: Scanner) -> None:
        if scanner.invalid_at is not None:
            self.state = _INVALID
            return
        self.state = _COMPLETE
        self._chars += scanner.chars

    def _read_start(self, text: str) -> str:
        """Read what is before the document. Return the document's beginning if `text` contains it."""
        if not self._start:
            text = self._skip_whitespace(text)
        text = self._start + text
        self._start = ""
        if not self._fence and text.startswith("`"):
            if line := _fence_line(text):
                self._fence = line[1]
                self._violations.add("", "the document is inside a Markdown code fence")
                self._chars += line.end()
                text = self._skip_whitespace(text[line.end() :])
            elif _cut_fence_line(text):
                self._start = text
                return ""
        if text:
            self.state = _INSIDE
            self._scanner = Scanner(self._index, self._chars, self._violations)
        return text

    def _read_after(self, before: str, text: str) -> None:
        """Read what follows the document: whitespace, the end of its fence, or other text."""
        after = before + text
        rest = after.strip(WHITESPACE)
        if not rest:
            self._chars += len(text)
            return
        if not before:
            self._chars += len(after) - len(after.lstrip(WHITESPACE))
        is_run = len(rest) <= _MAX_BACKTICKS and not rest.strip("`")
        is_ended = after[-1] in WHITESPACE
        if is_run and self._fence and (len(rest) >= len(self._fence) or not is_ended):
            self._after = rest + " " if is_ended else rest
        else:
            self._refuse_after(rest)

    def _refuse_after(self, rest: str) -> None:
        what = "another document" if rest[0] in "{[" else "other text"
        self._violations.add("", f"{what} follows the document at character {self._chars}")
        self._after = None

    def _skip_whitespace(self, text: str) -> str:
        document = text.lstrip(WHITESPACE)
        self._chars += len(text) - len(document)
        return document
