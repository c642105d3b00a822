"""Structured output that fills in, as a stage between a decoder and a stream's log."""

from __future__ import annotations

from collections.abc import Iterable

from ...events import Delta, JsonResult, JsonValue, TextDelta, TextInfo, TextPhase
from .result import result_of
from .scanner import WHITESPACE
from .schema import CompiledSchema
from .values import JsonValues


class StructuredOutput:
    """Adds the values of a JSON answer to its deltas, and the result to their end.

    The document is the first text block with text that is neither whitespace nor commentary. Such text in
    another block is a violation. Decoders report that a block is commentary before its text.
    """

    def __init__(self, schema: CompiledSchema | None = None) -> None:
        """Without a schema, the result only says whether the answer is one JSON document."""
        self._schema = schema
        self._values = JsonValues()
        self._index: int | None = None
        """The block of the document. None until it begins."""
        self._commentary: set[int] = set()
        self._skipped_chars: dict[int, int] = {}
        """Whitespace at the beginning of blocks, by index."""
        self._has_other = False
        """Whether another block has text too."""

    def feed(self, deltas: Iterable[Delta]) -> list[Delta | JsonValue]:
        """Return all deltas, each one followed by the values that it completes."""
        entries: list[Delta | JsonValue] = []
        for delta in deltas:
            entries.append(delta)
            if isinstance(delta, TextDelta):
                if delta.index == self._index:
                    entries += self._values.feed(delta.text)
                elif delta.index not in self._commentary:
                    entries += self._read_other(delta)
            elif isinstance(delta, TextInfo) and delta.phase is TextPhase.COMMENTARY:
                self._commentary.add(delta.index)
        return entries

    def close(self) -> list[JsonValue]:
        """End the answer, once. Return the last value if the document is a number."""
        return self._values.finish()

    def result(self) -> JsonResult:
        """Return the result of an answer that was closed. Pure: for a long one, call it in another thread."""
        return result_of(self._values, self._schema)

    @property
    def document_chars(self) -> int:
        """Number of characters that `result` checks with the schema. 0 if it checks none."""
        if self._schema is None or not self._values.is_representable:
            return 0
        return self._values.document_chars

    def finish(self) -> list[JsonValue | JsonResult]:
        """End the answer. Return the last values, and the result."""
        return [*self.close(), self.result()]

    def _read_other(self, delta: TextDelta) -> list[JsonValue]:
        """Read text of a block that is not that of the document, unless it begins there."""
        skipped_chars = self._skipped_chars.get(delta.index, 0)
        if not delta.text.strip(WHITESPACE):
            self._skipped_chars[delta.index] = skipped_chars + len(delta.text)
            return []
        if self._index is not None:
            if not self._has_other:
                self._has_other = True
                self._values.refuse("", f"there is also text in block {delta.index}")
            return []
        self._index = delta.index
        self._values = JsonValues(delta.index, skipped_chars=skipped_chars)
        return self._values.feed(delta.text)
