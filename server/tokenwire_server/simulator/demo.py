"""The model `demo`, for trying Tokenwire without a key.

It pauses like a real model, then explains Tokenwire. When the request offers tools and the user's last
message names some of them ("use get_weather for Berlin", or just "the weather"), it calls those tools
instead, with example arguments for their schemas. When tool results follow the user's last message, it
answers with these results, so that a tool loop ends after two rounds. When the request has a JSON Schema for
the answer, it answers with an example.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from .scenario import Scenario, ScriptedCall
from .wire import ProviderRequest, ToolResult, ToolSpec

MAX_RESULTS = 8
"""Maximum number of tool results that an answer quotes."""
MAX_RESULT_CHARACTERS = 300
"""Maximum number of characters that an answer quotes of one result."""
MAX_QUESTION_CHARACTERS = 2_000
"""Characters at the end of a question that are searched for names of tools. With many tools, a search in
megabytes of text would block the event loop for seconds."""
MAX_DEPTH = 8
"""Maximum depth of an example, and number of references that lead to each other."""
MIN_LAST_WORD = 4
"""Minimum length of a last word that names a tool, such as "weather" of "get_weather"."""

REASONING = "The user wants to know what this is. A short, concrete explanation will do."
RESULT_REASONING = "The tool has returned what the user asked for."

TEXT = """\
Tokenwire turns the token streams of language models into one typed gRPC stream. You call one \
method, and the answer arrives event by event: text, reasoning, tool calls, usage. Your deadline \
and your cancellation reach the provider, so a caller who leaves stops paying at once. Nothing is \
held back: a token that comes from the model goes out the moment it is there. And the end is never \
a guess: a finished answer, a refusal, a limit and a broken connection are different things, and \
each has its own name."""

_SCHEMA_PATHS = (
    ("response_format", "json_schema", "schema"),
    ("text", "format", "schema"),
    ("output_config", "format", "schema"),
)
"""Where Chat Completions, Responses and Messages have the JSON Schema of the answer."""

_FORMATS = {
    "date": "2026-01-31",
    "date-time": "2026-01-31T12:00:00Z",
    "email": "user@example.com",
    "time": "12:00:00Z",
    "uuid": "00000000-0000-4000-8000-000000000000",
}
"""Examples of strings with a format."""

DEMO = Scenario(text=TEXT, reasoning_text=REASONING, ttft_ms=300, itl_ms=20, jitter_ms=4)


def demo_scenario(request: ProviderRequest) -> Scenario:
    """Return the scenario of the model `demo` for this request."""
    if request.conversation.tool_results:
        return msgspec.structs.replace(
            DEMO,
            reasoning_text=RESULT_REASONING,
            text=_answer_with(request.conversation.tool_results),
        )
    tools = _tools_to_call(request)
    schema = _answer_schema(request.body)
    if not tools and schema is not None:
        example = json.dumps(_example(schema, name="answer"), indent=2)
        return msgspec.structs.replace(DEMO, text=example)
    if not tools:
        return DEMO
    calls = tuple(
        ScriptedCall(tool.name, msgspec.json.encode(_example(tool.schema)).decode())
        for tool in tools
    )
    return msgspec.structs.replace(DEMO, text="Let me look that up.", calls=calls, arg_fragments=6)


def _answer_schema(body: dict[str, Any]) -> dict[str, Any] | None:
    """Return the JSON Schema of the answer, or None if the request has none."""
    for path in _SCHEMA_PATHS:
        found: Any = body
        for name in path:
            found = found.get(name) if isinstance(found, dict) else None
        if isinstance(found, dict):
            return found
    return None


def _tools_to_call(request: ProviderRequest) -> Sequence[ToolSpec]:
    tools, choice = request.tools, request.tool_choice
    match choice.mode:
        case "none":
            return ()
        case "tool":
            return [tool for tool in tools if tool.name == choice.name][:1]
    named = _named_in(request.conversation.question[-MAX_QUESTION_CHARACTERS:], tools)
    return named or (tools[:1] if choice.mode == "required" else ())


def _named_in(question: str, tools: Sequence[ToolSpec]) -> Sequence[ToolSpec]:
    """Return the tools whose full name is in the text, otherwise the first tool whose last word is."""
    in_full = [
        tool
        for tool in tools
        if _contains(question, tool.name) or _contains(question, tool.name.replace("_", " "))
    ]
    if in_full:
        return in_full
    for tool in tools:
        last_word = tool.name.rpartition("_")[2]
        if len(last_word) >= MIN_LAST_WORD and _contains(question, last_word):
            return [tool]
    return ()


def _contains(text: str, words: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text, re.IGNORECASE) is not None


def _answer_with(results: Sequence[ToolResult]) -> str:
    sentences = [
        f"{result.tool} returned: {_shortened(result.text)}" for result in results[:MAX_RESULTS]
    ]
    if len(results) > MAX_RESULTS:
        sentences.append(f"({len(results) - MAX_RESULTS} more results)")
    sentences.append("A real model would now answer in its own words.")
    return "\n".join(sentences)


def _shortened(text: str) -> str:
    text = text.strip() or "(nothing)"
    if len(text) <= MAX_RESULT_CHARACTERS:
        return text
    return text[:MAX_RESULT_CHARACTERS] + "..."


def _example(schema: Any, depth: int = 0, name: str = "", root: Any = None) -> Any:
    """Return a value for the simple parts of a JSON schema: types, enums, required properties, references.

    `name` is that of the value in an answer. Arguments of tools have none. `root` is the whole schema.
    """
    root = schema if root is None else root
    schema = _chosen(schema, root, depth)
    if not isinstance(schema, dict) or depth > MAX_DEPTH:
        return {}
    if "const" in schema:
        return schema["const"]
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        return schema["enum"][0]
    kind = schema.get("type")
    if kind == "string":
        formatted = _FORMATS.get(str(schema.get("format")))
        return formatted or (f"example {name}" if name else "Berlin")
    if kind in ("integer", "number"):
        return schema.get("minimum", 1)
    if kind == "boolean":
        return True
    if kind == "array":
        count = 0 if depth > MAX_DEPTH - 3 else 2 if name else 1
        return [_example(schema.get("items"), depth + 1, name, root) for _ in range(count)]
    if kind == "null":
        return None
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        return {}
    required = schema.get("required")
    names = required if isinstance(required, list) and required else list(properties)
    return {
        each: _example(properties.get(each), depth + 1, name and str(each), root) for each in names
    }


def _chosen(schema: Any, root: Any, depth: int) -> Any:
    """Resolve references, and select one of several choices.

    Deep in a value, null is selected if it is one of the choices, so that examples of recursive types end.
    """
    for _ in range(MAX_DEPTH):
        if not isinstance(schema, dict):
            break
        choices = schema.get("anyOf")
        if isinstance(choices, list) and choices:
            has_end = depth > 2 and {"type": "null"} in choices
            schema = {"type": "null"} if has_end else choices[0]
        elif isinstance(schema.get("$ref"), str):
            found = root
            for key in schema["$ref"].removeprefix("#/").split("/"):
                found = found.get(key) if isinstance(found, dict) else None
            schema = found
        else:
            break
    return schema
