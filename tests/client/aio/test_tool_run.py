import asyncio
import contextvars
import gc
import logging
import threading
import time

import grpc
import pytest

import tokenwire
from tokenwire.aio import tool_calls
from tokenwire.stream.tool_loop import UNKNOWN_RESULT

from ..conftest import LIMIT_S, caller_left, fails, started, status, text
from ..tool_scripts import calls_then_waits, calls_tools, results_of

Code = grpc.StatusCode
SHORT_S = 0.05


def double(value: int) -> int:
    """Return twice the value."""
    return 2 * value


async def triple(value: int) -> int:
    """Return three times the value."""
    await asyncio.sleep(0)
    return 3 * value


class Gate:
    """An async tool that waits until the test opens it."""

    def __init__(self):
        self.running = 0
        self.most = 0
        self.started = asyncio.Event()
        self.opened = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def wait(self) -> str:
        self.running += 1
        self.most = max(self.most, self.running)
        self.started.set()
        try:
            await self.opened.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        finally:
            self.running -= 1
        return "open"


async def test_the_short_form_returns_the_answer(server, client):
    server.script = calls_tools([("double", '{"value": 2}'), ("triple", '{"value": 2}')])
    answer = await client.run_tools("m", "Hi", tools=[double, triple], timeout=LIMIT_S).final()
    assert answer.text == "Done."
    first, second = server.requests
    assert [tool.name for tool in first.tools] == ["double", "triple"]
    assert first.tools == second.tools
    assert results_of(second.messages) == [("4", False), ("6", False)]


async def test_every_step_is_returned_in_order(server, client):
    server.script = calls_tools([("double", '{"value": 2}')], [("double", '{"value": 3}')])
    async with client.run_tools("m", "Hi", tools=[double], timeout=LIMIT_S) as run:
        steps = [step async for step in run]
    kinds = [
        (step.round, step.event.WhichOneof("event") if isinstance(step, tokenwire.ModelEvent) else type(step).__name__)
        for step in steps
    ]  # fmt: skip
    with_call = ["started", "tool_call", "finished", "ToolStarted", "ToolFinished", "RoundFinished"]
    assert kinds == [
        *((1, each) for each in with_call),
        *((2, each) for each in with_call),
        *((3, each) for each in ("started", "text", "finished", "RoundFinished")),
    ]
    assert "".join(step.text for step in steps if isinstance(step, tokenwire.ModelEvent)) == "Done."
    done = steps[4]
    assert (done.call.name, done.result, done.value, done.error) == ("double", "4", 4, None)
    assert 0 <= done.duration_s < LIMIT_S
    assert steps[5].usage.cost_microusd == 5
    assert run.usage.cost_microusd == 15
    assert run.round == 3
    assert [len(message.parts) for message in run.messages] == [1] * 6
    assert run.answer.message == run.messages[-1]
    assert await run.final() == run.answer


async def test_no_more_calls_run_at_once_than_the_bound(server, client):
    gate = Gate()
    server.script = calls_tools([("wait", "")] * 5)
    async with client.run_tools("m", "Hi", tools=[gate.wait], max_concurrency=2) as run:
        async with asyncio.timeout(LIMIT_S):
            async for step in run:
                if isinstance(step, tokenwire.ToolStarted) and gate.running == 0:
                    asyncio.get_running_loop().call_later(SHORT_S, gate.opened.set)
    assert gate.most == 2
    assert results_of(run.messages) == [("open", False)] * 5


async def test_calls_of_one_answer_run_at_the_same_time(server, client):
    barrier = asyncio.Barrier(3)
    threads = threading.Barrier(2)

    async def meet() -> None:
        await barrier.wait()

    def meet_in_threads() -> None:
        threads.wait(LIMIT_S)

    calls = [("meet", "")] * 3 + [("meet_in_threads", "")] * 2
    server.script = calls_tools(calls)
    run = client.run_tools("m", "Hi", tools=[meet, meet_in_threads], timeout=LIMIT_S)
    await run.final()
    assert results_of(run.messages) == [("null", False)] * 5


async def test_errors_go_back_to_the_model(server, client):
    def fail() -> None:
        raise ValueError("no value")

    async def fail_later() -> None:
        raise tokenwire.ToolError("Ask again.")

    async def cancel_itself() -> None:
        raise asyncio.CancelledError

    calls = [
        ("fail", ""),
        ("fail_later", ""),
        ("cancel_itself", ""),
        ("unknown", ""),
        ("fail", "[]"),
    ]
    server.script = calls_tools(calls)
    tools = [fail, fail_later, cancel_itself]
    async with client.run_tools("m", "Hi", tools=tools, timeout=LIMIT_S) as run:
        steps = [step async for step in run]
    assert results_of(run.messages) == [
        ("ValueError: no value", True),
        ("Ask again.", True),
        ("RuntimeError: the tool was cancelled: ", True),
        ("UnknownTool: there is no tool 'unknown', only: fail, fail_later, cancel_itself", True),
        ("InvalidArguments: Expected `object`, got `array`", True),
    ]
    begun = [step.call.name for step in steps if isinstance(step, tokenwire.ToolStarted)]
    assert sorted(begun) == ["cancel_itself", "fail", "fail_later"]
    assert sum(isinstance(step, tokenwire.ToolFinished) for step in steps) == 5


async def test_the_error_of_a_tool_can_be_raised_after_its_step(server, client):
    gate = Gate()

    async def fail() -> None:
        await gate.started.wait()
        raise ValueError("no value")

    server.script = calls_tools([("wait", ""), ("fail", "")])
    with pytest.raises(tokenwire.ToolFailed, match="ValueError: no value") as caught:
        async with client.run_tools(
            "m", "Hi", tools=[fail, gate.wait], on_tool_error="raise"
        ) as run:
            async for step in run:
                last = step
    assert isinstance(last, tokenwire.ToolFinished)
    assert isinstance(caught.value.__cause__, ValueError)
    assert gate.cancelled.is_set()
    assert results_of(caught.value.messages) == [
        (UNKNOWN_RESULT, True),
        ("ValueError: no value", True),
    ]
    assert results_of(run.messages) == results_of(caught.value.messages)


async def test_a_tool_that_takes_too_long_is_cancelled_and_the_model_gets_an_error(server, client):
    gate = Gate()
    server.script = calls_tools([("wait", ""), ("double", '{"value": 1}')])
    run = client.run_tools("m", "Hi", tools=[gate.wait, double], tool_timeout=SHORT_S)
    async with asyncio.timeout(LIMIT_S):
        await run.final()
    assert gate.cancelled.is_set()
    late = ("ToolTimedOut: no result within 0.05 seconds", True)
    assert results_of(run.messages) == [late, ("2", False)]


async def test_the_result_of_a_call_that_took_too_long_is_dropped(server, client):
    gate = Gate()

    async def late() -> str:
        try:
            return await gate.wait()
        except asyncio.CancelledError:
            return "late"

    server.script = calls_tools([("late", "")], [("double", '{"value": 1}')])
    run = client.run_tools("m", "Hi", tools=[late, double], tool_timeout=SHORT_S, timeout=LIMIT_S)
    await run.final()
    timed_out = ("ToolTimedOut: no result within 0.05 seconds", True)
    assert results_of(run.messages) == [timed_out, ("2", False)]


async def test_the_duration_of_a_call_does_not_depend_on_its_reader(server, client):
    server.script = calls_tools([("triple", '{"value": 1}')])
    async with client.run_tools("m", "Hi", tools=[triple], timeout=LIMIT_S) as run:
        async for step in run:
            if isinstance(step, tokenwire.ToolStarted):
                await asyncio.sleep(0.5)
            if isinstance(step, tokenwire.ToolFinished):
                assert step.duration_s < 0.4


async def test_a_thread_that_takes_too_long_is_left_behind(server, client):
    is_open, ended = threading.Event(), threading.Event()

    def block() -> None:
        is_open.wait(LIMIT_S)
        ended.set()

    server.script = calls_tools([("block", "")])
    run = client.run_tools("m", "Hi", tools=[block], tool_timeout=SHORT_S)
    async with asyncio.timeout(LIMIT_S):
        await run.final()
    assert results_of(run.messages) == [("ToolTimedOut: no result within 0.05 seconds", True)]
    assert not ended.is_set()
    is_open.set()
    assert await asyncio.to_thread(ended.wait, LIMIT_S)


async def test_a_tool_can_end_the_run(server, client):
    gate = Gate()

    async def stop() -> None:
        await gate.started.wait()
        raise tokenwire.StopRun({"order": 7})

    server.script = calls_tools([("wait", ""), ("stop", "")])
    async with client.run_tools("m", "Hi", tools=[stop, gate.wait], timeout=LIMIT_S) as run:
        answer = await run.final()
    assert run.stopped.value == {"order": 7}
    assert answer.tool_calls[1].name == "stop"
    assert gate.cancelled.is_set()
    assert results_of(run.messages) == [(UNKNOWN_RESULT, True), ('{"order":7}', False)]
    assert len(server.requests) == 1


async def test_the_limit_of_rounds_leaves_a_conversation_to_go_on_with(server, client):
    server.script = calls_tools([("double", '{"value": 1}')], [("double", '{"value": 2}')])
    with pytest.raises(tokenwire.ToolRoundsExceeded) as caught:
        await client.run_tools("m", "Hi", tools=[double], max_rounds=2).final()
    answer = await client.run_tools("m", caught.value.messages, tools=[double]).final()
    assert answer.text == "Done."
    assert results_of(server.requests[-1].messages) == [("2", False), ("4", False)]


async def test_the_limit_of_cost(server, client):
    server.script = calls_tools([("double", '{"value": 1}')], [("double", '{"value": 2}')], cost=40)
    run = client.run_tools("m", "Hi", tools=[double], max_cost_microusd=75)
    with pytest.raises(tokenwire.ToolCostExceeded) as caught:
        await run.final()
    assert [each.budget.max_cost_microusd for each in server.requests] == [75, 35]
    assert caught.value.usage == run.usage
    assert run.usage.cost_microusd == 80


async def test_the_time_limit_of_the_run_ends_a_tool(server, client):
    gate = Gate()
    server.script = calls_tools([("wait", "")])
    began = time.monotonic()
    with pytest.raises(tokenwire.ToolTimeExceeded) as caught:
        await client.run_tools("m", "Hi", tools=[gate.wait], timeout=0.5).final()
    assert time.monotonic() - began < LIMIT_S
    assert gate.cancelled.is_set()
    assert results_of(caught.value.messages) == [(UNKNOWN_RESULT, True)]


async def test_the_time_limit_of_the_run_is_the_deadline_of_its_requests(server, client):
    server.script = calls_then_waits(("double", '{"value": 1}'))
    with pytest.raises(tokenwire.ToolTimeExceeded) as caught:
        await client.run_tools("m", "Hi", tools=[double], timeout=0.5).final()
    assert results_of(caught.value.messages) == [("2", False)]


async def test_cancelling_the_task_cancels_running_tools_and_waits_for_them(server, client):
    gate = Gate()
    cleaned = asyncio.Event()

    async def clean_up() -> None:
        try:
            await gate.wait()
        finally:
            await asyncio.sleep(SHORT_S)
            cleaned.set()

    server.script = calls_tools([("clean_up", "")])
    run = client.run_tools("m", "Hi", tools=[clean_up])
    task = asyncio.create_task(run.final())
    async with asyncio.timeout(LIMIT_S):
        await gate.started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert cleaned.is_set()
    assert results_of(run.messages) == [(UNKNOWN_RESULT, True)]


async def test_a_tool_that_ignores_its_cancellation_is_left_after_a_while(
    server, client, monkeypatch, caplog
):
    monkeypatch.setattr(tool_calls, "STOP_TIMEOUT_S", SHORT_S)
    gate, end = Gate(), asyncio.Event()

    async def stubborn() -> None:
        try:
            await gate.wait()
        except asyncio.CancelledError:
            await end.wait()

    server.script = calls_tools([("stubborn", "")])
    with caplog.at_level(logging.WARNING, "tokenwire"):
        async with asyncio.timeout(LIMIT_S):
            async with client.run_tools("m", "Hi", tools=[stubborn]) as run:
                async for step in run:
                    if isinstance(step, tokenwire.ToolStarted):
                        break
                await gate.started.wait()
    assert "did not end in time" in caplog.text
    end.set()
    await asyncio.sleep(SHORT_S)


async def test_leaving_the_block_ends_the_request_of_the_moment(server, client):
    server.script = calls_then_waits(("double", '{"value": 1}'))
    async with client.run_tools("m", "Hi", tools=[double]) as run:
        async for step in run:
            if step.round == 2:
                break
    assert await caller_left(server)
    assert results_of(run.messages) == [("2", False)]
    with pytest.raises(tokenwire.Cancelled):
        await run.final()


@pytest.mark.parametrize("round_", [1, 2])
async def test_cancel_ends_the_run_in_a_tool_and_in_an_answer(server, client, round_):
    gate = Gate()
    tool = ("wait", "") if round_ == 1 else ("double", '{"value": 1}')
    server.script = calls_then_waits(tool)
    run = client.run_tools("m", "Hi", tools=[gate.wait, double], timeout=LIMIT_S)
    with pytest.raises(tokenwire.Cancelled):
        async with run:
            async for step in run:
                is_tool = isinstance(step, tokenwire.ToolStarted)
                if (is_tool and round_ == 1) or step.round == 2:
                    asyncio.get_running_loop().call_soon(run.cancel)
    assert gate.running == 0
    run.cancel()


async def test_cancel_before_the_block_is_entered_starts_nothing(server, client):
    run = client.run_tools("m", "Hi", tools=[double])
    run.cancel()
    with pytest.raises(tokenwire.Cancelled):
        await run.final()
    assert server.requests == []


async def test_a_failed_request_is_raised_again_and_the_conversation_is_kept(server, client):
    first = calls_tools([("double", '{"value": 1}')])
    broken = fails(status(Code.ABORTED, "UPSTREAM_BROKEN"), started(), text(2, "Half"))

    async def script(request, context):
        await (broken if len(request.messages) > 1 else first)(request, context)

    server.script = script
    async with client.run_tools("m", "Hi", tools=[double]) as run:
        for _ in range(2):
            with pytest.raises(tokenwire.UpstreamBroken):
                await run.final()
    assert results_of(run.messages) == [("2", False)]
    assert len(run.messages) == 3


async def test_a_wait_for_a_step_that_is_cancelled_does_not_look_like_the_end(server, client):
    gate = Gate()
    server.script = calls_tools([("wait", "")])
    async with client.run_tools("m", "Hi", tools=[gate.wait]) as run:
        async for step in run:
            if isinstance(step, tokenwire.ToolStarted):
                break
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(run), SHORT_S)
        with pytest.raises(tokenwire.Cancelled):
            await anext(run)


async def test_a_run_is_read_only_inside_its_block_and_entered_once(server, client):
    run = client.run_tools("m", "Hi", tools=[double])
    with pytest.raises(RuntimeError, match="block"):
        await anext(run)
    server.script = calls_tools()
    async with run:
        with pytest.raises(RuntimeError, match="once"):
            async with run:
                pass


async def test_a_run_that_is_never_entered_costs_nothing(server, client):
    client.run_tools("m", "Hi", tools=[double])
    gc.collect()
    assert server.calls == []


async def test_tools_see_the_context_of_the_reader(server, client):
    user = contextvars.ContextVar("user", default="nobody")

    def in_thread() -> str:
        return user.get()

    async def in_task() -> str:
        return user.get()

    user.set("somebody")
    server.script = calls_tools([("in_thread", ""), ("in_task", "")])
    run = client.run_tools("m", "Hi", tools=[in_thread, in_task], timeout=LIMIT_S)
    await run.final()
    assert results_of(run.messages) == [("somebody", False)] * 2


def test_wrong_arguments_are_refused_before_the_run(server):
    client = tokenwire.AsyncClient("127.0.0.1:1")
    for fields in (
        {"max_rounds": 0},
        {"max_concurrency": 0},
        {"tool_timeout": 0},
        {"on_tool_error": "x"},
        {"tools": [double, double]},
    ):
        with pytest.raises(ValueError):
            client.run_tools("m", "Hi", **{"tools": [double], **fields})
    for fields in ({"tools": [lambda x: x]}, {"tools": [tokenwire.tool("x")]}, {"nothing": 1}):
        with pytest.raises((TypeError, ValueError)):
            client.run_tools("m", "Hi", **{"tools": [double], **fields})


async def test_functions_are_tools_of_a_single_request_too(server, client):
    server.script = calls_tools([("double", '{"value": 1}')])
    async with client.chat_stream("m", "Hi", tools=[double, tokenwire.tool("x")]) as stream:
        await stream.final()
    assert [tool.name for tool in server.requests[0].tools] == ["double", "x"]
    assert server.requests[0].tools[0] == tokenwire.function_tool(double).definition


async def test_runs_that_are_left_in_every_way_leave_no_task_and_no_call(server, client):
    running, open_calls = set(), set()

    async def wait() -> None:
        task = asyncio.current_task()
        running.add(task)
        try:
            await asyncio.Event().wait()
        finally:
            running.remove(task)

    def counted(script):
        async def count(request, context):
            open_calls.add(context)
            try:
                await script(request, context)
            finally:
                open_calls.remove(context)

        return count

    async def read(is_there, end):
        """Read a run up to a step, and leave it in this way."""
        async with client.run_tools(
            "m", "Hi", tools=[wait, double], tool_timeout=SHORT_S / 5
        ) as run:
            async for step in run:
                if not is_there(step):
                    continue
                match end:
                    case "break":
                        break
                    case "raise":
                        raise ZeroDivisionError
                    case "cancel":
                        run.cancel()
                    case "time":
                        async with asyncio.timeout(SHORT_S / 10):
                            await asyncio.Event().wait()
                    case "task":
                        asyncio.current_task().cancel()

    def is_a(kind):
        return lambda step: isinstance(step, kind)

    places = [is_a(tokenwire.ModelEvent), is_a(tokenwire.ToolStarted), is_a(tokenwire.ToolFinished)]
    places.append(lambda step: step.round == 2)
    ends = ["break", "raise", "cancel", "time", "task"]
    async with asyncio.timeout(3 * LIMIT_S):
        for is_there in places:
            for end in ends:
                script = calls_then_waits(("double", '{"value": 1}'), ("wait", ""))
                server.script = counted(script)
                (outcome,) = await asyncio.gather(read(is_there, end), return_exceptions=True)
                kinds = (
                    ZeroDivisionError,
                    tokenwire.Cancelled,
                    TimeoutError,
                    asyncio.CancelledError,
                )
                assert outcome is None or isinstance(outcome, kinds)
                assert (outcome is None) == (end == "break")
                assert not running
        while open_calls:
            await asyncio.sleep(SHORT_S)


@pytest.mark.parametrize("is_async", [True, False])
async def test_an_error_that_is_no_exception_is_raised_in_the_reader(server, client, is_async):
    class Abort(BaseException):
        """As the failure of a test in pytest."""

    def abort() -> None:
        raise Abort

    async def abort_later() -> None:
        abort()

    server.script = calls_tools([("abort", "{}")])
    tool = tokenwire.function_tool(abort_later if is_async else abort, name="abort")
    async with client.run_tools("m", "Hi", tools=[tool], tool_timeout=None) as run:
        with pytest.raises(Abort):
            await asyncio.wait_for(run.final(), LIMIT_S)


async def test_retries_can_be_turned_off_for_a_run(server, client):
    server.script = fails(status(Code.UNAVAILABLE, "OVERLOADED"))
    with pytest.raises(tokenwire.Overloaded):
        await client.run_tools("m", "Hi", tools=[double], max_retries=0).final()
    assert len(server.requests) == 1
    with pytest.raises(ValueError, match="max_retries"):
        client.run_tools("m", "Hi", tools=[double], max_retries=-1)
