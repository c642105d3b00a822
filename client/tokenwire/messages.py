"""Functions that build messages, parts, tools and formats, as protobuf messages of `tokenwire.v1`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

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
    Role,
    Tool,
    ToolResult,
)

Content = str | Part | Sequence[str | Part]
"""Content of a message: text, a part, or a list of both."""

MessageLike = Message | Mapping[str, object] | str
"""A message, a mapping such as `{"role": "user", "content": "..."}`, or the text of a user message.

A mapping has `content` (see `Content`) or, as a synonym, `text`."""

_ROLES: Mapping[str, Role.ValueType] = {
    "system": ROLE_SYSTEM,
    "user": ROLE_USER,
    "assistant": ROLE_ASSISTANT,
    "tool": ROLE_TOOL,
}


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
    """Return a function that the model can call. `parameters` is the JSON Schema of its arguments."""
    schema = "" if parameters is None else json.dumps(parameters)
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
    return ResponseFormat(
        json_schema=JsonSchemaFormat(
            name=name,
            schema_json=json.dumps(schema, ensure_ascii=False, separators=(",", ":")),
            strict=strict,
            stream_values=stream_values,
            on_invalid=ON_INVALID_FAIL if fails_if_invalid else ON_INVALID_UNSPECIFIED,
        )
    )


def to_messages(messages: MessageLike | Iterable[MessageLike]) -> list[Message]:
    """Return a conversation as a list of messages.

    Raises:
        TypeError, ValueError: an element is not a `MessageLike`.
    """
    if isinstance(messages, Message | Mapping | str):
        return [_to_message(messages)]
    return [_to_message(message) for message in messages]


def _to_message(message: MessageLike) -> Message:
    match message:
        case Message():
            return message
        case str():
            return user(message)
        case Mapping():
            return _from_mapping(message)
    raise TypeError(f"not a message: {type(message).__name__}; give a str, a Message or a dict")


def _from_mapping(message: Mapping[str, object]) -> Message:
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise ValueError(f"role must be one of {', '.join(_ROLES)}, not {role!r}")
    keys = message.keys() - {"role"}
    if keys not in ({"content"}, {"text"}):
        raise ValueError(f"a message has 'role' and one of 'content', 'text', not {sorted(keys)}")
    content = message[keys.pop()]
    if isinstance(content, str | Part):
        return Message(role=_ROLES[role], parts=_parts([content]))
    if not isinstance(content, Iterable):
        raise TypeError(f"content must be text or parts, not {type(content).__name__}")
    return Message(role=_ROLES[role], parts=_parts(content))


def _parts(content: Iterable[object]) -> list[Part]:
    return [_part(piece) for piece in content]


def _part(piece: object) -> Part:
    match piece:
        case Part():
            return piece
        case str():
            return Part(text=piece)
    raise TypeError(f"a part must be a str or a Part, not {type(piece).__name__}")
