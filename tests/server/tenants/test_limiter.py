import random
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from limiter_model import TENANTS, WHOLE_SECONDS, Clock, Model, histories, play

from examples import scaled
from tokenwire_server.config import CallerLimits, ConfigError, Limits
from tokenwire_server.errors import QuotaExhausted, RateLimited
from tokenwire_server.tenants.caller import Caller
from tokenwire_server.tenants.limits import check_limits
from tokenwire_server.tenants.memory_limiter import MemoryLimiter
from tokenwire_server.tenants.window import Window

HUGE = CallerLimits(requests_per_minute=10**9, tokens_per_minute=10**12, concurrent_streams=10**6)


@settings(max_examples=scaled(300))
@given(history=histories(WHOLE_SECONDS))
async def test_usage_in_separate_seconds_stops_counting_exactly_on_time(history):
    clock = Clock(1000.0)
    await play(Model(MemoryLimiter(TENANTS, clock), TENANTS, clock, late_s=0.0), history)


async def test_single_usage_stops_counting_after_a_minute_and_not_before():
    clock = Clock()
    limiter = MemoryLimiter({}, clock)
    caller = Caller("acme", "tw_a", "tw_a", limits=CallerLimits(requests_per_minute=1))
    await limiter.take(caller, 0)
    clock.pass_by(59.999)
    with pytest.raises(RateLimited) as caught:
        await limiter.take(caller, 0)
    assert 0.001 <= caught.value.retry_after_s <= 0.003
    clock.pass_by(caught.value.retry_after_s)
    await limiter.take(caller, 0)


SHORT = st.floats(0, 1) | st.sampled_from([0.0, 0.5, 1.0])
LONG = st.floats(58, 62) | st.sampled_from([59.0, 59.5, 60.0, 61.0])


@settings(max_examples=scaled(300))
@given(st.lists(SHORT | SHORT | LONG, max_size=60))
def test_a_window_counts_the_last_minute_and_at_most_a_second_more(steps):
    window, now, taken = Window(), 0.0, []
    for number, step in enumerate(steps):
        now += step
        window.remove_expired(now)
        window.take(now, 1, number)
        taken.append((now, number))
        last_minute, a_second_more = (
            [tokens for time, tokens in taken if now < time + seconds] for seconds in (60.0, 61.001)
        )
        assert len(last_minute) <= window.requests <= len(a_second_more)
        assert sum(last_minute) <= window.tokens <= sum(a_second_more)


async def test_the_memory_of_a_counter_does_not_grow_with_usage():
    clock = Clock()
    limiter = MemoryLimiter({"acme": HUGE}, clock)

    async def take_for_minutes(count):
        for _ in range(count):
            clock.pass_by(0.01)
            (await limiter.take(Caller("acme"), 10)).settle(5)

    await take_for_minutes(7000)
    tracemalloc.start()
    try:
        await take_for_minutes(20_000)
        assert tracemalloc.get_traced_memory()[0] < 20_000
    finally:
        tracemalloc.stop()


async def test_idle_counters_do_not_accumulate():
    clock = Clock()
    limiter = MemoryLimiter({"*": HUGE}, clock)
    for number in range(300):  # streams without end, of as many keys and tenants
        await limiter.take(Caller(f"s{number}", "s", f"s{number}", limits=HUGE), 10)
    for number in range(30_000):  # at any time 1200 keys and tenants have taken something
        clock.pass_by(0.1)
        name = f"t{number}"
        (await limiter.take(Caller(name, name, name, limits=HUGE), 10)).settle(10)
        assert len(limiter._counters) <= 2 * (600 + 1200)


async def test_idle_counters_are_removed_while_one_caller_stays_active():
    clock = Clock()
    limiter = MemoryLimiter({}, clock)
    for number in range(1000):
        caller = Caller("acme", "x", f"x{number}", limits=HUGE)
        (await limiter.take(caller, 10)).settle(10)
    assert len(limiter._counters) == 1000
    clock.pass_by(61)
    for _ in range(1000):
        (await limiter.take(caller, 10)).settle(10)
    assert len(limiter._counters) == 1


async def test_the_counter_of_an_open_stream_is_kept():
    clock = Clock()
    limiter = MemoryLimiter({}, clock)
    limits = CallerLimits(concurrent_streams=1)
    holder = Caller("acme", "tw_a", "tw_a", limits=limits)
    lease = await limiter.take(holder, 0)
    for number in range(1000):
        clock.pass_by(random.Random(number).uniform(0, 100))
        (await limiter.take(Caller("acme", "x", f"x{number}", limits=limits), 0)).settle(0)
    (allowance,) = await limiter.allowances(holder)
    assert allowance.remaining == 0
    lease.settle(0)
    (allowance,) = await limiter.allowances(holder)
    assert allowance.remaining == 1


async def test_a_counter_with_recent_usage_is_kept():
    clock = Clock()
    limiter = MemoryLimiter({"*": CallerLimits(requests_per_minute=2)}, clock)
    for seconds in (0.0, 50.0):
        clock.pass_by(seconds)
        (await limiter.take(Caller("a"), 0)).settle(0)
    clock.pass_by(20)
    for _ in range(2):
        (await limiter.take(Caller("b"), 0)).settle(0)
    (allowance,) = await limiter.allowances(Caller("a"))
    assert allowance.remaining == 1


async def test_reading_allowances_and_refusals_create_no_counters():
    limiter = MemoryLimiter({}, Clock())
    limits = CallerLimits(tokens_per_minute=1)
    for number in range(100):
        caller = Caller("acme", "x", f"x{number}", limits=limits)
        await limiter.allowances(caller)
        with pytest.raises(RateLimited):
            await limiter.take(caller, 2)
    assert not limiter._counters


@pytest.mark.parametrize("limit", ["bytes_per_request", "messages_per_request"])
@pytest.mark.parametrize(
    ("keys", "tenants", "told"), [(5, 3, 3), (3, 5, 3), (5, 9, 5), (None, 5, 5)]
)
def test_a_request_that_exceeds_several_sizes_is_refused_for_the_smallest(
    limit, keys, tenants, told
):
    limiter = MemoryLimiter({"acme": CallerLimits(**{limit: tenants})}, Clock())
    caller = Caller("acme", "tw_a", "tw_a", limits=CallerLimits(**{limit: keys}))
    limiter.check_request(caller, byte_count=told, message_count=told)
    with pytest.raises(QuotaExhausted) as refused:
        limiter.check_request(caller, byte_count=8, message_count=8)
    assert (refused.value.limit, refused.value.allowed) == (limit, told)
    assert refused.value.scope == ("key" if told == keys else "tenant")


def test_limits_that_the_server_cannot_reach_are_named_with_their_path():
    tenants = {
        "acme": CallerLimits(bytes_per_request=99_999_999, concurrent_streams=2000),
        "b.b-1_": CallerLimits(concurrent_streams=2001),
        "*": CallerLimits(bytes_per_request=8 * 2**20, tokens_per_minute=10**12),
        "Acme": CallerLimits(),
        "a" * 65: CallerLimits(),
        "-a": CallerLimits(),
        "a\n": CallerLimits(),
    }
    with pytest.raises(ConfigError) as refused:
        check_limits(tenants, Limits())
    faults = str(refused.value).split("; ")
    assert faults[:2] == [
        "tenants.acme.bytes_per_request: is 99999999, but limits.max_request_bytes is 8388608",
        "tenants.b.b-1_.concurrent_streams: is 2001, but limits.max_streams is 2000",
    ]
    assert [fault.partition(": must be ")[0] for fault in faults[2:]] == [
        "tenants.Acme",
        f"tenants.{'a' * 65}",
        "tenants.-a",
        "tenants.a\n",
    ]
    with pytest.raises(ConfigError) as refused:
        check_limits(tenants, Limits(), is_shared=True)
    assert str(refused.value).split("; ") == [faults[0], *faults[2:]]
    check_limits({}, Limits())
