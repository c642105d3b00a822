from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwire.cli.usage.filters import UsageFilters
from tokenwire.cli.usage.text import (
    bar,
    end_text,
    record_row,
    served,
    sum_of,
    summary_cost_text,
    summary_row,
    total_lines,
)
from tokenwire.v1 import usage_pb2
from tokenwire.v1.usage_pb2 import Usage, UsageSummary

from ..usage_server import record

FILTERS = UsageFilters(since=datetime(2026, 7, 1, tzinfo=UTC))


def summary(count, cost, **fields):
    usage = Usage(input_tokens=10 * count, output_tokens=count)
    if cost is not None:
        usage.cost_microusd = cost
    return UsageSummary(record_count=count, usage=usage, **fields)


def test_the_sum_of_all_groups_is_printed_with_what_it_lacks():
    groups = [
        summary(1000, 1_500_000),
        summary(3, None, unpriced_count=3, estimated_count=2),
        summary(2, 1, open_count=1),
    ]

    assert list(total_lines(sum_of(groups), FILTERS)) == [
        "since 2026-07-01 (UTC): 1,005 streams, 10,050 tokens in, 1,005 out, $1.500001",
        "3 without a known price: their cost is not in the sum",
        "2 with figures that Tokenwire counted or estimated, not the provider's",
        "1 still open: their figures will grow",
    ]


def test_a_sum_without_a_known_cost_is_unknown_and_not_0():
    lines = list(total_lines(sum_of([summary(1, None, unpriced_count=1)]), FILTERS))

    assert lines[0].endswith("1 stream, 10 tokens in, 1 out, cost unknown")
    assert next(total_lines(sum_of([summary(1, 0)]), FILTERS)).endswith("out, $0.00")


def test_the_sum_of_no_streams_is_the_period():
    assert list(total_lines(sum_of([]), FILTERS)) == ["no streams since 2026-07-01 (UTC)"]


@given(st.lists(st.one_of(st.none(), st.integers(0, 2**50)), max_size=6))
def test_known_costs_add_up_exactly(costs):
    whole = sum_of([summary(1, cost) for cost in costs])

    known = [cost for cost in costs if cost is not None]
    assert whole.usage.HasField("cost_microusd") == bool(known)
    assert whole.usage.cost_microusd == sum(known)


def test_a_cost_that_is_estimated_or_lacks_a_part_is_marked():
    whole, part = summary(1, 5), summary(2, 5, unpriced_count=1)
    part.usage.estimated = True

    assert summary_cost_text(whole) == "$0.000005"
    assert summary_cost_text(part) == "~$0.000005 + ?"
    assert summary_cost_text(summary(1, None, unpriced_count=1)) == "unknown"


def test_lines_for_programs_have_exact_costs_and_leave_unknown_ones_empty():
    by_label = ("day", "label")
    group = summary(2, 1_500_001, day="2026-07-31", label_value="search", unpriced_count=1)

    assert summary_row(group, by_label) == (
        "2026-07-31",
        "search",
        "2",
        "20",
        "2",
        "1.500001",
        "1",
    )
    assert summary_row(summary(1, None), ()) == ("1", "10", "1", "", "0")
    assert record_row(record(2, reason="STOP")) == (
        "2026-07-31T12:13:22.000000Z",
        f"{2:032x}",
        "openai/demo",
        "2",
        "4",
        "0.000006",
        "finished: stop",
    )


@pytest.mark.parametrize(
    ("outcome", "reason", "says"),
    [
        (usage_pb2.USAGE_OUTCOME_FINISHED, "MAX_TOKENS", "finished: max_tokens"),
        (usage_pb2.USAGE_OUTCOME_FAILED, "UPSTREAM_BROKEN", "failed: upstream_broken"),
        (usage_pb2.USAGE_OUTCOME_BUDGET, "BUDGET", "budget"),
        (usage_pb2.USAGE_OUTCOME_OPEN, "", "open"),
    ],
)
def test_how_a_stream_ended_is_printed_once(outcome, reason, says):
    assert end_text(record(1, outcome=outcome, reason=reason)) == says


def test_without_a_model_that_answered_the_requested_one_is_shown():
    never = record(1, model_asked="fast")
    never.provider = never.model = ""

    assert (served(never), served(record(1, model_asked="fast"))) == ("fast", "openai/demo")


@given(st.integers(0, 2**60), st.integers(1, 2**60), st.integers(1, 80), st.booleans())
def test_a_bar_fits_and_is_never_empty_above_0(value, most, width, ascii_only):
    value = min(value, most)

    drawn = bar(value, most, width, ascii_only)

    assert len(drawn) <= width
    assert bool(drawn) == (value > 0)
    assert drawn.isascii() or not ascii_only
    assert len(bar(most, most, width, ascii_only)) == width


def test_bars_distinguish_eighths():
    assert [bar(value, 16, 2) for value in (0, 1, 8, 12, 16)] == ["", "▏", "█", "█▌", "██"]
