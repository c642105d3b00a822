"""Conversations of both clients, with a scripted server."""

import asyncio
import dataclasses

import grpc
import pytest

import tokenwire
from tokenwire import assistant, keep_last, system, tool_result, user
from tokenwire.v1 import chat_pb2 as pb
from tokenwire.v1 import event_pb2

from .conftest import (
    STREAM_ID,
    event,
    fails,
    finished,
    plays,
    plays_then_waits,
    started,
    status,
    text,
)

Code = grpc.StatusCode
MAX_TOKENS = event_pb2.FINISH_REASON_MAX_TOKENS


@dataclasses.dataclass
class Weather:
    city: str


@dataclasses.dataclass
class Other:
    name: str


def answers(*messages, reason=event_pb2.FINISH_REASON_STOP):
    left = list(messages)

    async def script(_request, _context):
        return pb.ChatResponse(
            stream_id=STREAM_ID,
            message=left.pop(0),
            finished=event_pb2.Finished(reason=reason),
        )

    return script


def said(request):
    return list(request.messages)


async def test_each_question_is_sent_with_all_messages_before_it(server, client):
    first = pb.Message(
        role=pb.ROLE_ASSISTANT,
        parts=[
            pb.Part(reasoning=pb.Reasoning(text="Hm.", signature="s", provider_state=b"p\0r")),
            pb.Part(text="b", provider_state=b"p\0t"),
        ],
    )
    server.script = answers(first, assistant("d"))
    conversation = client.conversation("m", system="Be brief.", temperature=0, seed=1)

    answer = await conversation.chat("a")
    await conversation.chat([user("c")], seed=2)

    assert answer.message == first
    assert said(server.requests[0]) == [system("Be brief."), user("a")]
    assert said(server.requests[1]) == [system("Be brief."), user("a"), first, user("c")]
    assert conversation.messages == (*server.requests[1].messages, assistant("d"))
    assert [each.generation.seed for each in server.requests] == [1, 2]
    assert all(each.generation.HasField("temperature") for each in server.requests)
    assert repr(conversation) == "<AsyncConversation with m, 5 messages>"


async def test_a_stream_is_appended_when_its_block_is_left_after_the_end(server, client):
    state = event_pb2.TextDelta(text="b", provider_state=b"p\0s")
    server.script = plays(started(), event(2, text=state), finished(3))
    conversation = client.conversation("m")

    async with conversation.chat_stream("a") as stream:
        assert [piece async for piece in stream.text] == ["b"]
        assert conversation.messages == ()
        with pytest.raises(RuntimeError, match="one question at a time"):
            await conversation.chat("again")

    appended = pb.Message(role=pb.ROLE_ASSISTANT, parts=[pb.Part(text="b", provider_state=b"p\0s")])
    assert conversation.messages == (user("a"), appended)
    assert len(server.requests) == 1


async def leave(stream):
    async for _ in stream.text:
        return


async def fail(stream):
    async for _ in stream.text:
        raise KeyError


@pytest.mark.parametrize("body", [leave, fail])
async def test_a_stream_that_was_left_before_its_end_is_held(server, client, body):
    server.script = plays_then_waits(started(), text(2, "b"))
    conversation = client.conversation("m", messages=["x"])

    try:
        async with conversation.chat_stream("a") as stream:
            await body(stream)
    except KeyError:
        assert body is fail

    assert conversation.messages == (user("x"),)
    assert conversation.cut == tokenwire.CutTurn((user("a"),), assistant("b"), None)
    with pytest.raises(RuntimeError, match="was not read to its end"):
        async with conversation.chat_stream("c"):
            pass
    assert conversation.fork().cut is None
    conversation.keep_cut()
    assert conversation.messages == (user("x"), user("a"), assistant("b"))
    assert len(server.requests) == 1


async def test_a_task_that_is_cancelled_while_it_reads_holds_its_turn(server, client):
    server.script = plays_then_waits(started(), text(2, "b"))
    conversation = client.conversation("m")
    is_reading = asyncio.Event()

    async def read():
        async with conversation.chat_stream("a") as stream:
            async for _ in stream.text:
                is_reading.set()

    task = asyncio.create_task(read())
    await is_reading.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert conversation.drop_cut().answer == assistant("b")
    assert conversation.messages == ()


async def test_an_error_after_the_first_content_holds_the_turn(server, client):
    broken = status(Code.UNAVAILABLE, "UPSTREAM_BROKEN")
    server.script = fails(broken, started(), text(2, "b"))
    conversation = client.conversation("m", on_cut="drop")

    with pytest.raises(tokenwire.UpstreamBroken):
        async with conversation.chat_stream("a") as stream:
            await stream.final()

    assert (conversation.messages, conversation.cut) == ((), None)
    holding = client.conversation("m")
    with pytest.raises(tokenwire.UpstreamBroken):
        async with holding.chat_stream("a") as stream:
            await stream.final()
    assert holding.cut.answer == assistant("b")


async def test_a_call_that_is_refused_changes_nothing_and_can_be_repeated(server, client):
    conversation = client.conversation("m")
    server.script = fails(status(Code.UNAVAILABLE, "OVERLOADED"))

    with pytest.raises(tokenwire.Overloaded):
        await conversation.chat("a")
    with pytest.raises(tokenwire.Overloaded):
        async with conversation.chat_stream("a"):
            pass
    server.script = fails(status(Code.UNAVAILABLE, "UPSTREAM_BROKEN"), started())
    with pytest.raises(tokenwire.UpstreamBroken):
        async with conversation.chat_stream("a") as stream:
            await stream.final()

    assert (conversation.messages, conversation.cut) == ((), None)
    server.script = answers(assistant("b"))
    await conversation.chat("a")
    assert conversation.messages == (user("a"), assistant("b"))


async def test_an_answer_that_a_limit_cut_is_held(server, client):
    server.script = answers(assistant("b"), reason=MAX_TOKENS)
    conversation = client.conversation("m")

    assert (await conversation.chat("a")).message == assistant("b")

    assert (conversation.messages, conversation.cut.finish_reason) == ((), MAX_TOKENS)
    with pytest.raises(RuntimeError, match="was cut off: MAX_TOKENS"):
        await conversation.chat("c")
    server.script = plays(started(), text(2, "b"), finished(3, MAX_TOKENS))
    keeping = client.conversation("m", on_cut="keep")
    async with keeping.chat_stream("a") as stream:
        await stream.final()
    assert keeping.messages == (user("a"), assistant("b"))


async def test_results_of_tools_are_the_next_messages(server, client):
    call = event_pb2.ToolCall(id="c1", name="f", arguments_json="{}")
    asking = pb.Message(role=pb.ROLE_ASSISTANT, parts=[pb.Part(tool_call=call)])
    server.script = answers(asking, assistant("b"))
    conversation = client.conversation("m", tools=iter([tokenwire.tool("f")]))

    await conversation.chat("a")
    conversation.append(tool_result("c1", "1"))
    await conversation.chat()

    assert said(server.requests[1]) == [user("a"), asking, tool_result("c1", "1")]
    assert [each.tools for each in server.requests] == [[tokenwire.tool("f")]] * 2


async def test_forks_go_on_separately(server, client):
    server.script = answers(*map(assistant, "bdf"))
    conversation = client.conversation("m", seed=1, on_cut="keep")
    await conversation.chat("a")

    fork = conversation.fork()
    await asyncio.gather(conversation.chat("c"), fork.chat("e"))

    common = (user("a"), assistant("b"))
    assert conversation.messages[:3] == (*common, user("c"))
    assert fork.messages[:3] == (*common, user("e"))
    assert len(conversation.messages) == len(fork.messages) == 4
    assert server.requests[2].generation.seed == 1
    server.script = answers(assistant("h"), reason=MAX_TOKENS)
    await fork.chat("g")
    assert fork.messages[4:] == (user("g"), assistant("h"))


async def test_a_policy_trims_before_each_question(server, client):
    server.script = answers(*map(assistant, "bdf"))
    conversation = client.conversation("m", system="s", trim=keep_last(1))

    for question in "ace":
        await conversation.chat(question)

    assert said(server.requests[2]) == [system("s"), user("e")]
    assert conversation.messages == (system("s"), user("e"), assistant("f"))
    assert server.counted == []


async def test_a_policy_gets_the_count_of_the_server_if_it_is_wanted(server, client):
    async def count(_request, _context):
        return pb.CountTokensResponse(input_tokens=77)

    server.count, server.script = count, answers(assistant("b"))
    seen = []

    def policy(messages, input_tokens):
        seen.append((list(messages), input_tokens))
        return messages

    conversation = client.conversation("m", trim=policy, count_for_trim=True, seed=5)
    await conversation.chat("a")

    assert seen == [([user("a")], 77)]
    assert server.counted == server.requests


@pytest.mark.parametrize("streams", [False, True])
async def test_arguments_that_can_be_read_once_are_counted_and_sent(server, client, streams):
    async def count(_request, _context):
        return pb.CountTokensResponse(input_tokens=7)

    server.count = count
    server.script = plays(started(), text(2, "b"), finished(3)) if streams else answers(user("b"))
    conversation = client.conversation("m", trim=keep_last(5), count_for_trim=True)
    once = {
        "tools": iter([tokenwire.tool("f")]),
        "stop_sequences": iter(["x"]),
        "fallback_models": iter(["n"]),
    }

    if streams:
        async with conversation.chat_stream("a", **once) as stream:
            await stream.final()
    else:
        await conversation.chat("a", **once)

    (counted,), (sent,) = server.counted, server.requests
    for request in (counted, sent):
        assert [each.name for each in request.tools] == ["f"]
        assert list(request.generation.stop_sequences) == ["x"]
        assert list(request.fallback_models) == ["n"]


async def test_count_tokens_counts_what_would_be_sent(server, client):
    async def count(_request, _context):
        return pb.CountTokensResponse(input_tokens=7)

    server.count = count
    conversation = client.conversation("m", system="s", seed=1)

    assert (await conversation.count_tokens("a", temperature=1)).input_tokens == 7
    await conversation.count_tokens()

    assert [said(each) for each in server.counted] == [[system("s"), user("a")], [system("s")]]
    assert server.counted[0].generation == pb.GenerationConfig(seed=1, temperature=1)
    assert conversation.messages == (system("s"),)


async def test_a_question_can_have_no_format_in_a_conversation_with_one(server, client):
    async def count(_request, _context):
        return pb.CountTokensResponse(input_tokens=7)

    server.count, server.script = count, answers(assistant("b"))
    conversation = client.conversation(
        "m", response_format=Weather, trim=keep_last(5), count_for_trim=True
    )

    await conversation.chat("a", response_format=None)

    (counted,), (sent,) = server.counted, server.requests
    assert not counted.HasField("response_format")
    assert not sent.HasField("response_format")


async def test_a_class_as_format_of_a_conversation_or_a_question(server, client):
    server.script = answers(*map(assistant, ['{"city": "Rome"}', '{"name": "b"}']))
    conversation = client.conversation("m", response_format=Weather)

    assert (await conversation.chat("a")).parsed == Weather("Rome")
    assert (await conversation.chat("c", response_format=Other)).parsed == Other("b")


async def test_retries_can_be_turned_off_for_a_question(server, client):
    overloaded = status(Code.UNAVAILABLE, "OVERLOADED")
    conversation = client.conversation("m")

    for streams in (False, True):
        server.requests.clear()
        server.script = fails(overloaded)
        with pytest.raises(tokenwire.Overloaded):
            if streams:
                async with conversation.chat_stream("a", max_retries=0):
                    pass
            else:
                await conversation.chat("a", max_retries=0)
        assert len(server.requests) == 1
    assert conversation.messages == ()

    server.count = fails(overloaded)
    with pytest.raises(tokenwire.Overloaded):
        await conversation.count_tokens("a", max_retries=0)
    assert len(server.counted) == 1

    counting = client.conversation("m", trim=keep_last(5), count_for_trim=True)
    with pytest.raises(tokenwire.Overloaded):
        await counting.chat("a", max_retries=0)
    assert len(server.counted) == 2


@pytest.mark.parametrize("kind", [tokenwire.AsyncClient, tokenwire.Client])
@pytest.mark.parametrize(
    ("fields", "error", "says"),
    [
        ({"max_tokens": 5}, TypeError, "use max_output_tokens"),
        ({"request_id": "r"}, TypeError, "belongs to a single request"),
        ({"on_cut": "ask"}, ValueError, "on_cut must be"),
        ({"system": 5}, TypeError, "text or parts, not int"),
        ({"messages": [5]}, TypeError, "not a message: int"),
        ({"tools": [5]}, TypeError, r"tools\[0\]: must be a Tool"),
    ],
)
def test_invalid_arguments_are_refused_when_it_is_created(kind, fields, error, says):
    with pytest.raises(error, match=says):
        kind().conversation("m", **fields)


async def test_the_same_without_asyncio(server):
    async def script(request, context):
        if request.messages[-1].parts[0].text == "a":
            return await answers(assistant("b"))(request, context)
        await plays(started(), text(2, "d"), finished(3))(request, context)
        return None

    server.script = script

    def talk():
        with tokenwire.Client(server.target) as client:
            conversation = client.conversation("m", system="s", trim=keep_last(9))
            conversation.chat("a")
            with conversation.chat_stream("c") as stream:
                assert list(stream.text) == ["d"]
            with conversation.fork().chat_stream("c") as stream:
                next(stream.text)
            return conversation

    conversation = await asyncio.to_thread(talk)

    assert conversation.messages == (
        system("s"), user("a"), assistant("b"), user("c"), assistant("d")
    )  # fmt: skip
    assert repr(conversation) == "<Conversation with m, 5 messages>"
