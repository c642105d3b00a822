"""Moderation of requests, with a real server and a real service."""

import asyncio
from urllib.error import HTTPError

import grpc.aio
import pytest
from e2e_calls import details, info, read, reason, said
from moderation_support import FAULTS
from test_filters import CACHED, model
from test_structured_output import record_of

from tokenwire.v1 import chat_pb2 as pb


def chat(*texts):
    return [pb.Message(role=pb.ROLE_USER, parts=[pb.Part(text=text) for text in texts])]


def request_to(api, key, *texts, **fields):
    name = model("fine", key=key)
    return pb.ChatRequest(model=name, messages=chat(*texts), **fields)


def is_sent(simulator, key):
    """Return whether the provider got a request."""
    try:
        return bool(simulator.request(key))
    except HTTPError:
        return False


@pytest.mark.parametrize("kind", ["openai", "http"])
async def test_a_flagged_request_is_refused_with_its_path_and_reaches_no_provider(
    moderating, moderated, simulator, kind
):
    api = moderating(kind=kind, input=True, api_key_env="MODERATION_KEY")
    key = f"flagged-{kind}"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read(api.chat_stream(request_to(api, key, "hello", "some violence", "bye")))
    assert reason(caught.value) == "INVALID_REQUEST"
    (violation,) = details(caught.value)["BadRequest"].field_violations
    assert violation.field == "messages[0].parts[1].text"
    assert violation.description == "is flagged by moderation.m: violence"
    assert not is_sent(simulator, key)
    events = await read(api.chat_stream(request_to(api, key, "hello")))
    assert said(events) == "fine"
    assert is_sent(simulator, key)
    if kind == "http":
        assert {body["kind"] for _, body in moderated.service.requests} == {"input"}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_request_that_cannot_be_checked_is_refused_or_passes(
    moderating, moderated, simulator, fault
):
    settings = {"input": True, "timeout_s": 0.3, "input_timeout_s": 1.0}
    moderated.service.answer = FAULTS[fault]
    if fault == "slow":
        moderated.service.may_answer.clear()
    api, key = moderating(**settings), f"input-{fault}"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read(api.chat_stream(request_to(api, key, "hello")))
    assert reason(caught.value) == "MODERATION_UNAVAILABLE"
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert info(caught.value).metadata["moderation"] == "m"
    assert details(caught.value)["RetryInfo"].retry_delay.ToMilliseconds() == 1000
    assert not is_sent(simulator, key)
    api = moderating(**settings, on_failure="open")
    events = await read(api.chat_stream(request_to(api, key, "hello")))
    assert said(events) == "fine"
    record = await record_of(api.channel, events[0].started.stream_id)
    assert [(each.name, each.action, each.count) for each in record.filters] == [
        ("m", "unchecked", 1)
    ]


async def test_a_caller_that_leaves_during_the_check_of_its_request_ends_it(
    moderating, moderated, simulator
):
    api = moderating(input=True)
    moderated.service.may_answer.clear()
    call = api.chat_stream(request_to(api, "left-early", "hello"))
    reading = asyncio.create_task(read(call))
    await moderated.until_asked()
    call.cancel()
    await asyncio.wait([reading])
    await moderated.until_idle()
    assert moderated.service.aborted_count == 1
    assert not is_sent(simulator, "left-early")


async def test_a_cached_answer_is_not_replayed_to_a_flagged_request(moderating, moderated):
    api = moderating(input=True)
    moderated.service.words = {}
    for from_cache in False, True:
        events = await read(api.chat_stream(request_to(api, "c", "violence", cache=CACHED)))
        assert events[0].started.from_cache == from_cache
    moderated.service.words = {"violence": "violence"}
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read(api.chat_stream(request_to(api, "c", "violence", cache=CACHED)))
    assert reason(caught.value) == "INVALID_REQUEST"
