"""A run with tools: the next request, the calls of an answer, and the results for the model.

Pure: no I/O, no clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from tokenwire.v1.chat_pb2 import (
    TOOL_CHOICE_MODE_AUTO,
    TOOL_CHOICE_MODE_REQUIRED,
    TOOL_CHOICE_MODE_TOOL,
    ChatRequest,
    Message,
)
from tokenwire.v1.event_pb2 import InvalidToolCall
from tokenwire.v1.usage_pb2 import Usage

from .._checks import check_int
from ..enums import FinishReason
from ..errors import BudgetExceeded, DeadlineExceeded, TokenwireError
from ..messages import tool_result, user
from ..tools.arguments import InvalidArguments
from ..tools.errors import (
    ToolCostExceeded,
    ToolFailed,
    ToolRoundsExceeded,
    ToolRunError,
    ToolTimeExceeded,
)
from ..tools.function_tool import FunctionTool
from ..tools.outcome import (
    StopRun,
    ToolError,
    ToolOutcome,
    UnknownTool,
    bounded,
    raised,
)
from ..wire.usage import total_usage
from .answer import Answer, ToolCall

_ErrorT = TypeVar("_ErrorT", bound=ToolRunError)

OnToolError = Literal["report", "raise"]

NOT_RUN = "The call was not run: the run was stopped."
UNKNOWN_RESULT = "The call was started, but its result is unknown: the run was stopped."
_MAX_ARGUMENTS_CHARS = 500
_MAX_REQUEST_ID_CHARS = 120
"""The number of the round is appended to it, within the server's limit of 128."""

_CUT = frozenset(
    {
        FinishReason.BUDGET,
        FinishReason.CANCELLED,
        FinishReason.CONTENT_FILTER,
        FinishReason.CONTEXT_FULL,
        FinishReason.MAX_TOKENS,
        FinishReason.REFUSAL,
        FinishReason.TIME_LIMIT,
        FinishReason.UNSPECIFIED,
    }
)
"""Endings after which calls are not run: the answer may be incomplete, or must not be continued."""


@dataclass(frozen=True, slots=True, eq=False)
class PendingCall:
    """A tool call that is to be run."""

    call: ToolCall
    tool: FunctionTool
    arguments: Mapping[str, Any]


class ToolLoop:
    """The state of a run. `request` has everything except the messages that the run adds."""

    def __init__(
        self,
        request: ChatRequest,
        tools: Mapping[str, FunctionTool],
        *,
        max_rounds: int,
        max_cost_microusd: int | None,
        on_tool_error: OnToolError,
    ) -> None:
        if check_int(max_rounds, "max_rounds") < 1:
            raise ValueError(f"max_rounds must be at least 1, not {max_rounds}")
        if max_cost_microusd is not None:
            check_int(max_cost_microusd, "max_cost_microusd")
        if on_tool_error not in ("report", "raise"):
            raise ValueError(f"on_tool_error must be 'report' or 'raise', not {on_tool_error!r}")
        if len(request.request_id) > _MAX_REQUEST_ID_CHARS:
            raise ValueError(
                f"the request_id of a run has at most {_MAX_REQUEST_ID_CHARS} characters"
            )
        self._request = request
        self._tools = tools
        self._max_rounds = max_rounds
        self._max_cost_microusd = max_cost_microusd
        self._on_tool_error = on_tool_error
        self._messages: list[Message] = list(request.messages)
        self._calls: list[ToolCall] = []
        self._results: dict[int, Message] = {}
        self._started: list[ToolCall] = []
        self._invalid_calls: list[InvalidToolCall] = []
        self.round = 0
        """Number of the newest request, from 1. 0: none was made."""
        self.usages: list[Usage] = []
        """Usage of each answer that ended."""
        self.answer: Answer[Any] | None = None
        """The newest answer."""
        self.stopped: StopRun | None = None
        """The StopRun that a tool raised to end the run."""
        self.is_done = False
        """Whether the run needs no further request."""

    @property
    def usage(self) -> Usage:
        """Sum of the usage of the answers."""
        return total_usage(self.usages)

    @property
    def messages(self) -> list[Message]:
        """The conversation, ready for another request: each tool call has a result or an error."""
        results = [
            self._results.get(position) or self._without_result(call)
            for position, call in enumerate(self._calls)
        ]
        reports = (
            [user("\n".join(map(_report, self._invalid_calls)))] if self._invalid_calls else []
        )
        return [*self._messages, *results, *reports]

    def next_request(self) -> ChatRequest:
        """Return the next request.

        Raises:
            ToolRoundsExceeded, ToolCostExceeded: a limit of the run is reached.
        """
        left = self._cost_left()
        if self.round >= self._max_rounds:
            raise self._error(ToolRoundsExceeded, f"no answer after {self.round} rounds with tools")
        self._messages = self.messages
        self._calls, self._results, self._invalid_calls = [], {}, []
        self._started = []
        self.round += 1
        request = ChatRequest()
        request.CopyFrom(self._request)
        del request.messages[:]
        request.messages.extend(self._messages)
        if left is not None:
            budget = request.budget
            own = budget.max_cost_microusd if budget.HasField("max_cost_microusd") else left
            budget.max_cost_microusd = min(left, own)
        if self.round > 1:
            if request.tool_choice.mode in (TOOL_CHOICE_MODE_REQUIRED, TOOL_CHOICE_MODE_TOOL):
                request.tool_choice.mode = TOOL_CHOICE_MODE_AUTO
                request.tool_choice.tool_name = ""
            if request.request_id:
                request.request_id += f"-{self.round}"
        return request

    def take_answer(
        self, answer: Answer[Any]
    ) -> tuple[list[PendingCall], list[tuple[ToolCall, ToolOutcome]]]:
        """Add the answer to the request. Return the calls to run, and the refused calls with their errors."""
        self.answer = answer
        self.usages.append(answer.usage)
        message, reason = answer.message, answer.finish_reason
        if message.parts:
            self._messages.append(message)
        self._calls = answer.tool_calls
        self._invalid_calls = answer.invalid_tool_calls
        if reason is None or reason in _CUT:
            self.is_done = reason != FinishReason.BUDGET or self._max_cost_microusd is None
            return [], []
        self.is_done = not (self._calls or self._invalid_calls or reason == FinishReason.PAUSED)
        pending: list[PendingCall] = []
        refused: list[tuple[ToolCall, ToolOutcome]] = []
        for call in self._calls:
            ready = self._ready(call)
            if isinstance(ready, PendingCall):
                pending.append(ready)
            else:
                refused.append((call, ready))
                self.take_outcome(call, ready)
        return pending, refused

    def take_start(self, call: ToolCall) -> None:
        """Record that a call of the newest answer has been started."""
        self._started.append(call)

    def take_outcome(self, call: ToolCall, outcome: ToolOutcome) -> None:
        """Add the result of a call of the newest answer."""
        position = next(i for i, each in enumerate(self._calls) if each is call)
        self._results[position] = outcome.message(call.id)
        if outcome.stop is not None:
            self.stopped = outcome.stop
            self.is_done = True

    def failure(self, call: ToolCall, outcome: ToolOutcome) -> ToolFailed | None:
        """Return the error that ends the run because a tool failed, or None if the model gets it.

        A ToolError is meant for the model.
        """
        error_of_tool = outcome.error
        if self._on_tool_error == "report" or isinstance(error_of_tool, ToolError | None):
            return None
        error = self._error(ToolFailed, f"the tool {call.name} failed: {outcome.text}")
        error.tool_call_id, error.tool_name = call.id, call.name
        error.__cause__ = error_of_tool
        return error

    def explained(self, error: TokenwireError, *, has_deadline: bool) -> TokenwireError:
        """Return the error of a request, or the run's own error if a limit of the run has caused it."""
        if isinstance(error, ToolRunError):
            return error
        if error.usage is not None:
            self.usages.append(error.usage)
        explained: ToolRunError
        if has_deadline and isinstance(error, DeadlineExceeded):
            explained = self.time_exceeded()
        elif isinstance(error, BudgetExceeded) and self._is_cost(error):
            explained = self._error(ToolCostExceeded, error.message)
        else:
            return error
        explained.request_id = error.request_id
        explained.stream_id, explained.last_sequence = error.stream_id, error.last_sequence
        explained.__cause__ = error
        return explained

    def time_exceeded(self) -> ToolTimeExceeded:
        """Return the error of a run whose time is over."""
        return self._error(ToolTimeExceeded, "the run took longer than its timeout")

    def _without_result(self, call: ToolCall) -> Message:
        """Return the result of a call that has none. One that was started may have had an effect."""
        has_started = any(each is call for each in self._started)
        return tool_result(call.id, UNKNOWN_RESULT if has_started else NOT_RUN, is_error=True)

    def _is_cost(self, error: BudgetExceeded) -> bool:
        return self._max_cost_microusd is not None and error.limit in ("", "max_cost_microusd")

    def _cost_left(self) -> int | None:
        most = self._max_cost_microusd
        if most is None:
            return None
        if any(not usage.HasField("cost_microusd") for usage in self.usages):
            raise self._error(ToolCostExceeded, "the cost of an answer is unknown")
        spent = sum(usage.cost_microusd for usage in self.usages)
        was_cut = self.answer is not None and self.answer.finish_reason == FinishReason.BUDGET
        if spent >= most or was_cut:
            raise self._error(ToolCostExceeded, f"spent {spent} of {most} microusd")
        return most - spent

    def _ready(self, call: ToolCall) -> PendingCall | ToolOutcome:
        tool = self._tools.get(call.name)
        if tool is None:
            names = ", ".join(self._tools) or "none"
            return raised(UnknownTool(f"there is no tool {call.name!r}, only: {names}"))
        try:
            return PendingCall(call, tool, tool.decode(call.arguments_json))
        except InvalidArguments as error:
            return raised(error)

    def _error(self, kind: type[_ErrorT], message: str) -> _ErrorT:
        error = kind(message, usage=self.usage)
        error.messages = tuple(self.messages)
        return error


def _report(invalid: InvalidToolCall) -> str:
    """Return the text for the model about a call that cannot be in the conversation."""
    arguments = bounded(invalid.arguments_text, _MAX_ARGUMENTS_CHARS)
    return (
        f"Your call of the tool {invalid.name} was not run, because its arguments are not a JSON object: "
        f"{bounded(invalid.problem, _MAX_ARGUMENTS_CHARS)}. They were: {arguments}"
    )
