"""The outcome of a tool call: its result or error, and the message for the model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokenwire.v1.chat_pb2 import Message, Part

from ..messages import tool_result

MAX_ERROR_CHARS = 2000
"""Maximum number of characters of an error for the model."""


class ToolError(Exception):
    """Raise it in a tool to report a failure to the model with exactly this text."""


class StopRun(Exception):
    """Raise it in a tool to end the run. No further request is sent to the model.

    `value` is the result of the call, in `run.messages` and in `run.stopped.value`.
    """

    def __init__(self, value: object = "stopped") -> None:
        super().__init__(value)
        self.value = value


class ToolTimedOut(TimeoutError):
    """A tool call took longer than `tool_timeout`."""


class UnknownTool(LookupError):
    """The model called a tool that does not exist."""


@dataclass(frozen=True, slots=True)
class ToolOutcome:
    """The result of a tool call, or its error."""

    text: str
    """The text for the model."""
    parts: tuple[Part, ...] = ()
    """Parts for the model, after the text."""
    value: object = None
    """The value that the function returned."""
    error: Exception | None = None
    stop: StopRun | None = None

    def message(self, tool_call_id: str) -> Message:
        """Return the message for the model."""
        return tool_result(tool_call_id, self.text, *self.parts, is_error=self.error is not None)


def returned(value: object) -> ToolOutcome:
    """Return the outcome of a call that returned a value.

    Text and parts (`image`, `document`, or a list with parts) are sent as they are, and other values as JSON.
    A value that cannot be written as JSON is an error of the tool.
    """
    try:
        text, parts = _content(value)
    except Exception as error:  # noqa: BLE001  # of a foreign type, while it is written
        return raised(TypeError(f"the result of the tool cannot be written as JSON: {error}"))
    return ToolOutcome(_valid(text), parts, value)


def raised(error: Exception) -> ToolOutcome:
    """Return the outcome of a call that raised an error, which may be StopRun."""
    if isinstance(error, StopRun):
        outcome = returned(error.value)
        return ToolOutcome(outcome.text, outcome.parts, error.value, outcome.error, error)
    try:
        text = str(error)
    except Exception:  # noqa: BLE001  # of a foreign type
        text = ""
    if not isinstance(error, ToolError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return ToolOutcome(_valid(bounded(text)), error=error)


def bounded(text: str, max_chars: int = MAX_ERROR_CHARS) -> str:
    """Return a text, shortened to a maximum length."""
    return text if len(text) <= max_chars else text[: max_chars - 6] + " [...]"


def _content(value: object) -> tuple[str, tuple[Part, ...]]:
    if isinstance(value, str):
        return value, ()
    if isinstance(value, Part):
        return "", (value,)
    if isinstance(value, Sequence) and any(isinstance(each, Part) for each in value):
        return "", tuple(_part(each) for each in value)
    return _json(value), ()


def _part(piece: object) -> Part:
    if isinstance(piece, Part):
        return piece
    return Part(text=_valid(piece if isinstance(piece, str) else _json(piece)))


def _json(value: object) -> str:
    try:
        import msgspec
    except ImportError:
        return json.dumps(value, ensure_ascii=False, default=_plain)
    return msgspec.json.encode(value, enc_hook=_plain).decode()


def _plain(value: Any) -> object:
    if hasattr(value, "model_dump"):  # pydantic
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} is not supported")


def _valid(text: str) -> str:
    """Return a text without lone surrogates, which UTF-8 does not have."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
