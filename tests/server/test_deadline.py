import asyncio
from time import monotonic as now
from time import sleep

import pytest

from tokenwire_server.deadline import SilenceLimit


async def test_silence_beyond_the_limit_ends_the_block_on_time():
    began = now()
    with pytest.raises(TimeoutError):
        with SilenceLimit(0.1):
            await asyncio.sleep(30)
    assert 0.1 <= now() - began < 1.0


async def test_the_limit_counts_from_the_last_event():
    began = now()
    with pytest.raises(TimeoutError):
        with SilenceLimit(0.15) as silence:
            for _ in range(4):
                await asyncio.sleep(0.05)
                silence.heard(now(), 0.15)
            await asyncio.sleep(30)
    assert now() - began >= 0.35


async def test_a_shorter_limit_applies_at_once():
    began = now()
    with pytest.raises(TimeoutError):
        with SilenceLimit(30) as silence:
            silence.heard(now(), 0.05)
            await asyncio.sleep(30)
    assert now() - began < 5


async def test_leaving_in_time_leaves_no_timer_that_could_fire_later():
    with SilenceLimit(0.05):
        await asyncio.sleep(0)
    await asyncio.sleep(0.15)
    assert asyncio.current_task().cancelling() == 0


async def test_a_cancel_from_outside_stays_a_cancel():
    entered = asyncio.Event()

    async def waits():
        with SilenceLimit(30):
            entered.set()
            await asyncio.sleep(30)

    task = asyncio.create_task(waits())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancel_that_comes_together_with_the_limit_stays_a_cancel():
    async def waits():
        with SilenceLimit(0):
            await asyncio.sleep(30)

    task = asyncio.create_task(waits())
    await asyncio.sleep(0)
    task.get_loop().call_soon(task.cancel)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_other_errors_pass_through():
    with pytest.raises(KeyError):
        with SilenceLimit(1):
            raise KeyError


async def test_pause_stops_the_clock_until_the_next_event():
    began = now()
    with pytest.raises(TimeoutError):
        with SilenceLimit(0.1) as silence:
            silence.pause()
            await asyncio.sleep(0.35)
            silence.heard(now(), 0.1)
            await asyncio.sleep(30)
    assert 0.44 <= now() - began < 5


@pytest.mark.parametrize("cancelled_after_s", [0.001, 0.02], ids=["before", "after"])
async def test_a_cancel_that_is_due_in_the_same_step_as_the_limit_stays_a_cancel(cancelled_after_s):
    async def waits():
        with SilenceLimit(0.01):
            loop = asyncio.get_running_loop()
            loop.call_later(cancelled_after_s, asyncio.current_task().cancel)
            sleep(0.05)  # the loop is held up until both are due
            await asyncio.sleep(30)

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(waits())
