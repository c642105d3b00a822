"""The limit on open chats, with loads and lags that are given to it. No clock is read."""

import math
from collections import deque

import pytest

from tokenwire_server.chats.load import CALM_S, MIN_SAMPLES, ChatLimit, LoadControl
from tokenwire_server.config import OverloadConfig
from tokenwire_server.errors import Overloaded
from tokenwire_server.routing.pacing import ReadPacing
from tokenwire_server.tenants.caller import Caller

MAX_LAG_S = 0.02
LATE_S, ON_TIME_S = 0.05, 0.001
HIGH, LOW = 2.5, 0.05
"""A load that is too much, and one that is not."""


def observe(limit, load, open_count, intervals=1):
    """Let intervals pass in which all samples are `load`."""
    for _ in range(10 * intervals):
        limit.observe(load, 0.101, open_count)  # samples are a little late


def observe_lag(control, lag_s):
    """Let an interval pass in which all samples of the lag are `lag_s`."""
    for _ in range(max(MIN_SAMPLES, math.ceil(1 / (0.1 + lag_s)))):
        control.observe(lag_s)


def limited():
    """Return a limit on chats after an interval in which 100 were open and the load was too much."""
    limit = ChatLimit(OverloadConfig())
    observe(limit, HIGH, 100)
    return limit


@pytest.mark.parametrize("high", [1.5, 50.0, 180_000.0])
def test_single_samples_refuse_nothing(high):
    limit = ChatLimit(OverloadConfig())
    for number in range(1000):
        limit.observe(high if number % 7 == 0 else LOW, 0.1, 500)
        assert limit.limit is None


def test_a_server_with_few_chats_refuses_nothing_however_much_work_it_has():
    limit = ChatLimit(OverloadConfig(min_chats=20))
    observe(limit, 50, 20, intervals=100)
    assert limit.limit is None
    observe(limit, 50, 21)
    assert limit.limit == 20


def test_it_can_be_turned_off():
    control = LoadControl(
        OverloadConfig(max_lag_s=0), lambda: 1000, lambda: False, delay_s=lambda: 10.0
    )
    opened(control, 1000, "acme")
    for _ in range(100):
        observe_lag(control, 10.0)
    assert control.limit == math.inf


@pytest.mark.parametrize(("load", "expected"), [(1.05, 97), (1.25, 89), (2.5, 75), (250, 75)])
def test_the_limit_falls_further_if_there_is_more_work(load, expected):
    limit = ChatLimit(OverloadConfig())
    observe(limit, load, 100)
    assert limit.limit == expected


def test_the_limit_falls_again_only_when_the_open_chats_have_come_down_to_it():
    limit = limited()
    observe(limit, HIGH, 76, intervals=10)
    assert limit.limit == 75
    observe(limit, HIGH, 75)
    assert limit.limit == 56


def test_the_limit_rises_only_while_chats_are_refused():
    limit = limited()
    observe(limit, LOW, 75, intervals=10)
    assert limit.limit == 75
    limit.refused()
    observe(limit, LOW, 75)
    assert limit.limit == 78
    limit.refused()
    observe(limit, 0.99, 78)
    assert limit.limit == 79
    limit.refused()
    observe(limit, 0, 79)
    assert limit.limit == 82


def test_the_limit_rises_less_near_the_maximum_of_the_load():
    limit = ChatLimit(OverloadConfig())
    observe(limit, HIGH, 1000)
    assert limit.limit == 750
    limit.refused()
    observe(limit, 0.95, 750)
    assert limit.limit == 769


def test_the_limit_ends_after_a_minute_without_too_much_work_and_refusals():
    limit = limited()
    observe(limit, LOW, 70, intervals=int(CALM_S) - 2)
    limit.refused()
    observe(limit, LOW, 70, intervals=int(CALM_S) - 2)
    assert limit.limit is not None
    observe(limit, LOW, 70, intervals=5)
    assert limit.limit is None


@pytest.mark.parametrize("lasts_s", [0.5, 5.0, 30.0])
@pytest.mark.parametrize("overload", [1.2, 3.0, 10.0])
@pytest.mark.parametrize("measured", ["lag", "delay"])
def test_in_an_overload_the_server_stays_near_its_capacity(lasts_s, overload, measured):
    """In these models, up to 300 chats may be open. Beyond it, the loop is late in proportion to the excess, or
    tokens collect for longer and longer.
    """
    capacity, step_s = 300, 0.1
    config = OverloadConfig(max_lag_s=MAX_LAG_S)
    delays_s = [0.0]
    arriving, opened, open_counts, loads = 0.0, deque(), [], []
    control = LoadControl(config, lambda: len(opened), lambda: False, delay_s=lambda: delays_s[-1])
    for step in range(int((60 + 10 * lasts_s) / step_s)):
        now = step * step_s
        while opened and opened[0][0] + lasts_s <= now:
            _, chat = opened.popleft()
            chat.__exit__(None, None, None)
        arriving += overload * capacity / lasts_s * step_s
        while arriving >= 1:
            arriving -= 1
            chat = control.admitted(Caller("acme", ""))
            try:
                chat.__enter__()
            except Overloaded:
                continue
            opened.append((now, chat))
        excess = (len(opened) - capacity) / capacity
        lag_s = ON_TIME_S
        if measured == "lag":
            lag_s += max(0.0, excess) * 0.2
            loads.append(lag_s / MAX_LAG_S)
        else:
            utilization = min(0.999, 0.9 + 0.9 * excess)
            delays_s.append((config.max_pause_s + MAX_LAG_S) * 0.1 / (1 - utilization))
            loads.append(delays_s[-1] / (config.max_pause_s + MAX_LAG_S))
        control.observe(lag_s)
        open_counts.append(len(opened))
    settled = len(open_counts) // 2
    mean = sum(open_counts[settled:]) / (len(open_counts) - settled)
    late = sum(load > 2 for load in loads[settled:]) / (len(loads) - settled)
    print(f"\n{overload:g} x the capacity: {mean / capacity:.0%} of it is used, late {late:.0%}")
    assert 0.9 * capacity <= mean <= 1.15 * capacity
    assert late <= 0.1


def late_control(has_tenants, stream_count=100):
    config = OverloadConfig(max_lag_s=MAX_LAG_S)
    return LoadControl(config, lambda: stream_count, lambda: has_tenants, delay_s=lambda: 0.0)


def opened(control, count, tenant):
    """Open chats until one is refused, at most `count`. Returns the blocks they run in."""
    chats = []
    for _ in range(count):
        chat = control.admitted(Caller(tenant, ""))
        try:
            chat.__enter__()
        except Overloaded as refusal:
            assert (refusal.limit_name, refusal.limit) == ("max_lag_s", MAX_LAG_S)
            assert 1 <= refusal.retry_after_s <= 2
            break
        chats.append(chat)
    return chats


def test_a_place_is_free_again_when_a_chat_has_ended():
    control = late_control(False)
    chats = opened(control, 100, "acme")
    observe_lag(control, LATE_S)
    assert control.limit == 75
    assert opened(control, 1, "acme") == []
    for chat in chats[:40]:
        chat.__exit__(None, None, None)
    assert len(opened(control, 100, "acme")) == 15


@pytest.mark.parametrize("max_pause_s", [OverloadConfig().max_pause_s, 0])
def test_chats_are_refused_while_tokens_collect_for_too_long_although_timers_are_on_time(
    max_pause_s,
):
    delays_s = [max_pause_s + MAX_LAG_S]
    config = OverloadConfig(max_lag_s=MAX_LAG_S, max_pause_s=max_pause_s)
    control = LoadControl(config, lambda: 100, lambda: False, delay_s=lambda: delays_s[0])
    opened(control, 100, "acme")
    observe_lag(control, ON_TIME_S)
    assert control.limit == math.inf
    delays_s[0] *= 2
    observe_lag(control, ON_TIME_S)
    assert control.limit == 91
    assert opened(control, 1, "acme") == []


def test_a_machine_that_delays_each_timer_by_3_ms_refuses_nothing():
    config = OverloadConfig()
    pacing = ReadPacing(config, waiting_s=lambda: 0.002)
    control = LoadControl(config, lambda: 100, lambda: False, delay_s=pacing.delay_s)
    opened(control, 100, "acme")
    for _ in range(600):
        pacing.observe(0.003)
        control.observe(0.003)
    assert control.limit == math.inf


def test_a_tenant_with_many_chats_leaves_places_for_another():
    control = late_control(True)
    chats = opened(control, 100, "acme")
    observe_lag(control, LATE_S)
    for chat in chats[:60]:
        chat.__exit__(None, None, None)
    assert len(opened(control, 100, "acme")) + 40 < control.limit
    assert len(opened(control, 2, "globex")) == 2


def test_calls_without_a_stream_do_not_lower_the_limit():
    control = late_control(False, stream_count=3)
    opened(control, 1000, "acme")
    observe_lag(control, LATE_S)
    assert control.limit == math.inf
