"""Whether an answer as a whole is one JSON document that follows its schema."""

from __future__ import annotations

from ...events import JsonResult
from .bounds import MAX_VIOLATIONS
from .schema import CompiledSchema
from .values import JsonValues


def result_of(values: JsonValues, schema: CompiledSchema | None) -> JsonResult:
    """Return the result of a text that has ended.

    A complete document is checked with the schema also if there are other violations, such as a code fence
    around it. But one that has half of a surrogate pair or a number too large for a double is not: it has no
    value that all parsers agree on. Pure: for a long document, it can run in another thread.
    """
    found = values.violations
    document = values.document
    if schema is not None and document is not None and values.is_representable:
        found += schema.violations(document)
    return JsonResult(not found, found[:MAX_VIOLATIONS])
