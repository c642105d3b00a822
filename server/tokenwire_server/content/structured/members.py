"""The open containers of a document, and the values that are complete."""

from __future__ import annotations

import json
import math
import re
from io import StringIO

from ...events import JsonValue
from . import bounds
from .bounds import Violations
from .pointers import escape

_surrogate = re.compile(r"[\ud800-\udfff]")


class Container:
    """An open object or array."""

    __slots__ = ("count", "member", "names", "pointer", "start")

    def __init__(self, pointer: str, start: int, names: set[str] | None) -> None:
        self.pointer = pointer
        self.start = start
        """Position of its first character."""
        self.names = names
        """The names so far. None for an array."""
        self.count = 0
        """Number of complete elements of an array."""
        self.member = pointer
        """Pointer of the current member of an object."""


class Members:
    """Makes the values of one document. Its methods return why the document exceeds a limit, or None.

    Positions count characters of the document.
    """

    __slots__ = (
        "_container_chars",
        "_index",
        "_pointer_chars",
        "_source",
        "_values_count",
        "_violations",
        "open",
        "values",
    )

    def __init__(self, index: int, violations: Violations) -> None:
        self.open: list[Container] = []
        self.values: list[JsonValue] = []
        """The values since the caller replaced this list."""
        self._index = index
        self._violations = violations
        self._source = StringIO()
        self._source.read()  # makes it an array now: doing so for a long text takes milliseconds
        self._values_count = 0
        self._pointer_chars = 0
        self._container_chars = 0

    @property
    def pointer(self) -> str:
        """The pointer of the value that begins or ends here."""
        if not self.open:
            return ""
        top = self.open[-1]
        return top.member if top.names is not None else f"{top.pointer}/{top.count}"

    def write(self, text: str) -> None:
        self._source.write(text)

    def cut(self, chars: int) -> None:
        """Drop the text after the first `chars` characters."""
        self._source.truncate(chars)

    def text(self) -> str:
        return self._source.getvalue()

    def name(self, start: int, end: int) -> str | None:
        """Begin a member of the innermost object, whose name was read."""
        top = self.open[-1]
        source = self._slice(start, end)
        name: str = json.loads(source) if "\\" in source else source[1:-1]
        if not name.isascii():
            name = _surrogate.sub("\ufffd", name)
        escaped = escape(name)
        if len(top.pointer) + 1 + len(escaped) > bounds.MAX_POINTER_CHARS:
            limit = bounds.MAX_POINTER_CHARS
            return f"the pointer of a value is longer than {limit:,} characters"
        top.member = f"{top.pointer}/{escaped}"
        if top.names is not None:
            if name in top.names:
                self._violations.add(top.member, "the object has this name twice")
            top.names.add(name)
        return None

    def begin(self, start: int, *, is_object: bool) -> str | None:
        """Open a container."""
        if len(self.open) == bounds.MAX_DEPTH:
            return f"the document is nested deeper than {bounds.MAX_DEPTH}"
        self.open.append(Container(self.pointer, start, set() if is_object else None))
        return None

    def close(self, end: int) -> str | None:
        """Close the innermost container."""
        container = self.open.pop()
        chars = end - container.start
        self._container_chars += chars
        is_omitted = self._container_chars > bounds.MAX_CONTAINERS_CHARS
        if is_omitted or chars > bounds.MAX_VALUE_CHARS:
            self._container_chars -= chars
            is_omitted = True
        return self._add(container.pointer, container.start, end, is_omitted=is_omitted)

    def scalar(self, start: int, end: int, *, is_number: bool = False) -> str | None:
        """Complete a string, a number or a literal."""
        pointer = self.pointer
        if is_number and math.isinf(float(self._slice(start, end))):
            self._violations.add(pointer, "the number is too large for a double")
            self._violations.is_representable = False
        return self._add(pointer, start, end, is_omitted=end - start > bounds.MAX_VALUE_CHARS)

    def _add(self, pointer: str, start: int, end: int, *, is_omitted: bool) -> str | None:
        self._values_count += 1
        self._pointer_chars += len(pointer)
        if self._values_count > bounds.MAX_VALUES:
            return f"the document has more than {bounds.MAX_VALUES:,} values"
        is_sent = self._pointer_chars <= bounds.MAX_SENT_POINTERS_CHARS
        if is_sent and self._values_count <= bounds.MAX_SENT_VALUES:
            text = "" if is_omitted else self._slice(start, end)
            self.values.append(JsonValue(self._index, pointer, text, is_omitted))
        if self.open:
            self.open[-1].count += 1
        return None

    def _slice(self, start: int, end: int) -> str:
        source = self._source
        source.seek(start)
        text = source.read(end - start)
        source.seek(0, 2)
        return text
