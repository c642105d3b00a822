"""When tokens are sent, in virtual time; and how fast without a pace."""

import asyncio
import itertools
import statistics
import time

import pytest

from tokenwire_server.simulator import Simulator

virtual_time = pytest.mark.virtual_time


def about(seconds):
    return pytest.approx(seconds, abs=0.002)


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


@virtual_time
async def test_the_first_token_waits_for_ttft_and_the_opening_does_not(wire):
    opening, first, second, *_ = await arrivals(wire, "sim?tokens=3&ttft_ms=200&itl_ms=10")
    assert (opening, first, second) == (0, about(0.2), about(0.21))


@virtual_time
async def test_tokens_are_sent_one_by_one_at_their_pace(wire):
    times = (await arrivals(wire, "sim?tokens=50&itl_ms=10"))[1:51]
    assert [b - a for a, b in itertools.pairwise(times)] == [about(0.01)] * 49


@virtual_time
async def test_a_late_token_does_not_make_the_following_ones_late(wire):
    loop = asyncio.get_running_loop()
    loop.call_later(0.1, loop.steal, 0.3)
    times = await arrivals(wire, "sim?tokens=60&itl_ms=10")
    assert max(b - a for a, b in itertools.pairwise(times)) == pytest.approx(0.3, abs=0.02)
    assert times[-1] == about(0.6)


@virtual_time
async def test_tokens_per_second_sets_the_pace(wire):
    times = await arrivals(wire, "sim?tokens=50&tokens_per_second=200")
    assert times[-2] - times[1] == about(49 / 200)


@virtual_time
async def test_a_pace_below_the_timers_resolution_is_kept_on_average(wire):
    times = await arrivals(wire, "sim?tokens=3000&tokens_per_second=10000")
    assert times[-1] - times[0] == about(0.3)


@virtual_time
async def test_jitter_moves_tokens_but_not_the_pace(wire):
    times = (await arrivals(wire, "sim?tokens=50&itl_ms=10&jitter_ms=4"))[1:51]
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert statistics.pstdev(gaps) > 0.0015
    assert times[-1] - times[0] == pytest.approx(0.49, abs=0.008)


@virtual_time
async def test_an_answer_that_is_not_streamed_takes_the_same_time(wire):
    loop = asyncio.get_running_loop()
    began = loop.time()
    await wire.chat("sim?tokens=20&ttft_ms=50&itl_ms=5", stream=False)
    await wire.answer()
    assert loop.time() - began == about(0.05 + 20 * 0.005)


@virtual_time
async def test_many_paced_answers_run_concurrently(wire_to):
    async with Simulator() as simulator:
        wires = [await wire_to(simulator) for _ in range(100)]
        loop = asyncio.get_running_loop()
        began = loop.time()
        await asyncio.gather(*(arrivals(wire, "sim?tokens=25&itl_ms=20") for wire in wires))
        assert loop.time() - began == about(0.5)
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
    began = time.process_time()
    await wire.ask(path, body)
    await wire.head()
    chunks = await wire.chunks()
    rate = 50_000 / (time.process_time() - began)
    print(f"\n{path}: {rate:,.0f} tokens a second of CPU, written and read in one process")
    assert 16 * 2**10 < statistics.median(len(chunk) for chunk in chunks) < 2**17
    assert rate > 10_000
