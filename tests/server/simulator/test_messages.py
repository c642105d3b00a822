"""The simulator's Messages, read by the official SDK and its accumulator."""

from functools import cache

import pytest
from anthropic import APIStatusError, BadRequestError
from anthropic.types import Message, RawMessageStreamEvent
from pydantic import TypeAdapter

from tokenwire_server.simulator import (
    generated_arguments,
    generated_reasoning,
    generated_text,
)

HELLO = [{"role": "user", "content": "hello"}]
TOOLS = [{"name": "find", "input_schema": {"type": "object"}}]


@cache  # it takes long to build, and not every worker needs it
def event_type():
    return TypeAdapter(RawMessageStreamEvent)


@pytest.fixture
def ask(anthropic):
    async def ask(model, **fields):
        fields.setdefault("max_tokens", 1000)
        return await anthropic.messages.create(model=model, messages=HELLO, **fields)

    return ask


@pytest.fixture
def events(ask):
    async def events(model, **fields):
        stream = await ask(model, stream=True, **fields)
        read = [event async for event in stream]
        for event in read:
            # The SDK does not validate its types, so this test does.
            event_type().validate_python(event.model_dump(exclude_unset=True, by_alias=True))
        return read

    return events


def deltas(events, kind, name):
    read = [e for e in events if e.type == "content_block_delta" and e.delta.type == kind]
    return "".join(getattr(event.delta, name) for event in read)


async def test_a_streamed_text_is_the_generated_text(events):
    read = await events("sim?tokens=40")
    assert deltas(read, "text_delta", "text") == "".join(generated_text(40))
    assert [event.type for event in read if event.type != "content_block_delta"] == [
        "message_start",
        "content_block_start",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert read[-2].delta.stop_reason == "end_turn"


async def test_a_message_that_is_not_streamed_is_the_same(ask):
    message = await ask("sim?tokens=40&reasoning=3&tools=1", tools=TOOLS)
    Message.model_validate(message.model_dump(exclude_unset=True, by_alias=True))
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use"]
    assert message.content[0].thinking == "".join(generated_reasoning(3))
    assert message.content[0].signature
    assert message.content[1].text == "".join(generated_text(40))
    assert message.content[2].input["big"] == 9007199254740993
    assert message.stop_reason == "tool_use"


async def test_blocks_are_sent_in_sequence_with_their_index(events):
    read = await events("sim?tokens=4&reasoning=3&tools=2&arg_fragments=3", tools=TOOLS)
    structure = [
        (event.type, event.index) for event in read if event.type.startswith("content_block_st")
    ]
    assert structure == [
        (kind, index)
        for index in range(4)
        for kind in ("content_block_start", "content_block_stop")
    ]
    own = [
        "".join(
            event.delta.partial_json
            for event in read
            if event.type == "content_block_delta" and event.index == index
        )
        for index in (2, 3)
    ]
    assert own == [generated_arguments(0), generated_arguments(1)]


async def test_thinking_ends_with_its_signature(events):
    read = await events("sim?tokens=2&reasoning=5")
    assert deltas(read, "thinking_delta", "thinking") == "".join(generated_reasoning(5))
    own = [event for event in read if getattr(event, "index", None) == 0]
    assert [event.type for event in own][-2:] == ["content_block_delta", "content_block_stop"]
    assert own[-2].delta.type == "signature_delta"


async def test_the_sdks_accumulator_reads_the_same_message(anthropic):
    async with anthropic.messages.stream(
        model="sim?tokens=20&reasoning=4&tools=2&pings=3&unknown=1",
        messages=HELLO,
        max_tokens=1000,
        tools=TOOLS,
    ) as stream:
        final = await stream.get_final_message()
    assert [block.type for block in final.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert final.content[1].text == "".join(generated_text(20))
    assert final.content[3].input["ordinal"] == 1


async def test_a_refusal_is_text_with_the_stop_reason_refusal(events, ask):
    read = await events("sim?refusal=No, sorry.")
    assert deltas(read, "text_delta", "text") == "No, sorry."
    assert read[-2].delta.stop_reason == "refusal"
    assert read[-2].delta.stop_details.type == "refusal"
    assert (await ask("sim?stop_reason=refusal")).stop_reason == "refusal"


async def test_input_tokens_exclude_cached_tokens(events):
    read = await events(
        "sim?tokens=9&reasoning=4&input_tokens=100&cache_read_tokens=60&cache_write_tokens=30"
    )
    first, last = read[0].message.usage, read[-2].usage
    assert (first.input_tokens, first.output_tokens) == (10, 1)
    assert (first.cache_read_input_tokens, first.cache_creation_input_tokens) == (60, 30)
    assert (last.input_tokens, last.output_tokens) == (10, 13)
    assert last.output_tokens_details.thinking_tokens == 4


@pytest.mark.parametrize(
    ("stop_reason", "said"),
    [
        ("stop", "end_turn"),
        ("length", "max_tokens"),
        ("stop_sequence", "stop_sequence"),
        ("tool_calls", "tool_use"),
        ("pause", "pause_turn"),
    ],
)
async def test_the_scenario_sets_the_reason(events, stop_reason, said):
    read = await events(f"sim?tokens=2&stop_reason={stop_reason}", stop_sequences=["END"])
    assert read[-2].delta.stop_reason == said
    assert read[-2].delta.stop_sequence == ("END" if said == "stop_sequence" else None)


async def test_the_requests_limit_cuts_the_answer(events):
    read = await events("sim?tokens=50", max_tokens=7)
    assert deltas(read, "text_delta", "text") == "".join(generated_text(7))
    assert read[-2].delta.stop_reason == "max_tokens"


async def test_a_limit_below_the_reasoning_leaves_no_text(events):
    read = await events("sim?tokens=50&reasoning=9&tools=1", max_tokens=4)
    assert deltas(read, "thinking_delta", "thinking") == "".join(generated_reasoning(4))
    assert [e.content_block.type for e in read if e.type == "content_block_start"] == ["thinking"]
    assert read[-2].delta.stop_reason == "max_tokens"
    assert read[-2].usage.output_tokens == 4


async def test_an_error_event_has_the_status_200(ask):
    stream = await ask("sim?tokens=9&error_event_after=3", stream=True)
    read = []
    with pytest.raises(APIStatusError) as caught:
        while True:
            read.append(await anext(stream))
    assert len([event for event in read if event.type == "content_block_delta"]) == 3
    assert caught.value.response.status_code == 200
    assert caught.value.body["error"]["type"] == "overloaded_error"


@pytest.mark.parametrize(
    "fields",
    [{"max_tokens": None}, {"max_tokens": 0}, {"messages": []}, {"model": "sim?nonsense=1"}],
)
async def test_an_invalid_request_is_refused_in_anthropics_format(anthropic, fields):
    body = {"model": "sim", "messages": HELLO, "max_tokens": 10, **fields}
    with pytest.raises(BadRequestError) as caught:
        await anthropic.post("/v1/messages", body=body, cast_to=object)
    assert caught.value.body["type"] == "error"
    assert caught.value.body["error"]["type"] == "invalid_request_error"
    if "model" not in fields:
        assert next(iter(fields)) in caught.value.body["error"]["message"]


@pytest.mark.parametrize(
    ("role", "block", "place"),
    [
        ("assistant", {"type": "tool_use", "name": "look", "input": {}}, "tool_use.id"),
        ("user", {"type": "tool_result"}, "tool_result.tool_use_id"),
    ],
)
async def test_ids_of_calls_with_other_characters_are_refused(anthropic, role, block, place):
    for id_, is_valid in (("toolu_1-A", True), ("functions.look:0", False)):
        message = {"role": role, "content": [{**block, place.split(".")[1]: id_}]}
        create = anthropic.messages.create(
            model="sim?tokens=1", messages=[*HELLO, message], max_tokens=9
        )
        if is_valid:
            assert (await create).content
            continue
        with pytest.raises(BadRequestError, match=f"messages.1.content.0.{place}"):
            await create


async def test_an_answer_that_ends_with_thinking_is_not_continued(anthropic):
    thinking = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
    messages = [*HELLO, {"role": "assistant", "content": [thinking]}]
    fields = {"model": "sim?tokens=1", "max_tokens": 9}
    with pytest.raises(BadRequestError, match=r"messages\.1: The final block"):
        await anthropic.messages.create(messages=messages, **fields)
    assert (await anthropic.messages.create(messages=[*messages, *HELLO], **fields)).content


@pytest.mark.parametrize(
    ("content", "is_valid"),
    [
        ("no", True),
        ([{"type": "text", "text": "no"}], True),
        ([], False),
        ([{"type": "image", "source": {"type": "url", "url": "https://e.example/a"}}], False),
    ],
)
async def test_the_error_of_a_tool_has_only_text(anthropic, content, is_valid):
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": content}
    message = {"role": "user", "content": [{**result, "is_error": True}]}
    create = anthropic.messages.create(model="sim?tokens=1", messages=[message], max_tokens=9)
    if is_valid:
        assert (await create).content
        return
    with pytest.raises(BadRequestError, match=r"messages\.0\.content\.0\.tool_result"):
        await create


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, "authentication_error"),
        (404, "not_found_error"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (529, "overloaded_error"),
    ],
)
async def test_every_status_has_its_type(ask, status, kind):
    with pytest.raises(APIStatusError) as caught:
        await ask(f"sim?status={status}")
    assert caught.value.status_code == status
    assert caught.value.body["error"]["type"] == kind
    assert caught.value.request_id.startswith("req_")


async def test_invalid_arguments_are_streamed_unchanged_and_refused_without_streaming(events, ask):
    read = await events('sim?tokens=0&tools=1&arguments={"a"')
    assert deltas(read, "input_json_delta", "partial_json") == '{"a"'
    with pytest.raises(BadRequestError):
        await ask('sim?tokens=0&tools=1&arguments={"a"')


async def test_the_models_are_listed_in_anthropics_format(anthropic):
    assert [model.id async for model in anthropic.models.list()] == ["demo", "sim"]
