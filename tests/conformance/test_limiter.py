"""Conformance suite for implementations of Limiter: single answers."""

import pytest
from limiter_model import CALLERS, LATE_S, TENANTS, a_caller, left

from tokenwire_server.config import CallerLimits
from tokenwire_server.errors import QuotaExhausted, RateLimited, TooManyStreams
from tokenwire_server.tenants.caller import Caller
from tokenwire_server.tenants.limits import Allowance


async def test_requests_above_the_limit_are_refused_until_a_minute_has_passed(new_limiter, clock):
    limiter = await new_limiter({}, clock)
    caller = a_caller(requests_per_minute=2)
    for _ in range(2):
        (await limiter.take(caller, 0)).settle(0)
    with pytest.raises(RateLimited) as caught:
        await limiter.take(caller, 7)
    error = caught.value
    assert (error.limit, error.scope, error.subject) == ("requests_per_minute", "key", "tw_a")
    assert (error.allowed, error.asked, error.remaining) == (2, 1, 0)
    assert 60 <= error.retry_after_s <= 60 + LATE_S
    clock.pass_by(error.retry_after_s)
    await limiter.take(caller, 7)


async def test_a_request_without_a_stream_uses_only_the_request_limit(new_limiter, clock):
    limiter = await new_limiter({}, clock)
    limits = {"requests_per_minute": 3, "tokens_per_minute": 5, "concurrent_streams": 1}
    caller = a_caller(**limits)
    lease = await limiter.take(caller, 5)
    for _ in range(2):  # although no token and no slot is left
        await limiter.take_request(caller)
    assert left(await limiter.allowances(caller)) == {
        ("key", "requests_per_minute"): 0,
        ("key", "tokens_per_minute"): 0,
        ("key", "concurrent_streams"): 0,
    }
    with pytest.raises(RateLimited) as caught:
        await limiter.take_request(caller)
    assert (caught.value.limit, caught.value.asked) == ("requests_per_minute", 1)
    lease.settle(5)
    clock.pass_by(caught.value.retry_after_s)
    await limiter.take_request(caller)


async def test_tokens_above_the_limit_are_refused_and_fewer_are_not(new_limiter, clock):
    limiter = await new_limiter({"acme": CallerLimits(tokens_per_minute=100)}, clock)
    caller = a_caller()
    await limiter.take(caller, 70)
    with pytest.raises(RateLimited) as caught:
        await limiter.take(caller, 31)
    error = caught.value
    assert (error.limit, error.scope, error.subject) == ("tokens_per_minute", "tenant", "acme")
    assert (error.allowed, error.asked, error.remaining) == (100, 31, 30)
    await limiter.take(caller, 30)


async def test_more_tokens_than_the_whole_limit_are_refused_without_a_retry_delay(
    new_limiter, clock
):
    tenants = {"acme": CallerLimits(requests_per_minute=1, concurrent_streams=1)}
    limiter = await new_limiter(tenants, clock)
    caller = a_caller(tokens_per_minute=100)
    await limiter.take(caller, 0)
    with pytest.raises(RateLimited) as caught:
        await limiter.take(caller, 101)
    assert caught.value.retry_after_s is None
    assert (caught.value.limit, caught.value.asked) == ("tokens_per_minute", 101)


async def test_a_slot_is_free_once_its_stream_has_ended_and_not_before(new_limiter, clock):
    limiter = await new_limiter({}, clock)
    caller = a_caller(concurrent_streams=2)
    first, _ = [await limiter.take(caller, 0) for _ in range(2)]
    clock.pass_by(3600)
    with pytest.raises(TooManyStreams) as caught:
        await limiter.take(caller, 0)
    error = caught.value
    assert (error.limit, error.allowed, error.asked, error.remaining) == (
        "concurrent_streams",
        2,
        1,
        0,
    )
    assert error.retry_after_s == 1.0
    first.settle(10)
    await limiter.take(caller, 0)
    with pytest.raises(TooManyStreams):
        await limiter.take(caller, 0)


async def test_of_several_exceeded_limits_the_one_with_the_longest_wait_is_reported(
    new_limiter, clock
):
    limiter = await new_limiter({"acme": CallerLimits(tokens_per_minute=10)}, clock)
    caller = a_caller(requests_per_minute=1, concurrent_streams=1)
    lease = await limiter.take(caller, 5)
    clock.pass_by(30)
    other = a_caller(prefix="tw_b")
    await limiter.take(other, 5)
    with pytest.raises(RateLimited) as caught:
        await limiter.take(caller, 6)
    assert caught.value.limit == "tokens_per_minute"  # in 60 s; a request is there in 30 s
    with pytest.raises(RateLimited) as caught:
        await limiter.take(caller, 0)
    assert caught.value.limit == "requests_per_minute"
    clock.pass_by(29.5)
    with pytest.raises((RateLimited, TooManyStreams)) as caught:
        await limiter.take(caller, 0)
    assert caught.value.retry_after_s >= 1.0
    lease.settle(5)
    with pytest.raises(RateLimited):
        await limiter.take(caller, 0)


async def test_a_refusal_by_one_limit_uses_nothing_of_the_others(new_limiter, clock):
    limiter = await new_limiter({"acme": CallerLimits(concurrent_streams=1)}, clock)
    caller = a_caller(requests_per_minute=10, tokens_per_minute=100, concurrent_streams=5)
    await limiter.take(caller, 10)
    before = await limiter.allowances(caller)
    for _ in range(3):
        with pytest.raises(TooManyStreams):
            await limiter.take(caller, 10)
    assert await limiter.allowances(caller) == before


async def test_allowances_list_every_limit_with_what_is_left_key_limits_first(new_limiter, clock):
    tenants = {"acme": CallerLimits(requests_per_minute=5, concurrent_streams=3)}
    limiter = await new_limiter(tenants, clock)
    caller = a_caller(
        bytes_per_request=5000,
        messages_per_request=4,
        concurrent_streams=2,
        tokens_per_minute=100,
        requests_per_minute=10,
    )
    lease = await limiter.take(caller, 30)
    told = (
        Allowance("requests_per_minute", "key", 10, 9),
        Allowance("tokens_per_minute", "key", 100, 70),
        Allowance("concurrent_streams", "key", 2, 1),
        Allowance("messages_per_request", "key", 4, None),
        Allowance("bytes_per_request", "key", 5000, None),
        Allowance("requests_per_minute", "tenant", 5, 4),
        Allowance("concurrent_streams", "tenant", 3, 2),
    )
    assert lease.allowances == told
    assert await limiter.allowances(caller) == told
    await limiter.take(caller, 30)
    assert lease.allowances == told  # as it was at that time


async def test_unused_tokens_are_available_again_immediately(new_limiter, clock):
    limiter = await new_limiter({}, clock)
    caller = a_caller(tokens_per_minute=100)
    lease = await limiter.take(caller, 100)
    clock.pass_by(10)
    lease.settle(20)
    await limiter.take(caller, 80)
    with pytest.raises(RateLimited):
        await limiter.take(caller, 1)


async def test_tokens_used_beyond_the_estimate_delay_later_requests(new_limiter, clock):
    limiter = await new_limiter({}, clock)
    caller = a_caller(tokens_per_minute=100)
    lease = await limiter.take(caller, 50)
    clock.pass_by(30)
    lease.settle(170)
    assert left(await limiter.allowances(caller)) == {("key", "tokens_per_minute"): -70}
    with pytest.raises(RateLimited) as caught:
        await limiter.take(caller, 0)
    assert caught.value.remaining == -70
    clock.pass_by(caught.value.retry_after_s)
    assert left(await limiter.allowances(caller)) == {("key", "tokens_per_minute"): 100}


async def test_a_stream_longer_than_a_minute_returns_no_tokens_that_have_expired(
    new_limiter, clock
):
    limiter = await new_limiter({}, clock)
    caller = a_caller(tokens_per_minute=100, requests_per_minute=5, concurrent_streams=3)
    settled, given_back = [await limiter.take(caller, 40) for _ in range(2)]
    clock.pass_by(90)
    await limiter.take(caller, 60)
    settled.settle(10)
    given_back.give_back()
    assert left(await limiter.allowances(caller)) == {
        ("key", "requests_per_minute"): 4,
        ("key", "tokens_per_minute"): 40,
        ("key", "concurrent_streams"): 2,
    }


async def test_a_lease_that_is_given_back_uses_nothing(new_limiter, clock):
    limiter = await new_limiter(TENANTS, clock)
    caller = CALLERS[0]
    before = await limiter.allowances(caller)
    for _ in range(50):
        (await limiter.take(caller, 20)).give_back()
    assert await limiter.allowances(caller) == before


@pytest.mark.parametrize("first", ["settle", "give_back"])
async def test_only_the_first_end_of_a_lease_counts(new_limiter, clock, first):
    limiter = await new_limiter(TENANTS, clock)
    caller = CALLERS[0]
    lease = await limiter.take(caller, 5)
    await limiter.take(caller, 5)
    lease.settle(9) if first == "settle" else lease.give_back()
    once = await limiter.allowances(caller)
    for _ in range(2):
        lease.settle(15)
        lease.give_back()
    assert await limiter.allowances(caller) == once


async def test_a_rotated_key_shares_the_usage_of_its_predecessor(new_limiter, clock):
    limiter = await new_limiter({}, clock)
    old = a_caller(prefix="tw_old", requests_per_minute=2)
    new = a_caller(prefix="tw_new", family="tw_old", requests_per_minute=2)
    await limiter.take(old, 0)
    await limiter.take(new, 0)
    with pytest.raises(RateLimited) as caught:
        await limiter.take(new, 0)
    assert caught.value.subject == "tw_new"


async def test_each_unnamed_tenant_has_the_default_limits_separately(new_limiter, clock):
    tenants = {"*": CallerLimits(requests_per_minute=1), "free": CallerLimits()}
    limiter = await new_limiter(tenants, clock)
    for tenant in "abc":
        await limiter.take(Caller(tenant), 0)
        with pytest.raises(RateLimited) as caught:
            await limiter.take(Caller(tenant), 0)
        assert (caught.value.scope, caught.value.subject) == ("tenant", tenant)
    for _ in range(5):
        await limiter.take(Caller("free"), 10**9)


async def test_a_key_and_a_tenant_with_the_same_name_are_counted_separately(new_limiter, clock):
    limiter = await new_limiter({"same": CallerLimits(requests_per_minute=2)}, clock)
    caller = a_caller(tenant="same", prefix="same", requests_per_minute=2)
    for _ in range(2):
        await limiter.take(caller, 0)
    with pytest.raises(RateLimited):
        await limiter.take(caller, 0)


async def test_a_caller_is_checked_against_its_current_limits(new_limiter, clock):
    limiter = await new_limiter({}, clock)
    leases = [await limiter.take(a_caller(concurrent_streams=3), 0) for _ in range(3)]
    with pytest.raises(TooManyStreams) as caught:
        await limiter.take(a_caller(concurrent_streams=2), 0)
    assert caught.value.remaining == -1
    with pytest.raises(RateLimited):
        await limiter.take(a_caller(requests_per_minute=3), 0)
    leases += [await limiter.take(a_caller(concurrent_streams=4), 0)]
    for lease in leases:
        lease.settle(0)
    await limiter.take(a_caller(concurrent_streams=1), 0)


async def test_a_caller_above_a_lowered_limit_waits_until_enough_has_expired(new_limiter, clock):
    limiter = await new_limiter({}, clock)
    before, after = a_caller(requests_per_minute=10), a_caller(requests_per_minute=2)
    for _ in range(4):
        (await limiter.take(before, 0)).settle(0)
        clock.pass_by(10)
    with pytest.raises(RateLimited) as caught:
        await limiter.take(after, 0)
    assert caught.value.remaining == -2
    assert 40 <= caught.value.retry_after_s <= 40 + LATE_S  # when the third leaves
    clock.pass_by(caught.value.retry_after_s)
    await limiter.take(after, 0)


async def test_without_a_key_only_the_tenants_limits_apply(new_limiter, clock):
    limiter = await new_limiter({"acme": CallerLimits(requests_per_minute=2)}, clock)
    caller = Caller("acme", limits=CallerLimits(requests_per_minute=1))
    for _ in range(2):
        lease = await limiter.take(caller, 0)
    assert [allowance.scope for allowance in lease.allowances] == ["tenant"]


async def test_a_caller_without_limits_is_never_refused(new_limiter, clock):
    limiter = await new_limiter({}, clock)
    for caller in (Caller(), a_caller()):
        leases = [await limiter.take(caller, 10**12) for _ in range(100)]
        assert leases[0].allowances == await limiter.allowances(caller) == ()
        leases[0].settle(5)
        leases[1].give_back()
        limiter.check_request(caller, byte_count=10**12, message_count=10**12)


async def test_the_limit_of_one_request_is_the_smaller_of_key_and_tenant(new_limiter, clock):
    tenants = {"acme": CallerLimits(bytes_per_request=1000, messages_per_request=2)}
    limiter = await new_limiter(tenants, clock)
    caller = a_caller(bytes_per_request=500, messages_per_request=3)
    limiter.check_request(caller, byte_count=500, message_count=2)
    with pytest.raises(QuotaExhausted) as caught:
        limiter.check_request(caller, byte_count=1001)
    assert described(caught.value) == ("bytes_per_request", "key", "tw_a", 500, 1001, 500, "")
    with pytest.raises(QuotaExhausted) as caught:
        limiter.check_request(caller, byte_count=1, message_count=4)
    assert described(caught.value) == (
        "messages_per_request",
        "tenant",
        "acme",
        2,
        4,
        2,
        "messages",
    )
    assert caught.value.retry_after_s is None


@pytest.mark.parametrize("limit", ["bytes_per_request", "messages_per_request"])
async def test_a_limit_of_one_request_applies_without_other_limits(new_limiter, clock, limit):
    limiter = await new_limiter({}, clock)
    caller = a_caller(**{limit: 10})
    limiter.check_request(caller, byte_count=10, message_count=10)
    with pytest.raises(QuotaExhausted) as caught:
        limiter.check_request(caller, byte_count=11, message_count=11)
    assert caught.value.limit == limit
    lease = await limiter.take(caller, 10**12)
    assert lease.allowances == (Allowance(limit, "key", 10, None),)


def described(error):
    return (
        error.limit,
        error.scope,
        error.subject,
        error.allowed,
        error.asked,
        error.remaining,
        error.field,
    )
