"""Moderation of answers: what callers read, and what happens when the service is slow or down, with a real server
and a real service.
"""

import asyncio
import json
import os
import signal
import time
from contextlib import ExitStack
from urllib.error import HTTPError

import grpc.aio
import pytest
from e2e_calls import CONTINUE, PROVIDERS, details, info, read, reason, resume, said
from test_filters import BLOCKED, CACHED, KEPT_S, model, only
from test_metrics import Scrape, url_of
from test_reload import Configured
from test_structured_output import record_of

import tokenwire
from moderation_services import moderation, moderation_thread
from server_process import completed
from tokenwire.v1 import chat_pb2 as pb
from tokenwire.v1 import event_pb2
from tokenwire_server.simulator.words import generated_text

STOPPED = event_pb2.FINISH_REASON_STOP
CALM = "all is calm and nothing happens here "
BAD = "then comes violence "


class Moderated:
    """Servers with a moderation each, at one service. They run until the end of the module."""

    def __init__(self, service, start, simulator, stack):
        self.service = service
        self._start, self._simulator, self._stack = start, simulator, stack
        self._servers = {}

    def server(self, env=None, **settings):
        """Return the process and the address of a server with a moderation `m`."""
        key = json.dumps([settings, env])
        if key not in self._servers:
            settings = {"window_chars": 20, "overlap_chars": 5, "timeout_s": 30.0, **settings}
            configured = {"m": moderation(self.service, **settings)}
            env = {"TOKENWIRE_MODERATION": json.dumps(configured)} | (env or {})
            env = self._simulator.environ() | {"MODERATION_KEY": "k"} | env
            self._servers[key] = self._stack.enter_context(
                self._start("serve", "--listen", "127.0.0.1:0", env=env)
            )
        return self._servers[key]

    async def until_asked(self, count=1):
        """Wait until as many checks are open."""
        async with asyncio.timeout(20):
            while self.service.open_count < count:
                await asyncio.sleep(0.01)

    async def until_idle(self):
        async with asyncio.timeout(20):
            while self.service.open_count:
                await asyncio.sleep(0.01)


@pytest.fixture(scope="module")
def servers(start, simulator):
    with moderation_thread() as service, ExitStack() as stack:
        yield Moderated(service, start, simulator, stack)


@pytest.fixture
def moderated(servers):
    servers.service.reset()
    servers.service.words = {"violence": "violence"}
    yield servers
    servers.service.may_answer.set()


@pytest.fixture
async def connect(moderated, api_on):
    """Returns a stub of a server with a moderation."""
    channels = []

    def connected(env=None, **settings):
        _, address = moderated.server(env, **settings)
        channels.append(grpc.aio.insecure_channel(address))
        api = api_on(channels[-1])
        api.channel = channels[-1]
        return api

    yield connected
    for channel in channels:
        await channel.close()


@pytest.mark.parametrize("kind", ["openai", "http"])
@pytest.mark.parametrize("output", ["hold", "follow"])
async def test_a_clear_answer_is_shown_and_every_character_was_checked(
    connect, moderated, kind, output
):
    api = connect(kind=kind, output=output, api_key_env="MODERATION_KEY")
    events = await api.events(model(CALM * 3))
    assert said(events) == CALM * 3
    assert events[-1].finished.reason == STOPPED
    whole = CALM * 3
    expected = [whole[max(0, start - 5) : start + 20] for start in range(0, len(whole), 20)]
    assert sorted(moderated.service.texts) == sorted(expected)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_held_text_after_a_flagged_window_reaches_no_reader(
    connect, moderated, simulator, provider
):
    api = connect(output="hold")
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
async def test_followed_text_ends_when_a_window_is_flagged(connect, simulator, provider):
    api = connect(output="follow")
    key = f"followed-{provider}"
    name = model(CALM + BAD, provider, key=key, repeat="forever", itl_ms=2)
    async with asyncio.timeout(30):
        events = await api.events(name)
    assert said(events).startswith(CALM + BAD)
    assert events[-1].finished.reason == BLOCKED
    await asyncio.to_thread(simulator.wait_until_none_open, 5)
    assert simulator.request(key)["closed_at"]


async def test_a_flagged_text_at_the_end_ends_the_answer_with_it(connect):
    for output, expected in ("hold", ""), ("follow", "violence"):
        events = await connect(output=output).events(model("violence"))
        assert said(events) == expected
        assert events[-1].finished.reason == BLOCKED


async def test_held_text_waits_only_for_its_check(connect, moderated):
    api = connect(output="hold")
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


async def test_slow_streams_are_shown_after_the_longest_wait_of_a_window(connect):
    api = connect(output="hold", window_chars=1000, max_wait_s=0.2)
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
    connect, moderated, output
):
    """The provider has ended long before; each check takes longer than every limit."""
    env = {
        "TOKENWIRE_LIMITS__UPSTREAM_IDLE_S": "0.5",
        "TOKENWIRE_LIMITS__UPSTREAM_FIRST_CONTENT_S": "0.5",
        "TOKENWIRE_LIMITS__UPSTREAM_DRIP_S": "0.5",
    }
    api = connect(env, output=output)
    moderated.service.delay_s = 0.8
    events = await api.events(model(CALM * 3, itl_ms=30))
    assert said(events) == CALM * 3
    assert events[-1].finished.reason == STOPPED


async def test_a_fast_provider_waits_for_room_and_is_not_silent_meanwhile(connect, moderated):
    env = {"TOKENWIRE_LIMITS__UPSTREAM_IDLE_S": "0.5"}
    api = connect(env, output="hold", window_chars=2000, overlap_chars=0)
    moderated.service.delay_s = 0.7
    events = await api.events("openai/sim?tokens=8000")
    text = "".join(generated_text(8000))
    assert len(text) > 2 * 8 * 2000, "more than what may wait"
    assert said(events) == text
    assert events[-1].finished.reason == STOPPED
    assert moderated.service.most_open <= 4


FAULTS = {"down": (503, b""), "garbage": (200, b"<html>"), "slow": None}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("output", ["hold", "follow"])
async def test_an_answer_that_cannot_be_checked_fails_and_shows_nothing_that_was_held(
    connect, moderated, simulator, fault, output
):
    api = connect(output=output, timeout_s=0.5)
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
    connect, moderated, output
):
    api = connect(output=output, on_failure="open")
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


async def test_a_flagged_answer_is_not_cached(connect):
    api = connect(output="hold")
    for _ in range(2):
        events = await api.events(model(CALM + BAD), cache=CACHED)
        assert not events[0].started.from_cache
        assert events[-1].finished.reason == BLOCKED


async def test_a_cancel_during_a_check_ends_both_and_shows_nothing_unchecked(
    connect, moderated, simulator
):
    api = connect(output="hold")
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


async def test_a_reader_that_leaves_during_a_check_ends_it(connect, moderated, simulator):
    api = connect(output="hold")
    moderated.service.may_answer.clear()
    call = api.chat_stream(api.request(model(CALM, repeat="forever", itl_ms=5)), timeout=60)
    await anext(aiter(call))
    await moderated.until_asked(2)
    call.cancel()
    await moderated.until_idle()
    await asyncio.to_thread(simulator.wait_until_none_open, 5)


async def test_the_streams_time_limit_also_bounds_the_checks_at_the_end(connect, moderated):
    env = {"TOKENWIRE_LIMITS__MAX_STREAM_DURATION_S": "1"}
    api = connect(env, output="hold")
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
        "TOKENWIRE_DRAIN_GRACE_S": "0.5",
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


async def test_json_values_and_tool_calls_are_those_of_cleared_text(connect):
    api = connect(output="hold")
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


async def test_metrics_and_the_log_count_checks_without_their_text(
    start, simulator, moderated, api_on
):
    configured = {
        name: moderation(moderated.service, output=output, window_chars=20, overlap_chars=0)
        for name, output in (("one", "hold"), ("two", "follow"))
    }
    env = {
        "TOKENWIRE_MODERATION": json.dumps(configured),
        "TOKENWIRE_METRICS_LISTEN": "127.0.0.1:0",
    }
    command = ("serve", "--listen", "127.0.0.1:0")
    with start(*command, env=simulator.environ() | env) as (process, address):
        async with grpc.aio.insecure_channel(address) as channel:
            api = api_on(channel)
            await api.events(model(CALM))
            await api.events(model("violence"))
            moderated.service.answer = 500, b"violence"
            with pytest.raises(grpc.aio.AioRpcError):
                await api.events(model("something else"))
        scrape = await asyncio.to_thread(Scrape, url_of(process))
        assert scrape.by("moderation_check_seconds_count", "moderation", "result") == {
            ("one", "clear"): 2,
            ("two", "clear"): 2,
            ("one", "flagged"): 1,
            ("one", "failed"): 1,
        }
        assert scrape.by("filter_actions_total", "filter", "action") == {("one", "block"): 1}
        log = os.pread(process.log.fileno(), 2**20, 0).decode()
        assert "filters acted: one (block)" in log
        assert "moderation one fails: it answered with status 500" in log
        own = [line for line in log.splitlines() if "stream ended" not in line]  # it has the model
        assert not any("violence" in line or "something" in line for line in own)


async def test_a_reload_replaces_the_moderation_and_what_was_cached(
    start, simulator, tmp_path, api_on, moderated
):
    def configuration(**fields):
        lines = (f"{name} = {json.dumps(value)}" for name, value in fields.items())
        return "[moderation.m]\n" + "\n".join(lines) + "\n"

    path = tmp_path / "tokenwire.toml"
    path.write_text("")
    command = ("serve", "--listen", "127.0.0.1:0", "--config", str(path))
    asked = model("violence", key="reloaded-moderation")
    with start(*command, env=simulator.environ()) as (process, address):
        server = Configured(path, process, address)
        async with grpc.aio.insecure_channel(address) as channel:
            api = api_on(channel)
            assert said(await api.events(asked, cache=CACHED)) == "violence"
            assert (await api.events(asked, cache=CACHED))[0].started.from_cache
            fields = moderation(moderated.service, output="hold")
            line = await server.reload(configuration(**fields))
            assert "moderation.m" in line
            events = await api.events(asked, cache=CACHED)
            assert not events[0].started.from_cache
            assert events[-1].finished.reason == BLOCKED
            broken = configuration(**fields, api_key_env="MISSING")
            line = await server.reload(broken, "the configuration was not reloaded")
            assert "moderation.m.api_key_env: the variable MISSING is not set" in line
            assert (await api.events(asked))[-1].finished.reason == BLOCKED


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        (
            'service = "openai"',
            'moderation.m: checks nothing: set input = true, or output to another value than "off"',
        ),
        ('service = "http"\ninput = true', 'moderation.m.url: is needed with service = "http"'),
        (
            'service = "http"\nurl = "http://x"\ninput = true\nmodel = "a"',
            'moderation.m.model: cannot be used with service = "http"',
        ),
        (
            'service = "openai"\nurl = "http://x"\ninput = true',
            'moderation.m.url: cannot be used with service = "openai"',
        ),
        (
            'service = "openai"\ninput = true\napi_key_env = "MISSING"',
            "moderation.m.api_key_env: the variable MISSING is not set",
        ),
        (
            'service = "openai"\noutput = "hold"\noverlap_chars = 1000',
            "moderation.m.overlap_chars: must be less than window_chars, which is 1000",
        ),
    ],
)
def test_a_moderation_that_cannot_be_used_is_an_error_at_the_start(
    simulator, tmp_path, settings, fault
):
    path = tmp_path / "tokenwire.toml"
    path.write_text(f"[moderation.m]\n{settings}\n")
    result = completed(
        "serve", "--listen", "127.0.0.1:0", "--config", path, env=simulator.environ()
    )
    assert result.returncode == 1
    assert fault in result.stderr


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
    connect, moderated, simulator, kind
):
    api = connect(kind=kind, input=True, api_key_env="MODERATION_KEY")
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
    connect, moderated, simulator, fault
):
    settings = {"input": True, "timeout_s": 0.3, "input_timeout_s": 1.0}
    moderated.service.answer = FAULTS[fault]
    if fault == "slow":
        moderated.service.may_answer.clear()
    api, key = connect(**settings), f"input-{fault}"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read(api.chat_stream(request_to(api, key, "hello")))
    assert reason(caught.value) == "MODERATION_UNAVAILABLE"
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert info(caught.value).metadata["moderation"] == "m"
    assert details(caught.value)["RetryInfo"].retry_delay.ToMilliseconds() == 1000
    assert not is_sent(simulator, key)
    api = connect(**settings, on_failure="open")
    events = await read(api.chat_stream(request_to(api, key, "hello")))
    assert said(events) == "fine"
    record = await record_of(api.channel, events[0].started.stream_id)
    assert [(each.name, each.action, each.count) for each in record.filters] == [
        ("m", "unchecked", 1)
    ]


async def test_a_caller_that_leaves_during_the_check_of_its_request_ends_it(
    connect, moderated, simulator
):
    api = connect(input=True)
    moderated.service.may_answer.clear()
    call = api.chat_stream(request_to(api, "left-early", "hello"))
    reading = asyncio.create_task(read(call))
    await moderated.until_asked()
    call.cancel()
    await asyncio.wait([reading])
    await moderated.until_idle()
    assert moderated.service.aborted_count == 1
    assert not is_sent(simulator, "left-early")


async def test_a_cached_answer_is_not_replayed_to_a_flagged_request(connect, moderated):
    api = connect(input=True)
    moderated.service.words = {}
    for from_cache in False, True:
        events = await read(api.chat_stream(request_to(api, "c", "violence", cache=CACHED)))
        assert events[0].started.from_cache == from_cache
    moderated.service.words = {"violence": "violence"}
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read(api.chat_stream(request_to(api, "c", "violence", cache=CACHED)))
    assert reason(caught.value) == "INVALID_REQUEST"
