"""`continue_from` at a scripted server: what it sends, and when it sends nothing."""

import asyncio
from dataclasses import dataclass

import pytest

import tokenwire
from tokenwire.v1.chat_pb2 import ON_DISCONNECT_CONTINUE
from tokenwire.v1.model_pb2 import MODEL_CAPABILITY_PREFILL

from .conftest import (
    Code,
    caller_left,
    fails,
    finished,
    plays,
    plays_then_waits,
    started,
    status,
    text,
)

BROKEN = status(Code.ABORTED, "UPSTREAM_BROKEN")


@pytest.fixture
async def client(server):
    server.models = [tokenwire.Model(id="m", capabilities=[MODEL_CAPABILITY_PREFILL])]
    server.script = fails(BROKEN, started(), text(2, "One,"))
    async with tokenwire.AsyncClient(server.target) as each:
        yield each


async def read_until_it_breaks(stream):
    async with stream:
        with pytest.raises(tokenwire.UpstreamBroken):
            await stream.final()


async def test_a_continuation_outlives_its_readers_only_if_it_is_resumable_itself(server, client):
    stream = client.chat_stream("m", "Hi", resumable=True)
    await read_until_it_breaks(stream)
    assert server.requests[-1].retention.on_disconnect == ON_DISCONNECT_CONTINUE

    server.script = plays_then_waits(started(), text(2, " two"))
    async with await client.continue_from(stream) as rest:
        await anext(rest.text)
    assert await caller_left(server)
    assert not server.requests[-1].HasField("retention"), "nobody would cancel it"

    server.script = fails(BROKEN, started(), text(2, " two"))
    rest = await client.continue_from(stream, resumable=True)
    await read_until_it_breaks(rest)
    assert server.requests[-1].retention.on_disconnect == ON_DISCONNECT_CONTINUE


async def test_a_continuation_that_is_cut_off_too_goes_on_in_the_same_message(server, client):
    stream = client.chat_stream("m", [tokenwire.user("Count."), tokenwire.assistant("Zero, ")])
    await read_until_it_breaks(stream)
    server.script = fails(BROKEN, started(), text(2, " two, "))
    rest = await client.continue_from(stream)
    await read_until_it_breaks(rest)
    server.script = plays(started(), text(2, " three"), finished(3))
    async with await client.continue_from(rest) as last:
        answer = await last.final()
    assert (rest.text_before, last.text_before, answer.text) == ("One,", "One, two,", " three")
    assert [list(each.messages) for each in server.requests[1:]] == [
        [tokenwire.user("Count."), tokenwire.assistant(written)]
        for written in ("Zero, One,", "Zero, One, two,")
    ]


@dataclass
class Weather:
    city: str
    degrees: int


@pytest.mark.parametrize("resumable", [False, True])
async def test_the_class_of_an_answer_is_that_of_the_whole_answer(server, client, resumable):
    server.script = fails(BROKEN, started(), text(2, '{"city": "Rio '))
    stream = client.chat_stream("m", "Hi", response_format=Weather, resumable=resumable)
    await read_until_it_breaks(stream)
    server.script = fails(BROKEN, started(), text(2, " "), text(3, 'de", "deg'))
    rest = await client.continue_from(stream)
    async with rest:
        with pytest.raises(tokenwire.UpstreamBroken):
            await rest.final()
        assert rest.partial == {"city": "Rio de"}
        with pytest.raises(tokenwire.IncompleteStream):
            _ = rest.result
    refused = fails(status(Code.UNAVAILABLE, "OVERLOADED"))
    answered = plays(started(), text(2, 'rees": 3'), text(3, "1}"), finished(4))
    scripts = iter([refused, answered])

    async def play(request, context):
        await next(scripts)(request, context)

    server.script = play
    async with await client.continue_from(rest) as last:
        assert last.partial == {"city": "Rio de"}
        answer = await last.final()
        assert last.partial == {"city": "Rio de", "degrees": 31}
    assert len(last.retries) == 1
    assert answer.text == 'rees": 31}'
    assert answer.parsed == last.result == Weather("Rio de", 31)
    sent = [request.HasField("response_format") for request in server.requests]
    assert sent == [True, False, False, False], "the format describes the whole answer"


async def test_an_answer_that_is_still_generated_is_not_continued(server, client):
    server.script = plays_then_waits(started(), text(2, "One,"))
    async with client.chat_stream("m", "Hi") as stream:
        await anext(stream.text)
        with pytest.raises(tokenwire.CannotContinue, match="leave the block"):
            await client.continue_from(stream)
    assert (await client.continue_from(stream)).text_before == "One,"

    def read():
        with tokenwire.Client(server.target) as other:
            with other.chat_stream("m", "Hi") as stream:
                next(stream.text)
                with pytest.raises(tokenwire.CannotContinue, match="leave the block"):
                    other.continue_from(stream)
            return other.continue_from(stream).text_before

    assert await asyncio.to_thread(read) == "One,"
    assert len(server.requests) == 2
