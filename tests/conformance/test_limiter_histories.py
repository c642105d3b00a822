"""Conformance suite for implementations of Limiter: random histories and concurrent callers."""

import asyncio
import random

from hypothesis import given, settings
from hypothesis import strategies as st
from limiter_model import (
    CALLERS,
    LATE_S,
    RETRY_LATE_S,
    SECONDS,
    TENANTS,
    TOKENS,
    Clock,
    Model,
    a_caller,
    histories,
    left,
    play,
)

from examples import scaled
from tokenwire_server.errors import RateLimited, TooManyStreams


@settings(max_examples=scaled(300))
@given(history=histories(SECONDS))
async def test_any_history_gets_the_answers_of_the_model(new_limiter, history):
    clock = Clock()
    model = Model(await new_limiter(TENANTS, clock), TENANTS, clock)
    await play(model, history)
    for held in model.held:
        if held.is_open:
            held.lease.settle(0)
    clock.pass_by(60 + LATE_S)
    for caller in CALLERS:  # everything is available again
        for allowance in await model.limiter.allowances(caller):
            assert allowance.remaining in {allowance.allowed, None}


@settings(max_examples=scaled(200))
@given(history=histories(SECONDS), caller=st.sampled_from(CALLERS), tokens=TOKENS)
async def test_a_retry_after_the_delay_is_admitted_and_an_earlier_one_is_not(
    new_limiter, history, caller, tokens
):
    clock = Clock()
    model = Model(await new_limiter(TENANTS, clock), TENANTS, clock)
    await play(model, history)
    for held in model.held:  # slots do not depend on time
        if held.is_open:
            held.lease.settle(held.tokens + 1)
    for _ in range(50):
        refusal = await try_take(model.limiter, caller, tokens)
        if refusal is not None:
            break
    if refusal is None or refusal.retry_after_s is None:
        return
    if refusal.retry_after_s > RETRY_LATE_S:
        clock.pass_by(refusal.retry_after_s - RETRY_LATE_S)
        refusal = await try_take(model.limiter, caller, tokens)
        assert refusal is not None
    clock.pass_by(refusal.retry_after_s)
    assert await try_take(model.limiter, caller, tokens) is None


async def try_take(limiter, caller, tokens):
    """Return the refusal, or None. The slot is released."""
    try:
        lease = await limiter.take(caller, tokens)
    except RateLimited as refusal:
        return refusal
    lease.settle(tokens)
    return None


async def test_a_hundred_concurrent_callers_never_have_more_slots_than_exist(new_limiter):
    limiter = await new_limiter({}, Clock())
    caller = a_caller(concurrent_streams=10)
    now, peak, served = 0, 0, 0

    async def stream(steps):
        nonlocal now, peak, served
        while True:
            try:
                lease = await limiter.take(caller, 1)
                break
            except TooManyStreams:
                await asyncio.sleep(0)
        now += 1
        peak = max(peak, now)
        try:
            for _ in range(steps):
                await asyncio.sleep(0)
            served += 1
        finally:
            now -= 1
            lease.settle(1)

    random_ = random.Random(7)
    tasks = [asyncio.create_task(stream(random_.randrange(20))) for _ in range(100)]
    for task in random_.sample(tasks, 30):
        for _ in range(random_.randrange(5)):
            await asyncio.sleep(0)
        task.cancel()
    async with asyncio.timeout(10):
        await asyncio.wait(tasks)
    assert 5 < peak <= 10  # the last slots may be given back before another caller can use them
    assert 70 <= served < 100
    assert left(await limiter.allowances(caller)) == {("key", "concurrent_streams"): 10}
