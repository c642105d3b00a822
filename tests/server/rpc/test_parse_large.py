"""Large requests: their bounds, and that they delay no others."""

import asyncio

import pytest

from tokenwire.v1 import chat_pb2 as pb
from tokenwire.v1 import event_pb2
from tokenwire_server.config import Limits
from tokenwire_server.errors import Overloaded
from tokenwire_server.rpc.parse import ChatRequestParser, parse_steps

from .parse_support import USER, large_request, parsed, refused


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("messages", {"messages": [pb.Message()] * 200_000}),
        ("tools", {"tools": [pb.Tool()] * 200_000}),
        ("generation", {"generation": pb.GenerationConfig(stop_sequences=[""] * 200_000)}),
        ("labels", {"labels": {str(n): "" for n in range(50_000)}}),
        ("tools[5].parameters_json_schema", {"tools": [
            pb.Tool(name=f"t{n}", parameters_json_schema='{"type":"object","allOf":[' + "{}," * 17_000 + "{}]}")
            for n in range(20)
        ]}),
    ],
    ids=["messages", "tools", "stop_sequences", "labels", "schemas"],
)  # fmt: skip
def test_a_request_with_too_many_fields_is_refused_at_the_field_that_exceeds_the_bound(
    field, fields
):
    error = refused(**fields)
    assert [violation.field for violation in error.violations] == [field]
    assert "more than 100000 fields, entries and JSON values" in str(error)


def test_the_maximum_number_of_messages_is_within_the_field_limit():
    call = event_pb2.ToolCall(id="i", name="n", arguments_json='{"a":1}')
    message = pb.Message(role=pb.ROLE_ASSISTANT, parts=[pb.Part(tool_call=call, cache_hint=True)])
    assert parsed(messages=[message] * 10_000)[1] == []


def steps_of(data):
    steps, count = parse_steps(data, Limits()), 0
    while True:
        count += 1
        try:
            next(steps)
        except StopIteration:
            return count


@pytest.mark.parametrize(
    ("least", "fields"),
    [
        (19, {"messages": [USER] * 10_000}),
        (19, {"provider_options": {"a": [None] * 40_000}}),
        (19, {"provider_options": {str(n): True for n in range(20_000)}}),
        (5, {"tools": [
            pb.Tool(name=f"t{n}", parameters_json_schema='{"type":"object","allOf":[' + "{}," * 15_000 + "{}]}")
            for n in range(5)
        ]}),
    ],
    ids=["messages", "list", "options", "schemas"],
)  # fmt: skip
async def test_other_tasks_run_while_a_large_request_is_parsed(least, fields):
    data = large_request(**fields)
    parsing = asyncio.create_task(ChatRequestParser(Limits()).parse(data, "tenant-a"))
    turns = 0
    while not parsing.done():
        await asyncio.sleep(0)
        turns += 1
    assert (await parsing)[1] == []
    assert turns > least


async def test_large_requests_are_parsed_one_at_a_time_and_small_ones_do_not_wait():
    parser, data = ChatRequestParser(Limits()), large_request(messages=[USER] * 10_000)
    steps = steps_of(data)
    parsing = [asyncio.create_task(parser.parse(data, "tenant-a")) for _ in range(3)]
    for _ in range(steps + 5):
        await asyncio.sleep(0)
    assert [task.done() for task in parsing] == [True, False, False]
    assert (await parser.parse(large_request(), "tenant-a"))[1] == []  # without a wait
    parsing[1].cancel()
    await asyncio.wait(parsing)
    assert parsing[1].cancelled()
    assert parsing[2].result()[1] == []


async def test_large_requests_wait_in_a_bounded_queue():
    parser, data = ChatRequestParser(Limits()), large_request(messages=[USER] * 10_000)
    parsing = [asyncio.create_task(parser.parse(data, "tenant-a")) for _ in range(40)]
    await asyncio.sleep(0)
    done, waiting = await asyncio.wait(parsing, timeout=0)
    assert len(waiting) in (32, 33)
    assert {type(task.exception()) for task in done} == {Overloaded}
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)


async def test_one_tenants_invalid_requests_neither_refuse_nor_delay_another_tenants_large_request():
    parser = ChatRequestParser(Limits())
    invalid = pb.ChatRequest(messages=[USER] * 10_000)  # no model: refused, counts toward no limit
    invalid.provider_options.update({"a": [None] * 30_000})
    data, ends = invalid.SerializeToString(), []

    async def flood():
        while True:
            try:
                ends.append((await parser.parse(data, "tenant-a"))[1])
            except Overloaded as error:
                ends.append(error)
                await asyncio.sleep(0.01)

    tasks = [asyncio.create_task(flood()) for _ in range(40)]
    while not any(isinstance(end, Overloaded) for end in ends):
        await asyncio.sleep(0)
    large = large_request(messages=[USER] * 10_000)
    for _ in range(3):
        before = len(ends)
        assert (await parser.parse(large, "tenant-b"))[1] == []
        parsed = [end for end in ends[before:] if not isinstance(end, Overloaded)]
        assert len(parsed) <= 1  # the one that was being parsed
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_a_request_of_the_largest_size_is_parsed_however_few_fields_the_server_takes():
    limits = Limits(max_request_fields=1000)
    image = pb.Part(
        image=pb.Image(data=bytes(limits.max_request_bytes - 200), media_type="image/png")
    )
    data = large_request(messages=[pb.Message(role=pb.ROLE_USER, parts=[image])])
    assert (await ChatRequestParser(limits).parse(data, "tenant-a"))[1] == []
