"""The pause between two reads of a stream, for a lag of the event loop."""

import pytest

from tokenwire_server.config import OverloadConfig
from tokenwire_server.routing.pacing import SAMPLES, ReadPacing


def pause_after(*lags_s, **config):
    pacing = ReadPacing(OverloadConfig(**config))
    for lag_s in lags_s:
        pacing.observe(lag_s)
    return pacing.pause_s


def test_a_server_on_time_reads_without_a_pause():
    assert pause_after() == 0
    assert pause_after(*[0.0025] * SAMPLES) == 0


def test_a_single_long_pause_of_the_loop_changes_nothing():
    assert pause_after(*[0.001] * 4, 5.0, *[0.001] * 2) == 0


def test_the_pause_rises_with_the_lag_to_its_maximum_and_falls_with_it():
    pauses = [pause_after(*[lag_s] * SAMPLES) for lag_s in (0.003, 0.005, 0.01, 0.02, 9)]
    assert pauses == pytest.approx([0.004, 0.02, 0.06, 0.1, 0.1])
    assert pause_after(*[9] * 20, *[0.001] * SAMPLES) == 0


@pytest.mark.parametrize("off", [{"max_pause_s": 0}, {"max_lag_s": 0}])
def test_a_setting_of_0_turns_the_pause_off(off):
    assert pause_after(*[9] * SAMPLES, **off) == 0
