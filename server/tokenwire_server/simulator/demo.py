"""The model `demo`: what somebody sees who tries Tokenwire without a key.

It thinks for a moment and explains Tokenwire, at the pace of a real model. When the request offers
tools and the last message of the user names the first of them ("use get_weather for Berlin"), it
calls that tool instead, with arguments made up from the tool's schema.
"""

from __future__ import annotations

from typing import Any

import msgspec

from .scenario import Scenario
from .wire import ProviderRequest

REASONING = "The user wants to know what this is. A short, concrete explanation will do."

TEXT = """\
Tokenwire turns the token streams of language models into one typed gRPC stream. You call one \
method, and the answer arrives event by event: text, reasoning, tool calls, usage. Your deadline \
and your cancellation reach the provider, so a caller who leaves stops paying at once. Nothing is \
held back: a token that comes from the model goes out the moment it is there. And the end is never \
a guess: a finished answer, a refusal, a limit and a broken connection are different things, and \
each has its own name."""

DEMO = Scenario(text=TEXT, reasoning_text=REASONING, ttft_ms=300, itl_ms=20, jitter_ms=4)


def demo_scenario(request: ProviderRequest) -> Scenario:
    """The scenario of the model `demo` for this request."""
    if not request.tools:
        return DEMO
    tool = request.tools[0]
    asked = request.last_user_text.lower()
    if tool.name.lower() not in asked and tool.name.replace("_", " ").lower() not in asked:
        return DEMO
    arguments = msgspec.json.encode(_example(tool.schema)).decode()
    text = "Let me look that up."
    return msgspec.structs.replace(DEMO, text=text, tools=1, arguments=arguments, arg_fragments=6)


def _example(schema: Any, depth: int = 0) -> Any:
    """A value that fits the plain parts of a JSON schema: types, enums, required properties."""
    if not isinstance(schema, dict) or depth > 8:
        return {}
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        return schema["enum"][0]
    kind = schema.get("type")
    if kind == "string":
        return "Berlin"
    if kind in ("integer", "number"):
        return schema.get("minimum", 1)
    if kind == "boolean":
        return True
    if kind == "array":
        return [_example(schema.get("items"), depth + 1)]
    if kind == "null":
        return None
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        return {}
    required = schema.get("required")
    names = required if isinstance(required, list) and required else list(properties)
    return {name: _example(properties.get(name), depth + 1) for name in names}
