"""Compiled JSON Schemas, and what a document breaks of them."""

from __future__ import annotations

import json
from itertools import islice
from typing import Any

import jsonschema_rs
import msgspec

from ...events import JsonViolation
from . import schema_cost
from .bounds import MAX_VIOLATIONS, violation
from .pointers import join
from .schema_graph import SchemaGraph, SchemaRefused

MAX_SCHEMA_CHARS = 256 * 1024
MAX_SCHEMA_VALUES = 20_000
MAX_SCHEMA_DEPTH = 64
MAX_EXPANDED = 20_000
"""Most subschemas when each reference is replaced by what it refers to."""
MAX_PATTERN_BYTES = 2**20
"""Size of a compiled pattern: `^.{1,500}$` has almost that size."""
MAX_EXPLAINED_CHECKS = 10_000
"""For more, only the first violation is searched: finding all would take 25 us for each one."""
MAX_CHECKS_PER_VALUE = 500
"""For more, no violation is searched: the time grows with the square of this number."""
MAX_QUICK_CHECKS = 100_000
"""Checks of one value with one subschema that are quick: 20 ns each."""
MAX_QUICK_PATTERN_STEPS = 100_000
"""Steps of all patterns that are quick: usually 0.1 ms. At worst 7 ms."""
MAX_QUICK_CHARS = 16 * 1024
"""Longest document whose check is quick. 1 MB takes 35 ms."""

_VALIDATORS: dict[str, Any] = {
    "https://json-schema.org/draft/2020-12/schema": jsonschema_rs.Draft202012Validator,
    "https://json-schema.org/draft/2019-09/schema": jsonschema_rs.Draft201909Validator,
    "http://json-schema.org/draft-07/schema": jsonschema_rs.Draft7Validator,
    "http://json-schema.org/draft-06/schema": jsonschema_rs.Draft6Validator,
    "http://json-schema.org/draft-04/schema": jsonschema_rs.Draft4Validator,
}
_DEFAULT_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_UNEXPLAINED = (violation("", "the document does not follow the schema"),)
_NAMES_KINDS = {"additionalProperties", "unevaluatedProperties"}
_MAX_QUOTE_CHARS = 64


class CompiledSchema:
    """A schema that documents are checked with. Immutable, and can be used by any thread."""

    def __init__(
        self,
        schema_json: str,
        validator: jsonschema_rs.Validator,
        graph: SchemaGraph,
        ways: list[float],
    ) -> None:
        """`ways` is the result of `schema_cost.checks_per_value`."""
        self.json = schema_json
        """The schema as it was given."""
        self._validator = validator
        self._ways = ways
        self._pattern_steps = schema_cost.pattern_steps(graph.nodes)
        self._is_flat = schema_cost.is_flat(graph.nodes)

    def violations(self, document: str) -> tuple[JsonViolation, ...]:
        """Return what a valid JSON document breaks of the schema, at most MAX_VIOLATIONS. Empty if nothing.

        Pure. It can take very long, and holds the interpreter's lock, also in another thread: see
        `is_quick_for`. If the search for all violations would take long, only the first one is returned, or
        one without a place.
        """
        value = json.loads(document)
        if self._validator.is_valid(value):
            return ()
        return self._explain(value)

    def is_quick_for(self, document: str) -> bool:
        """Return whether a document is certainly checked in about 2 ms. Takes at most 2 ms itself."""
        if len(document) > MAX_QUICK_CHARS:
            return False
        if self._pattern_steps * len(document) > MAX_QUICK_PATTERN_STEPS:
            return False
        depth, values = _measure(json.loads(document))
        return self._checks_per_value(depth) * values <= MAX_QUICK_CHECKS

    def _checks_per_value(self, depth: int) -> float:
        """Return at most how many subschemas are checked on the way to a value of a document."""
        return self._ways[min(depth, len(self._ways) - 1)]

    def _explain(self, value: Any) -> tuple[JsonViolation, ...]:
        depth, values = _measure(value)
        checks = self._checks_per_value(depth)
        if checks > MAX_CHECKS_PER_VALUE:
            return _UNEXPLAINED
        if checks * values <= MAX_EXPLAINED_CHECKS:
            errors = self._validator.iter_errors(value)
            return tuple(_described(error) for error in islice(errors, MAX_VIOLATIONS))
        if self._is_flat:
            try:
                self._validator.validate(value)
            except jsonschema_rs.ValidationError as error:
                return (_described(error),)
        return _UNEXPLAINED


def compile_schema(schema_json: str) -> CompiledSchema:
    """Compile a JSON Schema. Raises SchemaRefused.

    The default draft is 2020-12; `$schema` may name 2019-09, 7, 6 or 4. References lead into the schema
    itself only: nothing is fetched. Patterns have no look-around and no back-references, so that matching
    takes linear time. `format` is not checked.
    """
    schema = _load(schema_json)
    graph = SchemaGraph(schema)
    cycle = schema_cost.has_cycle(graph.nodes)
    if cycle is not None:
        pointer = graph.nodes[cycle].pointer
        raise SchemaRefused("a reference leads back to itself for the same value", pointer)
    ways = schema_cost.checks_per_value(graph.nodes)
    if max(ways[1], schema_cost.expanded_size(graph.nodes)) > MAX_EXPANDED:
        raise SchemaRefused(f"the references expand to more than {MAX_EXPANDED:,} subschemas")
    try:
        validator = _validator_class(schema)(
            schema,
            mask="the value",
            offline=True,
            pattern_options=jsonschema_rs.RegexOptions(size_limit=MAX_PATTERN_BYTES),
            validate_formats=False,
        )
    except jsonschema_rs.ValidationError as error:
        path = join("", *error.instance_path)
        if (path and path.rsplit("/")[-1] == "pattern") or "/patternProperties/" in path:
            problem = "the pattern is invalid, too large, or has look-around or back-references"
            raise SchemaRefused(problem, path) from error
        raise SchemaRefused(f"it is no JSON Schema: {error.message}", path) from error
    return CompiledSchema(schema_json, validator, graph, ways)


def _load(schema_json: str) -> dict[str, Any]:
    if len(schema_json) > MAX_SCHEMA_CHARS:
        raise SchemaRefused(f"the schema is longer than {MAX_SCHEMA_CHARS:,} characters")
    try:
        schema = msgspec.json.decode(schema_json)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise SchemaRefused(f"the schema is not JSON: {error}") from error
    if not isinstance(schema, dict):
        raise SchemaRefused("the schema must be a JSON object")
    depth, values = _measure(schema)
    if depth > MAX_SCHEMA_DEPTH:
        raise SchemaRefused(f"the schema is nested deeper than {MAX_SCHEMA_DEPTH}")
    if values > MAX_SCHEMA_VALUES:
        raise SchemaRefused(f"the schema has more than {MAX_SCHEMA_VALUES:,} values")
    return schema


def _validator_class(schema: dict[str, Any]) -> Any:
    draft = schema.get("$schema", _DEFAULT_DRAFT)
    validator = _VALIDATORS.get(draft.rstrip("#")) if isinstance(draft, str) else None
    if validator is None:
        raise SchemaRefused("unknown draft of JSON Schema", "/$schema")
    return validator


def _described(error: jsonschema_rs.ValidationError) -> JsonViolation:
    pointer = join("", *error.instance_path)
    keyword = error.kind.name
    if keyword in _NAMES_KINDS:
        unexpected = getattr(error.kind, "unexpected", None) or [""]
        more = f" and {len(unexpected) - 1} more" if len(unexpected) > 1 else ""
        return violation(pointer, f"{_quote(unexpected[0])}{more}: no other names are allowed")
    if keyword == "falseSchema" and error.schema_path[-1:] == ["additionalProperties"]:
        return violation(pointer, "no other names are allowed")
    if keyword == "propertyNames":
        return violation(pointer, "a name does not follow the schema of names")
    return violation(pointer, error.message)


def _quote(text: str) -> str:
    return repr(text if len(text) <= _MAX_QUOTE_CHARS else text[:_MAX_QUOTE_CHARS] + "...")


def _measure(value: Any) -> tuple[int, int]:
    """Return the depth and the number of values, both of a container's members too."""
    depth = count = 0
    level = [value]
    while level:
        depth += 1
        count += len(level)
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return depth, count
