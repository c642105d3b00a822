"""Delivery options of readers: heartbeats in silence, and usage at its interval."""

import asyncio
import contextlib
import time

import grpc.aio
import pytest
from e2e_calls import PROVIDERS
from google.protobuf.duration_pb2 import Duration

from tokenwire.v1 import chat_pb2 as pb


@pytest.fixture(scope="module")
def quick(start, simulator):
    """Return the address of a server that accepts intervals of 50 ms and has a default
    heartbeat of 400 ms.
    """
    env = simulator.environ() | {
        "TOKENWIRE_LIMITS__MIN_DELIVERY_INTERVAL_S": "0.05",
        "TOKENWIRE_LIMITS__HEARTBEAT_INTERVAL_S": "0.4",
    }
    with start("serve", "--listen", "127.0.0.1:0", env=env) as (_, address):
        yield address


@pytest.fixture
async def api(quick, api_on):
    async with grpc.aio.insecure_channel(quick) as channel:
        yield api_on(channel)


def every(heartbeat_s=None, usage_s=None):
    return pb.DeliveryOptions(
        heartbeat_interval=_duration(heartbeat_s), usage_interval=_duration(usage_s)
    )


def _duration(seconds):
    return None if seconds is None else Duration(nanos=int(seconds * 1e9))


async def read(call, within_s=None):
    """Return the events within that time, or to the end, as (time, event)."""
    events = []
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            async for event in call:
                events.append((time.monotonic(), event))  # noqa: PERF401  # must survive the timeout
    call.cancel()
    return events


def kinds(events):
    return [event.WhichOneof("event") for _, event in events]


@pytest.mark.parametrize("scenario", ["silent=1", "headers_then_silent=1"])
async def test_heartbeats_are_sent_before_the_first_token_with_the_last_sequence(api, scenario):
    call = api.chat_stream(api.request(f"openai/sim?{scenario}", delivery=every(0.1)))
    events = await read(call, within_s=1.5)
    assert kinds(events)[0] == "started"
    assert set(kinds(events)[1:]) == {"heartbeat"}
    assert {event.sequence for _, event in events} == {1}
    assert 3 <= len(events) - 1 <= 15


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_heartbeats_are_sent_in_mid_stream_silence_with_the_last_sequence(api, provider):
    call = api.chat_stream(
        api.request(f"{provider}/sim?tokens=9&stall_after=4&itl_ms=5", delivery=every(0.1))
    )
    last, words, silent = 0, 0, 0
    async with asyncio.timeout(20):
        async for event in call:
            if event.HasField("heartbeat"):
                assert event.sequence == last
                silent += words == 4
                if silent == 3:
                    break
            else:
                last = event.sequence
                words += len(event.text.text.split())
    call.cancel()


async def test_a_reader_without_an_interval_gets_the_servers_default(api):
    events = await read(api.chat_stream(api.request("openai/sim?silent=1")), within_s=1.5)
    assert kinds(events)[:2] == ["started", "heartbeat"]
    assert 1 <= kinds(events).count("heartbeat") <= 4
    assert events[1][0] - events[0][0] > 0.3


async def test_each_reader_has_its_own_interval(api):
    call = api.chat_stream(api.request("openai/sim?silent=1", delivery=every(2)))
    stream_id = dict(await call.initial_metadata())["tokenwire-stream-id"]
    often = api.resume_stream(pb.ResumeStreamRequest(stream_id=stream_id, delivery=every(0.05)))
    seldom = api.resume_stream(pb.ResumeStreamRequest(stream_id=stream_id))
    first, second, third = await asyncio.gather(*(read(c, 1.2) for c in (call, often, seldom)))
    assert kinds(first).count("heartbeat") == 0
    assert 5 <= kinds(second).count("heartbeat") <= 24
    assert 1 <= kinds(third).count("heartbeat") <= 3


async def test_a_resumed_reader_gets_heartbeats_with_its_cursor(api):
    call = api.chat_stream(api.request("openai/sim?tokens=9&stall_after=4"))
    events = aiter(call)
    while not (last := await anext(events)).HasField("text"):
        pass
    stream_id = dict(await call.initial_metadata())["tokenwire-stream-id"]
    stood = await api.get_stream(pb.GetStreamRequest(stream_id=stream_id))
    resumed = await read(
        api.resume_stream(
            pb.ResumeStreamRequest(
                stream_id=stream_id, after_sequence=stood.last_sequence, delivery=every(0.1)
            )
        ),
        within_s=0.6,
    )
    assert last.sequence <= stood.last_sequence
    assert kinds(resumed)[0] == "notice"
    assert set(kinds(resumed)[1:]) == {"heartbeat"}
    assert {event.sequence for _, event in resumed} == {stood.last_sequence}
    call.cancel()


async def test_a_reader_that_gets_tokens_gets_no_heartbeats(api):
    call = api.chat_stream(
        api.request("openai/sim?tokens=150&itl_ms=10", delivery=every(1))  # it takes 1.5 s
    )
    assert "heartbeat" not in kinds(await read(call))


async def test_a_stream_that_has_ended_is_replayed_without_heartbeats_and_usage(api):
    seen = await api.events("openai/sim?tokens=5")
    again = await read(
        api.resume_stream(
            pb.ResumeStreamRequest(
                stream_id=seen[0].started.stream_id, delivery=every(0.05, usage_s=0.05)
            )
        )
    )
    assert kinds(again) == ["started", "text", "finished"]


async def test_usage_is_sent_only_to_readers_that_request_it(api):
    call = api.chat_stream(api.request("openai/sim?tokens=60&itl_ms=10"))
    assert "usage" not in kinds(await read(call))


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_usage_is_sent_at_its_interval_and_grows_until_the_provider_reports_it(api, provider):
    model = f"{provider}/sim?tokens=150&itl_ms=10&input_tokens=77"
    events = await read(api.chat_stream(api.request(model, delivery=every(usage_s=0.1))))
    usages = [event.usage for _, event in events if event.HasField("usage")]
    assert 5 <= len(usages) <= 20
    estimates = [usage.output_tokens for usage in usages if usage.estimated]
    assert len(estimates) >= len(usages) - 1  # these providers report it at the end
    assert estimates == sorted(estimates)
    assert estimates[-1] > estimates[0]
    if provider == "anthropic":
        assert {usage.input_tokens for usage in usages[1:]} == {77}
    finished = events[-1][1].finished
    assert not finished.usage.estimated
    assert (finished.usage.input_tokens, finished.usage.output_tokens) == (77, 150)
    sequence = 0
    for _, event in events:  # each has the sequence of the event before it
        if event.HasField("usage"):
            assert event.sequence == sequence
        sequence = event.sequence


async def test_a_late_reader_gets_the_usage_of_the_whole_stream(api):
    call = api.chat_stream(api.request("openai/sim?tokens=200&itl_ms=5"))
    events = aiter(call)
    while (await anext(events)).sequence < 100:
        pass
    stream_id = dict(await call.initial_metadata())["tokenwire-stream-id"]
    late = await read(
        api.resume_stream(
            pb.ResumeStreamRequest(
                stream_id=stream_id, after_sequence=100, delivery=every(usage_s=0.05)
            )
        )
    )
    first = next(event.usage for _, event in late if event.HasField("usage"))
    assert first.output_tokens > 50
    call.cancel()


async def test_usage_and_heartbeats_continue_during_silence(api):
    call = api.chat_stream(
        api.request("openai/sim?tokens=9&stall_after=4&itl_ms=5", delivery=every(0.3, 0.1))
    )
    events = await read(call, within_s=1)
    usages = [event.usage for _, event in events if event.HasField("usage")]
    assert len(usages) >= 4
    assert usages[-1] == usages[-2]
    assert events[0][1].HasField("started")
