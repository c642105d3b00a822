import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tokenwire
from tokenwire import Allowance
from tokenwire.wire.metadata import parse_initial_metadata

from ..conftest import (
    STREAM_ID,
    Code,
    accept,
    fails,
    finished,
    plays,
    started,
    status,
    text,
)

ID = ("tokenwire-stream-id", STREAM_ID)


def limits(remaining, *, allowed=60):
    return (
        ("tokenwire-limit-requests-per-minute", str(allowed)),
        ("tokenwire-limit-requests-per-minute-remaining", str(remaining)),
        ("tokenwire-limit-tokens-per-minute", "1000"),
        ("tokenwire-limit-tokens-per-minute-remaining", "-20"),
    )


def left(remaining, *, allowed=60):
    return (
        Allowance("requests_per_minute", allowed, remaining),
        Allowance("tokens_per_minute", 1000, -20),
    )


def answers(remaining, *events, response=None):
    async def script(request, context):
        await context.send_initial_metadata((ID, *limits(remaining)))
        for event in events:
            await context.write(event)
        return response

    return script


async def test_a_stream_has_allowances_once_it_has_started(server, client):
    server.script = answers(57, started(), finished(2))

    stream = client.chat_stream("m", "Hi")
    assert (stream.allowances, client.allowances) == ((), ())
    async with stream:
        assert stream.allowances == left(57)
        assert client.allowances == left(57)
    assert stream.allowances == left(57)


async def test_the_client_has_the_allowances_of_the_newest_response(server, client):
    server.script = answers(57, response=tokenwire.ChatResponse())
    await client.chat("m", "Hi")
    assert client.allowances == left(57)

    server.script = answers(56, started(), finished(2))
    async with client.chat_stream("m", "Hi") as stream:
        pass
    server.script = answers(55, response=tokenwire.ChatResponse())
    await client.chat("m", "Hi")
    await client.list_models()

    assert stream.allowances == left(56)
    assert client.allowances == left(55)

    server.script = fails(status(Code.RESOURCE_EXHAUSTED, "RATE_LIMITED"))
    with pytest.raises(tokenwire.RateLimited):
        await client.chat("m", "Hi")
    assert client.allowances == left(55)


async def test_allowances_are_the_same_in_a_thread(server):
    def calls():
        with tokenwire.Client(server.target) as client:
            assert client.allowances == ()
            client.chat("m", "Hi")
            assert client.allowances == left(57)
            server.script = answers(56, started(), finished(2))
            stream = client.chat_stream("m", "Hi")
            assert stream.allowances == ()
            with stream:
                assert stream.allowances == client.allowances == left(56)
            client.list_models()
            assert client.allowances == left(56)

    server.script = answers(57, response=tokenwire.ChatResponse())
    await asyncio.to_thread(calls)


async def test_a_resumed_stream_keeps_its_allowances(server, client):
    async def goes_away(request, context):
        await answers(57, started(), text(2, "a"))(request, context)
        await context.abort_with_status(status(Code.UNAVAILABLE, "DRAINING"))

    server.script = goes_away
    server.resume_scripts = [plays(finished(3))]

    async with client.chat_stream("m", "Hi", resumable=True) as stream:
        await stream.final()

    assert len(server.resumes) == 1
    assert stream.allowances == left(57)


async def test_without_limits_there_are_no_allowances(server, client):
    async def script(request, context):
        await accept(context)
        await context.write(finished(1))

    server.script = script
    async with client.chat_stream("m", "Hi") as stream:
        await stream.final()

    assert (stream.allowances, client.allowances) == ((), ())


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ([("tokenwire-limit-x-y", "5")], (Allowance("x_y", 5, None),)),
        ([("tokenwire-limit-x", "5"), ("tokenwire-limit-x-remaining", "?")], (Allowance("x", 5, None),)),
        ([("tokenwire-limit-x-remaining", "5")], ()),
        ([("tokenwire-limit-x", "-5")], ()),
        ([("tokenwire-limit-x", "many")], ()),
        ([("tokenwire-limit-x", "٣")], ()),
        ([("tokenwire-limit-x", "9" * 19)], ()),
        ([("tokenwire-limit-x-bin", b"5")], ()),
        ([("tokenwire-limit-", "5"), ("tokenwire-limit", "5"), ("x-tokenwire-limit-x", "5")], ()),
    ],
)  # fmt: skip
def test_malformed_limits_are_left_out(metadata, expected):
    assert parse_initial_metadata(metadata).allowances == expected


KEYS = st.one_of(
    st.text(max_size=20), st.sampled_from([key for key, _ in limits(1)]),
    st.builds("tokenwire-limit-{}".format, st.text(max_size=12)),
)  # fmt: skip


@given(st.lists(st.tuples(KEYS, st.one_of(st.text(max_size=20), st.binary(max_size=9)))))
def test_arbitrary_metadata_is_never_an_error(junk):
    for each in parse_initial_metadata(junk).allowances:
        assert each.limit
        assert each.allowed >= 0
