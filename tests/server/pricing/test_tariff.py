"""The cost of one request: in its tier, of each model that worked on it, or unknown."""

from decimal import Decimal
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwire_server.config import ModelPrices
from tokenwire_server.events import Usage
from tokenwire_server.pricing.estimate import asked_tier
from tokenwire_server.pricing.prices import Prices
from tokenwire_server.pricing.tariff import Tariff
from tokenwire_server.request import ChatRequest, Generation, Message, Text


def prices(input: str, output: str, **others) -> Prices:
    return Prices.configured(ModelPrices(input=Decimal(input), output=Decimal(output), **others))


OWN = {
    "": prices("1", "10", server_tool_usd={"web_search": Decimal("0.01")}),
    "flex": prices("0.5", "5"),
}
OTHER = {("small", ""): prices("0.25", "2.5"), ("small", "flex"): prices("0.125", "1.25")}


def tariff(asked: str = "") -> Tariff:
    return Tariff(
        OWN[""],
        model="big-2",
        asked_tier=asked,
        in_tier=OWN.get,
        lookup=lambda model, tier: OTHER.get((model, tier)),
    )


@pytest.mark.parametrize(
    ("asked", "reported", "cost", "estimate"),
    [
        ("", "", 200, 200),
        ("", "flex", 100, 100),
        ("flex", "", 100, 100),
        ("", "scale", None, 200),
        ("scale", "", None, 200),
    ],
)
def test_the_reported_tier_decides_and_before_a_report_the_requested_one(
    asked, reported, cost, estimate
):
    usage = Usage(100, 10, service_tier=reported)
    assert tariff(asked).cost_microusd(usage) == cost
    assert tariff(asked).estimated_cost_microusd(usage) == estimate


@pytest.mark.parametrize(
    ("by_model", "cost", "estimate"),
    [
        # all of it, and a tenth of it by the small model
        ((("big-2", Usage(100, 10)),), 200, 200),
        ((("big-2", Usage(90, 9)), ("small", Usage(10, 1))), 185, 185),
        # the requested model in other words
        ((("", Usage(60, 5)), ("big-2-20260131", Usage(40, 5))), 200, 200),
        # what the figures of the models leave out belongs to the requested model
        ((("small", Usage(40, 4)),), 60 + 60 + 10 + 10, 140),
        # figures of the models that are larger than the whole count
        ((("small", Usage(400, 40)),), 200, 200),
        # no price: unknown, and for limits as expensive as the requested model
        ((("big-2", Usage(90, 9)), ("big-2-mini", Usage(10, 1))), None, 200),
        ((("small", Usage(100, 10, service_tier="scale")),), None, 200),
        ((("small", Usage(100, 10, service_tier="flex")),), 25, 25),
    ],
)
def test_each_model_is_priced_on_its_own_prices(by_model, cost, estimate):
    usage = Usage(100, 10, by_model=by_model)
    assert tariff().cost_microusd(usage) == cost
    assert tariff().estimated_cost_microusd(usage) == estimate


def test_the_tier_of_the_whole_is_that_of_its_models():
    parts = (("big-2", Usage(90, 9)), ("small", Usage(10, 1)))
    assert tariff().cost_microusd(Usage(100, 10, service_tier="flex", by_model=parts)) == 93
    assert tariff("flex").cost_microusd(Usage(100, 10, by_model=parts)) == 93


def test_figures_reported_only_for_the_whole_answer_are_not_counted_again():
    usage = Usage(
        100,
        10,
        reasoning_tokens=8,
        cache_read_tokens=50,
        cache_write_tokens=20,
        by_model=(("big-2", Usage(100, 10)),),
    )
    assert tariff().cost_microusd(usage) == 200


def test_calls_of_tools_have_the_price_of_the_requested_model_and_are_counted_once():
    searches = (("web_search", 3),)
    parts = (("small", Usage(100, 10, server_tools=searches)),)
    assert tariff().cost_microusd(Usage(100, 10, server_tools=searches)) == 200 + 30_000
    assert (
        tariff().cost_microusd(Usage(100, 10, server_tools=searches, by_model=parts)) == 50 + 30_000
    )


def test_the_cost_of_a_stream_with_a_tool_without_a_price_is_unknown():
    usage = Usage(100, 10, server_tools=(("code_execution", 1), ("web_search", 1)))
    assert tariff().cost_microusd(usage) is None
    assert tariff().estimated_cost_microusd(usage) == 200 + 10_000
    parts = msgspec.structs.replace(usage, by_model=(("small", Usage(100, 10)),))
    assert tariff().cost_microusd(parts) is None


COUNT = st.integers(0, 10**5)
PART = st.builds(Usage, COUNT, COUNT)


@given(st.lists(st.tuples(st.sampled_from(["big-2", "small"]), PART), max_size=4), PART, COUNT)
def test_within_the_ceiling_an_answer_of_several_models_stays_within_the_limit(parts, rest, limit):
    usage = Usage(
        sum(part.input_tokens for _, part in parts) + rest.input_tokens,
        sum(part.output_tokens for _, part in parts) + rest.output_tokens,
        by_model=tuple(parts),
    )
    exact = sum(
        ((OWN[""] if model == "big-2" else OTHER["small", ""]).exact_cost_microusd(part) for model, part in parts),
        OWN[""].exact_cost_microusd(rest),
    )  # fmt: skip
    cost = tariff().cost_microusd(usage)
    assert cost == int(exact + Fraction(1, 2)) == tariff().estimated_cost_microusd(usage)
    ceiling = tariff().output_token_ceiling(usage, limit)
    before = usage.output_tokens - rest.output_tokens
    if ceiling > before:
        at_most = msgspec.structs.replace(usage, output_tokens=ceiling)
        assert tariff().estimated_cost_microusd(at_most) <= limit
        beyond = msgspec.structs.replace(usage, output_tokens=ceiling + 2)
        assert tariff().estimated_cost_microusd(beyond) > limit


@pytest.mark.parametrize(
    ("field", "options", "tier"),
    [
        ("", {}, ""),
        ("flex", {}, "flex"),
        ("", {"service_tier": "priority"}, "priority"),
        ("", {"speed": "fast"}, "fast"),
        ("auto", {"speed": "fast"}, "fast"),
        ("", {"service_tier": 7, "speed": None}, ""),
    ],
)
def test_a_request_names_its_tier_in_a_field_or_in_the_providers_options(field, options, tier):
    request = ChatRequest(
        model="m",
        messages=(Message("user", (Text("x"),)),),
        generation=Generation(service_tier=field),
        provider_options=options,
    )
    assert asked_tier(request) == tier
