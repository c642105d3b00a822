"""The texts of a request that the model reads, each with the path of its field. No I/O, no clock."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from typing import Any

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


class InputText(msgspec.Struct, frozen=True):
    """One text of a request. It is not empty."""

    path: str
    """Path of the field in the caller's request, such as `messages[2].parts[0].text`. Contains nothing that
    the caller wrote."""
    content: str | bytes
    """The text. That of a document is UTF-8, checked: as a string it may take 4 times as much memory."""

    @property
    def text(self) -> str:
        """The whole text. May take long for a document of some MiB."""
        return self.content if isinstance(self.content, str) else self.content.decode()

    def pieces(self) -> Iterator[str]:
        """Yield the text in pieces of at most PIECE_CHARS characters."""
        content = self.content
        if isinstance(content, str):
            for start in range(0, len(content), PIECE_CHARS):
                yield content[start : start + PIECE_CHARS]
            return
        decoder = _UTF8_DECODER()
        for start in range(0, len(content), PIECE_CHARS):
            yield decoder.decode(content[start : start + PIECE_CHARS])


def input_texts(request: ChatRequest) -> Iterator[InputText]:
    """Yield the texts of a request in the order of its fields.

    Not among them: images, sound, PDF documents and addresses of files; ids of tool calls; signatures and
    provider state; stop sequences; labels. Nothing of these is text that a caller writes for the model.
    """
    for path, content in _fields(request):
        if content:
            yield InputText(path, content)


def _fields(request: ChatRequest) -> Iterator[tuple[str, str | bytes]]:
    yield from _messages(request.messages)
    yield from _tools(request.tools)
    yield from _response_format(request.response_format)
    if request.provider_options:
        for text in _strings(request.provider_options):
            yield "provider_options", text


def _messages(messages: Iterable[Message]) -> Iterator[tuple[str, str | bytes]]:
    for i, message in enumerate(messages):
        for j, part in enumerate(message.parts):
            yield from _part(part, f"messages[{i}].parts[{j}]")


def _part(part: Part, path: str) -> Iterator[tuple[str, str | bytes]]:
    match part:
        case Text():
            yield f"{path}.text", part.text
        case Reasoning():
            yield f"{path}.reasoning.text", part.text
        case ToolCall():
            yield f"{path}.tool_call.name", part.name
            yield f"{path}.tool_call.arguments_json", part.arguments_json
        case ToolResult():
            yield f"{path}.tool_result.text", part.text
            for k, inner in enumerate(part.parts):
                yield from _part(inner, f"{path}.tool_result.parts[{k}]")
        case Document():
            yield f"{path}.document.title", part.title
            if part.media_type == "text/plain":
                yield f"{path}.document.data", part.data


def _tools(tools: Iterable[Tool]) -> Iterator[tuple[str, str]]:
    for i, tool in enumerate(tools):
        yield f"tools[{i}].name", tool.name
        yield f"tools[{i}].description", tool.description
        yield f"tools[{i}].parameters_json_schema", tool.parameters_json_schema


def _response_format(wanted: ResponseFormat | None) -> Iterator[tuple[str, str]]:
    match wanted:
        case JsonSchemaFormat():
            yield "response_format.json_schema.name", wanted.name
            yield "response_format.json_schema.schema_json", wanted.schema_json
        case RegexFormat():
            yield "response_format.regex.pattern", wanted.pattern
        case GrammarFormat():
            yield "response_format.grammar.definition", wanted.definition


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
