"""Messages, tools and formats in the style of OpenAI's Chat Completions API.

https://platform.openai.com/docs/api-reference/chat/create
"""

from __future__ import annotations

from collections.abc import Mapping

from tokenwire.v1.chat_pb2 import (
    ROLE_ASSISTANT,
    ROLE_SYSTEM,
    ROLE_TOOL,
    ROLE_USER,
    TOOL_CHOICE_MODE_AUTO,
    TOOL_CHOICE_MODE_NONE,
    TOOL_CHOICE_MODE_REQUIRED,
    TOOL_CHOICE_MODE_TOOL,
    Audio,
    Document,
    Image,
    JsonFormat,
    Message,
    Part,
    Reasoning,
    ResponseFormat,
    TextFormat,
    Tool,
    ToolChoice,
)
from tokenwire.v1.event_pb2 import ToolCall

from ..messages import json_format, tool
from .content import (
    BlockReader,
    read_parts,
    read_text_block,
    tool_result_part,
    without_empty_text,
)
from .fields import Fields, decoded_url, fields_of

_ROLES = {
    "system": ROLE_SYSTEM,
    "developer": ROLE_SYSTEM,
    "user": ROLE_USER,
    "assistant": ROLE_ASSISTANT,
    "tool": ROLE_TOOL,
}
_AUDIO_TYPES = {"wav": "audio/wav", "mp3": "audio/mpeg"}
_REASONS = {
    "annotations": "citations of an answer cannot be sent; omit them",
    "audio": "the audio of an answer cannot be sent; send its transcript as content",
    "function_call": "use tool_calls",
    "name": "names of participants cannot be sent; write the name in the content",
}
_MODES = {
    "auto": TOOL_CHOICE_MODE_AUTO,
    "none": TOOL_CHOICE_MODE_NONE,
    "required": TOOL_CHOICE_MODE_REQUIRED,
}


def read_message(message: Fields, tool_names: Mapping[str, str]) -> Message:
    """Return a message. `tool_names` has the name of each tool call in the messages before it, by its id.

    Raises:
        TypeError, ValueError: a field cannot be sent. The error begins with its path.
    """
    role = _ROLES[message.choice("role", list(_ROLES))]
    if "text" in message and "content" not in message:  # Tokenwire's own synonym
        content, path = message.take("text"), message.path_of("text")
    else:
        content, path = message.take("content"), message.path_of("content")
    match role:
        case _ if role == ROLE_TOOL:
            parts = _tool_parts(message, content, path, tool_names)
        case _ if role == ROLE_ASSISTANT:
            parts = _assistant_parts(message, content, path)
        case _:
            if content is None:
                raise ValueError(
                    f"{message.path}: a message has 'role' and one of 'content', 'text'"
                )
            readers = _USER_BLOCKS if role == ROLE_USER else _SYSTEM_BLOCKS
            parts = read_parts(content, path, readers)
    message.end(_REASONS)
    return Message(role=role, parts=parts)


def read_tool(value: Fields) -> Tool:
    """Return a tool such as `{"type": "function", "function": {"name": ..., "parameters": {...}}}`."""
    value.choice("type", ["function"])
    function = value.inner("function")
    name, description = function.text("name"), function.text("description", default="")
    schema = function.take("parameters")
    if schema is not None and not isinstance(schema, Mapping):
        raise TypeError(f"{function.path_of('parameters')}: must be a JSON Schema as a mapping")
    function.only("strict", value=False, reason="strict tools are not supported; omit it")
    function.end()
    value.end()
    return tool(name, description, parameters=schema)


def read_tool_choice(value: object, path: str) -> ToolChoice:
    """Return a choice such as "required" or `{"type": "function", "function": {"name": ...}}`."""
    if isinstance(value, str):
        if value not in _MODES:
            raise ValueError(f"{path}: must be one of {', '.join(_MODES)}, not {value!r}")
        return ToolChoice(mode=_MODES[value])
    choice = fields_of(value, path)
    choice.choice("type", ["function"])
    function = choice.inner("function")
    name = function.text("name")
    function.end()
    choice.end()
    return ToolChoice(mode=TOOL_CHOICE_MODE_TOOL, tool_name=name)


def read_response_format(value: Fields) -> ResponseFormat:
    """Return a format such as `{"type": "json_schema", "json_schema": {"name": ..., "schema": {...}}}`.

    It is the format that `json_format` returns: the stream has the values as soon as they are complete.
    """
    if value.peek("type") in ("object", "array") or "properties" in value:
        raise ValueError(
            f"{value.path}: is a JSON Schema: give json_format(name, schema), or a class"
        )
    kind = value.choice("type", ["text", "json_object", "json_schema"])
    match kind:
        case "text":
            response_format = ResponseFormat(text=TextFormat())
        case "json_object":
            response_format = ResponseFormat(json=JsonFormat())
        case _:
            inner = value.inner("json_schema")
            name, schema = inner.text("name"), inner.required("schema")
            if not isinstance(schema, Mapping):
                raise TypeError(f"{inner.path_of('schema')}: must be a JSON Schema as a mapping")
            response_format = json_format(name, schema, strict=inner.flag("strict") or False)
            inner.end({"description": "cannot be sent; write it in the schema"})
    value.end()
    return response_format


def _assistant_parts(message: Fields, content: object, path: str) -> list[Part]:
    parts: list[Part] = []
    if reasoning := message.text("reasoning_content", default=""):  # of compatible servers
        parts.append(Part(reasoning=Reasoning(text=reasoning)))
    parts += without_empty_text(read_parts(content, path, _ASSISTANT_BLOCKS))
    if refusal := message.text("refusal", default=""):
        parts.append(Part(text=refusal))
    message.take("parsed")  # the SDK's copy of the content, as an object
    for value, call_path in message.items("tool_calls"):
        call = fields_of(value, call_path)
        call.choice("type", ["function"])
        function = call.inner("function")
        name, arguments = function.text("name"), function.text("arguments")
        function.take("parsed_arguments")  # the SDK's copy of the arguments, as an object
        function.end()
        made = ToolCall(id=call.text("id"), name=name, arguments_json=arguments)
        call.end()
        parts.append(Part(tool_call=made))
    return parts


def _tool_parts(
    message: Fields, content: object, path: str, tool_names: Mapping[str, str]
) -> list[Part]:
    if "tool_call_id" not in message and isinstance(content, Part | list | tuple):
        pieces = [content] if isinstance(content, Part) else content
        results = [
            each for each in pieces if isinstance(each, Part) and each.HasField("tool_result")
        ]
        if results and len(results) == len(pieces):
            return results  # built with tokenwire.tool_result
    id_ = message.text("tool_call_id")
    if "name" in message:  # it repeats the name of the tool
        message.only("name", tool_names.get(id_), f"it is not the tool of the call {id_!r}")
    return [tool_result_part(id_, read_parts(content, path, _TOOL_BLOCKS), path)]


def _image(block: Fields) -> Part:
    image = block.inner("image_url")
    url, path = image.text("url"), image.path_of("url")
    image.only("detail", "auto", "images have no detail; omit it")
    image.end()
    if not url.startswith("data:"):
        return Part(image=Image(uri=url))
    data, media_type = decoded_url(url, path)
    return Part(image=Image(data=data, media_type=media_type))


def _audio(block: Fields) -> Part:
    audio = block.inner("input_audio")
    data = audio.decoded("data")
    media_type = _AUDIO_TYPES[audio.choice("format", list(_AUDIO_TYPES))]
    audio.end()
    return Part(audio=Audio(data=data, media_type=media_type))


def _file(block: Fields) -> Part:
    file = block.inner("file")
    if "file_id" in file:
        raise file.fault("file_id", "an uploaded file cannot be sent; use file_data")
    data, media_type = decoded_url(file.text("file_data"), file.path_of("file_data"))
    title = file.text("filename", default="")
    file.end()
    return Part(document=Document(data=data, media_type=media_type, title=title))


def _refusal(block: Fields) -> Part:
    return Part(text=block.text("refusal"))


_SYSTEM_BLOCKS: Mapping[str, BlockReader] = {"text": read_text_block}
_USER_BLOCKS: Mapping[str, BlockReader] = {
    "text": read_text_block,
    "image_url": _image,
    "input_audio": _audio,
    "file": _file,
}
_ASSISTANT_BLOCKS: Mapping[str, BlockReader] = {"text": read_text_block, "refusal": _refusal}
_TOOL_BLOCKS: Mapping[str, BlockReader] = {
    "text": read_text_block,
    "image_url": _image,
    "file": _file,
}
