"""The errors of a run with tools. They are subclasses of TokenwireError."""

from __future__ import annotations

import grpc

from tokenwire.v1.chat_pb2 import Message

from ..errors import TokenwireError


class ToolRunError(TokenwireError):
    """A run with tools ended without an answer.

    `usage` is the sum of its answers.
    """

    messages: tuple[Message, ...] = ()
    """The conversation so far, ready for another request or another run."""


class ToolRoundsExceeded(ToolRunError):
    """The model still calls tools after `max_rounds` answers. Its last calls were run."""

    default_code = grpc.StatusCode.RESOURCE_EXHAUSTED


class ToolCostExceeded(ToolRunError):
    """The run reached `max_cost_microusd`, or the cost of an answer is unknown."""

    default_code = grpc.StatusCode.RESOURCE_EXHAUSTED


class ToolTimeExceeded(ToolRunError, TimeoutError):
    """The run took longer than its `timeout`."""

    default_code = grpc.StatusCode.DEADLINE_EXCEEDED


class ToolFailed(ToolRunError):
    """A tool raised an error or took too long. `__cause__` is the tool's own error."""

    default_code = grpc.StatusCode.ABORTED

    tool_call_id: str = ""
    tool_name: str = ""
