"""The tool loop of a caller with the model `demo`, through the server and the client."""

import asyncio
import functools
import json

import pytest

import tokenwire
from tokenwire.v1.event_pb2 import FINISH_REASON_TOOL_CALLS, FinishReason

MODELS = ("openai/demo", "openai-responses/demo", "anthropic/demo")
ROUNDS = 3
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
ZONE = {"type": "object", "properties": {"hours": {"type": "integer", "minimum": 7}}}
TOOLS = [
    tokenwire.tool("get_weather", parameters=CITY),
    tokenwire.tool("get_time", parameters=ZONE),
]
RESULTS = {"get_weather": "21 °C and sunny", "get_time": "half past nine"}
QUESTION = "Please use get_weather for Berlin."


@pytest.fixture(scope="module")
def demo(start):
    with start("serve", "--demo", "--listen", "127.0.0.1:0") as (_, address):
        yield address


async def tool_loop(ask, messages):
    """Run tools until the model answers; return the reason of each round, the calls, and the last text."""
    reasons, calls = [], []
    for _ in range(ROUNDS):
        answer = await ask(messages)
        messages.append(answer.message)
        reasons.append(answer.finished.reason)
        if answer.finished.reason != FINISH_REASON_TOOL_CALLS:
            break
        for call in (part.tool_call for part in answer.message.parts if part.HasField("tool_call")):
            calls.append((call.name, json.loads(call.arguments_json)))
            messages.append(tokenwire.tool_result(call.id, RESULTS[call.name]))
    text = "".join(part.text for part in messages[-1].parts)
    return [FinishReason.Name(r).removeprefix("FINISH_REASON_") for r in reasons], calls, text


@pytest.mark.parametrize("streamed", [False, True], ids=["chat", "chat_stream"])
@pytest.mark.parametrize("model", MODELS)
async def test_a_tool_loop_ends_with_an_answer_that_uses_the_result(demo, model, streamed):
    async with tokenwire.AsyncClient(demo) as client:

        async def ask(messages):
            if not streamed:
                return await client.chat(model, messages, tools=TOOLS)
            async with client.chat_stream(model, messages, tools=TOOLS) as stream:
                return await stream.final()

        reasons, calls, text = await tool_loop(ask, [tokenwire.user(QUESTION)])
    assert reasons == ["TOOL_CALLS", "STOP"]
    assert calls == [("get_weather", {"city": "Berlin"})]
    assert "get_weather" in text
    assert RESULTS["get_weather"] in text


async def on_all_models(demo, scenario):
    """Run the same conversation on every model at once."""
    async with tokenwire.AsyncClient(demo) as client:
        await asyncio.gather(
            *(scenario(functools.partial(client.chat, model, tools=TOOLS)) for model in MODELS)
        )


async def test_parallel_results_are_all_used(demo):
    async def scenario(ask):
        question = "Use get_time, then get_weather."
        reasons, calls, text = await tool_loop(ask, [tokenwire.user(question)])
        assert reasons == ["TOOL_CALLS", "STOP"]
        assert sorted(calls) == [("get_time", {"hours": 7}), ("get_weather", {"city": "Berlin"})]
        assert all(result in text for result in RESULTS.values())

    await on_all_models(demo, scenario)


async def test_a_question_after_the_results_calls_tools_again(demo):
    async def scenario(ask):
        messages = [tokenwire.user(QUESTION)]
        await tool_loop(ask, messages)
        messages.append(tokenwire.user("And what is Tokenwire?"))
        reasons, _, text = await tool_loop(ask, messages)
        assert reasons == ["STOP"]
        assert "Tokenwire turns" in text
        messages.append(tokenwire.user("What is the time?"))
        reasons, calls, text = await tool_loop(ask, messages)
        assert (reasons, [name for name, _ in calls]) == (["TOOL_CALLS", "STOP"], ["get_time"])
        assert RESULTS["get_time"] in text
        assert RESULTS["get_weather"] not in text

    await on_all_models(demo, scenario)


@pytest.mark.parametrize(
    ("question", "choice", "called"),
    [
        (QUESTION, {"mode": "TOOL_CHOICE_MODE_NONE"}, []),
        ("Hello", {"mode": "TOOL_CHOICE_MODE_REQUIRED"}, ["get_weather"]),
        ("Hello", {"mode": "TOOL_CHOICE_MODE_TOOL", "tool_name": "get_time"}, ["get_time"]),
    ],
)
async def test_tool_choice_is_followed_and_the_loop_ends(demo, question, choice, called):
    async def scenario(ask):
        ask = functools.partial(ask, tool_choice=choice)
        reasons, calls, _ = await tool_loop(ask, [tokenwire.user(question)])
        assert [name for name, _ in calls] == called
        assert reasons == [*["TOOL_CALLS"] * len(called), "STOP"]

    await on_all_models(demo, scenario)


def get_weather(city: str) -> str:
    """Return the weather in a city."""
    return f"21 °C and sunny in {city}"


async def get_time(hours: int = 7) -> dict:
    """Return the time."""
    return {"hours": hours}


@pytest.mark.parametrize("model", MODELS)
async def test_a_run_with_functions_ends_with_an_answer_that_uses_the_results(demo, model):
    async with tokenwire.AsyncClient(demo) as client:
        question = "Use get_time, then get_weather in Berlin."
        tools = [get_weather, get_time]
        async with client.run_tools(model, question, tools=tools, timeout=60) as run:
            steps = [step async for step in run]
        text = run.answer.text
        assert "21 °C and sunny in Berlin" in text
        assert '{"hours":' in text
        ends = [step for step in steps if isinstance(step, tokenwire.ToolFinished)]
        assert sorted(step.call.name for step in ends) == ["get_time", "get_weather"]
        assert not any(step.error for step in ends)
        assert run.round == 2
        assert run.usage.cost_microusd > 0
        answer = await client.chat(model, [*run.messages, tokenwire.user("And what is Tokenwire?")])
        assert "Tokenwire turns" in answer.text


def test_a_run_with_functions_in_threads(demo):
    with tokenwire.Client(demo) as client:
        answer = client.run_tools("openai/demo", QUESTION, tools=[get_weather], timeout=60).final()
    assert "sunny in Berlin" in answer.text


@pytest.mark.parametrize("model", MODELS)
async def test_a_conversation_whose_run_was_stopped_in_a_tool_goes_on(demo, model):
    async def wait(city: str) -> None:
        await asyncio.Event().wait()

    async with tokenwire.AsyncClient(demo) as client:
        tool = tokenwire.function_tool(wait, name="get_weather")
        async with client.run_tools(model, QUESTION, tools=[tool], timeout=60) as run:
            async for step in run:
                if isinstance(step, tokenwire.ToolStarted):
                    break
        question = tokenwire.user("And what is Tokenwire?")
        answer = await client.chat(model, [*run.messages, question], tools=[tool])
        assert "Tokenwire turns" in answer.text


async def test_the_cost_of_a_run_is_limited_by_the_server_too(demo):
    async with tokenwire.AsyncClient(demo) as client:
        with pytest.raises(tokenwire.ToolCostExceeded) as caught:
            run = client.run_tools(MODELS[0], QUESTION, tools=[get_weather], max_cost_microusd=10)
            await run.final()
        assert isinstance(caught.value.__cause__, tokenwire.BudgetExceeded)
        free = client.run_tools(MODELS[0], QUESTION, tools=[get_weather])
        await free.final()
        first_only = free.usage.cost_microusd - 100
        with pytest.raises(tokenwire.ToolCostExceeded) as caught:
            await client.run_tools(
                MODELS[0], QUESTION, tools=[get_weather], max_cost_microusd=first_only
            ).final()
        assert caught.value.messages
