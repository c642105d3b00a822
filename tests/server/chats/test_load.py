"""The limit on open chats, with lags that are given to it. No clock is read."""

import math
from collections import deque

import pytest

from tokenwire_server.chats.load import CALM_S, MIN_SAMPLES, ChatLimit, LoadControl
from tokenwire_server.config import OverloadConfig
from tokenwire_server.errors import Overloaded
from tokenwire_server.tenants.caller import Caller

MAX_LAG_S = 0.02
LATE_S, ON_TIME_S = 0.05, 0.001


def observe(limit, lag_s, *open_count, intervals=1):
    """Let intervals pass in which all samples are `lag_s`."""
    for _ in range(intervals):
        for _ in range(max(MIN_SAMPLES, math.ceil(1 / (0.1 + lag_s)))):
            limit.observe(lag_s, *open_count)


def limited(**settings):
    """Return a limit on chats after an interval in which 100 were open and the loop was late."""
    limit = ChatLimit(OverloadConfig(max_lag_s=MAX_LAG_S, **settings))
    observe(limit, LATE_S, 100)
    return limit


@pytest.mark.parametrize("pause_s", [0.1, 1.0, 3600.0])
def test_single_pauses_refuse_nothing(pause_s):
    limit = ChatLimit(OverloadConfig(max_lag_s=MAX_LAG_S))
    for number in range(1000):
        limit.observe(pause_s if number % 7 == 0 else ON_TIME_S, 500)
        assert limit.limit is None


def test_a_server_with_few_chats_refuses_nothing_however_late_it_is():
    limit = ChatLimit(OverloadConfig(min_chats=20))
    observe(limit, 1.0, 20, intervals=100)
    assert limit.limit is None
    observe(limit, 1.0, 21)
    assert limit.limit == 20


def test_it_can_be_turned_off():
    limit = ChatLimit(OverloadConfig(max_lag_s=0))
    observe(limit, 10.0, 1000, intervals=100)
    assert limit.limit is None


@pytest.mark.parametrize(("lag_s", "expected"), [(0.021, 95), (0.025, 89), (0.05, 75), (5, 75)])
def test_the_limit_falls_further_if_the_loop_is_later(lag_s, expected):
    limit = ChatLimit(OverloadConfig(max_lag_s=MAX_LAG_S))
    observe(limit, lag_s, 100)
    assert limit.limit == expected


def test_the_limit_falls_again_only_when_the_open_chats_have_come_down_to_it():
    limit = limited()
    observe(limit, LATE_S, 76, intervals=10)
    assert limit.limit == 75
    observe(limit, LATE_S, 75)
    assert limit.limit == 56


def test_the_limit_rises_only_while_chats_are_refused():
    limit = limited()
    observe(limit, ON_TIME_S, 75, intervals=10)
    assert limit.limit == 75
    limit.refused()
    observe(limit, ON_TIME_S, 75)
    assert limit.limit == 84
    limit.refused()
    observe(limit, 0.015, 84)
    assert limit.limit == 86


def test_the_limit_ends_after_a_minute_without_lag_and_refusals():
    limit = limited()
    observe(limit, ON_TIME_S, 70, intervals=int(CALM_S) - 2)
    limit.refused()
    observe(limit, ON_TIME_S, 70, intervals=int(CALM_S) - 2)
    assert limit.limit is not None
    observe(limit, ON_TIME_S, 70, intervals=5)
    assert limit.limit is None


@pytest.mark.parametrize("lasts_s", [0.5, 5.0, 30.0])
@pytest.mark.parametrize("overload", [1.2, 3.0, 10.0])
def test_in_an_overload_the_server_stays_near_its_capacity(lasts_s, overload):
    """In this model, the loop is on time up to 300 open chats, and then late in proportion to the excess."""
    capacity, step_s = 300, 0.1
    limit = ChatLimit(OverloadConfig(max_lag_s=MAX_LAG_S))
    arriving, opened, open_counts, lags_s = 0.0, deque(), [], []
    for step in range(int((60 + 10 * lasts_s) / step_s)):
        now = step * step_s
        while opened and opened[0] + lasts_s <= now:
            opened.popleft()
        arriving += overload * capacity / lasts_s * step_s
        while arriving >= 1:
            arriving -= 1
            if limit.limit is None or len(opened) < limit.limit:
                opened.append(now)
            else:
                limit.refused()
        lag_s = ON_TIME_S + max(0.0, len(opened) - capacity) / capacity * 0.2
        limit.observe(lag_s, len(opened))
        open_counts.append(len(opened))
        lags_s.append(lag_s)
    settled = len(open_counts) // 2
    mean = sum(open_counts[settled:]) / (len(open_counts) - settled)
    late = sum(lag_s > 2 * MAX_LAG_S for lag_s in lags_s[settled:]) / (len(lags_s) - settled)
    print(f"\n{overload:g} x the capacity: {mean / capacity:.0%} of it is used, late {late:.0%}")
    assert 0.9 * capacity <= mean <= 1.15 * capacity
    assert late <= 0.1


def late_control(has_tenants, stream_count=100, waiting_s=lambda: 0.0):
    config = OverloadConfig(max_lag_s=MAX_LAG_S)
    return LoadControl(config, lambda: stream_count, lambda: has_tenants, waiting_s=waiting_s)


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
    observe(control, LATE_S)
    assert control.limit == 75
    assert opened(control, 1, "acme") == []
    for chat in chats[:40]:
        chat.__exit__(None, None, None)
    assert len(opened(control, 100, "acme")) == 15


def test_chats_are_refused_while_answers_wait_to_be_decoded_although_timers_are_on_time():
    longest_pause_s = OverloadConfig().max_pause_s
    waits_s = [longest_pause_s]
    control = late_control(False, waiting_s=lambda: waits_s[0])
    opened(control, 100, "acme")
    observe(control, ON_TIME_S)
    assert control.limit == math.inf
    waits_s[0] += LATE_S
    observe(control, ON_TIME_S)
    assert control.limit == 75
    assert opened(control, 1, "acme") == []


def test_a_tenant_with_many_chats_leaves_places_for_another():
    control = late_control(True)
    chats = opened(control, 100, "acme")
    observe(control, LATE_S)
    for chat in chats[:60]:
        chat.__exit__(None, None, None)
    assert len(opened(control, 100, "acme")) + 40 < control.limit
    assert len(opened(control, 2, "globex")) == 2


def test_calls_without_a_stream_do_not_lower_the_limit():
    control = late_control(False, stream_count=3)
    opened(control, 1000, "acme")
    observe(control, LATE_S)
    assert control.limit == math.inf
