"""Messages, tools and formats in every style that the client accepts, as protobuf messages.

The style of each message and tool is detected separately, so that one list can have several.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from tokenwire.v1.chat_pb2 import Message, ResponseFormat, Tool, ToolChoice

from ..messages import MessageLike, ModelDump, user
from . import anthropic_style, openai_style
from .fields import Fields, as_mapping
from .mappings import message_of

_ANTHROPIC_BLOCKS = frozenset(anthropic_style.BLOCK_TYPES) - {"text"}


def to_messages(messages: MessageLike | Iterable[MessageLike]) -> list[Message]:
    """Return a conversation as a list of messages.

    Raises:
        TypeError, ValueError: an element is not a `MessageLike`, or a field of it cannot be sent. The error
            begins with its path.
    """
    if isinstance(messages, Message | str) or as_mapping(messages) is not None:
        messages = [messages]  # type: ignore[list-item]
    elif not isinstance(messages, Iterable):
        raise TypeError(
            f"messages: must be text, a message or a list, not {type(messages).__name__}"
        )
    converted: list[Message] = []
    tool_names: dict[str, str] = {}
    for i, message in enumerate(messages):
        for each in _to_messages(message, f"messages[{i}]", tool_names):
            converted.append(each)
            tool_names.update(_calls(each))
    return converted


def to_tool(
    tool: Tool | Mapping[str, object] | ModelDump | Callable[..., object], path: str
) -> Tool:
    """Return a tool of any style, or that of a Python function.

    Raises:
        TypeError, ValueError: it has no known style, or a field cannot be sent.
        ImportError: a function needs the extra `structured`.
    """
    mapping = None if isinstance(tool, Tool) else as_mapping(tool)
    if mapping is None:
        return _function_tool(tool) or message_of(Tool, tool, path)
    if "function" in mapping:
        return openai_style.read_tool(Fields(mapping, path))
    if "input_schema" in mapping or "type" in mapping:
        return anthropic_style.read_tool(Fields(mapping, path))
    return message_of(Tool, mapping, path)


def to_tool_choice(choice: ToolChoice | Mapping[str, object] | ModelDump | str) -> ToolChoice:
    """Return a tool choice of any style.

    Raises:
        TypeError, ValueError: it has no known style, or a field cannot be sent.
    """
    path = "tool_choice"
    if isinstance(choice, str):
        return openai_style.read_tool_choice(choice, path)
    mapping = None if isinstance(choice, ToolChoice) else as_mapping(choice)
    if mapping is None or "type" not in mapping:
        return message_of(ToolChoice, choice, path)
    if mapping["type"] == "function":
        return openai_style.read_tool_choice(mapping, path)
    return anthropic_style.read_tool_choice(Fields(mapping, path))


def to_response_format(
    response_format: ResponseFormat | Mapping[str, object] | ModelDump,
) -> ResponseFormat:
    """Return a response format of any style.

    Raises:
        TypeError, ValueError: it has no known style, or a field cannot be sent.
    """
    path = "response_format"
    mapping = None if isinstance(response_format, ResponseFormat) else as_mapping(response_format)
    if mapping is None and not isinstance(response_format, ResponseFormat):
        given = type(response_format).__name__
        raise TypeError(f"{path}: must be a class, json_format(...) or a mapping, not {given}")
    if mapping is None or not mapping.keys() & {"type", "properties"}:
        return message_of(ResponseFormat, response_format, path)
    return openai_style.read_response_format(Fields(mapping, path))


def _to_messages(message: object, path: str, tool_names: Mapping[str, str]) -> list[Message]:
    if isinstance(message, Message):
        return [message]
    if isinstance(message, str):
        return [user(message)]
    mapping = as_mapping(message)
    if mapping is None:
        is_answer = isinstance(getattr(message, "message", None), Message)
        hint = "give its `message`" if is_answer else "give a str, a Message or a mapping"
        raise TypeError(f"{path}: not a message: {type(message).__name__}; {hint}")
    fields = Fields(
        {
            name: list(each) if isinstance(each, Iterator) else each
            for name, each in mapping.items()
        },
        path,
    )
    if _is_anthropic(fields):
        return anthropic_style.read_message(fields)
    return [openai_style.read_message(fields, tool_names)]


def _is_anthropic(message: Fields) -> bool:
    """Return whether a message has something that only Anthropic's style has."""
    content = message.peek("content")
    if message.peek("type") == "message":
        return True
    if not isinstance(content, list | tuple):
        return False
    kinds = (block.get("type") for block in map(as_mapping, content) if block is not None)
    return any(isinstance(kind, str) and kind in _ANTHROPIC_BLOCKS for kind in kinds)


def _calls(message: Message) -> Iterator[tuple[str, str]]:
    for part in message.parts:
        if part.HasField("tool_call"):
            yield part.tool_call.id, part.tool_call.name


def _function_tool(tool: object) -> Tool | None:
    """Return the tool of a Python function. None: it is not one."""
    if not callable(tool):
        return None
    from ..tools.function_tool import FunctionTool, function_tool

    made = tool if isinstance(tool, FunctionTool) else function_tool(tool)
    return made.definition
