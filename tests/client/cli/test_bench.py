"""`tokenwire bench`, and the percentiles and histograms that it prints."""

import asyncio
import json
import signal
from itertools import pairwise

import grpc
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tokenwire.cli.latencies import buckets, histogram_lines, percentile, summary

from ..conftest import (
    LIMIT_S,
    accept,
    caller_left,
    fails,
    finished,
    plays,
    plays_then_waits,
    started,
    status,
    text,
)

times = st.lists(st.floats(1e-5, 1e3), min_size=1, max_size=50)


@given(times)
@example([999.9999999999999])
def test_the_histogram_counts_every_time_once_in_its_bucket(measured):
    rows = buckets(measured)

    assert sum(count for _, _, count in rows) == len(measured)
    assert rows[0][2]
    assert rows[-1][2]
    assert all(row[1] == after[0] for row, after in pairwise(rows))
    assert rows[0][0] <= min(measured)
    assert max(measured) < rows[-1][1]


@given(times, st.integers(1, 100))
def test_a_percentile_is_the_smallest_value_that_covers_its_part(measured, percent):
    ordered = sorted(measured)
    found = percentile(ordered, percent)

    assert sum(value <= found for value in ordered) * 100 >= percent * len(ordered)
    assert sum(value < found for value in ordered) * 100 < percent * len(ordered)


def test_a_histogram_has_a_bar_for_each_bucket():
    lines = list(histogram_lines("TTFT", [0.0101, 0.011, 0.0127, 0.021]))

    assert lines == [
        "TTFT: p50 11 ms, p90 21 ms, p99 21 ms, max 21 ms (4 measured)",
        "    10 ms to 12.5 ms  2  " + "█" * 40,
        "    12.5 ms to 16 ms  1  " + "█" * 20,
        "      16 ms to 20 ms  0",
        "      20 ms to 25 ms  1  " + "█" * 20,
    ]
    assert list(histogram_lines("TTFT", [])) == ["TTFT: nothing was measured"]
    assert summary([]) == {}


async def test_bench_sends_that_many_requests_and_no_more_at_once(server, command_line):
    opened = most = 0

    async def script(_request, context):
        nonlocal opened, most
        opened += 1
        most = max(most, opened)
        await accept(context)
        await context.write(text(1, "a"))
        await asyncio.sleep(0.02)
        await context.write(text(2, "b"))
        await context.write(text(3, "c"))
        await context.write(finished(4))
        opened -= 1

    server.script = script
    done = await command_line.run("bench", "-n", "7", "-c", "3", "--json", "--model", "x/y")

    assert done.code == 0, done.err
    figures = json.loads(done.out)
    assert (figures["completed"], figures["failed"], figures["outputTokens"]) == (7, {}, "238")
    assert figures["betweenTokensMs"]["max"] >= 20
    assert figures["betweenTokensMs"]["p50"] < 20
    assert figures["ttftMs"]["p50"] <= figures["answerMs"]["p50"]
    assert most == 3
    assert len(server.requests) == 7
    assert {request.model for request in server.requests} == {"x/y"}
    assert {request.generation.max_output_tokens for request in server.requests} == {100}


async def test_failed_requests_are_counted_by_their_reason(server, command_line):
    server.script = fails(status(grpc.StatusCode.UNAVAILABLE, "OVERLOADED"))

    done = await command_line.run("bench", "-n", "2")

    assert done.code == 1
    assert done.out.splitlines()[0] == "TTFT: nothing was measured"
    assert done.out.splitlines()[-1] == "failed: 2 with OVERLOADED"


async def test_ctrl_c_ends_the_measurement_and_prints_it(server, command_line):
    answered = asyncio.Event()
    scripts = iter([plays(started(), text(2, "a"), finished(3))])

    async def script(request, context):
        each = next(scripts, None)
        if each is not None:
            await each(request, context)
            return
        answered.set()
        await plays_then_waits(started())(request, context)

    server.script = script
    process = await command_line.start("bench", "-n", "5")
    async with asyncio.timeout(LIMIT_S):
        await answered.wait()
        process.send_signal(signal.SIGINT)
        out, _ = await process.communicate()

    assert process.returncode == 130
    assert out.decode().splitlines()[-1].startswith("1 answer in ")
    assert await caller_left(server)


@pytest.mark.parametrize(("option", "value"), [("-n", "1001"), ("-c", "101"), ("-n", "0")])
async def test_the_number_of_requests_is_bounded(server, command_line, option, value):
    done = await command_line.run("bench", option, value)

    assert done.code == 2
    assert not server.requests
