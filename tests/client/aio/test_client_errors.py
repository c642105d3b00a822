import asyncio
import socket

import grpc
import pytest

import tokenwire
from tokenwire.v1 import event_pb2

from ..breakable_wire import wire_to
from ..conftest import (
    LIMIT_S,
    STREAM_ID,
    caller_left,
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


async def test_a_refusal_is_raised_on_entering_the_block(server, client):
    server.script = fails(status(Code.NOT_FOUND, "UNKNOWN_MODEL", metadata={"nearest": "a"}))

    with pytest.raises(tokenwire.UnknownModel) as caught:
        async with client.chat_stream("m", "Hi"):
            pytest.fail("entered")

    assert caught.value.metadata == {"nearest": "a"}


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (Code.INVALID_ARGUMENT, "INVALID_REQUEST", tokenwire.InvalidRequest),
        (Code.NOT_FOUND, "UNKNOWN_MODEL", tokenwire.UnknownModel),
        (Code.UNAVAILABLE, "OVERLOADED", tokenwire.Overloaded),
        (Code.ALREADY_EXISTS, "REQUEST_ID_REUSED", tokenwire.RequestIdReused),
        (Code.INVALID_ARGUMENT, "UPSTREAM_REJECTED", tokenwire.UpstreamRejected),
        (Code.FAILED_PRECONDITION, "UPSTREAM_AUTH", tokenwire.UpstreamAuth),
        (Code.UNAVAILABLE, "UPSTREAM_RATE_LIMITED", tokenwire.UpstreamRateLimited),
        (Code.UNAVAILABLE, "UPSTREAM_UNAVAILABLE", tokenwire.UpstreamUnavailable),
        (Code.ABORTED, "UPSTREAM_BROKEN", tokenwire.UpstreamBroken),
        (Code.ABORTED, "UPSTREAM_STALLED", tokenwire.UpstreamStalled),
        (Code.DEADLINE_EXCEEDED, "DEADLINE", tokenwire.DeadlineExceeded),
        (Code.UNAVAILABLE, "SLOW_READER", tokenwire.SlowReader),
        (Code.UNAVAILABLE, "SERVER_STOPPED", tokenwire.ServerStopped),
        (Code.INTERNAL, "INTERNAL", tokenwire.InternalError),
        (Code.DATA_LOSS, "FROM_THE_FUTURE", tokenwire.TokenwireError),
    ],
)
async def test_each_reason_is_raised_as_its_class(server, client, code, reason, kind):
    server.script = fails(status(code, reason), started(), text(2, "a"))

    async with client.chat_stream("m", "Hi") as stream:
        with pytest.raises(tokenwire.TokenwireError) as caught:
            await stream.final()

    assert type(caught.value) is kind
    assert (caught.value.code, caught.value.reason) == (code, reason)
    assert (caught.value.stream_id, caught.value.last_sequence) == (STREAM_ID, 2)

    server.script = fails(status(code, reason))
    with pytest.raises(kind):
        await client.chat("m", "Hi")


async def test_events_sent_before_an_error_are_read_first(server, client):
    count = 2000
    events = [text(sequence, "x" * 50) for sequence in range(1, count + 1)]
    all_written = asyncio.Event()

    async def script(request, context):
        await plays(*events)(request, context)
        all_written.set()
        await context.abort_with_status(status(Code.ABORTED, "UPSTREAM_BROKEN"))

    server.script = script
    async with client.chat_stream("m", "Hi") as stream:
        async with asyncio.timeout(LIMIT_S):
            await all_written.wait()
        with pytest.raises(tokenwire.UpstreamBroken):
            await stream.final()

    assert stream.last_sequence == count


async def test_a_deadline_that_passes_here_ends_the_call_with_a_named_error(server, client):
    server.script = plays_then_waits(started(), text(2, "a"))

    async with client.chat_stream("m", "Hi", timeout=0.2) as stream:
        with pytest.raises(tokenwire.DeadlineExceeded) as caught:
            await stream.final()

    assert caught.value.code is Code.DEADLINE_EXCEEDED
    assert caught.value.message == "the deadline passed"
    assert (caught.value.stream_id, caught.value.last_sequence) == (STREAM_ID, 2)
    assert await caller_left(server)


async def test_the_deadline_reaches_the_server(server, client):
    remaining = []

    async def script(request, context):
        remaining.append(context.time_remaining())
        await plays(finished(1))(request, context)

    server.script = script
    async with client.chat_stream("m", "Hi", timeout=30) as stream:
        await stream.final()

    assert 20 < remaining[0] < 31  # gRPC rounds up


async def test_a_stream_without_finished_is_incomplete(server, client):
    server.script = plays(started(), text(2, "half an ans"))

    async with client.chat_stream("m", "Hi") as stream:
        with pytest.raises(tokenwire.IncompleteStream) as caught:
            await stream.final()

    assert caught.value.last_sequence == 2
    assert stream.message.parts[0].text == "half an ans"


async def test_an_error_after_finished_does_not_matter(server, client):
    server.script = fails(status(Code.UNAVAILABLE, "SERVER_STOPPED"), started(), finished(2))

    async with client.chat_stream("m", "Hi") as stream:
        assert (await stream.final()).finished


async def test_an_unreachable_server_is_connection_lost():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{unused.getsockname()[1]}"
        async with tokenwire.AsyncClient(target) as client:
            with pytest.raises(tokenwire.ConnectionLost) as caught:
                await client.chat("m", "Hi")
            with pytest.raises(tokenwire.ConnectionLost):
                async with client.chat_stream("m", "Hi"):
                    pytest.fail("entered")

    assert (caught.value.code, caught.value.reason) == (Code.UNAVAILABLE, "")


async def test_keepalive_detects_a_silent_connection(server):
    server.script = plays_then_waits(started())
    fast = [
        ("grpc.keepalive_time_ms", 300),
        ("grpc.http2.ping_timeout_ms", 300),
        ("grpc.http2.bdp_probe", 0),  # its pings would detect it too, in a stream with traffic
    ]

    async with (
        asyncio.timeout(LIMIT_S),
        wire_to(server.target) as wire,
        tokenwire.AsyncClient(wire.target, options=fast) as client,
        client.chat_stream("m", "Hi") as stream,
    ):
        await anext(stream)
        wire.frozen = True
        with pytest.raises(tokenwire.ConnectionLost) as caught:
            await anext(stream)

    assert (caught.value.stream_id, caught.value.last_sequence) == (STREAM_ID, 1)


WRONG = event_pb2.JsonViolation(pointer="/a", description="the value is not a string")
INVALID_ANSWER = (
    started(),
    text(2, '{"a": 1}', 3),
    event(3, json_value=event_pb2.JsonValue(index=3, pointer="/a", value_json="1")),
    event(4, json_result=event_pb2.JsonResult(violations=[WRONG])),
)


@pytest.mark.parametrize("resumable", [False, True])
async def test_an_invalid_answer_is_an_error_with_what_was_read(server, client, resumable):
    server.script = fails(status(Code.ABORTED, "INVALID_ANSWER"), *INVALID_ANSWER)

    async with client.chat_stream("m", "Hi", resumable=resumable) as stream:
        with pytest.raises(tokenwire.InvalidAnswer) as caught:
            await stream.final()

    assert caught.value.reason == "INVALID_ANSWER"
    assert caught.value.text == '{"a": 1}'
    assert caught.value.violations == (tokenwire.Violation("/a", "the value is not a string"),)


async def test_an_invalid_answer_that_was_read_from_a_cursor_has_no_text(server, client):
    server.resume_scripts = [
        fails(status(Code.ABORTED, "INVALID_ANSWER"), text(3, " 1}"), *INVALID_ANSWER[3:])
    ]

    async with client.resume(STREAM_ID, 2) as stream:
        with pytest.raises(tokenwire.InvalidAnswer) as caught:
            await stream.final()

    assert caught.value.text == ""
    assert [violation.field for violation in caught.value.violations] == ["/a"]


async def test_values_say_which_ones_are_left_out(server, client):
    found = [
        event_pb2.JsonValue(pointer="/a", value_json="null"),
        event_pb2.JsonValue(pointer="/b", is_omitted=True),
        event_pb2.JsonValue(pointer="/c", value_json="9" * 5000),
        event_pb2.JsonValue(pointer="no pointer", value_json="1"),
        event_pb2.JsonValue(is_omitted=True),
    ]
    server.script = plays(
        started(), *(event(2 + n, json_value=each) for n, each in enumerate(found)), finished(7)
    )

    async with client.chat_stream("m", "Hi") as stream:
        fields = [(*field, field.is_omitted) async for field in stream.values]

    assert fields == [
        ("/a", None, False),
        ("/b", None, True),
        ("/c", None, True),
        ("no pointer", None, True),
        ("", {"a": None}, False),
    ]
