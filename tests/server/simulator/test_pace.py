"""The pace of tokens. Limits are wide because the machine is shared. The figures are printed."""

import asyncio
import itertools
import statistics
import time

import pytest

from tokenwire_server.simulator import Simulator


async def arrivals(wire, model):
    """Return the seconds from the request to each chunk of the body."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    await wire.chat(model)
    await wire.head()
    times = []
    while await wire.chunk():
        times.append(loop.time() - began)
    return times


async def test_the_first_token_waits_for_ttft_and_the_opening_does_not(wire):
    opening, first, *_ = await arrivals(wire, "sim?tokens=3&ttft_ms=200&itl_ms=10")
    assert opening < 0.15
    assert 0.195 <= first < 0.35


async def test_tokens_are_sent_one_by_one_at_their_pace(wire):
    times = (await arrivals(wire, "sim?tokens=50&itl_ms=10"))[1:51]
    assert len(times) > 40  # a busy machine reads a few at once
    gaps = [b - a for a, b in itertools.pairwise(times)]
    print(f"\nnominal 10 ms: median gap {statistics.median(gaps) * 1000:.2f} ms")
    assert 0.007 < statistics.median(gaps) < 0.014


async def test_a_late_token_does_not_make_the_following_ones_late(wire):
    asyncio.get_running_loop().call_later(0.1, time.sleep, 0.3)
    times = await arrivals(wire, "sim?tokens=60&itl_ms=10")
    print(f"\nnominal 600 ms, 300 of them stolen: {times[-1] * 1000:.0f} ms")
    assert 0.59 <= times[-1] < 0.8


async def test_tokens_per_second_sets_the_pace(wire):
    times = await arrivals(wire, "sim?tokens=50&tokens_per_second=200")
    assert 0.24 <= times[-2] - times[1] < 0.4


async def test_a_pace_below_the_timers_resolution_is_kept_on_average(wire):
    times = await arrivals(wire, "sim?tokens=3000&tokens_per_second=10000")
    assert 0.28 <= times[-1] - times[0] < 0.6


async def test_jitter_moves_tokens_but_not_the_pace(wire):
    times = (await arrivals(wire, "sim?tokens=50&itl_ms=10&jitter_ms=4"))[1:51]
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert statistics.pstdev(gaps) > 0.0015
    assert 0.47 <= times[-1] - times[0] < 0.6


async def test_an_answer_that_is_not_streamed_takes_the_same_time(wire):
    loop = asyncio.get_running_loop()
    began = loop.time()
    await wire.chat("sim?tokens=20&ttft_ms=50&itl_ms=5", stream=False)
    await wire.answer()
    assert 0.145 <= loop.time() - began < 0.3


async def test_many_paced_answers_run_concurrently(wire_to):
    async with Simulator() as simulator:
        wires = [await wire_to(simulator) for _ in range(100)]
        loop = asyncio.get_running_loop()
        began = loop.time()
        await asyncio.gather(*(arrivals(wire, "sim?tokens=25&itl_ms=20") for wire in wires))
        assert 0.48 <= loop.time() - began < 1.5
        assert simulator.stats().tokens_sent == 2500


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages"])
async def test_without_a_pace_more_than_ten_thousand_tokens_are_sent_per_second(wire, path):
    body = {
        "model": "sim?tokens=50000",
        "messages": [{"role": "user", "content": "x"}],
        "input": "x",
        "max_tokens": 100_000,
        "stream": True,
    }
    loop = asyncio.get_running_loop()
    began = loop.time()
    await wire.ask(path, body)
    await wire.head()
    chunks = await wire.chunks()
    rate = 50_000 / (loop.time() - began)
    print(f"\n{path}: {rate:,.0f} tokens/s, written and read in one process")
    assert 16 * 2**10 < statistics.median(len(chunk) for chunk in chunks) < 2**17
    assert rate > 10_000
