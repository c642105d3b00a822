from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwire.cli.money import microusd_of, usd_decimal, usd_text

AMOUNTS = st.integers(0, 2**63 - 1)


@given(AMOUNTS)
def test_amounts_are_printed_exactly(microusd):
    assert Decimal(usd_decimal(microusd)) * 1_000_000 == microusd
    assert Decimal(usd_text(microusd).removeprefix("$")) * 1_000_000 == microusd


@given(st.integers(0, 10**18 - 1))
def test_a_printed_amount_can_be_parsed(microusd):
    assert microusd_of(usd_decimal(microusd)) == microusd
    assert microusd_of(usd_text(microusd).removeprefix("$")) == microusd


@pytest.mark.parametrize(
    ("microusd", "says"),
    [
        (0, "$0.00"),
        (1, "$0.000001"),
        (99, "$0.000099"),
        (10_000, "$0.01"),
        (1_500_000, "$1.50"),
        (1_234_567, "$1.234567"),
        (9007199254740993, "$9007199254.740993"),  # no float has it
        (-1_500_000, "-$1.50"),
        (None, "unknown"),
    ],
)
def test_amounts_have_no_more_digits_than_needed(microusd, says):
    assert usd_text(microusd) == says


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("0", 0),
        ("1", 1_000_000),
        ("1.", 1_000_000),
        ("0.05", 50_000),
        (".000001", 1),
        ("0.0000001", None),  # less than the smallest amount: not 0
        ("1e-3", None),
        ("-1", None),
        ("nan", None),
        ("٣", None),
        ("1,5", None),
        ("", None),
        (".", None),
        ("1.5\n", None),
    ],
)
def test_an_amount_is_parsed_exactly_or_refused(text, means):
    assert microusd_of(text) == means
