"""The model `demo` in all three formats, and the simulator as a command."""

import asyncio
import json

import jsonschema_rs
import pytest

from tokenwire_server.simulator import DEMO, Scenario, Simulator, run_simulator

pytestmark = pytest.mark.virtual_time

HELLO = [{"role": "user", "content": "What is Tokenwire?"}]
WEATHER = [{"role": "user", "content": "Please use get weather for Berlin"}]
SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer", "minimum": 2},
        "unit": {"enum": ["celsius", "fahrenheit"]},
        "tags": {"type": "array", "items": {"type": "boolean"}},
        "left_out": {"type": "string"},
    },
    "required": ["city", "days", "unit", "tags"],
}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}]


async def test_it_explains_tokenwire_at_the_pace_of_a_model(openai):
    loop = asyncio.get_running_loop()
    began = loop.time()
    stream = await openai.chat.completions.create(model="demo", messages=HELLO, stream=True)
    text, reasoning, times = "", "", []
    async for chunk in stream:
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reasoning += getattr(choice.delta, "reasoning_content", None) or ""
            times.append(loop.time() - began)
    assert (text, reasoning) == (DEMO.text, DEMO.reasoning_text)
    assert 80 <= len(text.split()) <= 120
    assert times[1] == pytest.approx(0.3, abs=0.01)
    assert 1.9 < times[-1] < 4


async def test_it_answers_the_same_in_all_formats(openai, anthropic):
    response, message = await asyncio.gather(
        openai.responses.create(model="demo", input="What is Tokenwire?"),
        anthropic.messages.create(model="demo", messages=HELLO, max_tokens=1000),
    )
    assert response.output_text == message.content[1].text == DEMO.text
    assert response.output[0].summary[0].text == message.content[0].thinking == DEMO.reasoning_text


async def test_it_calls_the_first_tool_when_the_user_names_it(openai):
    asked = await openai.chat.completions.create(model="demo", messages=WEATHER, tools=TOOLS)
    call = asked.choices[0].message.tool_calls[0]
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {
        "city": "Berlin",
        "days": 2,
        "unit": "celsius",
        "tags": [True],
    }
    assert asked.choices[0].finish_reason == "tool_calls"


async def test_it_answers_with_an_example_of_the_schema_in_all_formats(openai, anthropic):
    wanted = {"name": "trip", "schema": SCHEMA}
    asked = await asyncio.gather(
        openai.chat.completions.create(
            model="demo",
            messages=HELLO,
            response_format={"type": "json_schema", "json_schema": wanted},
        ),
        openai.responses.create(
            model="demo", input="Hi", text={"format": {"type": "json_schema", **wanted}}
        ),
        anthropic.messages.create(
            model="demo",
            messages=HELLO,
            max_tokens=1000,
            output_config={"format": {"type": "json_schema", "schema": SCHEMA}},
        ),
    )
    texts = [asked[0].choices[0].message.content, asked[1].output_text, asked[2].content[1].text]
    for text in texts:
        assert json.loads(text) == {
            "city": "example city",
            "days": 2,
            "unit": "celsius",
            "tags": [True, True],
        }


TREE = {
    "type": "object",
    "properties": {
        "kind": {"const": "tree"},
        "day": {"type": "string", "format": "date"},
        "left": {"anyOf": [{"$ref": "#/$defs/Tree"}, {"type": "null"}]},
        "leaves": {"type": "array", "items": {"$ref": "#/$defs/Tree"}},
        "broken": {"$ref": "#/$defs/Broken"},
    },
    "required": ["kind", "day", "left", "leaves"],
    "additionalProperties": False,
}


async def test_its_example_of_a_schema_that_refers_to_itself_is_valid_and_short(openai):
    schema = TREE | {"$defs": {"Tree": TREE, "Broken": {"$ref": "#/$defs/Broken"}}}
    wanted = {"name": "tree", "schema": schema}
    response_format = {"type": "json_schema", "json_schema": wanted}
    asked = await openai.chat.completions.create(
        model="demo", messages=HELLO, response_format=response_format
    )
    text = asked.choices[0].message.content
    assert len(text) < 10_000
    assert jsonschema_rs.is_valid(schema, json.loads(text))
    assert json.loads(text)["left"]["day"] == "2026-01-31"


async def test_it_calls_no_tool_that_the_user_does_not_name(openai):
    answer = await openai.chat.completions.create(model="demo", messages=HELLO, tools=TOOLS)
    assert answer.choices[0].message.tool_calls is None


async def test_the_default_scenario_answers_all_other_models(wire_to):
    async with Simulator(default=Scenario(text="the default")) as simulator:
        wire = await wire_to(simulator)
        await wire.chat("gpt-anything", stream=False)
        _, _, body = await wire.answer()
    assert json.loads(body)["choices"][0]["message"]["content"] == "the default"


async def test_the_command_prints_its_address_and_serves_until_cancelled(capsys, eventually):
    task = asyncio.create_task(run_simulator("127.0.0.1:0", print))
    printed = ""

    def is_printed():
        nonlocal printed
        printed += capsys.readouterr().out
        return printed.endswith("\n")

    await eventually(is_printed)
    host, port = printed.split()[-1].removeprefix("http://").rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /v1/models HTTP/1.1\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.close()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(host, int(port))


@pytest.mark.parametrize("listen", ["8080", "localhost", "localhost:", "localhost:99999", "a:b"])
async def test_an_invalid_address_is_refused(listen):
    with pytest.raises(ValueError, match="HOST:PORT"):
        await run_simulator(listen, print)
