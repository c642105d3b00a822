"""Messages, tools and tool choices in the style of Anthropic's Messages API.

https://docs.claude.com/en/api/messages
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby

from tokenwire.v1.chat_pb2 import (
    ROLE_ASSISTANT,
    ROLE_SYSTEM,
    ROLE_TOOL,
    ROLE_USER,
    TOOL_CHOICE_MODE_AUTO,
    TOOL_CHOICE_MODE_NONE,
    TOOL_CHOICE_MODE_REQUIRED,
    TOOL_CHOICE_MODE_TOOL,
    Document,
    Image,
    Message,
    Part,
    Reasoning,
    Tool,
    ToolChoice,
)
from tokenwire.v1.event_pb2 import ToolCall

from ..messages import tool
from .content import (
    BlockReader,
    read_parts,
    read_text_block,
    tool_result_part,
    without_empty_text,
)
from .fields import Fields, json_text

_ROLES = {"system": ROLE_SYSTEM, "user": ROLE_USER, "assistant": ROLE_ASSISTANT}
_ABOUT_THE_RESPONSE = (
    "id",
    "type",
    "model",
    "stop_reason",
    "stop_sequence",
    "stop_details",
    "usage",
)
"""Fields of an answer that describe its response. The API does not accept them in a request."""
_REDACTED = "redacted:"
"""Prefix of the signature of hidden reasoning: the server sends such reasoning as `redacted_thinking`."""
_MODES = {
    "auto": TOOL_CHOICE_MODE_AUTO,
    "any": TOOL_CHOICE_MODE_REQUIRED,
    "tool": TOOL_CHOICE_MODE_TOOL,
    "none": TOOL_CHOICE_MODE_NONE,
}


def read_message(message: Fields) -> list[Message]:
    """Return a message. A message of the user with tool results becomes several messages.

    Raises:
        TypeError, ValueError: a field cannot be sent. The error begins with its path.
    """
    role = _ROLES[message.choice("role", list(_ROLES))]
    if message.peek("type") == "message":
        for name in _ABOUT_THE_RESPONSE:
            message.take(name)
    readers = _BLOCKS_OF_ROLE[role]
    parts = read_parts(message.required("content"), message.path_of("content"), readers)
    message.end()
    if role == ROLE_ASSISTANT:
        return [Message(role=role, parts=without_empty_text(parts))]
    groups = groupby(parts, lambda part: part.HasField("tool_result"))
    return [Message(role=ROLE_TOOL if has else role, parts=group) for has, group in groups]


def read_tool(value: Fields) -> Tool:
    """Return a tool such as `{"name": ..., "description": ..., "input_schema": {...}}`."""
    value.only("type", "custom", "tools that the provider runs are not supported")
    name, description = value.text("name"), value.text("description", default="")
    schema = value.required("input_schema")
    if not isinstance(schema, Mapping):
        raise TypeError(f"{value.path_of('input_schema')}: must be a JSON Schema as a mapping")
    value.only("strict", value=False, reason="strict tools are not supported; omit it")
    value.end({"cache_control": "tools have no cache hints; mark a message"})
    return tool(name, description, parameters=schema)


def read_tool_choice(value: Fields) -> ToolChoice:
    """Return a choice such as `{"type": "tool", "name": ..., "disable_parallel_tool_use": True}`."""
    mode = _MODES[value.choice("type", list(_MODES))]
    name = value.text("name") if mode == TOOL_CHOICE_MODE_TOOL else ""
    is_serial = value.flag("disable_parallel_tool_use")
    value.end()
    return ToolChoice(
        mode=mode, tool_name=name, parallel=None if is_serial is None else not is_serial
    )


def _text(block: Fields) -> Part:
    part = read_text_block(block)
    if block.peek("citations"):
        raise block.fault("citations", "cannot be sent; omit them")
    return part


def _image(block: Fields) -> Part:
    source = block.inner("source")
    kind = source.choice("type", ["base64", "url"])
    image = (
        Image(uri=source.text("url"))
        if kind == "url"
        else Image(data=source.decoded("data"), media_type=source.text("media_type"))
    )
    source.end()
    return Part(image=image)


def _document(block: Fields) -> Part:
    source = block.inner("source")
    title = block.text("title", default="")
    match source.choice("type", ["base64", "text", "url"]):
        case "url":
            document = Document(uri=source.text("url"), title=title)
        case "text":
            data = source.text("data").encode()
            media_type = source.choice("media_type", ["text/plain"])
            document = Document(data=data, media_type=media_type, title=title)
        case _:
            data, media_type = source.decoded("data"), source.text("media_type")
            document = Document(data=data, media_type=media_type, title=title)
    source.end()
    if "citations" in block:
        citations = block.inner("citations")
        citations.only("enabled", value=False, reason="citations of documents are not supported")
        citations.end()
    return Part(document=document)


def _tool_use(block: Fields) -> Part:
    arguments = json_text(block.required("input"), block.path_of("input"))
    call = ToolCall(id=block.text("id"), name=block.text("name"), arguments_json=arguments)
    if "caller" in block:
        caller = block.inner("caller")
        caller.choice("type", ["direct"])
        caller.end()
    return Part(tool_call=call)


def _tool_result(block: Fields) -> Part:
    path = block.path_of("content")
    parts = read_parts(block.take("content"), path, _RESULT_BLOCKS)
    is_error = block.flag("is_error") or False
    return tool_result_part(block.text("tool_use_id"), parts, path, is_error=is_error)


def _thinking(block: Fields) -> Part:
    reasoning = Reasoning(
        text=block.text("thinking"), signature=block.text("signature", default="")
    )
    return Part(reasoning=reasoning)


def _redacted_thinking(block: Fields) -> Part:
    return Part(reasoning=Reasoning(signature=_REDACTED + block.text("data")))


_RESULT_BLOCKS: Mapping[str, BlockReader] = {
    "text": _text,
    "image": _image,
    "document": _document,
}
_BLOCKS_OF_ROLE: Mapping[int, Mapping[str, BlockReader]] = {
    ROLE_SYSTEM: {"text": _text},
    ROLE_USER: {**_RESULT_BLOCKS, "tool_result": _tool_result},
    ROLE_ASSISTANT: {
        "text": _text,
        "tool_use": _tool_use,
        "thinking": _thinking,
        "redacted_thinking": _redacted_thinking,
    },
}

BLOCK_TYPES = frozenset(kind for readers in _BLOCKS_OF_ROLE.values() for kind in readers)
"""The types of the blocks that can be sent."""
