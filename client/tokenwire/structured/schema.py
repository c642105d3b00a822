"""The JSON Schema of a class, in the subset that providers accept for answers. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

from .._json import Json

_KEPT = frozenset({"$ref", "const", "description", "enum", "title", "type"})
"""Keywords that are sent as they are."""
_RESTRICTING = frozenset({"$ref", "anyOf", "const", "enum", "type"})
"""Keywords of which a schema needs at least one in strict mode."""
_FORMATS = frozenset(
    {"date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uuid"}
)
"""Values of `format` that OpenAI and Anthropic both accept."""
_DROPPED = frozenset(
    {
        "$defs",
        "$schema",
        "additionalProperties",
        "default",
        "discriminator",
        "examples",
        "items",
        "properties",
        "required",
    }
)
"""Keywords that restrict nothing, or that are generated again."""


class AnswerSchema(NamedTuple):
    """A schema for `response_format.json_schema`."""

    schema: dict[str, Json]
    is_strict: bool
    """Whether the schema is in the subset of the providers' strict modes."""


def answer_schema(schema: Mapping[str, Json]) -> AnswerSchema:
    """Return the schema of a class as OpenAI and Anthropic accept it in strict mode.

    Objects are closed and require all their properties, and the root is an object. A constraint that one of
    the providers refuses, such as `minimum`, moves to the description: the class checks it in the answer. A
    value that the subset cannot describe, such as a mapping with any keys, makes the schema not strict.

    Sources: https://platform.openai.com/docs/guides/structured-outputs and
    https://docs.claude.com/en/docs/build-with-claude/structured-outputs.

    Raises:
        TypeError: the root is not an object.
    """
    adapter = _Adapter()
    root = {key: value for key, value in schema.items() if key != "$defs"}
    definitions = schema.get("$defs")
    definitions = definitions if isinstance(definitions, dict) else {}
    reference = root.get("$ref")
    if isinstance(reference, str):  # the root itself must be the object
        named = definitions.get(reference.removeprefix("#/$defs/"))
        root = {**named} if isinstance(named, dict) else root
    if root.get("type") != "object":
        raise TypeError("an answer must be an object with named fields")
    adapted = adapter.adapt(root)
    used = _reachable(adapted, {key: adapter.adapt(each) for key, each in definitions.items()})
    if used:
        adapted["$defs"] = used
    return AnswerSchema(adapted, adapter.is_strict)


class _Adapter:
    def __init__(self) -> None:
        self.is_strict = True

    def adapt(self, schema: Json) -> dict[str, Json]:
        """Return one schema, with its subschemas adapted."""
        if not isinstance(schema, dict):  # true or false
            self.is_strict = False
            return {} if schema else {"not": {}}
        adapted: dict[str, Json] = {}
        moved: dict[str, Json] = {}
        for keyword, value in schema.items():
            match keyword, value:
                case "anyOf" | "oneOf" | "allOf", [*choices]:
                    # For oneOf and allOf, this is wider: the class checks the answer.
                    adapted["anyOf"] = [self.adapt(each) for each in choices]
                case "items", dict():
                    adapted["items"] = self.adapt(value)
                case "prefixItems", [*choices]:  # a tuple
                    self.is_strict = False
                    adapted["prefixItems"] = [self.adapt(each) for each in choices]
                case "items" | "minItems" | "maxItems", _ if "prefixItems" in schema:
                    adapted[keyword] = value
                case "minItems", 0 | 1:
                    adapted[keyword] = value
                case "format", str() if value in _FORMATS:
                    adapted[keyword] = value
                case _ if keyword in _KEPT:
                    adapted[keyword] = value
                case _ if keyword not in _DROPPED:
                    moved[keyword] = value
        if schema.get("type") == "object":
            adapted.update(self._object(schema))
        elif adapted.get("type") == "array":
            self.is_strict &= "items" in adapted  # otherwise, any elements are allowed
        elif not adapted.keys() & _RESTRICTING:
            self.is_strict = False  # any value
        return _alone(_described(adapted, moved))

    def _object(self, schema: Mapping[str, Json]) -> dict[str, Json]:
        properties = schema.get("properties")
        if not isinstance(properties, dict):
            properties = {}
        more = schema.get("additionalProperties", "properties" not in schema)
        is_mapping = isinstance(more, dict) or (more is True and not properties)
        if is_mapping:
            self.is_strict = False
        return {
            "properties": {key: self.adapt(each) for key, each in properties.items()},
            "required": list(properties),
            "additionalProperties": self.adapt(more) if is_mapping else False,
        }


def _alone(schema: dict[str, Json]) -> dict[str, Json]:
    """Return a schema whose `$ref` has no keywords beside it, which OpenAI refuses."""
    if "$ref" not in schema or len(schema) == 1:
        return schema
    rest = {key: value for key, value in schema.items() if key != "$ref"}
    return {"anyOf": [{"$ref": schema["$ref"]}], **rest}


def _described(schema: dict[str, Json], moved: Mapping[str, Json]) -> dict[str, Json]:
    """Return a schema with keywords moved to its description."""
    if not moved:
        return schema
    texts = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in moved.items()]
    text = schema.get("description")
    before = f"{text} " if isinstance(text, str) and text else ""
    return {**schema, "description": f"{before}({', '.join(texts)})"}


def _reachable(root: Json, definitions: Mapping[str, Json]) -> dict[str, Json]:
    """Return the definitions that a schema refers to, directly or through others."""
    found: dict[str, Json] = {}
    pending: list[Json] = [root]
    while pending:
        match pending.pop():
            case dict(schema):
                reference = schema.get("$ref")
                name = reference.removeprefix("#/$defs/") if isinstance(reference, str) else ""
                if name in definitions and name not in found:
                    found[name] = definitions[name]
                    pending.append(definitions[name])
                pending.extend(schema.values())
            case list(schemas):
                pending.extend(schemas)
    return found
