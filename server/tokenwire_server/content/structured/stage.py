"""Structured output that fills in, as a stage between a decoder and a stream's log."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ...errors import InvalidAnswer, TokenwireError
from ...events import (
    AnswerEntry,
    FinishReason,
    JsonResult,
    JsonValue,
    JsonViolation,
    TextDelta,
    TextInfo,
    TextPhase,
)
from ...providers.decode.base import Complete
from .result import result_with, schema_violations
from .scanner import WHITESPACE
from .schema import CompiledSchema
from .values import JsonValues

MAX_CHECKED_INLINE_CHARS = 16 * 1024
"""Longest document that is checked with its schema in the event loop."""
UNCHECKED = "was not checked with the schema, because the stream ended early"
COMPLETE = Complete(FinishReason.STOP)
COMPLETED_BY_MODEL = frozenset({FinishReason.STOP, FinishReason.STOP_SEQUENCE})


class StructuredOutput:
    """Adds the values of a JSON answer to its deltas, and the result to their end.

    The document is the first text block with text that is neither whitespace nor commentary. Such text in
    another block is a violation. Decoders report that a block is commentary before its text.
    """

    def __init__(
        self, schema: CompiledSchema | None = None, *, fails_if_invalid: bool = False
    ) -> None:
        """Without a schema, the result only says whether the answer is one JSON document.

        `fails_if_invalid`: an answer that the model completed is an error if it is not valid.
        """
        self.end: Complete | None = None
        self.failure: TokenwireError | None = None
        self._fails_if_invalid = fails_if_invalid
        self._found: tuple[JsonViolation, ...] | None = None  # by the schema, once it was checked
        self._schema = schema
        self._values = JsonValues()
        self._index: int | None = None
        """The block of the document. None until it begins."""
        self._commentary: set[int] = set()
        self._skipped_chars: dict[int, int] = {}
        """Whitespace at the beginning of blocks, by index."""
        self._has_other = False
        """Whether another block has text too."""

    def feed(self, deltas: Iterable[AnswerEntry]) -> list[AnswerEntry]:
        """Return all deltas, each one followed by the values that it completes."""
        entries: list[AnswerEntry] = []
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

    def check(self) -> Callable[[], object] | None:
        """Return the check with the schema if it takes long, for another thread. The answer is complete."""
        return self._check if self._checked_chars > MAX_CHECKED_INLINE_CHARS else None

    def finish(self, end: Complete | None = COMPLETE) -> list[JsonValue | JsonResult]:
        """End the answer. Return the last value if it is a number, and the result unless the stream fails.

        If the stream ended early, a long document was not checked with the schema.
        """
        values: list[JsonValue | JsonResult] = [*self._values.finish()]
        if end is None:
            return values
        if self._found is None:
            if self._checked_chars > MAX_CHECKED_INLINE_CHARS:
                self._found = (JsonViolation("", UNCHECKED),)
            else:
                self._check()
        result = result_with(self._values, self._found or ())
        if self._fails_if_invalid and not result.is_valid and end.reason in COMPLETED_BY_MODEL:
            self.failure = InvalidAnswer()
        return [*values, result]

    @property
    def _checked_chars(self) -> int:
        """Number of characters that are checked with the schema. 0: none."""
        if self._schema is None or not self._values.is_representable:
            return 0
        return self._values.document_chars

    def _check(self) -> None:
        self._found = schema_violations(self._values, self._schema)

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
