"""A request with an id is answered once, however often it is sent."""

import asyncio

import grpc
import grpc.aio
import pytest
from e2e_calls import PROVIDERS, info, read, said
from google.protobuf.duration_pb2 import Duration

from tokenwire.v1 import chat_pb2 as pb
from tokenwire.v1 import event_pb2
from tokenwire_server.simulator import generated_text

LONGEST = "".join(chr(33 + n % 94) for n in range(128))


def provider_calls(simulator, key):
    """Return the number of calls of the provider."""
    return simulator.request(key)["attempt"]


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_the_same_request_attaches_to_the_running_stream_from_its_beginning(
    api, simulator, provider
):
    model = f"{provider}/sim?tokens=100&itl_ms=5&key=running-{provider}"
    request = api.request(model, request_id=f"running-{provider}")
    first = aiter(api.chat_stream(request))
    tokens = generated_text(100)
    seen = [await anext(first)]
    while len(said(seen)) < len("".join(tokens[:30])):  # a busy server merges tokens
        seen.append(await anext(first))
    again = asyncio.create_task(read(api.chat_stream(request)))
    seen += [event async for event in first]
    assert said(seen) == said(await again) == "".join(tokens)
    assert again.result()[0] == seen[0]
    assert seen[0].started.request_id == f"running-{provider}"
    assert again.result()[-1] == seen[-1]
    assert provider_calls(simulator, f"running-{provider}") == 1


async def test_the_same_request_replays_an_ended_stream(api, simulator):
    request = api.request("openai/sim?tokens=20&key=ended", request_id=LONGEST)
    seen = await read(api.chat_stream(request))
    for _ in range(3):
        call = api.chat_stream(request)
        again = await read(call)
        assert dict(await call.initial_metadata())["tokenwire-stream-id"] == (
            seen[0].started.stream_id
        )
        assert (again[0], again[-1], said(again)) == (seen[0], seen[-1], said(seen))
    assert seen[0].started.request_id == LONGEST
    stood = await api.get_stream(pb.GetStreamRequest(stream_id=seen[0].started.stream_id))
    assert stood.request_id == LONGEST
    assert stood.usage == seen[-1].finished.usage  # attaching adds nothing
    assert provider_calls(simulator, "ended") == 1


async def test_twenty_identical_concurrent_requests_are_one_generation(api, simulator):
    request = api.request("openai/sim?tokens=50&itl_ms=5&key=twenty", request_id="twenty")
    answers = await asyncio.gather(
        *(api.chat(request) if n % 4 == 3 else read(api.chat_stream(request)) for n in range(20))
    )
    streamed = [answer for answer in answers if isinstance(answer, list)]
    whole = [answer for answer in answers if not isinstance(answer, list)]
    assert len(whole) == 5
    ids = {events[0].started.stream_id for events in streamed}
    assert ids == {answer.stream_id for answer in whole}
    assert len(ids) == 1
    texts = {said(events) for events in streamed}
    assert texts == {answer.message.parts[0].text for answer in whole}
    assert texts == {"".join(generated_text(50))}
    assert provider_calls(simulator, "twenty") == 1


async def test_the_same_request_may_have_other_delivery_options(api, simulator):
    fields = {"request_id": "delivered", "model": "openai/sim?tokens=3&key=delivered"}
    first = await api.events(**fields)
    slow = pb.DeliveryOptions(heartbeat_interval=Duration(seconds=60))
    assert (await api.events(**fields, delivery=slow))[0] == first[0]
    assert provider_calls(simulator, "delivered") == 1


OTHERS = {
    "prompt": {"prompt": "another"},
    "generation": {"generation": pb.GenerationConfig(temperature=0)},
    "retention": {"retention": pb.RetentionOptions(log_ttl=Duration(seconds=1))},
    "cache": {"cache": pb.CacheOptions(mode=pb.CACHE_MODE_REFRESH)},
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
@pytest.mark.parametrize("rpc", ["chat", "chat_stream"])
async def test_a_different_request_with_the_same_id_is_refused(api, other, rpc):
    model = "openai/sim?tokens=3"
    request_id = f"reused-{rpc}-{next(iter(other))}"
    first = await api.events(model, request_id=request_id)
    call = getattr(api, rpc)(api.request(model, request_id=request_id, **other))
    assert "tokenwire-stream-id" not in dict(await call.initial_metadata())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (read(call) if rpc == "chat_stream" else call)
    assert caught.value.code() == grpc.StatusCode.ALREADY_EXISTS
    assert info(caught.value).reason == "REQUEST_ID_REUSED"
    assert info(caught.value).metadata == {"request_id": request_id}
    again = await api.events(model, request_id=request_id)
    assert again[0] == first[0]


@pytest.mark.parametrize("request_id", ["a b", " ", "a\tb", "ä", "🙂", "a\x00", "x" * 129])
async def test_an_invalid_request_id_is_refused(api, request_id):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await api.events("openai/sim?tokens=1", request_id=request_id)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert info(caught.value).reason == "INVALID_REQUEST"


async def test_identical_requests_without_an_id_are_separate_streams(api):
    first, second = [await api.events("openai/sim?tokens=1") for _ in range(2)]
    assert first[0].started.stream_id != second[0].started.stream_id


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_request_that_failed_before_its_first_token_can_be_repeated(
    api, simulator, provider
):
    key = f"again-{provider}"
    fields = {
        "model": f"{provider}/sim?tokens=5&status=400&fault_attempts=1&key={key}",
        "request_id": key,
    }
    call = api.chat_stream(api.request(**fields))
    failed_id = dict(await call.initial_metadata())["tokenwire-stream-id"]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read(call)
    assert info(caught.value).reason == "UPSTREAM_REJECTED"
    events = await api.events(**fields)
    assert events[0].started.stream_id != failed_id
    assert said(events) == "".join(generated_text(5))
    assert (await api.events(**fields))[0] == events[0]
    assert provider_calls(simulator, key) == 2
    stood = await api.get_stream(pb.GetStreamRequest(stream_id=failed_id))
    assert (stood.state, stood.error_reason) == (pb.STREAM_STATE_FAILED, "UPSTREAM_REJECTED")


async def test_a_request_that_failed_after_its_first_token_is_not_generated_again(api, simulator):
    fields = {"model": "openai/sim?tokens=9&drop_after=4&itl_ms=3&key=paid", "request_id": "paid"}
    found = []
    for _ in range(3):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await api.events(**fields)
        found.append(dict(info(caught.value).metadata))
        assert info(caught.value).reason == "UPSTREAM_BROKEN"
    assert found[0] == found[1] == found[2]
    assert provider_calls(simulator, "paid") == 1


async def test_an_id_can_be_reused_after_its_stream_is_deleted_or_expired(api, simulator):
    kept = pb.RetentionOptions(log_ttl=Duration())
    fields = {"model": "openai/sim?tokens=2&key=forgotten", "request_id": "forgotten"}
    ids = set()
    for _ in range(3):
        events = await api.events(**fields, retention=kept)
        ids.add(events[0].started.stream_id)
    fields = {"model": "openai/sim?tokens=2&key=free-again", "request_id": "free-again"}
    for _ in range(3):
        stream_id = (await api.events(**fields))[0].started.stream_id
        await api.delete_stream(pb.DeleteStreamRequest(stream_id=stream_id))
        ids.add(stream_id)
    assert len(ids) == 6
    assert provider_calls(simulator, "forgotten") == provider_calls(simulator, "free-again") == 3


async def test_a_stream_continues_for_attached_readers_when_its_creator_leaves(api, simulator):
    request = api.request("openai/sim?tokens=100&itl_ms=5&key=stays", request_id="stays")
    first = api.chat_stream(request)
    await first.read()
    second = asyncio.create_task(read(api.chat_stream(request)))
    stream_id = dict(await first.initial_metadata())["tokenwire-stream-id"]
    async with asyncio.timeout(5):
        while (await api.get_stream(pb.GetStreamRequest(stream_id=stream_id))).reader_count < 2:
            await asyncio.sleep(0.002)
    first.cancel()
    assert said(await second) == "".join(generated_text(100))
    assert second.result()[-1].finished.reason == event_pb2.FINISH_REASON_STOP
    assert provider_calls(simulator, "stays") == 1


async def test_callers_that_leave_at_the_start_do_not_end_the_stream_for_the_others(api, simulator):
    for round in range(30):
        key = f"begins-{round}"
        request = api.request(f"openai/sim?tokens=20&itl_ms=1&key={key}", request_id=key)
        calls = [api.chat_stream(request) for _ in range(4)]
        staying = asyncio.create_task(read(api.chat_stream(request)))
        await asyncio.sleep(round * 0.0002)
        for call in calls:
            call.cancel()
        # It joined before all of them had left; or after the decision, and gets the cancelled end; or
        # after that end, which released the id if there was no token, and starts a new stream.
        events = await staying
        reason = events[-1].finished.reason
        assert reason in (event_pb2.FINISH_REASON_STOP, event_pb2.FINISH_REASON_CANCELLED)
        if reason == event_pb2.FINISH_REASON_STOP:
            assert said(events) == "".join(generated_text(20))
            assert provider_calls(simulator, key) <= 2
    await asyncio.to_thread(simulator.wait_until_none_open, 5)
