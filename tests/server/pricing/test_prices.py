from decimal import ROUND_HALF_UP, Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwire_server.config import ConfigError, ModelPrices, load
from tokenwire_server.events import Usage
from tokenwire_server.pricing.prices import UNLIMITED_TOKENS, Prices, Rates

PRICE = st.decimals(min_value=0, max_value=10**6, places=9)


def rates(above: int, price: st.SearchStrategy[Decimal] = PRICE) -> st.SearchStrategy[Rates]:
    return st.builds(
        Rates,
        above_input_tokens=st.just(above),
        input=price,
        output=price,
        cache_read=price,
        cache_write=price,
        reasoning=price,
        request=st.sampled_from([Decimal(0), Decimal("0.5"), Decimal(5000)]),
        long_cache_write=price,
    )


TIERED = st.lists(st.integers(1, 300_000), max_size=3, unique=True).flatmap(
    lambda tiers: st.tuples(*(rates(above) for above in sorted({0, *tiers})))
)
COUNT = st.one_of(st.integers(0, 20), st.integers(0, 400_000))
CALL = {"web_search": Decimal(10_000), "x_search": Decimal("0.5")}
"""Prices of one call."""
USAGE = st.builds(
    lambda uncached, read, written, long, answer, reasoning, calls: Usage(
        input_tokens=uncached + (read or 0) + (written or 0) + (long or 0),
        output_tokens=answer + (reasoning or 0),
        cache_read_tokens=read,
        cache_write_tokens=(written or 0) + (long or 0),
        long_cache_write_tokens=long,
        reasoning_tokens=reasoning,
        server_tools=tuple(calls.items()),
    ),
    COUNT,
    st.none() | COUNT,
    st.none() | COUNT,
    st.none() | COUNT,
    COUNT,
    st.none() | COUNT,
    st.dictionaries(st.sampled_from(sorted(CALL)), st.integers(0, 9)),
)


def by_hand(rates: tuple[Rates, ...], usage: Usage) -> int:
    """Compute the cost in the obvious way."""
    rate = [
        r for r in rates if r.above_input_tokens == 0 or usage.input_tokens > r.above_input_tokens
    ][-1]
    read, written = usage.cache_read_tokens or 0, usage.cache_write_tokens or 0
    reasoning, long = usage.reasoning_tokens or 0, usage.long_cache_write_tokens or 0
    assert rate.long_cache_write is not None
    bill = (
        (usage.input_tokens - read - written) * rate.input
        + read * rate.cache_read
        + (written - long) * rate.cache_write
        + long * rate.long_cache_write
        + sum(count * CALL[name] for name, count in usage.server_tools)
        + (usage.output_tokens - reasoning) * rate.output
        + reasoning * rate.reasoning
        + rate.request
    )
    return int(bill.quantize(Decimal(1), ROUND_HALF_UP))


def with_output(usage: Usage, output_tokens: int) -> Usage:
    return msgspec.structs.replace(usage, output_tokens=output_tokens)


def configured(**prices: str) -> Prices:
    return Prices.configured(
        ModelPrices(**{name: Decimal(price) for name, price in prices.items()})
    )


@given(TIERED, USAGE)
def test_a_cost_equals_the_exact_sum_rounded_half_up_once(rates, usage):
    assert Prices(rates, CALL).cost_microusd(usage) == by_hand(rates, usage)


@given(TIERED, USAGE, st.one_of(st.integers(0, 50), st.integers(0, 10**12)))
def test_the_ceiling_is_the_last_output_token_within_the_limit(rates, usage, limit):
    prices = Prices(rates, CALL)
    ceiling = prices.output_token_ceiling(usage, limit)
    if prices.cost_microusd(with_output(usage, 0)) > limit:
        assert ceiling == 0
    else:
        assert prices.cost_microusd(with_output(usage, ceiling)) <= limit
        if ceiling != UNLIMITED_TOKENS:
            assert prices.cost_microusd(with_output(usage, ceiling + 1)) > limit


def test_half_a_microusd_is_charged_and_less_is_not():
    prices = configured(input="0.25", output="0")
    costs = [prices.cost_microusd(Usage(tokens, 0)) for tokens in range(5)]
    assert costs == [0, 0, 1, 1, 1]


def test_the_whole_input_has_the_price_of_its_tier():
    short = Rates(0, *map(Decimal, (3, 15, 3, 3, 15)))
    long = Rates(200_000, *map(Decimal, (6, 22, 6, 6, 22)))
    prices = Prices([short, long])
    assert prices.cost_microusd(Usage(200_000, 10)) == 200_000 * 3 + 10 * 15
    assert prices.cost_microusd(Usage(200_001, 10)) == 200_001 * 6 + 10 * 22


def test_free_output_has_no_ceiling_and_free_is_a_price():
    prices = configured(input="0", output="0")
    assert prices.cost_microusd(Usage(10**6, 10**6)) == 0
    assert prices.output_token_ceiling(Usage(10**6, 0), 0) == UNLIMITED_TOKENS


def test_an_input_above_the_limit_allows_no_output():
    prices = configured(input="3", output="15")
    assert prices.output_token_ceiling(Usage(1000, 0), 2999) == 0
    assert prices.output_token_ceiling(Usage(1000, 0), 3000) == 0
    assert prices.output_token_ceiling(Usage(1000, 0), 3015) == 1


def test_a_missing_price_is_that_of_input_or_output():
    prices = configured(input="3", output="15")
    usage = Usage(100, 100, cache_read_tokens=40, cache_write_tokens=30, reasoning_tokens=50)
    assert prices.cost_microusd(usage) == 100 * 3 + 100 * 15
    said = configured(input="3", output="15", cache_read="0", cache_write="4", reasoning="20")
    assert said.cost_microusd(usage) == 30 * 3 + 30 * 4 + 50 * 15 + 50 * 20
    for_an_hour = Usage(100, 0, cache_write_tokens=40, long_cache_write_tokens=30)
    assert said.cost_microusd(for_an_hour) == 60 * 3 + 10 * 4 + 30 * 2 * 3
    dear = configured(input="3", output="15", cache_write_1h="9")
    assert dear.cost_microusd(for_an_hour) == 60 * 3 + 10 * 3 + 30 * 9


def test_usage_without_a_price_is_not_covered():
    short = Rates(0, *map(Decimal, (3, 15, 3, 4, 15)))
    prices = Prices([short], {"web_fetch": Decimal(0)})
    assert prices.covers(Usage(9, 9, cache_write_tokens=9, server_tools=(("web_fetch", 2),)))
    assert prices.covers(Usage(9, 9, long_cache_write_tokens=0, server_tools=(("x_search", 0),)))
    assert not prices.covers(Usage(9, 9, server_tools=(("web_fetch", 2), ("x_search", 1))))
    assert not prices.covers(Usage(9, 9, cache_write_tokens=9, long_cache_write_tokens=1))


@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        (Usage(10, 0, cache_read_tokens=100), 100 * 1),
        (Usage(10, 0, cache_read_tokens=8, cache_write_tokens=8), 8 * 1 + 8 * 4),
        (Usage(0, 10, reasoning_tokens=100), 100 * 15),
        (Usage(0, 0, cache_write_tokens=5, long_cache_write_tokens=9), 9 * 6),
        (Usage(1, 0, server_tools=(("web_search", -5),)), 1 * 3),
    ],
)
def test_an_inconsistent_usage_costs_its_larger_figure(usage, cost):
    prices = configured(input="3", output="15", cache_read="1", cache_write="4")
    assert prices.cost_microusd(usage) == cost


def test_per_million_has_the_prices_of_a_short_request():
    short = Rates(0, *map(Decimal, ("0.15", "0.6", "0.075", "0.15", "0.6")))
    long = Rates(200_000, *map(Decimal, ("1", "2", "3", "4", "5")))
    told = Prices([short, long]).per_million
    assert (told.input, told.output, told.cache_read) == (150_000, 600_000, 75_000)
    assert (told.cache_write, told.reasoning) == (150_000, 600_000)
    assert told.long_cache_write is None
    assert configured(input="3", output="0").per_million.long_cache_write == 6_000_000


def write(tmp_path, prices: str):
    path = tmp_path / "tokenwire.toml"
    path.write_text(f'[models."vllm/llama".prices]\n{prices}\n')
    return path


@pytest.mark.parametrize(
    "written", ["0.1", "0.075", "2.5", "3", "0", "1e-9", "999999.999999999", "1_000_000", "'0.3'"]
)
def test_a_price_is_read_exactly_as_it_is_written(tmp_path, written):
    settings = load(write(tmp_path, f"input = {written}\noutput = 1"), {})
    prices = settings.models["vllm/llama"].prices
    assert prices is not None
    assert prices.input == Decimal(written.strip("'"))


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("input = -1", "input: Input should be greater than or equal to 0"),
        ("input = nan", "input: Input should be a finite number"),
        ("input = inf", "input: Input should be a finite number"),
        ("input = 1_000_000.1", "input: Input should be less than or equal to 1000000"),
        ("input = 1e-10", "input: Decimal input should have no more than 9 decimal places"),
        ("input = true", "input: must be a number, not true or false"),
        ("input = 'much'", "input: Input should be a valid decimal"),
        ("cache_read = -0.1", "cache_read: Input should be greater than or equal to 0"),
        ("cache_write_1h = -0.1", "cache_write_1h: Input should be greater than or equal to 0"),
        ("server_tool_usd = {search = -1}", "server_tool_usd.search: Input should be greater than or equal to 0"),
        ("tier_factors = {priority = 1001}", "tier_factors.priority: Input should be less than or equal to 1000"),
        ("reasoning = -0.1", "reasoning: Input should be greater than or equal to 0"),
        ("cached = 1", "cached: no such setting"),
        ("", "input: Field required"),
    ],
)  # fmt: skip
def test_an_invalid_price_is_refused_with_its_path(tmp_path, line, fault):
    both = line if line.startswith("input") or not line else f"input = 1\n{line}"
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, f"output = 1\n{both}"), {})
    assert f"models.vllm/llama.prices.{fault}" in str(caught.value)


def test_prices_come_from_variables_too(tmp_path, monkeypatch):
    monkeypatch.setenv(
        "TOKENWIRE_MODELS", '{"vllm/llama": {"prices": {"input": 0.1, "output": 0}}}'
    )
    prices = load(None, {}).models["vllm/llama"].prices
    assert prices == ModelPrices(input=Decimal("0.1"), output=Decimal(0))
