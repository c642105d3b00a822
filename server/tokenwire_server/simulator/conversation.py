"""The end of a conversation, whatever the wire format: the last question, and the tool results after it.

Each format reports its messages in order to a `ConversationReader`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .wire import Conversation, ToolChoice, ToolResult


def text_of(content: object) -> str:
    """Return the text of a message's content: a string, or a list whose parts may have a `text`."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = [part["text"] for part in content if isinstance(part, dict) and "text" in part]
    return " ".join(text for text in parts if isinstance(text, str))


class ConversationReader:
    """Collects the last question and the results of the tool calls that followed it."""

    def __init__(self) -> None:
        self._question = ""
        self._results: list[ToolResult] = []
        self._names: dict[str, str] = {}

    def question(self, content: object) -> None:
        """Add a message of the user. Earlier tool results belong to an earlier question."""
        self._question = text_of(content)
        self._results.clear()

    def call(self, call_id: object, name: object) -> None:
        """Add a tool call of the model, so that its result gets the tool's name."""
        if isinstance(call_id, str) and isinstance(name, str):
            self._names[call_id] = name

    def result(self, call_id: object, content: object, *, is_error: bool = False) -> None:
        """Add the result of a tool call."""
        name = self._names.get(call_id, "the tool") if isinstance(call_id, str) else "the tool"
        text = text_of(content)
        self._results.append(ToolResult(name, f"Error: {text}" if is_error else text))

    def conversation(self) -> Conversation:
        return Conversation(self._question, tuple(self._results))


def tool_choice(value: object, *, required: str = "required") -> ToolChoice:
    """Read `tool_choice`: a mode, or an object whose `type` is that mode or which names a function.

    `required` is the format's mode for "call at least one tool". Unknown values are "auto".
    """
    word = value
    if isinstance(value, Mapping):
        function: Any = value.get("function")
        name = (function if isinstance(function, Mapping) else value).get("name")
        if isinstance(name, str) and name:
            return ToolChoice("tool", name)
        word = value.get("type")
    if word == "none":
        return ToolChoice("none")
    return ToolChoice("required" if word == required else "auto")


def objects_in(value: object) -> list[dict[str, Any]]:
    """Return the objects in a list, or nothing if the value is not a list."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
