"""The JSON schemas of tools' parameters, as OpenAI's APIs accept them."""

from __future__ import annotations

import msgspec

from ..request import Tool

_NO_PARAMETERS = msgspec.Raw(b'{"type":"object","properties":{}}')
_COMBINING = frozenset({"properties", "$ref", "anyOf", "oneOf", "allOf"})
"""Keywords that say what properties an object has."""

_object = msgspec.json.Decoder(dict[str, msgspec.Raw])


def parameters_schema(tool: Tool) -> msgspec.Raw | dict[str, msgspec.Raw]:
    """Return the schema of a tool's parameters. It gets `properties` if it has none.

    OpenAI refuses the schema of an object without them. Other values stay as the caller wrote them.
    """
    schema = tool.parameters_json_schema.encode()
    if not schema:
        return _NO_PARAMETERS
    try:
        keywords = _object.decode(schema)
    except msgspec.DecodeError:  # half of a surrogate pair in a key
        return msgspec.Raw(schema)
    if keywords.keys() & _COMBINING:
        return msgspec.Raw(schema)
    return {**keywords, "properties": msgspec.Raw(b"{}")}
