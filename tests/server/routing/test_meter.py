from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwire_server.config import ModelPrices
from tokenwire_server.events import (
    NO_USAGE,
    ReasoningDelta,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)
from tokenwire_server.pricing.estimate import Estimate, rough_estimate
from tokenwire_server.pricing.prices import Prices
from tokenwire_server.pricing.tariff import Tariff
from tokenwire_server.pricing.tokens import Characters, TokenCounter
from tokenwire_server.request import ChatRequest, Message, Text
from tokenwire_server.routing.meter import TOGETHER_S, Meter

TEN_TOKENS = rough_estimate(ChatRequest(model="m", messages=(Message("user", (Text("x" * 40),)),)))


@given(st.lists(st.floats(1.01 * TOGETHER_S, 10), min_size=1, max_size=300))
def test_gap_percentiles_are_within_five_percent(gaps):
    meter = Meter(0.0, TEN_TOKENS)
    at = 1.0
    meter.arrived([TextDelta("a", 0)], at)
    for gap in gaps:
        at += gap
        meter.arrived([TextDelta("a", 0)], at)
    timings = meter.timings(at, Usage(1, 100))
    ordered = sorted(gaps)
    for quantile, measured in ((0.5, timings.itl_p50_s), (0.99, timings.itl_p99_s)):
        true = ordered[max(0, -(-int(quantile * 100) * len(ordered) // 100) - 1)]
        assert abs(measured - true) <= 0.05 * true + 2e-6


def test_chunks_of_one_segment_arrived_together():
    meter = Meter(0.0, TEN_TOKENS)
    for segment in range(11):
        for chunk in range(5):
            meter.arrived([TextDelta("a", 0)], 1.0 + segment * 0.1 + chunk * 0.00001)
    timings = meter.timings(3.0, Usage(1, 55))
    assert timings.itl_p50_s == pytest.approx(0.1, rel=0.03)


def test_no_token_no_ttft_and_no_rate():
    timings = Meter(10.0, TEN_TOKENS).timings(12.5, NO_USAGE)
    assert timings.duration_s == 2.5
    assert timings.ttft_s is timings.itl_p50_s is timings.output_tokens_per_second is None


def test_ttft_counts_from_acceptance_and_the_rate_from_the_first_token():
    meter = Meter(10.0, TEN_TOKENS)
    meter.arrived([TextDelta("a", 0)], 10.5)
    meter.arrived([TextDelta("b", 0)], 11.5)
    timings = meter.timings(11.6, Usage(1, 11))
    assert timings.ttft_s == 0.5
    assert timings.output_tokens_per_second == 10.0


@pytest.mark.parametrize(
    ("reasoning", "rate"),
    [
        ("", 10.0),  # hidden: 11 tokens of text
        ("x" * 4000, 1010.0),  # sent as it was generated
        ("x" * 400, None),  # a summary
    ],
)
def test_reasoning_that_is_not_sent_is_not_in_the_rate(reasoning, rate):
    meter = Meter(0.0, TEN_TOKENS)
    meter.arrived([ReasoningDelta(reasoning, 0)], 10.0)
    meter.arrived([TextDelta("a", 1)], 11.0)
    usage = Usage(1, 1011, reasoning_tokens=1000)
    assert meter.timings(11.5, usage).output_tokens_per_second == rate


def test_the_providers_figures_win_even_when_they_are_zero():
    meter = Meter(0.0, TEN_TOKENS)
    meter.arrived([TextDelta("hello there", 0)], 1.0)
    reported = Usage(input_tokens=0, output_tokens=0)
    assert meter.usage(reported) is reported


def test_without_the_providers_figures_an_estimate_says_that_it_is_one():
    meter = Meter(0.0, TEN_TOKENS)
    meter.arrived([TextDelta("x" * 8, 0)], 1.0)
    assert meter.usage(None) == Usage(input_tokens=10, output_tokens=2, estimated=True)


def test_a_placeholder_for_the_output_gives_way_to_an_estimate_and_the_true_input_stays():
    meter = Meter(0.0, TEN_TOKENS)
    meter.arrived([TextDelta("x" * 80, 0)], 1.0)
    placeholder = Usage(input_tokens=33, output_tokens=1, cache_read_tokens=30, estimated=True)
    assert meter.usage(placeholder) == Usage(33, 20, cache_read_tokens=30, estimated=True)


def test_input_that_the_provider_does_not_report_is_estimated():
    meter = Meter(0.0, TEN_TOKENS)
    meter.arrived([TextDelta("x" * 8, 0)], 1.0)
    assert meter.usage(Usage(0, 12, estimated=True)) == Usage(10, 12, estimated=True)
    assert meter.usage(Usage(0, 1, estimated=True)) == Usage(10, 2, estimated=True)


def test_an_estimate_counts_reasoning_and_tool_arguments_once():
    meter = Meter(0.0, TEN_TOKENS)
    meter.arrived([ReasoningDelta("x" * 40, 0), ToolCallStarted(1, "id", "add")], 1.0)
    meter.arrived([ToolCallDelta(1, "x" * 20), ToolCall(1, "id", "add", "x" * 20)], 2.0)
    assert meter.usage(None).output_tokens == 15


def test_a_placeholder_of_reasoning_is_not_counted_beside_what_came():
    meter = Meter(0.0, TEN_TOKENS)
    meter.arrived([TextDelta("x" * 8, 0)], 1.0)
    assert meter.usage(Usage(10, 1, reasoning_tokens=14, estimated=True)) == Usage(
        10, 2, estimated=True
    )


def test_usage_has_a_cost_where_a_price_is_known_and_none_where_not():
    prices = Prices.configured(ModelPrices(input=Decimal(3), output=Decimal(15)))
    priced = Meter(0.0, Estimate(10, "estimate", TokenCounter(Characters()), Tariff(prices)))
    priced.arrived([TextDelta("x" * 8, 0)], 1.0)
    assert priced.usage(None).cost_microusd == 10 * 3 + 2 * 15
    assert priced.usage(Usage(100, 7)) == Usage(100, 7, cost_microusd=100 * 3 + 7 * 15)
    assert Meter(0.0, TEN_TOKENS).usage(Usage(100, 7)).cost_microusd is None


def test_what_comes_after_figures_counts_on_top_until_the_next_or_the_whole():
    meter = Meter(0.0, TEN_TOKENS)
    meter.arrived([TextDelta("x" * 40, 0)], 1.0)
    early = Usage(33, 0)
    meter.report(early)
    assert meter.usage(early, is_whole=False) == Usage(33, 10, estimated=True)
    meter.arrived([TextDelta("x" * 40, 0)], 2.0)
    meter.report(Usage(33, 0))  # repeated, as some servers do
    assert meter.usage(early, is_whole=False) == Usage(33, 20, estimated=True)
    later = Usage(33, 25)
    meter.report(later)
    assert meter.usage(later, is_whole=False) is later
    meter.arrived([ToolCallDelta(1, "x" * 8)], 3.0)
    assert meter.usage(later, is_whole=False) == Usage(33, 27, estimated=True)
    assert meter.usage(later) is later


FIGURES = st.builds(
    Usage,
    st.integers(0, 3),
    st.integers(0, 3),
    cache_write_tokens=st.none() | st.integers(0, 3),
    server_tools=st.sampled_from([(), (("web_search", 1),), (("web_search", 2),)]),
    by_model=st.sampled_from([(), (("small", Usage(1, 1)),)]),
    estimated=st.booleans(),
)
STEPS = st.lists(st.integers(1, 9) | FIGURES, max_size=30)
"""Tokens that arrive, and figures that the provider reports: often the same ones again."""


@given(STEPS)
def test_reported_figures_replace_earlier_ones_whatever_their_order_and_repetition(steps):
    rates = ModelPrices(
        input=Decimal(3), output=Decimal(15), server_tool_usd={"web_search": Decimal("0.01")}
    )
    small = Prices.configured(ModelPrices(input=Decimal(1), output=Decimal(5)))
    tariff = Tariff(Prices.configured(rates), lookup=lambda model, tier: small)
    meter = Meter(0.0, Estimate(10, "estimate", TokenCounter(Characters()), tariff))
    last, reported_output, later_tokens = None, 0, 0
    for step in steps:
        if isinstance(step, int):
            meter.arrived([TextDelta("x" * 4 * step, 0)], 1.0)
            later_tokens += step
            continue
        last = step
        meter.report(step)
        if not step.estimated and step.output_tokens != reported_output:
            reported_output, later_tokens = step.output_tokens, 0
    for is_whole in (True, False):
        usage = meter.usage(last, is_whole=is_whole)
        if last is None:
            assert (usage.input_tokens, usage.output_tokens) == (10, later_tokens)
            continue
        is_exact = not last.estimated and (is_whole or not later_tokens)
        output_tokens = last.output_tokens if is_exact else reported_output + later_tokens
        expected = msgspec.structs.replace(
            last, output_tokens=output_tokens, estimated=not is_exact
        )
        if last.estimated and not last.input_tokens:  # the provider has not reported the input
            output_tokens = max(output_tokens, last.output_tokens)
            expected = msgspec.structs.replace(
                expected, input_tokens=10, output_tokens=output_tokens
            )
        cost = tariff.cost_microusd(expected)
        assert usage == msgspec.structs.replace(expected, cost_microusd=cost)


def test_the_cost_is_unknown_if_a_part_of_the_usage_has_no_price():
    prices = Prices.configured(ModelPrices(input=Decimal(3), output=Decimal(15)))
    meter = Meter(0.0, Estimate(10, "estimate", TokenCounter(Characters()), Tariff(prices)))
    usage = Usage(100, 7, cost_microusd=405)
    assert meter.usage(usage).cost_microusd == 405
    for unpriced in (
        {"service_tier": "priority"},
        {"server_tools": (("web_search", 1),)},
        {"by_model": (("another-model", Usage(1, 1)),)},
    ):
        assert meter.usage(msgspec.structs.replace(usage, **unpriced)).cost_microusd is None
