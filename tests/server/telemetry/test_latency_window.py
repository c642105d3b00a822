"""The figures of the last minutes, compared with the samples themselves."""

import math
import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwire_server.telemetry.latency_window import (
    MAX_ERROR,
    MAX_S,
    MIN_S,
    SLICE_S,
    WINDOW_S,
    LatencyWindow,
)


def nearest_rank(times, quantile):
    return sorted(times)[math.ceil(quantile * len(times)) - 1]


@given(st.lists(st.floats(MIN_S, MAX_S), min_size=1, max_size=200))
def test_quantiles_are_within_the_documented_error(times):
    assert MAX_ERROR < 0.05
    window = LatencyWindow()
    for number, each in enumerate(times):
        window.add_ttft(each, now=number * (WINDOW_S - SLICE_S) / len(times))
    figures = window.figures(WINDOW_S - SLICE_S)
    tolerance = MAX_ERROR + 1e-9
    assert figures.ttft_p50_s == pytest.approx(nearest_rank(times, 0.50), rel=tolerance)
    assert figures.ttft_p95_s == pytest.approx(nearest_rank(times, 0.95), rel=tolerance)


@pytest.mark.parametrize(("ttft_s", "counted_s"), [(0.0, MIN_S), (1e9, MAX_S)])
def test_times_outside_the_range_count_as_its_ends(ttft_s, counted_s):
    window = LatencyWindow()
    window.add_ttft(ttft_s, now=0)
    assert window.figures(0).ttft_p50_s == pytest.approx(counted_s, rel=0.1)


def test_samples_leave_the_window_minute_by_minute():
    window = LatencyWindow()
    for minute in range(15):
        now = 1000 * SLICE_S + minute * SLICE_S
        window.add_ttft(0.1 if minute < 3 else 10.0, now)
        window.add_end(now, is_error=minute < 3)
        window.add_output(100, 1.0 if minute < 3 else 5.0, now)
    figures = window.figures(now + SLICE_S - 0.001)
    assert (figures.attempt_count, figures.error_rate) == (15, 0.2)
    assert figures.output_tokens_per_second == pytest.approx(1500 / 63)
    figures = window.figures(now + 3 * SLICE_S)
    assert (figures.attempt_count, figures.error_rate) == (12, 0)
    assert figures.ttft_p50_s == pytest.approx(10.0, rel=MAX_ERROR)
    assert figures.output_tokens_per_second == pytest.approx(20)
    assert window.figures(now + WINDOW_S) is None
    window.add_end(now + 100 * WINDOW_S, is_error=False)
    assert window.figures(now + 100 * WINDOW_S) == (1, 0, None, None, None)


def test_the_memory_of_a_model_does_not_grow_with_its_load():
    window, draw = LatencyWindow(), random.Random(1).lognormvariate
    tracemalloc.start()
    try:
        for number in range(20_000):
            now = number * SLICE_S / 100  # 200 minutes
            window.add_ttft(draw(0, 3), now)
            window.add_end(now, is_error=False)
            window.add_output(10, 0.1, now)
        used_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert window.figures(now).attempt_count > 1400
    assert used_bytes < 13 * 1024
