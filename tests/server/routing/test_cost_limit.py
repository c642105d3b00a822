"""A stream ends at the first arrival whose cost is above what it may cost, and never before."""

import asyncio
import itertools
import math
from decimal import Decimal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from examples import scaled
from tokenwire_server.config import ModelPrices, TenantLimits
from tokenwire_server.events import TextDelta, Usage
from tokenwire_server.pricing.estimate import Estimate
from tokenwire_server.pricing.prices import Prices
from tokenwire_server.pricing.tariff import Tariff
from tokenwire_server.pricing.tokenizers import Tokenizers
from tokenwire_server.pricing.tokens import Characters, TokenCounter
from tokenwire_server.routing.cost_limit import AHEAD_TOKENS, EXTENSION_TOKENS, CostLimit
from tokenwire_server.routing.meter import Meter
from tokenwire_server.tenants.spend import SpendLimiter

INPUT_TOKENS = 10
DEAREST_CHARACTERS = "\U0002f9f4\U00012000\U0001f9ff\ue123\u0dd4"
"""Of the planes that no vocabulary knows: each of their bytes is a token."""


@pytest.fixture(scope="module")
def tokenizers():
    tokenizers = Tokenizers()
    asyncio.run(tokenizers.load())
    return tokenizers


def tariff(input="1", output="5", reasoning=None):
    return Tariff(
        Prices.configured(
            ModelPrices(
                input=Decimal(input),
                output=Decimal(output),
                reasoning=None if reasoning is None else Decimal(reasoning),
            )
        )
    )


def estimate(counter=None, tokens=INPUT_TOKENS, **rates):
    return Estimate(tokens, "estimate", counter or TokenCounter(Characters()), tariff(**rates))


def held(microusd, day=10**6, spent=0):
    """A hold of a tenant that may spend so much in a day."""
    limiter = SpendLimiter({"acme": TenantLimits(spend_usd_per_day=Decimal(day) / 10**6)})
    limiter.reserve("acme", 0, "m").settle(spent)
    return limiter, limiter.reserve("acme", microusd, "m")


class Watched(CostLimit):
    """Counts how often it is asked."""

    __slots__ = ("asked",)

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.asked = 0

    def reserve_or_stop(self, usage, chars):
        self.asked += 1
        return super().reserve_or_stop(usage, chars)


def ends_at(texts, expected, limit, reported=lambda n: None):
    """At which arrival a producer ends the stream, and what it costs by then. None: at none."""
    meter = Meter(0.0, expected)
    last = None
    for n, text in enumerate(texts):
        meter.arrived([TextDelta(text, 0)], n + 1.0)
        told, last = reported(n) is not last, reported(n)
        if told or meter.chars >= limit.check_at_chars:
            usage = meter.usage(last)
            if limit.reserve_or_stop(usage, meter.chars):
                return n, usage.cost_microusd
    return None


def costs(texts, expected, reported=lambda n: None):
    """What a stream costs at each arrival."""
    meter = Meter(0.0, expected)
    found = []
    for n, text in enumerate(texts):
        meter.arrived([TextDelta(text, 0)], n + 1.0)
        found.append(meter.usage(reported(n)).cost_microusd)
    return found


def first_above(found, limit):
    return next(((n, cost) for n, cost in enumerate(found) if cost > limit), None)


def assert_ends_at_first_above(ended, found, limit, token_usd="5"):
    """Check where a stream ended. The cost is above the limit there, and was not clearly above it before.

    `found` was counted at each arrival, the stream's own cost at fewer of them: where a text is cut to be
    counted changes the count by a token or two.
    """
    assert ended is None or ended[1] > limit
    margin = 1 + math.ceil(Decimal(token_usd) * 3)
    ends = (first_above(found, limit - margin), ended, first_above(found, limit + margin))
    earliest, end, latest = (len(found) if end is None else end[0] for end in ends)
    assert earliest <= end <= latest


# Whatever the text, its cuts, and the model.

TEXTS = st.lists(
    st.one_of(
        st.text(st.characters(codec="ascii"), min_size=1, max_size=40),
        st.text("漢字仮名交じり文，的一是不了", min_size=1, max_size=20),
        st.text("🙂👩‍🚀🇪🇺é̊", min_size=1, max_size=8),
        st.text(DEAREST_CHARACTERS, min_size=1, max_size=30),
        st.text(min_size=1, max_size=30),
        st.builds(lambda text, times: text * times, st.sampled_from(["a", " ", "\n", "=", " the", "🙂"]), st.integers(1, 3000)),
    ),
    min_size=1,
    max_size=80,
)  # fmt: skip


@pytest.mark.parametrize(
    "model", ["gpt-4o", "gpt-4", "claude-sonnet-4-5", "claude-opus-4-7", "llama-3"]
)
@settings(max_examples=scaled(60))
@given(texts=TEXTS, share=st.floats(0, 1.2), output=st.sampled_from(["0.1", "5", "600"]))
@example(texts=list(DEAREST_CHARACTERS * 40), share=0.9, output="5")
@example(texts=["the"] + [" the"] * 500, share=0.99, output="5")
@example(texts=["0", "0", "000000", "00000 A", "a" * 2034], share=1.0, output="0.1")
def test_it_ends_at_the_first_arrival_above_the_budget_and_never_before(
    tokenizers, model, texts, share, output
):
    expected = estimate(tokenizers.counter("openai-chat", model), output=output)
    found = costs(texts, expected)
    budget = int(found[-1] * share)
    limit = CostLimit(expected.tariff, budget, None)
    assert_ends_at_first_above(ends_at(texts, expected, limit), found, budget, output)


@settings(max_examples=scaled(60))
@given(
    texts=TEXTS,
    share=st.floats(0, 1.2),
    reserved=st.floats(0, 1.2),
    budget=st.none() | st.floats(0, 1.2),
)
def test_it_ends_at_the_first_arrival_for_which_nothing_is_left_to_spend(
    tokenizers, texts, share, reserved, budget
):  # fmt: skip
    expected = estimate(tokenizers.counter("anthropic", "claude-opus-4-7"))
    found = costs(texts, expected)
    allowed = int(found[-1] * share)
    limiter, hold = held(min(allowed, int(found[-1] * reserved)), day=allowed)
    most = allowed if budget is None else min(allowed, int(found[-1] * budget))
    limit = CostLimit(expected.tariff, None if budget is None else int(found[-1] * budget), hold)
    assert_ends_at_first_above(ends_at(texts, expected, limit), found, most)
    (allowance,) = limiter.allowances("acme")
    assert 0 <= allowance.remaining <= allowed


def test_dearest_characters_are_not_underestimated(tokenizers):
    """Of the model whose tokens are counted highest: 4 bytes, 1.56 tokens each."""
    counter = tokenizers.counter("anthropic", "claude-opus-4-7")
    assert counter.count("\U0002f9f4" * 100) > 400
    expected = estimate(counter)
    texts = ["\U0002f9f4" * 3] * 300
    found = costs(texts, expected)
    for budget in range(100, found[-1], 97):
        limit = CostLimit(expected.tariff, budget, None)
        assert ends_at(texts, expected, limit) == first_above(found, budget)


def test_an_answer_that_costs_exactly_its_budget_is_whole():
    texts = ["four"] * 100
    expected = estimate(output="5")
    whole = costs(texts, expected)[-1]
    assert whole == INPUT_TOKENS + 100 * 5
    assert ends_at(texts, expected, CostLimit(expected.tariff, whole, None)) is None
    last = ends_at(texts, expected, CostLimit(expected.tariff, whole - 1, None))
    assert last == (99, whole)


# How often it counts.


def test_far_from_its_limit_a_long_answer_is_hardly_ever_counted(tokenizers):
    expected = estimate(tokenizers.counter("openai-chat", "gpt-4o"))
    texts = [" word"] * 10_000
    whole = costs(texts, expected)[-1]
    for share, at_most in ((100, 1), (10, 4), (2, 25)):
        limit = Watched(expected.tariff, whole * share, None)
        assert ends_at(texts, expected, limit) is None
        assert limit.asked <= at_most, share


def test_up_to_its_limit_it_is_counted_for_one_arrival_in_twenty(tokenizers):
    expected = estimate(tokenizers.counter("anthropic", "claude-opus-4-7"))
    texts = [" word"] * 10_000
    limit = Watched(expected.tariff, costs(texts, expected)[-1] - 1, None)
    assert ends_at(texts, expected, limit) is not None
    assert limit.asked <= 500


# A tenant's spend.


def test_what_an_answer_reserves_when_it_grows_is_a_thousand_tokens_more():
    expected = estimate()
    limiter, hold = held(50)
    limit = Watched(expected.tariff, None, hold)
    assert ends_at(["four"] * 3000, expected, limit) is None
    (allowance,) = limiter.allowances("acme")
    reserved = allowance.allowed - allowance.remaining
    assert 0 <= reserved - (INPUT_TOKENS + 3000 * 5) <= EXTENSION_TOKENS * 5
    hold.settle(INPUT_TOKENS + 3000 * 5)
    assert limiter.allowances("acme")[0].remaining == 10**6 - INPUT_TOKENS - 3000 * 5


def test_no_more_is_reserved_than_its_own_budget():
    expected = estimate()
    limiter, hold = held(100)
    limit = CostLimit(expected.tariff, 300, hold)
    assert ends_at(["four"] * 50, expected, limit) is None
    assert limiter.allowances("acme")[0].remaining == 10**6 - 300


def test_when_a_thousand_tokens_are_not_left_it_goes_on_to_the_last():
    expected = estimate()
    allowed = INPUT_TOKENS + 100 * 5
    _, hold = held(20, day=allowed)
    found = ends_at(["four"] * 500, expected, CostLimit(expected.tariff, None, hold))
    assert found == (100, allowed + 5)


def test_what_another_stream_gives_back_lets_it_go_on():
    expected = estimate()
    limiter, hold = held(500, day=2000)
    other = limiter.reserve("acme", 1500, "m")
    limit = CostLimit(expected.tariff, None, hold)
    assert not limit.reserve_or_stop(Usage(10, 2, estimated=True), 8)
    other.settle(0)
    assert not limit.reserve_or_stop(Usage(10, 300, estimated=True), 1200)
    assert limit.reserve_or_stop(Usage(10, 399, estimated=True), 1596)


@given(
    st.lists(
        st.lists(st.integers(1, AHEAD_TOKENS), min_size=20, max_size=20), min_size=1, max_size=40
    ),
    st.integers(20 * 400, 40_000),
)
@example([[60] * 20] * 40, 20 * 400)
def test_many_answers_exceed_the_limit_by_at_most_one_arrival(rounds, allowed):
    """Each round, some tokens of all answers arrive at once, as on a busy server."""
    expected = estimate()
    limiter = SpendLimiter({"acme": TenantLimits(spend_usd_per_day=Decimal(allowed) / 10**6)})
    holds = [limiter.reserve("acme", 400, "m") for _ in range(20)]
    limits = [CostLimit(expected.tariff, None, hold) for hold in holds]
    tokens = [0] * 20
    running = set(range(20))

    def end(index):
        holds[index].settle(INPUT_TOKENS + 5 * tokens[index])
        running.discard(index)

    for arrivals in itertools.islice(itertools.cycle(rounds), allowed):
        if not running:
            break
        for index in sorted(running):
            tokens[index] += arrivals[index]
            usage = Usage(INPUT_TOKENS, tokens[index], estimated=True)
            if limits[index].reserve_or_stop(usage, 4 * tokens[index]):
                end(index)
    spent = sum(INPUT_TOKENS + 5 * each for each in tokens)
    assert not running
    assert allowed < spent <= allowed + 5 * AHEAD_TOKENS


def test_answers_that_arrive_in_large_pieces_do_not_exceed_the_limit_each():
    expected = estimate()
    limiter = SpendLimiter({"acme": TenantLimits(spend_usd_per_day=Decimal("0.1"))})
    holds = [limiter.reserve("acme", 1000, "m") for _ in range(20)]
    limits = [CostLimit(expected.tariff, None, hold) for hold in holds]
    spent = 0
    for pieces in range(1, 1000):
        for limit, hold in list(zip(limits, holds, strict=True)):
            usage = Usage(INPUT_TOKENS, 150 * pieces, estimated=True)
            if limit.reserve_or_stop(usage, 600 * pieces):
                hold.settle(INPUT_TOKENS + 5 * usage.output_tokens)
                spent += INPUT_TOKENS + 5 * usage.output_tokens
                limits.remove(limit)
                holds.remove(hold)
    assert not limits
    assert 10**5 < spent <= 10**5 + 150 * 5


class Unreported:
    """A reservation of 500 that cannot be extended until other processes have been told."""

    microusd = 500
    is_only = False

    def __init__(self, most):
        self._most = most

    def extend(self, _):
        return False

    def fits(self, to_microusd):
        return to_microusd <= self._most


def test_an_answer_stops_only_if_too_little_is_left_and_not_while_others_have_not_been_told():
    reserved = Usage(10, 90, estimated=True)
    assert not CostLimit(tariff(), None, Unreported(1000)).reserve_or_stop(reserved, 360)
    assert CostLimit(tariff(), None, Unreported(600)).reserve_or_stop(reserved, 360)
    beyond = Usage(10, 99, estimated=True)
    assert CostLimit(tariff(), None, Unreported(1000)).reserve_or_stop(beyond, 396)


def test_an_answer_with_a_maximum_reserves_nothing_beyond_it():
    expected = estimate()
    limiter, hold = held(INPUT_TOKENS + 20 * 5, day=220)
    limiter.reserve("acme", INPUT_TOKENS + 20 * 5, "m")
    limit = CostLimit(expected.tariff, None, hold, max_output_tokens=20)
    assert ends_at(["four"] * 20, expected, limit) is None
    assert hold.microusd == INPUT_TOKENS + 20 * 5


def test_a_passed_budget_reserves_nothing():
    limiter, hold = held(100)
    limit = CostLimit(tariff(), 100, hold)
    assert limit.reserve_or_stop(Usage(10, 50, estimated=True), 200)
    assert hold.microusd == 100
    assert limiter.allowances("acme")[0].remaining == 10**6 - 100


# Figures that a provider gives in mid-stream.


def test_the_true_input_counts_from_the_arrival_that_brings_it():
    """Anthropic's, and a placeholder for the output."""
    expected = estimate()

    def reported(n):
        return Usage(400, 1, estimated=True)

    texts = ["four"] * 100
    found = costs(texts, expected, reported)
    assert found[0] == 405
    for budget, end in ((399, 0), (405, 1), (500, 20)):
        limit = CostLimit(expected.tariff, budget, None)
        assert ends_at(texts, expected, limit, reported) == (end, found[end])


@given(st.lists(st.integers(0, 2000), min_size=1, max_size=200), st.floats(0, 1.2))
def test_figures_that_come_with_every_arrival_are_believed_and_may_leap(leaps, share):
    """vLLM's `continuous_usage_stats`, of a model that thinks and does not show it."""
    expected = estimate()
    texts = ["ab"] * len(leaps)
    totals = [sum(leaps[: n + 1]) for n in range(len(leaps))]

    def reported(n):
        return Usage(INPUT_TOKENS, totals[n])

    found = costs(texts, expected, reported)
    budget = int(found[-1] * share)
    limit = CostLimit(expected.tariff, budget, None)
    assert ends_at(texts, expected, limit, reported) == first_above(found, budget)


def test_free_output_never_ends_a_stream_and_its_input_does():
    expected = estimate(tokens=100, input="1", output="0")
    texts = ["four"] * 10_000
    limit = Watched(expected.tariff, 100, None)
    assert ends_at(texts, expected, limit) is None
    assert limit.asked == 1
    assert ends_at(texts, expected, CostLimit(expected.tariff, 99, None)) == (0, 100)


def test_what_is_free_altogether_runs_on_a_budget_of_nothing():
    expected = estimate(input="0", output="0")
    assert ends_at(["four"] * 100, expected, CostLimit(expected.tariff, 0, None)) is None


@pytest.mark.parametrize("budget", [2**63 - 1, 2**62])
def test_the_largest_budget_is_as_good_as_none(budget):
    expected = estimate(output="600")
    limit = Watched(expected.tariff, budget, None)
    assert ends_at(["four"] * 1000, expected, limit) is None
    assert limit.asked == 1


@pytest.mark.parametrize(
    ("tier", "stops_at"), [("", None), ("priority", 4), ("a tier without a price", None)]
)
def test_a_tier_that_the_provider_reports_late_counts_from_its_report_if_it_has_a_price(
    tier, stops_at
):
    standard, dear = (
        Prices.configured(ModelPrices(input=Decimal(rate), output=Decimal(rate))) for rate in (1, 9)
    )
    tiered = Tariff(standard, in_tier={"": standard, "priority": dear}.get)
    expected = Estimate(INPUT_TOKENS, "estimate", TokenCounter(Characters()), tiered)
    early = Usage(INPUT_TOKENS, 0, estimated=True)
    late = Usage(INPUT_TOKENS, 5, estimated=True, service_tier=tier)
    found = ends_at(
        ["four"] * 20, expected, CostLimit(tiered, 100, None), lambda n: early if n < 4 else late
    )
    assert (found and found[0]) == stops_at
