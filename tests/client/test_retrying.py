"""How both clients retry requests, at a scripted server."""

import asyncio
import logging
import signal
import threading
import time

import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo

import tokenwire
from tokenwire.v1 import caller_pb2, chat_pb2
from tokenwire.v1.event_pb2 import NOTICE_KIND_RETRYING, JsonValue, Notice

from .breakable_wire import wire_to
from .conftest import (
    LIMIT_S,
    STREAM_ID,
    Code,
    event,
    fails,
    finished,
    plays,
    plays_then_waits,
    started,
    status,
    text,
)

RETRY_AFTER_S = 0.05
SOON = [RetryInfo(retry_delay=Duration(nanos=int(RETRY_AFTER_S * 1e9)))]
LATER = [RetryInfo(retry_delay=Duration(seconds=3600))]
UNUSED = {"input_tokens": "0", "output_tokens": "0", "stream_id": "st_failed"}
FULL = status(Code.UNAVAILABLE, "OVERLOADED", more=SOON)
DRAINING = status(Code.UNAVAILABLE, "DRAINING")
FAILED = status(Code.UNAVAILABLE, "UPSTREAM_UNAVAILABLE", metadata=UNUSED, more=SOON)
STALLED = status(
    Code.UNAVAILABLE,
    "UPSTREAM_UNAVAILABLE",
    metadata=UNUSED | {"input_tokens": "9", "usage_estimated": "true"},
    more=SOON,
)
ANSWER = (started(), text(2, "a"), finished(3))


def in_turn(*scripts):
    """Return a script that runs these, one for each call. The last one serves all further calls."""
    calls = iter(scripts)

    async def script(request, context):
        return await next(calls, scripts[-1])(request, context)

    return script


def accepted_then(with_status, *events, stream_id="st_failed"):
    async def script(_request, context):
        await context.send_initial_metadata((("tokenwire-stream-id", stream_id),))
        for each in events:
            await context.write(each)
        await context.abort_with_status(with_status)

    return script


async def replies(_request, _context):
    return chat_pb2.ChatResponse(stream_id=STREAM_ID)


class Clients:
    """Makes the same call with one of the clients."""

    def __init__(self, kind, target):
        self.kind = kind
        self.target = target

    async def stream(self, client_arguments=None, request=("m", "Hi"), method="chat_stream", **how):
        """Read a stream. Return it, its events, and its error."""
        arguments = client_arguments or {}
        async with asyncio.timeout(LIMIT_S):
            if self.kind == "asyncio":
                return await self._stream_async(arguments, method, request, how)
            return await asyncio.to_thread(self._stream, arguments, method, request, how)

    async def _stream_async(self, arguments, method, request, how):
        events, error = [], None
        async with tokenwire.AsyncClient(self.target, **arguments) as client:
            stream = getattr(client, method)(*request, **how)
            try:
                async with stream:
                    async for each in stream:
                        events.append(each)  # noqa: PERF401  # an error must not lose them
            except tokenwire.TokenwireError as caught:
                error = caught
        return stream, events, error

    def _stream(self, arguments, method, request, how):
        events, error = [], None
        with tokenwire.Client(self.target, **arguments) as client:
            stream = getattr(client, method)(*request, **how)
            try:
                with stream:
                    events.extend(stream)
            except tokenwire.TokenwireError as caught:
                error = caught
        return stream, events, error

    async def unary(self, method, *request, client_arguments=None, **how):
        """Call a method that has one response. Return the response or the error."""
        arguments = client_arguments or {}

        def call():
            with tokenwire.Client(self.target, **arguments) as client:
                return getattr(client, method)(*request, **how)

        async with asyncio.timeout(LIMIT_S):
            try:
                if self.kind == "asyncio":
                    async with tokenwire.AsyncClient(self.target, **arguments) as client:
                        return await getattr(client, method)(*request, **how)
                return await asyncio.to_thread(call)
            except tokenwire.TokenwireError as error:
                return error


@pytest.fixture(params=["asyncio", "threads"])
def clients(request, server):
    return Clients(request.param, server.target)


@pytest.mark.usefixtures("short_waits")
@pytest.mark.parametrize("refusal", [FULL, DRAINING], ids=["OVERLOADED", "DRAINING"])
@pytest.mark.parametrize("resumable", [False, True])
async def test_a_refused_stream_is_started_again_with_the_same_request(
    server, clients, refusal, resumable
):
    server.script = in_turn(fails(refusal), fails(refusal), plays(*ANSWER))

    stream, events, error = await clients.stream(request_id="rq_1", resumable=resumable)

    assert error is None
    assert [each.sequence for each in events] == [1, 2, 3]
    assert [type(each).__name__ for each in stream.retries] == [
        type(stream.retries[0]).__name__
    ] * 2
    assert [each.attempts for each in stream.retries] == [1, 2]
    assert len({each.SerializeToString() for each in server.requests}) == 1
    assert {each.request_id for each in server.requests} == {"rq_1"}
    assert len(server.requests) == 3
    assert server.ended == [], "there was no stream to cancel"


@pytest.mark.usefixtures("short_waits")
@pytest.mark.parametrize("resumable", [False, True])
async def test_a_stream_that_fails_before_its_first_content_is_started_again(
    server, clients, resumable
):
    notice = event(2, notice=Notice(kind=NOTICE_KIND_RETRYING))
    failed = accepted_then(FAILED, started("st_failed"), notice)
    server.script = in_turn(failed, plays(*ANSWER))

    stream, events, error = await clients.stream(resumable=resumable)

    assert error is None
    assert [each.started.stream_id for each in events if each.HasField("started")] == [
        "st_failed",
        STREAM_ID,
    ]
    assert (stream.stream_id, stream.last_sequence) == (STREAM_ID, 3)
    assert [each.stream_id for each in stream.retries] == ["st_failed"]
    assert len(server.requests) == 2
    assert server.resumes == server.ended == []


async def test_until_first_content_keeps_no_event_of_a_stream_that_was_started_again(server):
    notice = event(2, notice=Notice(kind=NOTICE_KIND_RETRYING))
    failed = accepted_then(FAILED, started("st_failed"), notice)
    server.script = in_turn(failed, plays(*ANSWER))
    async with tokenwire.AsyncClient(server.target) as client:
        async with client.chat_stream("m", "Hi") as stream:
            await stream.until_first_content()
            events = [each async for each in stream]
    assert events == list(ANSWER)


@pytest.mark.parametrize(
    "script",
    [
        accepted_then(FAILED, started("st_failed"), text(2, "content")),
        accepted_then(STALLED, started("st_failed")),
        accepted_then(FULL, started("st_failed")),
        accepted_then(DRAINING, started("st_failed")),
        accepted_then(status(Code.UNAVAILABLE, "SERVER_STOPPED", metadata=UNUSED, more=SOON)),
        fails(status(Code.UNAVAILABLE, "OVERLOADED", more=LATER)),
        fails(status(Code.UNAVAILABLE, "UPSTREAM_UNAVAILABLE")),
        fails(status(Code.RESOURCE_EXHAUSTED, "RATE_LIMITED", more=SOON)),
        fails(status(Code.UNAVAILABLE, "OVERLOADED", more=SOON, domain="proxy.example")),
        fails(status(Code.CANCELLED, "")),
    ],
    ids=[
        "after the first content",
        "the provider may have worked",
        "the stream may run",
        "the stream runs on",
        "the stream was lost",
        "it takes too long",
        "no RetryInfo",
        "a limit of the caller",
        "a proxy",
        "cancelled",
    ],
)
async def test_no_second_generation_is_started(server, clients, script):
    server.script = script

    stream, _, error = await clients.stream()

    assert error is not None
    assert (stream.retries, error.attempts) == ([], 1)
    assert len(server.requests) == 1


async def test_a_connection_that_breaks_after_the_request_was_sent_is_not_retried(server, clients):
    arrived = asyncio.Event()

    async def script(_request, _context):
        arrived.set()
        await asyncio.Event().wait()

    server.script = script
    async with wire_to(server.target) as wire:
        clients.target = wire.target
        reading = asyncio.create_task(clients.stream())
        await arrived.wait()
        wire.cut()
        stream, _, error = await reading

    assert isinstance(error, tokenwire.ConnectionLost)
    assert not error.retryable
    assert error.failure is None
    assert stream.retries == []
    assert len(server.requests) == 1


@pytest.mark.usefixtures("short_waits")
async def test_a_stream_that_was_retried_is_resumed_as_any_other(server, clients):
    lost = status(Code.UNAVAILABLE, "SLOW_READER")
    server.script = in_turn(
        fails(FULL), accepted_then(FAILED, started("st_failed")), fails(lost, *ANSWER[:2])
    )
    server.resume_scripts = [fails(FULL), plays(text(3, "b"), finished(4))]

    stream, events, error = await clients.stream(resumable=True)

    assert error is None
    assert [each.sequence for each in events] == [1, 1, 2, 3, 4]
    assert len(server.requests) == 3
    assert [(each.stream_id, each.after_sequence) for each in server.resumes] == [
        (STREAM_ID, 2)
    ] * 2
    assert len(stream.retries) == 2
    assert server.ended == []


@pytest.mark.usefixtures("short_waits")
async def test_the_values_of_a_stream_that_is_started_again_are_those_of_the_answer(
    server, clients
):
    value = event(2, json_value=JsonValue(pointer="/a", value_json="1"))
    server.script = in_turn(
        accepted_then(FAILED, started("st_failed")), plays(started(), value, finished(3))
    )
    request = ("m", "Hi")

    def read():
        with tokenwire.Client(server.target) as client, client.chat_stream(*request) as stream:
            return list(stream.values)

    if clients.kind == "asyncio":
        async with (
            tokenwire.AsyncClient(server.target) as client,
            client.chat_stream(*request) as stream,
        ):
            values = [each async for each in stream.values]
    else:
        values = await asyncio.to_thread(read)

    assert [(each.pointer, each.value) for each in values] == [("/a", 1)]


@pytest.mark.usefixtures("short_waits")
async def test_a_stream_that_is_started_again_may_take_longer_than_its_linger(server, clients):
    async def slow(request, context):
        await asyncio.sleep(0.4)
        await plays(*ANSWER)(request, context)

    server.script = in_turn(fails(FULL), slow)

    brief = tokenwire.retention(linger_s=0.1)
    _, events, error = await clients.stream(resumable=True, retention=brief)

    assert error is None
    assert len(events) == 3
    assert len(server.requests) == 2


@pytest.mark.usefixtures("short_waits")
async def test_a_refused_reader_tries_again(server, clients):
    server.resume_scripts = [fails(FULL), plays(text(3, "b"), finished(4))]

    stream, events, error = await clients.stream(request=(STREAM_ID, 2), method="resume")

    assert error is None
    assert [each.sequence for each in events] == [3, 4]
    assert [each.after_sequence for each in server.resumes] == [2, 2]
    assert len(stream.retries) == 1


@pytest.mark.parametrize("how", [{"client_arguments": {"max_retries": 0}}, {"max_retries": 0}])
async def test_retries_can_be_turned_off_for_a_client_or_a_call(server, clients, how):
    server.script = fails(FULL)

    _, _, error = await clients.stream(**how)
    refused = await clients.unary("chat", "m", "Hi", **how)

    assert (error.attempts, refused.attempts) == (1, 1)
    assert len(server.requests) == 2


@pytest.mark.usefixtures("short_waits")
async def test_the_last_error_is_raised_with_the_number_of_attempts(server, clients):
    server.script = fails(FULL)

    stream, _, error = await clients.stream(max_retries=3, request_id="rq_1")

    assert isinstance(error, tokenwire.Overloaded)
    assert (error.attempts, error.request_id, len(stream.retries)) == (4, "rq_1", 3)
    assert len(server.requests) == 4


async def test_the_deadline_includes_the_retries(server, clients):
    remaining = []

    async def script(request, context):
        remaining.append(context.time_remaining())
        await fails(status(Code.UNAVAILABLE, "OVERLOADED", more=SOON))(request, context)

    server.script = script
    began = time.monotonic()
    _, _, error = await clients.stream(timeout=1.0, max_retries=9)
    await clients.unary("chat", "m", "Hi", timeout=1.0, max_retries=9)

    assert isinstance(error, tokenwire.Overloaded | tokenwire.DeadlineExceeded)
    assert time.monotonic() - began < 2.5
    assert remaining[0] > remaining[1]
    assert all(each < 1.1 for each in remaining)


@pytest.mark.usefixtures("short_waits")
async def test_chat_and_lookups_are_retried(server, clients, caplog):
    caplog.set_level(logging.INFO, "tokenwire")
    server.script = in_turn(fails(FULL), fails(FAILED), replies)
    server.count = in_turn(fails(FULL), replies_count)
    callers = iter([FULL, None])

    async def caller(context):
        if (refusal := next(callers)) is not None:
            await context.abort_with_status(refusal)
        return caller_pb2.Caller(tenant="t")

    server.caller = caller

    answer = await clients.unary("chat", "m", "Hi", request_id="rq_1")
    count = await clients.unary("count_tokens", "m", "Hi")
    found = await clients.unary("get_caller")

    assert answer.stream_id == STREAM_ID
    assert [each.request_id for each in server.requests] == ["rq_1"] * 3
    assert count.input_tokens == 5
    assert found.tenant == "t"
    assert len(server.counted) == 2
    assert len([each for each in caplog.records if each.name == "tokenwire"]) == 4


async def replies_count(_request, _context):
    return chat_pb2.CountTokensResponse(input_tokens=5)


async def test_a_chat_whose_stream_used_something_is_not_sent_again(server, clients):
    server.script = fails(STALLED)

    error = await clients.unary("chat", "m", "Hi")

    assert isinstance(error, tokenwire.UpstreamUnavailable)
    assert not error.retryable
    assert len(server.requests) == 1


async def test_a_server_that_starts_late_is_reached(server, clients):
    server.script = plays(*ANSWER)
    async with wire_to(server.target) as wire:
        clients.target = wire.target
        await wire.down()
        reading = asyncio.create_task(clients.stream(max_retries=4))
        await asyncio.sleep(0.3)
        await wire.up()
        stream, _, error = await reading

    assert error is None
    assert {each.failure for each in stream.retries} == {tokenwire.ConnectFailure.REFUSED}
    assert len(server.requests) == 1


async def test_waiting_for_a_retry_ends_with_the_task(server):
    server.script = fails(status(Code.UNAVAILABLE, "OVERLOADED", more=[_in_seconds(15)]))
    async with tokenwire.AsyncClient(server.target) as client:
        for call in (client.chat("m", "Hi"), client.chat_stream("m", "Hi").__aenter__()):
            task = asyncio.create_task(call)
            await asyncio.sleep(0.3)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                async with asyncio.timeout(1):
                    await task
    assert len(server.requests) == 2


def _in_seconds(seconds):
    return RetryInfo(retry_delay=Duration(seconds=seconds))


async def test_closing_the_client_ends_the_wait_for_a_retry(server):
    server.script = fails(status(Code.UNAVAILABLE, "OVERLOADED", more=[_in_seconds(15)]))
    client = tokenwire.AsyncClient(server.target)
    calls = [
        asyncio.create_task(client.chat("m", "Hi")),
        asyncio.create_task(client.chat_stream("m", "Hi").__aenter__()),
    ]
    await asyncio.sleep(0.3)
    began = time.monotonic()
    await client.close()
    for call in calls:
        with pytest.raises(tokenwire.Cancelled, match="the client was closed"):
            await call
    assert time.monotonic() - began < 2


async def test_closing_or_cancelling_in_another_thread_ends_the_wait_for_a_retry(server):
    server.script = fails(status(Code.UNAVAILABLE, "OVERLOADED", more=[_in_seconds(15)]))
    client = tokenwire.Client(server.target)
    stream = client.chat_stream("m", "Hi")
    errors = {}

    def run(name, call):
        try:
            call()
        except tokenwire.TokenwireError as error:
            errors[name] = error.message

    cancelled = threading.Thread(target=run, args=("cancelled", stream.__enter__))
    closed = threading.Thread(target=run, args=("closed", lambda: client.chat("m", "Hi")))
    cancelled.start()
    closed.start()
    await asyncio.sleep(0.5)
    stream.cancel()
    await asyncio.to_thread(cancelled.join, 2)
    client.close()
    await asyncio.to_thread(closed.join, 2)

    assert errors == {
        "cancelled": "this client cancelled the call",
        "closed": "the client was closed",
    }
    assert len(server.requests) == 2


async def test_leaving_a_resumable_stream_that_was_retried_cancels_the_new_one(server):
    server.script = in_turn(
        accepted_then(FAILED, started("st_failed")), plays_then_waits(started(), text(2, "a"))
    )
    server.info = chat_pb2.StreamInfo(stream_id=STREAM_ID)
    async with (
        tokenwire.AsyncClient(server.target, resumable=True) as client,
        client.chat_stream("m", "Hi") as stream,
    ):
        async for each in stream:
            if each.HasField("text"):
                break
    assert server.ended == [STREAM_ID]


@pytest.mark.parametrize("options", [[], ["--resumable"]])
async def test_the_command_line_names_the_stream_that_it_reads(server, command_line, options):
    server.script = in_turn(accepted_then(FAILED, started("st_failed")), plays(*ANSWER))

    done = await command_line.run("chat", "Hi", *options)

    assert (done.code, done.out) == (0, "a\n")
    named = [line for line in done.err.splitlines() if line.startswith("stream ")]
    assert named == (
        ["stream st_failed", f"stream {STREAM_ID}"] if options else [f"stream {STREAM_ID}"]
    )


async def test_the_command_line_can_be_interrupted_while_it_waits(server, command_line):
    server.script = fails(status(Code.UNAVAILABLE, "OVERLOADED", more=[_in_seconds(15)]))
    process = await command_line.start("chat", "Hi")
    async with asyncio.timeout(LIMIT_S):
        wait = await process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, end = await process.communicate()

    assert process.returncode == 130
    assert wait.startswith(b"the request will be sent again in 15.")
    assert end.startswith(b"cancelled after 0 events")


@pytest.mark.parametrize("kind", [tokenwire.Client, tokenwire.AsyncClient])
def test_a_negative_number_of_retries_is_refused(kind):
    with pytest.raises(ValueError, match="max_retries must be 0 or more, not -1"):
        kind("localhost:1", max_retries=-1)
    with pytest.raises(ValueError, match="max_retries"):
        kind("localhost:1").chat_stream("m", "Hi", max_retries=-1)
