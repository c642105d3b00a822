"""The texts of a request that the model reads, each with the path of its field. No I/O, no clock."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

from ..request import (
    ChatRequest,
    Document,
    GrammarFormat,
    JsonSchemaFormat,
    Message,
    Part,
    Reasoning,
    RegexFormat,
    ResponseFormat,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)

PIECE_CHARS = 1024
"""Longest piece of a text: other tasks can run between two pieces."""

_UTF8_DECODER = codecs.getincrementaldecoder("utf-8")
_HIGH_SURROGATE = r"\\u[dD][89abAB][0-9a-fA-F]{2}"
_LOW_SURROGATE = r"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_ESCAPE = re.compile(rf'{_HIGH_SURROGATE}{_LOW_SURROGATE}|\\u[0-9a-fA-F]{{4}}|\\[bfnrt"\\/]')
_WHOLE_ESCAPES = re.compile(
    rf"(?:[^\\]+|(?!{_HIGH_SURROGATE}.{{0,5}}\Z)(?:{_ESCAPE.pattern}))*+", re.DOTALL
)
"""Matches up to an escape, or a pair of them, that may be incomplete."""
_PAIR_CHARS = 12
_SHORT_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


class InputText(msgspec.Struct, frozen=True):
    """One text of a request. It is not empty."""

    path: str
    """Path of the field in the caller's request, such as `messages[2].parts[0].text`. Contains nothing that
    the caller wrote."""
    content: str | bytes
    """The text. That of a document is UTF-8, checked: as a string it may take 4 times as much memory."""
    is_json: bool = False
    """Whether the text is JSON."""

    @property
    def text(self) -> str:
        """The whole text. JSON has its escapes. May take long for a document of some MiB."""
        return self.content if isinstance(self.content, str) else self.content.decode()

    def pieces(self) -> Iterator[str]:
        """Yield the text in pieces of at most PIECE_CHARS characters.

        JSON is read without its escapes, because many clients escape all letters that are not ASCII.
        """
        content = self.content
        if isinstance(content, bytes):
            decoder = _UTF8_DECODER()
            for start in range(0, len(content), PIECE_CHARS):
                yield decoder.decode(content[start : start + PIECE_CHARS])
        elif self.is_json and "\\" in content:
            yield from _unescaped(content)
        else:
            for start in range(0, len(content), PIECE_CHARS):
                yield content[start : start + PIECE_CHARS]


class _Field(NamedTuple):
    path: str
    content: str | bytes
    is_json: bool = False


def input_texts(request: ChatRequest) -> Iterator[InputText]:
    """Yield the texts of a request in the order of its fields.

    Not among them: images, sound, PDF documents and addresses of files; ids of tool calls; signatures and
    provider state; stop sequences; labels. Nothing of these is text that a caller writes for the model.
    """
    for field in _fields(request):
        if field.content:
            yield InputText(*field)


def _fields(request: ChatRequest) -> Iterator[_Field]:
    yield from _messages(request.messages)
    yield from _tools(request.tools)
    yield from _response_format(request.response_format)
    if request.provider_options:
        for text in _strings(request.provider_options):
            yield _Field("provider_options", text)


def _messages(messages: Iterable[Message]) -> Iterator[_Field]:
    for i, message in enumerate(messages):
        for j, part in enumerate(message.parts):
            yield from _part(part, f"messages[{i}].parts[{j}]")


def _part(part: Part, path: str) -> Iterator[_Field]:
    match part:
        case Text():
            yield _Field(f"{path}.text", part.text)
        case Reasoning():
            yield _Field(f"{path}.reasoning.text", part.text)
        case ToolCall():
            yield _Field(f"{path}.tool_call.name", part.name)
            yield _Field(f"{path}.tool_call.arguments_json", part.arguments_json, is_json=True)
        case ToolResult():
            yield _Field(f"{path}.tool_result.text", part.text)
            for k, inner in enumerate(part.parts):
                yield from _part(inner, f"{path}.tool_result.parts[{k}]")
        case Document():
            yield _Field(f"{path}.document.title", part.title)
            if part.media_type == "text/plain":
                yield _Field(f"{path}.document.data", part.data)


def _tools(tools: Iterable[Tool]) -> Iterator[_Field]:
    for i, tool in enumerate(tools):
        yield _Field(f"tools[{i}].name", tool.name)
        yield _Field(f"tools[{i}].description", tool.description)
        yield _Field(
            f"tools[{i}].parameters_json_schema", tool.parameters_json_schema, is_json=True
        )


def _response_format(wanted: ResponseFormat | None) -> Iterator[_Field]:
    match wanted:
        case JsonSchemaFormat():
            yield _Field("response_format.json_schema.name", wanted.name)
            yield _Field(
                "response_format.json_schema.schema_json", wanted.schema_json, is_json=True
            )
        case RegexFormat():
            yield _Field("response_format.regex.pattern", wanted.pattern)
        case GrammarFormat():
            yield _Field("response_format.grammar.definition", wanted.definition)


def _strings(options: dict[str, Any]) -> Iterator[str]:
    """Yield the keys and the strings of JSON values, in order. Their depth is bounded by the parser."""
    pending: list[Any] = [options]
    while pending:
        value = pending.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            for key, inner in reversed(value.items()):
                pending += (inner, key)
        elif isinstance(value, list):
            pending += reversed(value)


def _unescaped(json: str) -> Iterator[str]:
    """Yield the pieces of a JSON text, without its escapes."""
    start = 0
    while start < len(json):
        end = start + PIECE_CHARS
        if end < len(json) and (found := _WHOLE_ESCAPES.match(json, start, end)):
            end = found.end() if found.end() > start else end
        yield _ESCAPE.sub(_character, json[start:end])
        start = end


def _character(found: re.Match[str]) -> str:
    """Return the character of an escape, or of the two escapes of a surrogate pair."""
    escape = found[0]
    if escape[1] != "u":
        return _SHORT_ESCAPES.get(escape[1], escape[1])
    code = int(escape[2:6], 16)
    if len(escape) == _PAIR_CHARS:
        code = 0x10000 + (code - 0xD800) * 0x400 + int(escape[8:], 16) - 0xDC00
    return chr(code)
