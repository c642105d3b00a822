"""Functions that build messages, parts, tools and formats, as protobuf messages of `tokenwire.v1`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from tokenwire.v1.chat_pb2 import (
    ON_INVALID_FAIL,
    ON_INVALID_UNSPECIFIED,
    ROLE_ASSISTANT,
    ROLE_SYSTEM,
    ROLE_TOOL,
    ROLE_USER,
    Audio,
    Document,
    Image,
    JsonSchemaFormat,
    Message,
    Part,
    ResponseFormat,
    Tool,
    ToolResult,
)

from ._checks import check_type

Content = str | Part | Sequence[str | Part]
"""Content of a message: text, a part, or a list of both."""


class ModelDump(Protocol):
    """An object of the SDKs of OpenAI or Anthropic, or another object with `model_dump()`."""

    def model_dump(self) -> dict[str, Any]:
        """Return the fields of the object."""
        ...


MessageLike = Message | Mapping[str, object] | ModelDump | str
"""A message, a mapping such as `{"role": "user", "content": "..."}`, or the text of a user message.

The content of a mapping is text, a part, or a list of both (see `Content`), or of blocks in the style of
OpenAI's Chat Completions or Anthropic's Messages. `text` is a synonym of `content`. An object of their SDKs
is accepted in place of a mapping, anywhere in a message. A field that cannot be sent is an error."""


def system(*content: str | Part) -> Message:
    """Return a message with instructions."""
    return Message(role=ROLE_SYSTEM, parts=_parts(content))


def user(*content: str | Part) -> Message:
    """Return a message of the user: text, and images, documents and sound (`image`, `document`, `audio`)."""
    return Message(role=ROLE_USER, parts=_parts(content))


def assistant(*content: str | Part) -> Message:
    """Return a message of the model. The message of an answer can be used as it is instead."""
    return Message(role=ROLE_ASSISTANT, parts=_parts(content))


def tool_result(
    tool_call_id: str, text: str = "", *content: str | Part, is_error: bool = False
) -> Message:
    """Return the result of a tool call: text, and more text, images and documents after it.

    With `is_error`, the call failed and `text` is the error.
    """
    check_type(tool_call_id, str, "tool_call_id")
    if not isinstance(text, str):
        hint = "; json.dumps returns a value as text" if not isinstance(text, Part) else ""
        raise TypeError(f"text: must be a str, not {type(text).__name__}{hint}")
    result = ToolResult(
        tool_call_id=tool_call_id, text=text, is_error=is_error, parts=_parts(content)
    )
    return Message(role=ROLE_TOOL, parts=[Part(tool_result=result)])


def image(source: str | bytes, media_type: str = "") -> Part:
    """Return an image: a URL that the provider fetches, or bytes with a media type such as `image/png`.

    Raises:
        ValueError: the source is bytes and has no media type.
    """
    if isinstance(source, str):
        return Part(image=Image(uri=source, media_type=media_type))
    if not media_type:
        raise ValueError("an image given as bytes requires a media type, such as 'image/png'")
    return Part(image=Image(data=source, media_type=media_type))


def document(source: str | bytes, media_type: str = "", *, title: str = "") -> Part:
    """Return a document: a URL that the provider fetches, or bytes with a media type.

    The media type is `application/pdf` or `text/plain` (UTF-8). `title` may be the name of the file.

    Raises:
        ValueError: the source is bytes and has no media type.
    """
    if isinstance(source, str):
        return Part(document=Document(uri=source, media_type=media_type, title=title))
    if not media_type:
        raise ValueError("a document given as bytes requires a media type, such as 'text/plain'")
    return Part(document=Document(data=source, media_type=media_type, title=title))


def audio(data: bytes, media_type: str) -> Part:
    """Return a sound recording. The media type is `audio/wav` or `audio/mpeg`."""
    return Part(audio=Audio(data=data, media_type=media_type))


def tool(
    name: str, description: str = "", *, parameters: Mapping[str, object] | None = None
) -> Tool:
    """Return a function that the model can call. `parameters` is the JSON Schema of its arguments.

    It is a definition without a function: see `function_tool` for a Python function.

    Raises:
        TypeError: the name is not a str.
    """
    if not isinstance(name, str):
        raise TypeError(
            f"the name of a tool is a str, not {type(name).__name__}: "
            "use function_tool() for a Python function"
        )
    schema = "" if parameters is None else json.dumps(check_type(parameters, Mapping, "parameters"))
    return Tool(name=name, description=description, parameters_json_schema=schema)


def json_format(
    name: str,
    schema: Mapping[str, object],
    *,
    strict: bool = False,
    stream_values: bool = True,
    fails_if_invalid: bool = False,
) -> ResponseFormat:
    """Return the format of an answer that is JSON and follows a JSON Schema, for `response_format`.

    `name` has 1 to 64 of a-z A-Z 0-9 _ -. With `strict`, the provider must follow the schema exactly, if it
    offers a choice. With `stream_values`, the stream has each value of the answer as soon as it is complete,
    and the server checks the answer. With `fails_if_invalid`, an answer that does not follow the schema is
    the error InvalidAnswer.
    """
    check_type(name, str, "name")
    check_type(schema, Mapping, "schema")
    return ResponseFormat(
        json_schema=JsonSchemaFormat(
            name=name,
            schema_json=json.dumps(schema, ensure_ascii=False, separators=(",", ":")),
            strict=strict,
            stream_values=stream_values,
            on_invalid=ON_INVALID_FAIL if fails_if_invalid else ON_INVALID_UNSPECIFIED,
        )
    )


def _parts(content: Iterable[object]) -> list[Part]:
    return [_part(piece) for piece in content]


def _part(piece: object) -> Part:
    match piece:
        case Part():
            return piece
        case str():
            return Part(text=piece)
    raise TypeError(f"a part must be a str or a Part, not {type(piece).__name__}")
