"""Whether an answer as a whole is one JSON document that follows its schema."""

from __future__ import annotations

from ...events import JsonResult, JsonViolation
from .bounds import MAX_VIOLATIONS
from .schema import CompiledSchema
from .values import JsonValues


def result_of(values: JsonValues, schema: CompiledSchema | None) -> JsonResult:
    """Return the result of a text that has ended."""
    return result_with(values, schema_violations(values, schema))


def schema_violations(
    values: JsonValues, schema: CompiledSchema | None
) -> tuple[JsonViolation, ...]:
    """Return where a complete document does not follow its schema. Pure: it can run in another thread.

    A document is checked also if there are other violations, such as a code fence around it. But one that has
    half of a surrogate pair or a number too large for a double is not: it has no value that all parsers agree
    on.
    """
    document = values.document
    if schema is None or document is None or not values.is_representable:
        return ()
    return schema.violations(document)


def result_with(values: JsonValues, of_schema: tuple[JsonViolation, ...]) -> JsonResult:
    """Return the result of a text that has ended, given the violations of its schema."""
    found = values.violations + of_schema
    return JsonResult(not found, found[:MAX_VIOLATIONS])
