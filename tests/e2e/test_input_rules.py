"""Content filters on input, with a real server: the error that callers get, and that nothing is sent."""

import asyncio
import json
import os

import grpc
import grpc.aio
import pytest
from e2e_calls import PROVIDERS, details, read, reason, said, usage_records
from test_metrics import Scrape, url_of
from test_reload import Configured
from test_structured_output import record_of

import tokenwire
from tokenwire.v1 import chat_pb2 as pb
from tokenwire.v1 import chat_pb2_grpc, event_pb2

FILTERS = {
    "seen": {"action": "report", "words": ["harmless"], "applies_to": ["text", "input"]},
    "secrets": {
        "action": "block",
        "patterns": ["abc", r"top\s+secret"],
        "ready_made": ["email"],
        "applies_to": ["input"],
    },
    "both": {"action": "block", "words": ["never"], "applies_to": ["text", "input"]},
    "answers": {"action": "block", "words": ["answered"]},
    "alias": {"action": "block", "words": ["token"], "models": ["fast"], "applies_to": ["input"]},
}
MODELS = {"fast": {"target": "openai/sim?text=fine"}}
SECRET = "this is top secret"
RULE = "is blocked by filters.secrets.patterns[1]"
PLAIN = "openai/sim?text=fine"


def user(*texts):
    return pb.Message(role=pb.ROLE_USER, parts=[pb.Part(text=text) for text in texts])


@pytest.fixture(scope="module")
def screening(start, own_simulator):
    """A server with FILTERS: its process, its address, and its simulator."""
    with own_simulator() as simulator:
        env = simulator.environ() | {
            "TOKENWIRE_FILTERS": json.dumps(FILTERS),
            "TOKENWIRE_MODELS": json.dumps(MODELS),
            "TOKENWIRE_METRICS_LISTEN": "127.0.0.1:0",
        }
        with start("serve", "--listen", "127.0.0.1:0", env=env) as (process, address):
            yield process, address, simulator


@pytest.fixture
async def channel(screening):
    async with grpc.aio.insecure_channel(screening[1]) as channel:
        yield channel


@pytest.fixture
def api(channel, api_on):
    return api_on(channel)


@pytest.fixture
def request_count(screening):
    """Returns how many requests the provider has got."""
    return lambda: asyncio.to_thread(lambda: screening[2].stats()["requests_total"])


async def refusal(call):
    """Return the violations of a refused call as (path, description), and its whole status as text."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await (read(call) if hasattr(call, "__aiter__") else call)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason(refused.value) == "INVALID_REQUEST"
    violations = details(refused.value)["BadRequest"].field_violations
    found = [(each.field, each.description) for each in violations]
    return found, f"{refused.value.details()} {refused.value.trailing_metadata()}"


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_blocked_request_is_refused_and_never_sent(api, request_count, provider):
    before = await request_count()
    messages = [pb.Message(role=pb.ROLE_SYSTEM, parts=[pb.Part(text=SECRET)]), user("hello")]
    request = api.request(f"{provider}/sim?text=fine", messages=messages)
    for call in api.chat_stream(request), api.chat(request):
        found, status = await refusal(call)
        assert found == [("messages[0].parts[0].text", RULE)]
        assert "top secret" not in status
    assert await request_count() == before
    assert said(await api.events(f"{provider}/sim?text=fine")) == "fine"
    assert await request_count() == before + 1


async def test_every_kind_of_text_is_searched(api, request_count):
    before = await request_count()
    call = event_pb2.ToolCall(id="c", name="add", arguments_json='{"a":"top\\u0020secret"}')
    result = pb.ToolResult(tool_call_id="c", text="top secret", parts=[pb.Part(text=SECRET)])
    document = pb.Document(data=SECRET.encode(), media_type="text/plain", title="me@example.org")
    request = api.request(
        "anthropic/sim?text=fine",
        messages=[
            pb.Message(role=pb.ROLE_USER, parts=[pb.Part(text="a"), pb.Part(document=document)]),
            pb.Message(
                role=pb.ROLE_ASSISTANT,
                parts=[
                    pb.Part(reasoning=pb.Reasoning(text=SECRET, signature="s")),
                    pb.Part(tool_call=call),
                ],
            ),
            pb.Message(role=pb.ROLE_TOOL, parts=[pb.Part(tool_result=result)]),
        ],
        tools=[
            pb.Tool(
                name="abc",
                description=SECRET,
                parameters_json_schema='{"type":"object","description":"top secret"}',
            )
        ],
    )
    found, _ = await refusal(api.chat_stream(request))
    assert found == [
        ("messages[0].parts[1].document.title", "is blocked by filters.secrets.ready_made: email"),
        ("messages[0].parts[1].document.data", RULE),
        ("messages[1].parts[0].reasoning.text", RULE),
        ("messages[1].parts[1].tool_call.arguments_json", RULE),
        ("messages[2].parts[0].tool_result.text", RULE),
        ("messages[2].parts[0].tool_result.parts[0].text", RULE),
        ("tools[0].name", "is blocked by filters.secrets.patterns[0]"),
        ("tools[0].description", RULE),
        ("tools[0].parameters_json_schema", RULE),
    ]
    schema = tokenwire.json_format("answer", {"type": "object", "description": SECRET})
    found, _ = await refusal(api.chat(api.request(PLAIN, response_format=schema)))
    assert found == [("response_format.json_schema.schema_json", RULE)]
    request = api.request("openai/sim?text=fine")
    request.provider_options.update({"metadata": {"note": SECRET}})
    assert (await refusal(api.chat(request)))[0] == [("provider_options", RULE)]
    assert await request_count() == before


async def test_a_match_does_not_span_texts_of_a_large_prompt(api):
    half = "word " * 100_000
    assert said(await api.events(PLAIN, messages=[user(half + "top ", "secret" + half)])) == "fine"
    found, _ = await refusal(
        api.chat_stream(api.request(PLAIN, messages=[user(half, half + SECRET + half)]))
    )
    assert found == [("messages[0].parts[1].text", RULE)]


async def test_only_so_many_violations_are_listed(api):
    found, status = await refusal(api.chat(api.request(PLAIN, messages=[user(*[SECRET] * 50)])))
    listed = [(f"messages[0].parts[{i}].text", RULE) for i in range(10)]
    assert found == [*listed, ("", "checking stopped here: there may be more violations")]
    assert "at least 9 more" in status


async def test_one_filter_may_apply_to_both_directions(api):
    found, _ = await refusal(api.chat(api.request(PLAIN, prompt="never")))
    assert found == [("messages[0].parts[0].text", "is blocked by filters.both.words")]
    events = await api.events("openai/sim?text=one%20never%20two")
    assert said(events) == "one "
    assert events[-1].finished.reason == event_pb2.FINISH_REASON_CONTENT_FILTER


async def test_a_filter_of_answers_does_not_search_requests(api):
    assert said(await api.events(PLAIN, prompt="answered")) == "fine"


async def test_a_filter_of_an_alias_leaves_other_names_alone(api):
    await refusal(api.chat(api.request("fast", prompt="a token")))
    assert said(await api.events(PLAIN, prompt="a token")) == "fine"


async def test_counting_tokens_searches_what_is_sent_to_the_provider(api, channel, request_count):
    count = chat_pb2_grpc.ChatServiceStub(channel).CountTokens
    request = api.request("anthropic/sim?text=fine", prompt=SECRET)
    assert (await count(request)).input_tokens > 0
    before = await request_count()
    request.token_counting = pb.TOKEN_COUNTING_PROVIDER
    found, _ = await refusal(count(request))
    assert found == [("messages[0].parts[0].text", RULE)]
    assert await request_count() == before


async def test_reports_of_both_directions_are_one_entry_of_the_usage_record(api, channel):
    events = await api.events("openai/sim?text=all%20harmless", prompt="harmless, so harmless")
    record = await record_of(channel, events[0].started.stream_id)
    assert [(each.name, each.action, each.count) for each in record.filters] == [
        ("seen", "report", 3)
    ]


async def test_refusals_are_counted_and_logged_without_a_record(screening, api, channel):
    def counts():
        return Scrape(url_of(screening[0])).by("filter_actions_total", "filter", "action")

    before, records = await asyncio.to_thread(counts), len(await usage_records(channel))
    messages = [user("harmless", SECRET, "harmless", SECRET)]
    await refusal(api.chat(api.request(PLAIN, messages=messages)))
    after = await asyncio.to_thread(counts)
    grown = {key: after[key] - before.get(key, 0) for key in after}
    assert {key: grown[key] for key in grown if grown[key]} == {
        ("seen", "report"): 2,
        ("secrets", "block"): 2,
    }
    assert len(await usage_records(channel)) == records
    log = os.pread(screening[0].log.fileno(), 2**22, 0).decode()
    assert "filters acted: seen (report), secrets (block)" in log
    assert "top secret" not in log


async def test_a_refused_request_counts_as_a_request_and_nothing_else(serving, simulator):
    limits = {
        "acme": {"requests_per_minute": 3, "tokens_per_minute": 1000, "concurrent_streams": 1}
    }
    env = {
        "TOKENWIRE_TENANTS": json.dumps(limits),
        "TOKENWIRE_FILTERS": json.dumps(FILTERS),
        "TOKENWIRE_MODELS": json.dumps(MODELS),
    }
    with serving(simulator, **env) as tenancy:
        await tenancy.taken(tenancy.acme)
        async with tenancy.api(tenancy.acme) as api:
            short = pb.GenerationConfig(max_output_tokens=10)
            long = "word " * 700
            for _ in range(2):
                request = api.request(PLAIN, prompt=long + SECRET, generation=short)
                await refusal(api.chat(request))
            assert said(await api.events(PLAIN, prompt=long, generation=short)) == "fine"
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await api.chat(api.request(PLAIN, prompt=SECRET, generation=short))
            assert reason(refused.value) == "RATE_LIMITED"


async def test_a_reload_replaces_the_rules(start, simulator, tmp_path, api_on):
    def configuration(word):
        return f'[filters.one]\naction = "block"\nwords = ["{word}"]\napplies_to = ["input"]\n'

    path = tmp_path / "tokenwire.toml"
    path.write_text(configuration("first"))
    command = ("serve", "--listen", "127.0.0.1:0", "--config", str(path))
    with start(*command, env=simulator.environ()) as (process, address):
        server = Configured(path, process, address)
        async with grpc.aio.insecure_channel(address) as channel:
            api = api_on(channel)
            await refusal(api.chat(api.request(PLAIN, prompt="first")))
            await server.reload(configuration("second"))
            assert said(await api.events(PLAIN, prompt="first")) == "fine"
            await refusal(api.chat(api.request(PLAIN, prompt="second")))
