"""The steps of a run with tools, as its caller sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tokenwire.v1.event_pb2 import TokenEvent
from tokenwire.v1.usage_pb2 import Usage

from ..tools.outcome import ToolOutcome
from .answer import Answer, ToolCall


@dataclass(frozen=True, slots=True)
class ModelEvent:
    """An event of the model's answer."""

    round: int
    """Number of the answer in the run, from 1."""
    event: TokenEvent

    @property
    def text(self) -> str:
        """The piece of text. Empty if the event has none."""
        return self.event.text.text if self.event.WhichOneof("event") == "text" else ""


@dataclass(frozen=True, slots=True)
class ToolStarted:
    """A tool was started."""

    round: int
    call: ToolCall


@dataclass(frozen=True, slots=True)
class ToolFinished:
    """A tool call ended, or was refused: its tool is unknown, or its arguments are invalid.

    A refused call has no ToolStarted.
    """

    round: int
    call: ToolCall
    outcome: ToolOutcome
    duration_s: float
    """Duration of the call. 0: the call was refused."""

    @property
    def result(self) -> str:
        """The text that the model gets."""
        return self.outcome.text

    @property
    def value(self) -> object:
        """The value that the function returned. None: it returned nothing, or failed."""
        return self.outcome.value

    @property
    def error(self) -> Exception | None:
        """The error of the tool, or ToolTimedOut, UnknownTool or InvalidArguments. None: no error."""
        return self.outcome.error


@dataclass(frozen=True, slots=True)
class RoundFinished:
    """An answer is complete, and its tool calls have ended."""

    round: int
    answer: Answer[Any]
    usage: Usage
    """Usage of this answer."""


ToolRunStep = ModelEvent | ToolStarted | ToolFinished | RoundFinished
"""A step of a run."""
