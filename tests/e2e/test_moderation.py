"""Moderation of answers: what callers read, and what happens when the service is slow or down, with a real server
and a real service.
"""

import asyncio
import json
import os
import signal
import time

import grpc.aio
import pytest
from e2e_calls import CONTINUE, PROVIDERS, info, read, reason, resume, said
from moderation_support import BAD, CALM, FAULTS
from test_filters import BLOCKED, CACHED, KEPT_S, model, only
from test_structured_output import record_of

import tokenwire
from moderation_services import moderation
from tokenwire.v1 import chat_pb2 as pb
from tokenwire.v1 import event_pb2
from tokenwire_server.simulator.words import generated_text

STOPPED = event_pb2.FINISH_REASON_STOP


@pytest.mark.parametrize("kind", ["openai", "http"])
@pytest.mark.parametrize("output", ["hold", "follow"])
async def test_a_clear_answer_is_shown_and_every_character_was_checked(
    moderating, moderated, kind, output
):
    api = moderating(kind=kind, output=output, api_key_env="MODERATION_KEY")
    events = await api.events(model(CALM * 3))
    assert said(events) == CALM * 3
    assert events[-1].finished.reason == STOPPED
    whole = CALM * 3
    expected = [whole[max(0, start - 5) : start + 20] for start in range(0, len(whole), 20)]
    assert sorted(moderated.service.texts) == sorted(expected)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_held_text_after_a_flagged_window_reaches_no_reader(
    moderating, moderated, simulator, provider
):
    api = moderating(output="hold")
    key = f"held-{provider}"
    name = model(CALM + BAD, provider, key=key, repeat="forever", itl_ms=2)
    events = await read(api.chat_stream(api.request(name, retention=KEPT_S)))
    shown = said(events)
    assert "violence" not in shown
    assert (CALM + BAD).startswith(shown)
    assert len(shown) % 20 == 0
    finished = events[-1].finished
    assert finished.reason == BLOCKED
    assert finished.provider_finish_reason == ""
    assert finished.usage.output_tokens > 0, "what the provider generated"
    assert said(await read(resume(api, events[0].started.stream_id))) == shown
    await asyncio.to_thread(simulator.wait_until_none_open, 5)
    assert simulator.request(key)["closed_at"]
    record = await record_of(api.channel, events[0].started.stream_id)
    assert [(each.name, each.action, each.count) for each in record.filters] == [("m", "block", 1)]
    assert record.partial


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_followed_text_ends_when_a_window_is_flagged(moderating, simulator, provider):
    api = moderating(output="follow")
    key = f"followed-{provider}"
    name = model(CALM + BAD, provider, key=key, repeat="forever", itl_ms=2)
    async with asyncio.timeout(30):
        events = await api.events(name)
    assert said(events).startswith(CALM + BAD)
    assert events[-1].finished.reason == BLOCKED
    await asyncio.to_thread(simulator.wait_until_none_open, 5)
    assert simulator.request(key)["closed_at"]


async def test_a_flagged_text_at_the_end_ends_the_answer_with_it(moderating):
    for output, expected in ("hold", ""), ("follow", "violence"):
        events = await moderating(output=output).events(model("violence"))
        assert said(events) == expected
        assert events[-1].finished.reason == BLOCKED


async def test_held_text_waits_only_for_its_check(moderating, moderated):
    api = moderating(output="hold")
    moderated.service.may_answer.clear()
    call = api.chat_stream(api.request(model(CALM, stall_after=8)), timeout=60)
    events = []

    async def read_on():
        async for event in call:
            events.append(event)  # noqa: PERF401  # they are looked at meanwhile

    reading = asyncio.create_task(read_on())
    await moderated.until_asked()
    await asyncio.sleep(0.3)
    assert said(events) == ""
    moderated.service.may_answer.set()
    async with asyncio.timeout(20):
        while said(events) != CALM:  # the last window ends after max_wait_s: the model is silent
            await asyncio.sleep(0.01)
    call.cancel()
    await asyncio.wait([reading])


async def test_slow_streams_are_shown_after_the_longest_wait_of_a_window(moderating):
    api = moderating(output="hold", window_chars=1000, max_wait_s=0.2)
    call = api.chat_stream(api.request(model("one two", stall_after=2)), timeout=60)
    shown = ""
    began = time.monotonic()
    async for event in call:
        shown += event.text.text
        if shown == "one two":
            break
    assert time.monotonic() - began < 20
    call.cancel()


@pytest.mark.parametrize("output", ["hold", "follow"])
async def test_a_slow_service_disturbs_no_limit_on_the_providers_silence(
    moderating, moderated, output
):
    """The provider has ended long before; each check takes longer than every limit."""
    env = {
        "TOKENWIRE_LIMITS__UPSTREAM_IDLE_S": "1",
        "TOKENWIRE_LIMITS__UPSTREAM_FIRST_CONTENT_S": "1",
        "TOKENWIRE_LIMITS__UPSTREAM_DRIP_S": "1",
    }
    api = moderating(env, output=output)
    moderated.service.delay_s = 1.4
    events = await api.events(model(CALM * 3, itl_ms=30))
    assert said(events) == CALM * 3
    assert events[-1].finished.reason == STOPPED


async def test_a_fast_provider_waits_for_room_and_is_not_silent_meanwhile(moderating, moderated):
    env = {"TOKENWIRE_LIMITS__UPSTREAM_IDLE_S": "1"}
    api = moderating(env, output="hold", window_chars=2000, overlap_chars=0)
    moderated.service.delay_s = 1.2
    events = await api.events("openai/sim?tokens=4000")
    text = "".join(generated_text(4000))
    assert len(text) > 6 * 2000, "more than what may wait"
    assert said(events) == text
    assert events[-1].finished.reason == STOPPED
    assert moderated.service.most_open <= 4


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("output", ["hold", "follow"])
async def test_an_answer_that_cannot_be_checked_fails_and_shows_nothing_that_was_held(
    moderating, moderated, simulator, fault, output
):
    api = moderating(output=output, timeout_s=0.5)
    moderated.service.answer = FAULTS[fault]
    if fault == "slow":
        moderated.service.may_answer.clear()
    key = f"unchecked-{fault}-{output}"
    call = api.chat_stream(
        api.request(model(CALM, key=key, repeat="forever", itl_ms=5), retention=KEPT_S), timeout=60
    )
    events = []
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for event in call:
            events.append(event)  # noqa: PERF401  # the call fails
    assert reason(caught.value) == "ANSWER_UNCHECKED"
    assert caught.value.code() is grpc.StatusCode.ABORTED
    assert info(caught.value).metadata["moderation"] == "m"
    assert int(info(caught.value).metadata["output_tokens"]) > 0, "it is billed"
    assert (said(events) == "") == (output == "hold")
    await asyncio.to_thread(simulator.wait_until_none_open, 5)
    assert simulator.request(key)["closed_at"]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read(resume(api, events[0].started.stream_id))
    assert reason(caught.value) == "ANSWER_UNCHECKED"


@pytest.mark.parametrize("output", ["hold", "follow"])
async def test_with_on_failure_open_text_passes_and_is_recorded_and_not_cached(
    moderating, moderated, output
):
    api = moderating(output=output, on_failure="open")
    moderated.service.answer = 500, b""
    events = await api.events(model(CALM), cache=CACHED)
    assert said(events) == CALM
    assert events[-1].finished.reason == STOPPED
    record = await record_of(api.channel, events[0].started.stream_id)
    assert [(each.name, each.action, each.count) for each in record.filters] == [
        ("m", "unchecked", 2)
    ]
    moderated.service.answer = None
    for expected in False, True:
        events = await api.events(model(CALM), cache=CACHED)
        assert events[0].started.from_cache == expected
        assert said(events) == CALM


async def test_a_flagged_answer_is_not_cached(moderating):
    api = moderating(output="hold")
    for _ in range(2):
        events = await api.events(model(CALM + BAD), cache=CACHED)
        assert not events[0].started.from_cache
        assert events[-1].finished.reason == BLOCKED


async def test_a_cancel_during_a_check_ends_both_and_shows_nothing_unchecked(
    moderating, moderated, simulator
):
    api = moderating(output="hold")
    moderated.service.may_answer.clear()
    key = "cancelled-check"
    name = model(CALM, key=key, repeat="forever", itl_ms=5)
    retention = pb.RetentionOptions(log_ttl={"seconds": 60}, on_disconnect=CONTINUE.on_disconnect)
    call = api.chat_stream(api.request(name, retention=retention), timeout=60)
    started = (await anext(aiter(call))).started
    await moderated.until_asked(2)
    aborted = moderated.service.aborted_count
    await api.cancel_stream(pb.CancelStreamRequest(stream_id=started.stream_id))
    await moderated.until_idle()
    assert moderated.service.aborted_count > aborted
    events = await read(resume(api, started.stream_id))
    assert said(events) == ""
    assert events[-1].finished.reason == event_pb2.FINISH_REASON_CANCELLED
    await asyncio.to_thread(simulator.wait_until_none_open, 5)


async def test_a_reader_that_leaves_during_a_check_ends_it(moderating, moderated, simulator):
    api = moderating(output="hold")
    moderated.service.may_answer.clear()
    call = api.chat_stream(api.request(model(CALM, repeat="forever", itl_ms=5)), timeout=60)
    await anext(aiter(call))
    await moderated.until_asked(2)
    call.cancel()
    await moderated.until_idle()
    await asyncio.to_thread(simulator.wait_until_none_open, 5)


async def test_the_streams_time_limit_also_bounds_the_checks_at_the_end(moderating, moderated):
    env = {"TOKENWIRE_LIMITS__MAX_STREAM_DURATION_S": "1"}
    api = moderating(env, output="hold")
    moderated.service.may_answer.clear()
    events = await api.events(model(CALM))
    assert said(events) == ""
    assert events[-1].finished.reason == event_pb2.FINISH_REASON_TIME_LIMIT
    await moderated.until_idle()


async def test_a_server_that_stops_waits_for_no_check(start, simulator, moderated, api_on):
    moderated.service.may_answer.clear()
    configured = {
        "m": moderation(
            moderated.service, output="hold", window_chars=20, overlap_chars=0, timeout_s=50
        )
    }
    env = {
        "TOKENWIRE_MODERATION": json.dumps(configured),
        "TOKENWIRE_DRAIN_GRACE_S": "1",
        "TOKENWIRE_DRAIN_ACCEPT_S": "0",
    }
    with start("serve", "--listen", "127.0.0.1:0", env=simulator.environ() | env) as (
        process,
        address,
    ):
        async with grpc.aio.insecure_channel(address) as channel:
            api = api_on(channel)
            call = api.chat_stream(api.request(model(CALM)), timeout=60)
            events = [await anext(aiter(call))]
            await moderated.until_asked()
            process.send_signal(signal.SIGTERM)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                async for event in call:
                    events.append(event)  # noqa: PERF401  # the call fails
            assert reason(caught.value) == "SERVER_STOPPED"
            assert said(events) == ""
            assert await asyncio.to_thread(process.wait, 20) == 0
        log = os.pread(process.log.fileno(), 2**20, 0).decode()
        assert "Traceback" not in log
        assert "was never retrieved" not in log


async def test_json_values_and_tool_calls_are_those_of_cleared_text(moderating):
    api = moderating(output="hold")
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    wanted = tokenwire.json_format("answer", schema)
    text = '{"a": "' + CALM + '"}'
    events = await api.events(model(text), response_format=wanted)
    assert said(events) == text
    assert only(events, "json_result") == [event_pb2.JsonResult(is_valid=True)]
    events = await api.events(model('{"a": "' + CALM + BAD + '"}'), response_format=wanted)
    assert events[-1].finished.reason == BLOCKED
    assert not only(events, "json_value")
    assert not only(events, "json_result")[-1].is_valid
