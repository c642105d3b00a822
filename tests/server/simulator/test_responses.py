"""The simulator's Responses, read by the official SDK and its accumulator."""

from functools import cache

import pytest
from openai import APIStatusError, BadRequestError
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from tokenwire_server.simulator import (
    generated_arguments,
    generated_reasoning,
    generated_text,
)

TOOLS = [
    {"type": "function", "name": "find", "parameters": {"type": "object"}, "strict": False},
    {"type": "function", "name": "keep", "parameters": {"type": "object"}, "strict": False},
]


@cache  # it takes long to build, and not every worker needs it
def event_type():
    return TypeAdapter(ResponseStreamEvent)


@pytest.fixture
def ask(openai):
    async def ask(model, **fields):
        return await openai.responses.create(model=model, input="hello", **fields)

    return ask


@pytest.fixture
def events(ask):
    async def events(model, **fields):
        stream = await ask(model, stream=True, **fields)
        read = [event async for event in stream]
        for event in read:
            # The SDK does not validate its types, so this test does.
            event_type().validate_python(event.model_dump(exclude_unset=True, by_alias=True))
        assert [event.sequence_number for event in read] == list(range(len(read)))
        return read

    return events


def deltas(events, kind):
    return "".join(event.delta for event in events if event.type == kind)


async def test_a_streamed_text_is_the_generated_text_in_every_event_with_it(events):
    read = await events("sim?tokens=40")
    text = "".join(generated_text(40))
    assert deltas(read, "response.output_text.delta") == text
    assert [event.text for event in read if event.type == "response.output_text.done"] == [text]
    assert read[-1].response.output_text == text
    assert [event.type for event in read if "delta" not in event.type] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]


async def test_a_text_that_is_not_streamed_is_the_same(ask):
    answer = await ask("sim?tokens=40&reasoning=3&tools=1")
    Response.model_validate(answer.model_dump(exclude_unset=True, by_alias=True))
    assert answer.output_text == "".join(generated_text(40))
    assert answer.status == "completed"
    assert [item.type for item in answer.output] == ["reasoning", "message", "function_call"]
    assert answer.output[0].summary[0].text == "".join(generated_reasoning(3))
    assert answer.output[2].arguments == generated_arguments(0)


async def test_reasoning_is_a_summary_and_ends_with_its_encrypted_content(events):
    read = await events("sim?tokens=5&reasoning=8")
    reasoning = "".join(generated_reasoning(8))
    assert deltas(read, "response.reasoning_summary_text.delta") == reasoning
    done = [event.item for event in read if event.type == "response.output_item.done"]
    assert [item.type for item in done] == ["reasoning", "message"]
    assert done[0].summary[0].text == reasoning
    assert done[0].encrypted_content


async def test_parallel_calls_are_interleaved_with_their_index(events):
    read = await events("sim?tokens=2&reasoning=1&tools=3&arg_fragments=3", tools=TOOLS)
    kind = "response.function_call_arguments.delta"
    order = [event.output_index for event in read if event.type == kind]
    assert order == [2, 3, 4] * 3
    calls = [item for item in read[-1].response.output if item.type == "function_call"]
    assert [call.name for call in calls] == ["find", "keep", "find"]
    for ordinal, call in enumerate(calls):
        own = [e.delta for e in read if e.type == kind and e.item_id == call.id]
        assert "".join(own) == call.arguments == generated_arguments(ordinal)


async def test_the_sdks_accumulator_matches_the_final_response(openai):
    async with openai.responses.stream(
        model="sim?tokens=20&reasoning=4&tools=2", input="hello", tools=TOOLS
    ) as stream:
        read = [event async for event in stream]
        final = await stream.get_final_response()
    assert final.output_text == "".join(generated_text(20))
    snapshots = [event.snapshot for event in read if event.type == "response.output_text.delta"]
    assert snapshots[-1] == final.output_text


async def test_a_refusal_is_a_separate_part(events, ask):
    read = await events("sim?refusal=No, sorry.")
    assert deltas(read, "response.refusal.delta") == "No, sorry."
    assert deltas(read, "response.output_text.delta") == ""
    answer = await ask("sim?refusal=No, sorry.")
    assert answer.output[0].content[0].refusal == "No, sorry."


async def test_usage_is_in_the_last_event(events):
    read = await events("sim?tokens=9&reasoning=4&input_tokens=100&cache_read_tokens=60")
    usage = read[-1].response.usage
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (100, 13, 113)
    assert usage.input_tokens_details.cached_tokens == 60
    assert usage.output_tokens_details.reasoning_tokens == 4
    assert (await events("sim?tokens=1&usage=0"))[-1].response.usage is None


@pytest.mark.parametrize(
    ("stop_reason", "reason"),
    [("length", "max_output_tokens"), ("content_filter", "content_filter")],
)
async def test_an_answer_that_was_cut_off_is_incomplete_with_a_reason(events, stop_reason, reason):
    last = (await events(f"sim?tokens=2&stop_reason={stop_reason}"))[-1]
    assert last.type == "response.incomplete"
    assert last.response.incomplete_details.reason == reason


async def test_the_requests_limit_cuts_the_answer(events):
    read = await events("sim?tokens=50", max_output_tokens=7)
    assert deltas(read, "response.output_text.delta") == "".join(generated_text(7))
    assert read[-1].type == "response.incomplete"


async def test_the_response_echoes_the_request(ask):
    answer = await ask("sim?tokens=1", instructions="be brief", temperature=0.5, tools=TOOLS)
    assert (answer.instructions, answer.temperature) == ("be brief", 0.5)
    assert [tool.name for tool in answer.tools] == ["find", "keep"]


@pytest.mark.parametrize("kind", ["error", "failed"])
async def test_an_error_in_mid_stream_has_either_format(events, kind):
    read = await events(f"sim?tokens=9&error_event_after=3&error_event={kind}")
    assert len([event for event in read if event.type == "response.output_text.delta"]) == 3
    if kind == "error":
        assert (read[-1].type, read[-1].code) == ("error", "server_error")
    else:
        assert read[-1].response.status == "failed"
        assert read[-1].response.error.code == "server_error"


@pytest.mark.parametrize("fields", [{"input": ""}, {"input": None}, {"model": "sim?x=1"}])
async def test_an_invalid_request_is_refused(openai, fields):
    with pytest.raises(BadRequestError) as caught:
        await openai.responses.create(**{"model": "sim", "input": "hello", **fields})
    assert caught.value.type == "invalid_request_error"


async def test_an_error_status_replaces_the_answer(ask):
    with pytest.raises(APIStatusError) as caught:
        await ask("sim?status=429", stream=True)
    assert (caught.value.status_code, caught.value.code) == (429, "rate_limit_exceeded")


async def test_ids_of_calls_have_at_most_64_characters(openai):
    for length, is_valid in ((64, True), (65, False)):
        call = {"type": "function_call", "call_id": "c" * length, "name": "f", "arguments": "{}"}
        create = openai.responses.create(model="sim?tokens=1", input=[call])
        if is_valid:
            assert (await create).output
            continue
        with pytest.raises(BadRequestError, match=r"Invalid 'input\[0\].call_id'"):
            await create
