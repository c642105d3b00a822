import logging
import threading
import time

import pytest

import tokenwire
from tokenwire.stream.tool_loop import UNKNOWN_RESULT
from tokenwire.sync import tool_calls

from ..conftest import LIMIT_S, caller_left
from ..tool_scripts import calls_then_waits, calls_tools, results_of
from .test_client import in_thread

SHORT_S = 0.05


def double(value: int) -> int:
    """Return twice the value."""
    return 2 * value


@pytest.fixture
def client(server):
    with tokenwire.Client(server.target) as each:
        yield each


async def test_the_short_form_and_the_steps(server, client):
    @in_thread
    def run_tools():
        answer = client.run_tools("m", "Hi", tools=[double], timeout=LIMIT_S).final()
        server.script = calls_tools([("double", '{"value": 2}')])
        with client.run_tools("m", "Hi", tools=[double], timeout=LIMIT_S) as run:
            steps = [type(step).__name__ for step in run]
        return answer, steps, run

    server.script = calls_tools([("double", '{"value": 2}')])
    answer, steps, run = await run_tools()
    assert answer == run.answer
    assert [each for each in steps if each != "ModelEvent"] == [
        "ToolStarted",
        "ToolFinished",
        "RoundFinished",
        "RoundFinished",
    ]
    assert results_of(run.messages) == [("4", False)]
    assert run.usage.cost_microusd == 10


async def test_calls_run_at_the_same_time_up_to_the_bound(server, client):
    together = threading.Barrier(2)
    running, most = [], []

    def meet() -> None:
        running.append(1)
        most.append(len(running))
        together.wait(LIMIT_S)
        running.pop()

    @in_thread
    def run_tools():
        run = client.run_tools("m", "Hi", tools=[meet], max_concurrency=2, timeout=LIMIT_S)
        run.final()
        return run

    server.script = calls_tools([("meet", "")] * 4)
    run = await run_tools()
    assert results_of(run.messages) == [("null", False)] * 4
    assert max(most) == 2


async def test_a_call_that_takes_too_long_is_an_error_makes_room_and_is_not_waited_for(
    server, client, monkeypatch
):
    monkeypatch.setattr(tool_calls, "STOP_TIMEOUT_S", LIMIT_S)
    opened = threading.Event()

    def block() -> None:
        opened.wait(LIMIT_S)

    @in_thread
    def run_tools():
        run = client.run_tools(
            "m", "Hi", tools=[block, double], tool_timeout=SHORT_S, max_concurrency=1
        )
        began = time.monotonic()
        run.final()
        assert time.monotonic() - began < LIMIT_S / 2
        opened.set()
        return run

    server.script = calls_tools([("block", ""), ("double", '{"value": 1}')])
    late = ("ToolTimedOut: no result within 0.05 seconds", True)
    assert results_of((await run_tools()).messages) == [late, ("2", False)]


async def test_errors_go_back_or_are_raised(server, client):
    def fail() -> None:
        raise ValueError("no value")

    @in_thread
    def run_tools(on_tool_error):
        server.script = calls_tools([("fail", ""), ("unknown", "")])
        run = client.run_tools("m", "Hi", tools=[fail], on_tool_error=on_tool_error)
        run.final()
        return results_of(run.messages)

    unknown = ("UnknownTool: there is no tool 'unknown', only: fail", True)
    assert await run_tools("report") == [("ValueError: no value", True), unknown]
    with pytest.raises(tokenwire.ToolFailed) as caught:
        await run_tools("raise")
    assert isinstance(caught.value.__cause__, ValueError)
    assert results_of(caught.value.messages)[0] == ("ValueError: no value", True)


async def test_a_tool_can_end_the_run_and_limits_are_errors(server, client):
    def stop() -> None:
        raise tokenwire.StopRun("enough")

    @in_thread
    def run_tools():
        server.script = calls_tools([("stop", "")])
        with client.run_tools("m", "Hi", tools=[stop]) as run:
            run.final()
        assert run.stopped.value == "enough"
        server.script = calls_tools([("double", '{"value": 1}')])
        with pytest.raises(tokenwire.ToolRoundsExceeded) as rounds:
            client.run_tools("m", "Hi", tools=[double], max_rounds=1).final()
        assert results_of(rounds.value.messages) == [("2", False)]
        server.script = calls_tools([("double", '{"value": 1}')])
        with pytest.raises(tokenwire.ToolCostExceeded):
            client.run_tools("m", "Hi", tools=[double], max_cost_microusd=5).final()

    await run_tools()


async def test_the_time_limit_of_the_run_ends_it_in_a_tool(server, client, monkeypatch):
    monkeypatch.setattr(tool_calls, "STOP_TIMEOUT_S", SHORT_S)
    opened = threading.Event()

    def block() -> None:
        opened.wait(LIMIT_S)

    @in_thread
    def run_tools():
        with pytest.raises(tokenwire.ToolTimeExceeded) as caught:
            client.run_tools("m", "Hi", tools=[block], timeout=0.5).final()
        opened.set()
        return caught.value

    server.script = calls_tools([("block", "")])
    assert results_of((await run_tools()).messages) == [(UNKNOWN_RESULT, True)]


async def test_leaving_waits_for_a_tool_but_not_forever(server, client, monkeypatch, caplog):
    monkeypatch.setattr(tool_calls, "STOP_TIMEOUT_S", SHORT_S)
    opened, ended = threading.Event(), threading.Event()

    def block() -> None:
        opened.wait(LIMIT_S)
        ended.set()

    @in_thread
    def run_tools(is_open):
        server.script = calls_tools([("block", "")])
        with client.run_tools("m", "Hi", tools=[block]) as run:
            for step in run:
                if isinstance(step, tokenwire.ToolStarted):
                    break
            if is_open:
                opened.set()
        return run

    with caplog.at_level(logging.WARNING, "tokenwire"):
        run = await run_tools(False)
        assert "tool calls that run on after their run has ended: 1" in caplog.text
        assert results_of(run.messages) == [(UNKNOWN_RESULT, True)]
        caplog.clear()
        monkeypatch.setattr(tool_calls, "STOP_TIMEOUT_S", LIMIT_S)
        await run_tools(True)
        assert ended.is_set()
        assert not caplog.text


async def test_another_thread_can_cancel_a_run_in_an_answer_and_in_a_tool(
    server, client, monkeypatch
):
    monkeypatch.setattr(tool_calls, "STOP_TIMEOUT_S", SHORT_S)
    opened = threading.Event()

    def block() -> None:
        opened.wait(LIMIT_S)

    @in_thread
    def run_tools(tool, is_there):
        run = client.run_tools("m", "Hi", tools=[block, double], timeout=LIMIT_S)
        with pytest.raises(tokenwire.Cancelled), run:
            for step in run:
                if is_there(step):
                    threading.Timer(SHORT_S, run.cancel).start()
        return run

    server.script = calls_then_waits(("block", ""))
    await run_tools("block", lambda step: isinstance(step, tokenwire.ToolStarted))
    opened.set()
    server.script = calls_then_waits(("double", '{"value": 1}'))
    run = await run_tools("double", lambda step: step.round == 2)
    assert await caller_left(server)
    assert results_of(run.messages) == [("2", False)]


async def test_an_interrupt_in_a_tool_is_raised_in_the_reader(server, client):
    def interrupt() -> None:
        raise KeyboardInterrupt

    @in_thread
    def run_tools():
        with pytest.raises(KeyboardInterrupt):
            client.run_tools("m", "Hi", tools=[interrupt], timeout=LIMIT_S).final()

    server.script = calls_tools([("interrupt", "")])
    await run_tools()


def test_a_coroutine_function_is_refused_before_the_run():
    async def later() -> None: ...

    with tokenwire.Client("127.0.0.1:1") as client, pytest.raises(TypeError, match="AsyncClient"):
        client.run_tools("m", "Hi", tools=[later])
