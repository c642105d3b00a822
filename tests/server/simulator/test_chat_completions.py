"""The simulator's Chat Completions, read by the official SDK."""

import json

import pytest
from openai import APIStatusError, BadRequestError
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tokenwire_server.simulator import (
    generated_arguments,
    generated_reasoning,
    generated_text,
)

HELLO = [{"role": "user", "content": "hello"}]
TOOLS = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}]


@pytest.fixture
def ask(openai):
    async def ask(model, **fields):
        return await openai.chat.completions.create(model=model, messages=HELLO, **fields)

    return ask


@pytest.fixture
def chunks(ask):
    async def chunks(model, **fields):
        stream = await ask(model, stream=True, **fields)
        read = [chunk async for chunk in stream]
        for chunk in read:
            # The SDK does not validate its types, so this test does.
            ChatCompletionChunk.model_validate(chunk.model_dump(exclude_unset=True), strict=True)
        return read

    return chunks


def text_of(chunks, name="content"):
    deltas = [getattr(choice.delta, name, None) for chunk in chunks for choice in chunk.choices]
    return "".join(delta for delta in deltas if delta)


async def test_a_streamed_text_is_the_generated_text_and_ends_with_its_reason(chunks):
    read = await chunks("sim?tokens=60")
    assert text_of(read) == "".join(generated_text(60))
    assert [c.finish_reason for chunk in read for c in chunk.choices][-1] == "stop"
    assert read[0].choices[0].delta.role == "assistant"
    assert len({chunk.id for chunk in read}) == 1


async def test_a_text_that_is_not_streamed_is_the_same(ask):
    answer = await ask("sim?tokens=60")
    ChatCompletion.model_validate(answer.model_dump(exclude_unset=True), strict=True)
    assert answer.choices[0].message.content == "".join(generated_text(60))
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens == 60


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
async def test_reasoning_is_in_the_field_that_the_scenario_names(chunks, ask, field):
    model = f"sim?tokens=5&reasoning=7&reasoning_field={field}"
    read = await chunks(model)
    assert text_of(read, field) == "".join(generated_reasoning(7))
    assert text_of(read) == "".join(generated_text(5))
    answer = await ask(model)
    assert getattr(answer.choices[0].message, field) == "".join(generated_reasoning(7))


async def test_the_fragments_of_parallel_tool_calls_are_interleaved(chunks):
    read = await chunks("sim?tokens=3&tools=3&arg_fragments=5", tools=TOOLS)
    calls = {}
    order = []
    for chunk in read:
        for choice in chunk.choices:
            for delta in choice.delta.tool_calls or []:
                if delta.id:
                    calls[delta.index] = [delta.id, delta.function.name, ""]
                calls[delta.index][2] += delta.function.arguments
                if delta.function.arguments:
                    order.append(delta.index)
    assert {call[1] for call in calls.values()} == {"find"}
    assert len({call[0] for call in calls.values()}) == 3
    assert [calls[i][2] for i in range(3)] == [generated_arguments(i) for i in range(3)]
    assert order == [0, 1, 2] * 5
    assert read[-1].choices[0].finish_reason == "tool_calls"


async def test_tool_calls_that_are_not_streamed_have_the_same_arguments(ask):
    answer = await ask("sim?tokens=0&tools=2", tools=TOOLS)
    calls = answer.choices[0].message.tool_calls
    assert [call.function.arguments for call in calls] == [generated_arguments(i) for i in (0, 1)]
    assert json.loads(calls[0].function.arguments)["big"] == 9007199254740993
    assert answer.choices[0].message.content is None
    assert answer.choices[0].finish_reason == "tool_calls"


async def test_a_refusal_has_a_separate_field(chunks, ask):
    read = await chunks("sim?refusal=No, sorry.")
    assert (text_of(read, "refusal"), text_of(read)) == ("No, sorry.", "")
    answer = await ask("sim?refusal=No, sorry.")
    assert answer.choices[0].message.refusal == "No, sorry."
    assert answer.choices[0].message.content is None


async def test_usage_is_last_and_only_sent_if_requested(chunks):
    model = "sim?tokens=9&reasoning=4&input_tokens=100&cache_read_tokens=60"
    without = await chunks(model)
    assert all(chunk.usage is None for chunk in without)
    read = await chunks(model, stream_options={"include_usage": True})
    assert [chunk.usage is not None for chunk in read] == [False] * (len(read) - 1) + [True]
    usage = read[-1].usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (100, 13, 113)
    assert usage.prompt_tokens_details.cached_tokens == 60
    assert usage.completion_tokens_details.reasoning_tokens == 4
    assert read[-1].choices == []
    none = await chunks(f"{model}&usage=0", stream_options={"include_usage": True})
    assert all(chunk.usage is None for chunk in none)


async def test_continuous_usage_counts_every_token(chunks):
    options = {"include_usage": True, "continuous_usage_stats": True}
    read = await chunks("sim?tokens=6&tools=1&arg_fragments=2", stream_options=options)
    counts = [c.usage.completion_tokens for c in read if c.choices and c.usage is not None]
    assert counts == sorted(counts)
    assert counts[-1] == read[-1].usage.completion_tokens == 8


async def test_the_requests_limit_cuts_the_answer(chunks):
    read = await chunks("sim?tokens=50&reasoning=4", max_completion_tokens=10)
    assert text_of(read) == "".join(generated_text(6))
    assert read[-1].choices[0].finish_reason == "length"


@pytest.mark.parametrize("reason", ["stop", "length", "tool_calls", "content_filter"])
async def test_the_scenario_sets_the_reason(chunks, ask, reason):
    read = await chunks(f"sim?tokens=2&stop_reason={reason}")
    assert read[-1].choices[0].finish_reason == reason
    whole = await ask(f"sim?tokens=2&stop_reason={reason}")
    assert whole.choices[0].finish_reason == reason


async def test_split_surrogates_are_one_character_again(openai):
    async with openai.chat.completions.with_streaming_response.create(
        model="sim?text=one 🙂 two&surrogates=1", messages=HELLO, stream=True
    ) as response:
        lines = [line async for line in response.iter_lines() if "content" in line]
    halves = [line for line in lines if "\\ud83d" in line or "\\ude42" in line]
    assert len(halves) == 2
    text = "".join(
        json.loads(line.removeprefix("data: "))["choices"][0]["delta"].get("content", "")
        for line in lines
    )
    assert text.encode("utf-16", "surrogatepass").decode("utf-16") == "one 🙂 two"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "nobody", "content": "x"}]}, "messages[0].role"),
        ({"model": "sim?tokens=many"}, None),
        ({"model": "sim?nonsense=1"}, None),
        ({"model": "sim?stop_reason=pause"}, None),
        ({"max_tokens": "ten"}, "max_tokens"),
    ],
)
async def test_an_invalid_request_is_refused_in_openais_format(openai, fields, param):
    with pytest.raises(BadRequestError) as caught:
        await openai.chat.completions.create(**{"model": "sim", "messages": HELLO, **fields})
    assert caught.value.type == "invalid_request_error"
    assert caught.value.param == param


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 503, 529])
async def test_every_error_status_has_an_error_object(ask, status):
    with pytest.raises(APIStatusError) as caught:
        await ask(f"sim?status={status}&retry_after=7", stream=True)
    assert caught.value.status_code == status
    assert caught.value.response.headers["retry-after"] == "7"
    assert caught.value.body["message"]
    assert caught.value.request_id.startswith("req_")


async def test_a_key_is_checked_if_the_scenario_has_one(ask):
    assert (await ask("sim?tokens=1&api_key=any")).choices
    with pytest.raises(APIStatusError) as caught:
        await ask("sim?api_key=another")
    assert (caught.value.status_code, caught.value.code) == (401, "invalid_api_key")


async def test_the_models_are_listed(openai):
    assert [model.id async for model in openai.models.list()] == ["demo", "sim"]
