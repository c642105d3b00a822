"""The pause between two reads of a stream, for lags of the event loop."""

import pytest

from tokenwire_server.config import OverloadConfig
from tokenwire_server.routing.pacing import MAX_RISE_S, SAMPLES, SHORT_PAUSE_S, ReadPacing

USUAL_S = OverloadConfig().max_lag_s / 5
MAX_PAUSE_S = OverloadConfig().max_pause_s


def pause_after(*lags_s, waiting_s=0.01, **config):
    pacing = ReadPacing(OverloadConfig(**config), lambda: waiting_s)
    for lag_s in lags_s:
        pacing.observe(lag_s)
    return pacing.pause_s


def test_a_server_on_time_reads_without_a_pause():
    assert pause_after() == 0
    assert pause_after(*[USUAL_S] * 100) == 0


def test_a_single_long_pause_of_the_loop_changes_nothing():
    assert pause_after(*[0.001] * 4, 5.0, *[0.001] * 2) == 0


def test_the_pause_rises_with_each_sample_while_the_loop_is_late():
    assert pause_after(*[USUAL_S + 0.001] * 10) == pytest.approx(0.01)
    assert pause_after(*[9] * 3) == pytest.approx(3 * MAX_RISE_S)
    assert pause_after(*[9] * 100) == MAX_PAUSE_S


def test_the_pause_falls_to_nothing_within_seconds_when_the_loop_is_on_time_again():
    late = [9] * 100
    assert 0 < pause_after(*late, *[0.0] * SAMPLES) < MAX_PAUSE_S
    assert pause_after(*late, *[0.0] * 40) == 0


def test_the_pause_falls_within_seconds_whatever_lag_is_allowed():
    assert pause_after(*[9] * 100, *[0.0] * 40, max_lag_s=0.001) == 0


def test_the_pause_stays_short_while_no_answer_waits_to_be_decoded():
    assert pause_after(*[0.003] * 1000, waiting_s=0.0) == pytest.approx(SHORT_PAUSE_S)


def test_the_pause_settles_where_the_lag_is_a_fifth_of_its_maximum():
    """In this model, the lag falls from 6 ms without a pause by 1 ms for each 10 ms of it."""
    pacing = ReadPacing(OverloadConfig(), lambda: 0.01)
    lags_s = []
    for _ in range(200):
        lags_s.append(max(0.0, 0.006 - pacing.pause_s / 10))
        pacing.observe(lags_s[-1])
    assert lags_s[-20:] == pytest.approx([USUAL_S] * 20, abs=0.0002)
    assert pacing.pause_s == pytest.approx(0.04, abs=0.002)


def test_tokens_collect_for_the_pause_and_for_the_wait_after_it():
    pacing = ReadPacing(OverloadConfig(), lambda: 0.03)
    for _ in range(100):
        pacing.observe(9)
    assert pacing.delay_s() == MAX_PAUSE_S + 0.03


@pytest.mark.parametrize("off", [{"max_pause_s": 0}, {"max_lag_s": 0}])
def test_a_setting_of_0_turns_the_pause_off(off):
    assert pause_after(*[9] * SAMPLES, **off) == 0
