"""Fallbacks to other models, named by the request or by the configuration."""

import pytest
from e2e_calls import PROVIDERS, details, reason, said
from priced_support import budget, calling, model, priced, record_of, refused

from tokenwire.v1 import chat_pb2, event_pb2

DOWN = "openai/sim?status=401"
TOP_K = chat_pb2.GenerationConfig(top_k=5)


@pytest.fixture(scope="module")
def address(start, simulator, tmp_path_factory):
    tables = [
        model("whole", "anthropic/sim?tokens=5"),
        model("dear", "openai/sim?tokens=5", "{ input = 900000, output = 900000 }"),
        model("down", DOWN) + 'fallbacks = ["openai/sim", "whole"]\n',
        model("claude", "anthropic/sim?status=401") + 'fallbacks = ["openai/sim", "whole"]\n',
    ]
    with priced(start, simulator, tmp_path_factory.mktemp("fallbacks"), *tables) as (_, address):
        yield address


@pytest.fixture
async def api(api_on, address):
    async with calling(api_on, address) as api:
        yield api


def notices(events):
    found = [(event.sequence, event.notice) for event in events if event.HasField("notice")]
    return [(s, n.kind, n.provider, n.attempt) for s, n in found]


@pytest.mark.parametrize("first", PROVIDERS)
@pytest.mark.parametrize("second", PROVIDERS)
@pytest.mark.parametrize("fault", ["status=401", "error_event_after=0"])
async def test_another_model_answers_if_the_first_one_fails_before_its_content(
    api, first, second, fault
):
    target = f"{second}/sim?tokens=5"
    events = await api.events(f"{first}/sim?{fault}", fallback_models=[target])
    last = [
        (event.notice.kind, event.notice.provider) for event in events if event.HasField("notice")
    ][-1]
    assert last == (event_pb2.NOTICE_KIND_FALLBACK, second)
    expected = await api.events(target)
    assert said(events) == said(expected)
    assert events[0].started.provider == first
    finished = events[-1].finished
    assert (finished.provider, finished.usage) == (second, expected[-1].finished.usage)


async def test_the_record_names_the_model_that_answered_and_its_price(api):
    events = await api.events(DOWN, fallback_models=["anthropic/sim?status=401", "whole"])
    assert notices(events) == [
        (2, event_pb2.NOTICE_KIND_FALLBACK, "anthropic", 2),
        (3, event_pb2.NOTICE_KIND_FALLBACK, "anthropic", 3),
    ]
    usage = events[-1].finished.usage
    assert usage.cost_microusd == usage.input_tokens + 5 * usage.output_tokens
    record = await record_of(api, events[0].started.stream_id)
    assert (record.model_asked, record.provider, record.attempts) == (DOWN, "anthropic", 3)
    assert record.usage == usage
    failed = [(a.provider, a.model, a.reason) for a in record.failed_attempts]
    assert failed == [
        (provider, "sim?status=401", "UPSTREAM_AUTH") for provider in ("openai", "anthropic")
    ]
    assert all(a.HasField("duration") and not a.HasField("usage") for a in record.failed_attempts)


async def test_the_fallbacks_of_the_configuration_apply_unless_the_request_names_its_own(api):
    events = await api.events("down")
    assert notices(events) == [(2, event_pb2.NOTICE_KIND_FALLBACK, "openai", 2)]
    named = await api.events("down", fallback_models=["openai-responses/sim"])
    assert notices(named) == [(2, event_pb2.NOTICE_KIND_FALLBACK, "openai-responses", 2)]


async def test_a_configured_fallback_that_does_not_support_the_request_is_left_out(api):
    events = await api.events("claude", generation=TOP_K)
    assert notices(events) == [(2, event_pb2.NOTICE_KIND_FALLBACK, "anthropic", 2)]


async def test_a_unary_chat_falls_back_too(api):
    answer = await api.chat(api.request(DOWN, fallback_models=["whole"]))
    assert answer.finished.provider == "anthropic"


async def test_a_fallback_over_the_budget_is_skipped(api):
    events = await api.events("down", fallback_models=["dear", "whole"], budget=budget(1000))
    assert notices(events) == [(2, event_pb2.NOTICE_KIND_FALLBACK, "anthropic", 2)]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"fallback_models": ["whole", "nobody/m"]}, {"fallback_models[1]": "nobody"}),
        (
            {"fallback_models": ["whole", "", "whole"]},
            {"fallback_models[1]": "empty", "fallback_models[2]": "repeats 'whole'"},
        ),
        (
            {"fallback_models": ["openai/sim"], "generation": TOP_K},
            {"fallback_models[0]": "'openai/sim' does not support the request: generation.top_k"},
        ),
        ({"fallback_models": ["claude"]}, {"fallback_models[0]": "repeats 'claude'"}),
        ({"fallback_models": ["whole"] * 9}, {"fallback_models": "at most 8"}),
        ({"fallback_models": ["a/" + "x" * 255]}, {"fallback_models[0]": "longer than 256"}),
    ],
)
async def test_a_fallback_that_cannot_serve_the_request_is_refused_with_its_path(
    api, fields, expected
):
    error = await refused(api.chat(api.request("claude", **fields)))
    assert reason(error) == "INVALID_REQUEST"
    found = {v.field: v.description for v in details(error)["BadRequest"].field_violations}
    assert found.keys() == expected.keys()
    assert all(part in found[field] for field, part in expected.items())
