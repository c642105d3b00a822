"""Failures of the provider before the first content are retried; after it, nothing is sent again."""

import asyncio
import itertools
import socket
import struct
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest
from e2e_calls import PROVIDERS, details, info, read, reason, said
from raw_provider import HEAD, RawProvider

from tokenwire.v1 import event_pb2, usage_pb2

RETRYING = event_pb2.NOTICE_KIND_RETRYING
ALL = {"TOKENWIRE_RETRIES__BUDGET_PERCENT": "1000"}
CHUNK = (
    b'data: {"id":"x","model":"m","choices":[{"index":0,"delta":{"content":"hi"},'
    b'"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":1}}\n\n'
)
ANSWER = HEAD + b"Connection: close\r\n\r\n" + CHUNK + b"data: [DONE]\n\n"
_keys = itertools.count()


def once(scenario, times=1):
    """Return a model whose first `times` requests have a fault, and the key of its requests."""
    key = f"retried-{next(_keys)}"
    return f"sim?{scenario}&tokens=5&fault_attempts={times}&key={key}"


@asynccontextmanager
async def serving(start, api_on, environ, **settings):
    env = environ | {f"TOKENWIRE_RETRIES__{name}": str(value) for name, value in settings.items()}
    with start("serve", "--listen", "127.0.0.1:0", env=env) as (_, address):
        async with grpc.aio.insecure_channel(address) as channel:
            yield api_on(channel)


@pytest.fixture(scope="module")
def retrying_server(start, simulator):
    env = simulator.environ() | ALL
    with start("serve", "--listen", "127.0.0.1:0", env=env) as (_, address):
        yield address


@pytest.fixture
async def channel(retrying_server):
    async with grpc.aio.insecure_channel(retrying_server) as channel:
        yield channel


@pytest.fixture
def record_of(channel):
    """Returns the usage record of a stream."""
    list_usage = channel.unary_unary(
        "/tokenwire.v1.UsageService/ListUsageRecords",
        request_serializer=usage_pb2.ListUsageRecordsRequest.SerializeToString,
        response_deserializer=usage_pb2.ListUsageRecordsResponse.FromString,
    )

    async def find(stream_id):
        async with asyncio.timeout(10):
            while True:
                page = await list_usage(usage_pb2.ListUsageRecordsRequest(page_size=1000))
                found = [r for r in page.usage_records if r.stream_id == stream_id]
                if found and found[0].outcome != usage_pb2.USAGE_OUTCOME_OPEN:
                    (record,) = found
                    return record
                await asyncio.sleep(0.05)

    return find


def assert_retried(events, attempt_count=2):
    """Check that the events are those of a whole answer after failed attempts."""
    assert events[0].sequence == 1
    assert events[0].HasField("started")
    notices = [event for event in events if event.HasField("notice")]
    assert [(e.sequence, e.notice.kind, e.notice.attempt) for e in notices] == [
        (number, RETRYING, number) for number in range(2, attempt_count + 1)
    ]
    assert events[-1].finished.reason == event_pb2.FINISH_REASON_STOP


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    "fault",
    [
        "status=429&retry_after_ms=20",
        "status=500",
        "status=503",
        "status=529",
        "drop_after=0",
        "drop_after=0&drop=rst",
        "error_event_after=0",
    ],
)
async def test_the_second_attempt_gives_the_whole_answer_and_one_record(
    api, record_of, provider, fault
):
    events = await api.events(f"{provider}/{once(fault)}")
    assert_retried(events)
    expected = await api.events(f"{provider}/sim?tokens=5")
    assert said(events) == said(expected)
    record = await record_of(events[0].started.stream_id)
    assert record.attempts == 2
    assert record.usage == events[-1].finished.usage == expected[-1].finished.usage


async def test_two_retries_are_two_notices(api):
    assert_retried(await api.events(f"openai/{once('status=503', times=2)}"), attempt_count=3)


async def test_a_unary_chat_is_retried_too(api):
    response = await api.chat(api.request(f"openai/{once('status=503')}"))
    assert response.finished.reason == event_pb2.FINISH_REASON_STOP


@pytest.mark.parametrize("fault", ["status=503", "status=429&retry_after_ms=20", "drop_after=0"])
async def test_if_all_attempts_fail_the_caller_gets_the_last_error(
    api, simulator, record_of, fault
):
    before = simulator.stats()["requests_total"]
    events = aiter(api.chat_stream(api.request(f"openai/sim?{fault}")))
    started = await anext(events)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read(events)
    facts = info(caught.value).metadata
    assert facts["stream_id"] == started.started.stream_id
    assert (facts["last_sequence"], facts["input_tokens"]) == ("3", "0")  # Started and two notices
    assert simulator.stats()["requests_total"] - before == 3
    rate_limited = "429" in fault
    assert reason(caught.value) == (
        "UPSTREAM_RATE_LIMITED" if rate_limited else "UPSTREAM_UNAVAILABLE"
    )
    assert "RetryInfo" in details(caught.value)
    record = await record_of(started.started.stream_id)
    assert (record.attempts, record.usage.input_tokens) == (3, 0)


@pytest.mark.parametrize("fault", ["drop_after=3", "drop_after=3&drop=rst", "error_event_after=3"])
async def test_a_failure_after_content_is_attempted_once(api, simulator, fault):
    before = simulator.stats()["requests_total"]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await api.events(f"openai/sim?{fault}&itl_ms=5")
    assert reason(caught.value) == "UPSTREAM_BROKEN"
    assert simulator.stats()["requests_total"] - before == 1


@pytest.mark.parametrize(
    "fault", ["status=400", "status=401", "status=404", "status=429&retry_after=21"]
)
async def test_what_cannot_pass_soon_is_attempted_once(api, simulator, fault):
    before = simulator.stats()["requests_total"]
    with pytest.raises(grpc.aio.AioRpcError):
        await api.events(f"openai/sim?{fault}")
    assert simulator.stats()["requests_total"] - before == 1


async def test_a_cancel_in_the_pause_sends_nothing_more(api, simulator, record_of):
    before = simulator.stats()["requests_total"]
    call = api.chat_stream(api.request("openai/sim?status=429&retry_after=15"))
    started, notice = await call.read(), await call.read()
    assert notice.notice.kind == RETRYING
    assert 15 <= notice.notice.delay.ToTimedelta().total_seconds() <= 15.1
    call.cancel()
    record = await record_of(started.started.stream_id)
    assert record.outcome == usage_pb2.USAGE_OUTCOME_CANCELLED
    assert simulator.stats()["requests_total"] - before == 1


async def test_a_deadline_before_the_end_of_the_pause_gives_the_providers_error_at_once(api):
    call = api.chat_stream(api.request("openai/sim?status=429&retry_after=15&key=late"), timeout=10)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read(call)
    assert reason(caught.value) == "UPSTREAM_RATE_LIMITED"
    assert details(caught.value)["RetryInfo"].retry_delay.seconds == 15


async def test_an_outage_of_15_requests_causes_at_most_20_attempts(start, api_on, own_simulator):
    with own_simulator() as simulator:
        env = simulator.environ() | {"TOKENWIRE_BREAKER__ENABLED": "false"}
        async with serving(start, api_on, env) as api:

            async def one():
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await api.events("openai/sim?status=503")
                return info(caught.value).reason

            assert set(await asyncio.gather(*(one() for _ in range(15)))) == {
                "UPSTREAM_UNAVAILABLE"
            }
        attempts = simulator.stats()["requests_total"]
    print(f"\n15 requests in an outage: {attempts} attempts")
    assert 15 < attempts <= 20


async def test_retries_can_be_switched_off(start, api_on, own_simulator):
    with own_simulator() as simulator:
        async with serving(start, api_on, simulator.environ(), MAX_ATTEMPTS=1) as api:
            with pytest.raises(grpc.aio.AioRpcError):
                await api.events("openai/sim?status=503")
        assert simulator.stats()["requests_total"] == 1


def openai_at(url):
    return {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": url}


@pytest.mark.parametrize("reset", [False, True])
async def test_a_connection_that_closes_before_the_head_is_retried(start, api_on, reset):
    connections = itertools.count()

    async def script(provider, reader, writer):
        if next(connections):
            writer.write(ANSWER)
            await writer.drain()
            writer.write_eof()
            await reader.read()
        elif reset:
            linger = struct.pack("ii", 1, 0)
            raw = writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    async with (
        RawProvider(script) as provider,
        serving(start, api_on, openai_at(provider.url), BASE_S=0.01) as api,
    ):
        events = await api.events("openai/m")
    assert_retried(events)
    assert said(events) == "hi"


async def test_a_refused_connection_is_retried(start, api_on):
    async def script(provider, reader, writer):
        writer.write(ANSWER)
        await writer.drain()
        writer.write_eof()
        await reader.read()

    provider = RawProvider(script)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        url = f"http://127.0.0.1:{port}/v1"
        settings = {"MAX_ATTEMPTS": 4, "BASE_S": 1.0, "CAP_S": 1.0}
        async with serving(start, api_on, openai_at(url), **settings) as api:
            call = aiter(api.chat_stream(api.request("openai/m")))
            events = [await anext(call), await anext(call)]
            assert events[1].notice.attempt == 2
            unused.listen()  # the provider is back
            server = await asyncio.start_server(provider._answer, sock=unused.dup())
            async with server:
                events += await read(call)
    assert_retried(events, attempt_count=sum(e.HasField("notice") for e in events) + 1)
    assert said(events) == "hi"
