"""A run with tools, read with asyncio."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Generic, Self

from tokenwire.v1.chat_pb2 import ChatRequest, Message
from tokenwire.v1.usage_pb2 import Usage

from .._checks import check_int, check_seconds
from .._json import ParsedT_co
from ..errors import Cancelled, TokenwireError
from ..stream.answer import Answer
from ..stream.tool_loop import OnToolError, ToolLoop
from ..stream.tool_schedule import EndedCall, ToolSchedule
from ..stream.tool_steps import ModelEvent, RoundFinished, ToolFinished, ToolRunStep, ToolStarted
from ..tools.function_tool import FunctionTool
from ..tools.outcome import StopRun, ToolTimedOut, raised
from .chat_stream import AsyncChatStream
from .tool_calls import AsyncToolCalls, check_tools


class AsyncToolRun(Generic[ParsedT_co]):
    """A conversation in which the model calls Python functions until it answers.

        async with client.run_tools("openai/demo", "Hello", tools=[get_weather]) as run:
            async for step in run:
                ...

    Iterating returns every step in order: ModelEvent for each event of an answer, ToolStarted and
    ToolFinished for each call, RoundFinished when an answer and its calls are complete. It ends after the
    answer that calls no tool. Calls start and are timed while the run is read. `final()` reads to the end,
    and needs no block: `answer = await client.run_tools(...).final()`. Only one reader at a time may use
    the object.

    Leaving the block always ends the request and cancels the running tools. It waits for them for at most
    3 seconds. A function that is not a coroutine function runs in a thread. Threads cannot be cancelled:
    after a time limit or a cancellation it keeps running, and its result is ignored.

    Cancelling the task that reads does the same. `asyncio.CancelledError` passes through.
    """

    def __init__(
        self,
        open_stream: Callable[[ChatRequest, float | None], AsyncChatStream[Any]],
        request: ChatRequest,
        tools: Mapping[str, FunctionTool],
        *,
        max_rounds: int,
        max_cost_microusd: int | None,
        max_concurrency: int,
        tool_timeout_s: float | None,
        timeout_s: float | None,
        on_tool_error: OnToolError,
    ) -> None:
        if check_int(max_concurrency, "max_concurrency") < 1:
            raise ValueError(f"max_concurrency must be at least 1, not {max_concurrency}")
        check_seconds(tool_timeout_s, "tool_timeout")
        if tool_timeout_s is not None and tool_timeout_s <= 0:
            raise ValueError(f"tool_timeout must be above 0, not {tool_timeout_s}")
        check_tools(tools)
        self._loop = ToolLoop(
            request,
            tools,
            max_rounds=max_rounds,
            max_cost_microusd=max_cost_microusd,
            on_tool_error=on_tool_error,
        )
        self._open_stream = open_stream
        self._max_concurrency = max_concurrency
        self._tool_timeout_s = tool_timeout_s
        self._timeout_s = check_seconds(timeout_s, "timeout")
        self._deadline: float | None = None
        self._calls: AsyncToolCalls | None = None
        self._stream: AsyncChatStream[Any] | None = None
        self._schedule: ToolSchedule | None = None
        self._steps: deque[ToolRunStep] = deque()
        self._failure: TokenwireError | None = None
        self._is_cancelled = False

    def __repr__(self) -> str:
        if self._calls is None:
            return "<AsyncToolRun, not entered>"
        return f"<AsyncToolRun in round {self.round}, {len(self.messages)} messages>"

    @property
    def messages(self) -> list[Message]:
        """The conversation so far, ready for another request, also after an error.

        It contains complete answers only. A call that has no result has an error as its result.
        """
        return self._loop.messages

    @property
    def usage(self) -> Usage:
        """Sum of the usage of all answers so far. A figure that one of them does not report is absent.

        The usage of a cancelled answer is unknown, and is not included.
        """
        return self._loop.usage

    @property
    def round(self) -> int:
        """Number of requests so far."""
        return self._loop.round

    @property
    def answer(self) -> Answer[ParsedT_co] | None:
        """The newest complete answer. None: there is none yet."""
        return self._loop.answer

    @property
    def stopped(self) -> StopRun | None:
        """The StopRun with which a tool ended the run. None: no tool did."""
        return self._loop.stopped

    async def final(self) -> Answer[ParsedT_co]:
        """Read to the end, and return the last answer.

        Check its finish reason: the answer may have been cut off, for example with MAX_TOKENS. If a tool
        raised StopRun, the answer is the one with that call. Outside a block, this enters and leaves the run.

        Raises:
            ToolRunError: a limit of the run is reached, or a tool failed. It has the messages so far.
            TokenwireError: a request failed.
        """
        if self._calls is None:
            async with self:
                return await self.final()
        async for _ in self:
            pass
        if self._loop.answer is None:
            raise RuntimeError("the run has ended without an answer")
        return self._loop.answer

    def cancel(self) -> None:
        """End the run at once. Its reader gets `Cancelled`. No effect after the run has ended."""
        self._is_cancelled = True
        if self._stream is not None:
            self._stream.cancel()
        if self._calls is not None:
            self._calls.wake()

    async def __aenter__(self) -> Self:
        if self._calls is not None:
            raise RuntimeError("a run can be entered only once: create another with the client")
        self._calls = AsyncToolCalls()
        if self._timeout_s is not None:
            self._deadline = time.monotonic() + self._timeout_s
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._failure is None and not self._is_finished:
            self._failure = Cancelled("the run was left before its end")
        try:
            await self._leave_stream()
        finally:
            if self._calls is not None:
                await self._calls.stop()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ToolRunStep:
        if self._calls is None:
            raise RuntimeError("a run can be read only inside its block, or with final()")
        while not self._steps:
            if self._failure is not None:
                raise self._failure
            if self._is_finished:
                raise StopAsyncIteration
            if self._is_cancelled:
                self._failure = Cancelled("the run was cancelled")
                continue
            try:
                await self._advance(self._calls)
            except TokenwireError as error:
                self._failure = error
                raise
            except BaseException:
                self._failure = Cancelled("the run was interrupted")
                raise
        return self._steps.popleft()

    @property
    def _is_finished(self) -> bool:
        return self._loop.is_done and self._stream is None and self._schedule is None

    async def _advance(self, calls: AsyncToolCalls) -> None:
        """Do the next part of the run, which may add steps."""
        if self._schedule is not None:
            await self._advance_tools(calls, self._schedule)
            return
        try:
            stream = self._stream or await self._start_round()
            event = await anext(stream, None)
            if event is not None:
                self._steps.append(ModelEvent(self._loop.round, event))
            else:
                await self._end_answer(stream)
        except TokenwireError as error:
            has_deadline = self._deadline is not None
            explained = self._loop.explained(error, has_deadline=has_deadline)
            raise explained from explained.__cause__

    async def _start_round(self) -> AsyncChatStream[Any]:
        request = self._loop.next_request()
        self._stream = stream = self._open_stream(request, self._remaining_s())
        try:
            await stream.__aenter__()
        except BaseException:
            self._stream = None
            raise
        if self._is_cancelled:  # by another thread, just now
            stream.cancel()
        return stream

    async def _end_answer(self, stream: AsyncChatStream[Any]) -> None:
        answer = await stream.final()
        await self._leave_stream()
        pending, refused = self._loop.take_answer(answer)
        for call, outcome in refused:
            self._steps.append(ToolFinished(self._loop.round, call, outcome, 0.0))
        self._schedule = ToolSchedule(
            pending, max_concurrency=self._max_concurrency, tool_timeout_s=self._tool_timeout_s
        )

    async def _advance_tools(self, calls: AsyncToolCalls, schedule: ToolSchedule) -> None:
        now = time.monotonic()
        if started := schedule.start(now):
            for pending in started:
                self._loop.take_start(pending.call)
                calls.start(pending)
                self._steps.append(ToolStarted(self._loop.round, pending.call))
        elif schedule.is_empty:
            self._end_round()
        else:
            waits = [
                each for each in (schedule.wait_s(now), self._remaining_s()) if each is not None
            ]
            ended = await calls.next(min(waits, default=None))
            if ended is not None:
                self._end_call(schedule, ended)
            elif self._deadline is not None and time.monotonic() >= self._deadline:
                raise self._loop.time_exceeded()
            else:
                await self._end_overdue(calls, schedule)

    async def _end_overdue(self, calls: AsyncToolCalls, schedule: ToolSchedule) -> None:
        now = time.monotonic()
        overdue = schedule.overdue(now)
        await calls.abandon(overdue)
        for pending in overdue:
            error = ToolTimedOut(f"no result within {self._tool_timeout_s:g} seconds")
            self._end_call(schedule, EndedCall(pending, raised(error), now))

    def _end_call(self, schedule: ToolSchedule, ended: EndedCall) -> None:
        duration_s = schedule.end(ended.pending, ended.time)
        if duration_s is None:
            return  # it was overdue before
        call, outcome = ended.pending.call, ended.outcome
        self._loop.take_outcome(call, outcome)
        self._steps.append(ToolFinished(self._loop.round, call, outcome, duration_s))
        self._failure = self._loop.failure(call, outcome)
        if outcome.stop is not None:
            self._end_round()

    def _end_round(self) -> None:
        self._schedule = None
        if (answer := self._loop.answer) is not None:
            self._steps.append(RoundFinished(self._loop.round, answer, answer.usage))

    async def _leave_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.__aexit__(None, None, None)

    def _remaining_s(self) -> float | None:
        if self._deadline is None:
            return None
        return max(0.0, self._deadline - time.monotonic())
