"""Content filters: what callers read, what the provider notices, and what is cached, with a real server."""

import asyncio
import json
import os
import time
from urllib.parse import quote

import grpc.aio
import pytest
from e2e_calls import PROVIDERS, read, resume, said
from test_metrics import Scrape, url_of
from test_reload import Configured
from test_structured_output import record_of

import tokenwire
from server_process import completed
from tokenwire.v1 import chat_pb2 as pb
from tokenwire.v1 import event_pb2

MODELS = {"fast": {"target": "openai/sim?text=a%20token"}}
FILTERS = {
    "secrets": {"action": "redact", "patterns": [r"top\s+secret"]},
    "stop": {"action": "block", "patterns": ["stop (here|there)s?"], "hold_s": 0.2},
    "seen": {"action": "report", "words": ["harmless"]},
    "calls": {
        "action": "redact",
        "patterns": ["Berlin|[0-9]{5}"],
        "applies_to": ["tool_arguments"],
    },
    "thoughts": {"action": "redact", "patterns": ["hidden"], "applies_to": ["reasoning"]},
    "alias": {"action": "redact", "patterns": ["token"], "models": ["fast"]},
}
BLOCKED = event_pb2.FINISH_REASON_CONTENT_FILTER
KEPT_S = pb.RetentionOptions(log_ttl={"seconds": 60})
CACHED = pb.CacheOptions(mode=pb.CACHE_MODE_READ_WRITE)
ADD = pb.Tool(name="add", parameters_json_schema='{"type":"object"}')


def model(text, provider="openai", **fields):
    options = "&".join(f"{name}={quote(str(value))}" for name, value in fields.items())
    return f"{provider}/sim?text={quote(text)}&{options}".rstrip("&")


def only(events, kind):
    """Return the events of a kind."""
    return [getattr(event, kind) for event in events if event.HasField(kind)]


@pytest.fixture(scope="module")
def filtering(start, simulator):
    """Address of a server with FILTERS."""
    env = {"TOKENWIRE_FILTERS": json.dumps(FILTERS), "TOKENWIRE_MODELS": json.dumps(MODELS)}
    with start("serve", "--listen", "127.0.0.1:0", env=simulator.environ() | env) as (_, address):
        yield address


@pytest.fixture
async def api(filtering, api_on):
    async with grpc.aio.insecure_channel(filtering) as channel:
        yield api_on(channel)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_redacted_text_reaches_no_reader(api, provider):
    request = api.request(model("this is top secret, top secrets", provider), retention=KEPT_S)
    events = await read(api.chat_stream(request))
    stream_id = events[0].started.stream_id
    expected = "this is [redacted], [redacted]s"
    assert said(events) == expected
    assert events[-1].finished.reason == event_pb2.FINISH_REASON_STOP
    assert said(await read(resume(api, stream_id))) == expected
    for event in events[:-1]:
        rest = await read(resume(api, stream_id, event.sequence))
        assert said(rest) == said(e for e in events if e.sequence > event.sequence)
    whole = await api.chat(request)
    assert "".join(part.text for part in whole.message.parts) == expected


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_blocked_answer_ends_there_and_the_provider_is_cancelled(api, simulator, provider):
    key = f"blocked-{provider}"
    text = "one two stop here three "
    events = await api.events(model(text, provider, key=key, repeat="forever", itl_ms=2))
    assert said(events) == "one two "
    finished = events[-1].finished
    assert finished.reason == BLOCKED
    assert finished.provider_finish_reason == ""
    assert finished.usage.output_tokens >= 4, "what the provider generated"
    await asyncio.to_thread(simulator.wait_until_none_open, 5)
    assert simulator.request(key)["closed_at"]


async def test_a_match_at_the_end_of_the_answer_is_blocked(api):
    events = await api.events(model("one stop there"))
    assert said(events) == "one "
    assert events[-1].finished.reason == BLOCKED


async def test_a_report_changes_nothing(api):
    events = await api.events(model("all harmless here"))
    assert said(events) == "all harmless here"
    assert events[-1].finished.reason == event_pb2.FINISH_REASON_STOP


async def test_text_that_waits_is_released_when_the_model_pauses(api, simulator):
    events = []
    call = api.chat_stream(api.request(model("one top secret", stall_after=2)), timeout=20)
    began = time.monotonic()
    async for event in call:
        events.append(event)
        if said(events) == "one top":
            break
    call.cancel()
    assert 0.9 < time.monotonic() - began < 10


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_match_that_is_released_ends_the_answer_at_once(api, simulator, provider):
    key = f"released-{provider}"
    began = time.monotonic()
    events = await api.events(model("one stop here two", provider, key=key, stall_after=3))
    assert said(events) == "one "
    assert events[-1].finished.reason == BLOCKED
    assert time.monotonic() - began < 10, "the provider is silent"
    await asyncio.to_thread(simulator.wait_until_none_open, 5)
    assert simulator.request(key)["closed_at"]


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_call_and_its_fragments_are_redacted(api, provider):
    arguments = '{"city": "Berlin"}'
    name = f"{provider}/sim?tools=2&tokens=1&arguments={quote(arguments)}"
    events = await api.events(name, tools=[ADD])
    calls = only(events, "tool_call")
    assert [call.tool_call.arguments_json for call in calls] == ['{"city": "[redacted]"}'] * 2
    for call in calls:
        fragments = [d for d in only(events, "tool_call_delta") if d.index == call.index]
        assert "".join(d.arguments_json for d in fragments) == call.tool_call.arguments_json


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_call_without_its_arguments_is_invalid(api, provider):
    arguments = '{"a": 12345}'
    name = f"{provider}/sim?tools=1&tokens=1&arguments={quote(arguments)}"
    events = await api.events(name, tools=[ADD])
    (invalid,) = only(events, "invalid_tool_call")
    assert invalid.problem == "a content filter changed the arguments"
    assert invalid.arguments_text == '{"a": [redacted]}'
    assert not only(events, "tool_call")
    assert events[-1].finished.reason == event_pb2.FINISH_REASON_INVALID_TOOL_CALLS


async def test_redacted_reasoning_has_no_signature(api):
    for text, expected in ("hidden thoughts", "[redacted] thoughts"), ("thoughts", "thoughts"):
        name = f"anthropic/sim?tokens=2&state=anthropic&reasoning_text={quote(text)}"
        events = await api.events(name)
        assert said(events, "reasoning") == expected
        has_signature = any(r.signature or r.provider_state for r in only(events, "reasoning"))
        assert has_signature == (text == expected)


async def test_json_values_are_those_of_the_redacted_text(api):
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    wanted = tokenwire.json_format("answer", schema)
    events = await api.events(model('{"a": "top secret"}'), response_format=wanted)
    assert [v.value_json for v in only(events, "json_value")] == [
        '"[redacted]"',
        '{"a": "[redacted]"}',
    ]
    assert only(events, "json_result") == [event_pb2.JsonResult(is_valid=True)]


async def test_a_filter_of_an_alias_leaves_other_names_alone(api):
    assert said(await api.events("fast")) == "a [redacted]"
    assert said(await api.events("openai/sim?text=a%20token")) == "a token"


async def test_the_usage_record_says_which_filters_acted_and_how_often(api, filtering):
    text = "harmless: top secret, top secret, "
    events = {
        what: await api.events(model(text + end))
        for what, end in (("redacted", "go on"), ("blocked", "stop here and there"))
    }
    plain = await api.events(model("nothing"))
    async with grpc.aio.insecure_channel(filtering) as channel:
        redacted, blocked, nothing = [
            await record_of(channel, each[0].started.stream_id)
            for each in (events["redacted"], events["blocked"], plain)
        ]
    acted = [("secrets", "redact", 2), ("seen", "report", 1)]
    assert [(each.name, each.action, each.count) for each in redacted.filters] == acted
    assert not redacted.partial
    acted.insert(1, ("stop", "block", 1))
    assert [(each.name, each.action, each.count) for each in blocked.filters] == acted
    assert blocked.reason == "CONTENT_FILTER"
    assert blocked.partial
    assert not nothing.filters


async def test_metrics_and_the_log_say_which_filters_acted(start, simulator, api_on):
    env = {
        "TOKENWIRE_FILTERS": json.dumps(FILTERS),
        "TOKENWIRE_MODELS": json.dumps(MODELS),
        "TOKENWIRE_METRICS_LISTEN": "127.0.0.1:0",
    }
    command = ("serve", "--listen", "127.0.0.1:0")
    with start(*command, env=simulator.environ() | env) as (process, address):
        async with grpc.aio.insecure_channel(address) as channel:
            api = api_on(channel)
            await api.events(model("nothing of that"))
            await api.events(model("harmless: top secret, top secret, stop here"))
        scrape = await asyncio.to_thread(Scrape, url_of(process))
        assert scrape.by("filter_actions_total", "filter", "action") == {
            ("secrets", "redact"): 2,
            ("stop", "block"): 1,
            ("seen", "report"): 1,
        }
        log = os.pread(process.log.fileno(), 2**20, 0).decode()
        (line,) = [line for line in log.splitlines() if "filters acted" in line]
        assert line.endswith("filters acted: secrets (redact), stop (block), seen (report)")


async def test_filters_belong_to_tenants(serving, simulator):
    filters = {"acme": {"action": "redact", "words": ["secret"], "tenants": ["acme"]}}
    with serving(simulator, TOKENWIRE_FILTERS=json.dumps(filters)) as tenancy:
        for key, expected in (tenancy.acme, "a [redacted] b"), (tenancy.globex, "a secret b"):
            await tenancy.taken(key)
            async with tenancy.api(key) as api:
                assert said(await api.events(model("a secret b"), cache=CACHED)) == expected
                again = await api.events(model("a secret b"), cache=CACHED)
                assert again[0].started.from_cache
                assert said(again) == expected


async def test_a_reload_replaces_the_filters_and_what_was_cached_with_others(
    start, simulator, tmp_path, api_on
):
    def configuration(word, replacement="***"):
        return (
            f'[filters.one]\naction = "redact"\nwords = ["{word}"]\nreplacement = "{replacement}"\n'
        )

    path = tmp_path / "tokenwire.toml"
    path.write_text(configuration("first"))
    command = ("serve", "--listen", "127.0.0.1:0", "--config", str(path))
    asked = model("first second third", key="reloaded-filters")
    with start(*command, env=simulator.environ()) as (process, address):
        server = Configured(path, process, address)
        async with grpc.aio.insecure_channel(address) as channel:
            api = api_on(channel)
            assert said(await api.events(asked, cache=CACHED)) == "*** second third"
            assert (await api.events(asked, cache=CACHED))[0].started.from_cache
            line = await server.reload(configuration("second"))
            assert line.endswith("changed: filters.one.words")
            events = await api.events(asked, cache=CACHED)
            assert not events[0].started.from_cache
            assert said(events) == "first *** third"
            broken = '[filters.one]\naction = "block"\npatterns = ["(a"]\n'
            line = await server.reload(broken, "the configuration was not reloaded")
            assert "filters.one.patterns[0]: column 1: " in line
            assert said(await api.events(model("first second"))) == "first ***"


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        (
            "patterns = ['a', 'bcde(?=f)']",
            "filters.secrets.patterns[1]: column 5: look-ahead is not supported",
        ),
        (
            "words = ['a']\nmodels = ['openai/gpt-5', 'fats']",
            "filters.secrets.models[1]: 'fats' is neither an alias nor provider/model of one of",
        ),
    ],
    ids=["pattern", "model"],
)
def test_a_filter_that_cannot_be_used_is_an_error_at_the_start(
    simulator, tmp_path, settings, fault
):
    path = tmp_path / "tokenwire.toml"
    path.write_text(f"[filters.secrets]\naction = 'redact'\n{settings}\n")
    result = completed(
        "serve", "--listen", "127.0.0.1:0", "--config", path, env=simulator.environ()
    )
    assert result.returncode == 1
    assert fault in result.stderr
