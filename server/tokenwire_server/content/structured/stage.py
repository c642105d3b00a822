"""Structured output that fills in, as a stage between a decoder and a stream's log."""

from __future__ import annotations

from collections.abc import Iterable

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
from .bounds import MAX_VIOLATIONS
from .document_check import DocumentCheck
from .scanner import WHITESPACE
from .schema import CompiledSchema
from .values import JsonValues

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
        self._check: DocumentCheck | None = None
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

    def check(self) -> DocumentCheck | None:
        """Return the check with the schema if it may take long. The answer is complete."""
        document = self._document
        if self._schema is None or document is None or self._schema.is_quick_for(document):
            return None
        self._check = DocumentCheck(self._schema, document)
        return self._check

    def finish(self, end: Complete | None = COMPLETE) -> list[JsonValue | JsonResult]:
        """End the answer. Return the last value if it is a number, and the result.

        There is no result if the stream fails, and if there is no document because the model did something
        else, such as calling a tool.

        If the stream ended early, a document whose check may take long is not checked with the schema.
        """
        values: list[JsonValue | JsonResult] = [*self._values.finish()]
        if end is None:
            return values
        is_complete = end.reason in COMPLETED_BY_MODEL
        if self._index is None and not is_complete:
            return values  # for example, tool calls
        of_schema = self._schema_violations()
        found = self._values.violations + (of_schema or ())
        is_unchecked = of_schema is None
        result = JsonResult(not found and not is_unchecked, found[:MAX_VIOLATIONS], is_unchecked)
        if self._fails_if_invalid and found and is_complete:
            self.failure = InvalidAnswer()
        return [*values, result]

    @property
    def _document(self) -> str | None:
        """The document to check with the schema.

        It is also checked if there are other violations, such as a code fence around it. But one that has
        half of a surrogate pair or a number too large for a double is not: parsers read it differently.
        """
        return self._values.document if self._values.is_representable else None

    def _schema_violations(self) -> tuple[JsonViolation, ...] | None:
        """Return what the document breaks of the schema. None: it was not checked."""
        document = self._document
        if self._schema is None or document is None:
            return ()
        if self._check is not None:
            return self._check.found
        return self._schema.violations(document) if self._schema.is_quick_for(document) else None

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
