"""Streams that are left in every way: the server has none of them open, and no memory grows."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

LEAVER = Path(__file__).with_name("leaver.py")
MODEL = "openai/sim?repeat=forever&itl_ms=50"
LAST_OF_A_ROUND = "sync_close_the_client"
OPEN_S = 2.0
"""Time after which no stream may be open at the server. It takes milliseconds."""


def wait_until_none_open(server, way):
    began = time.monotonic()
    while live := server.census()["live_streams"]:
        assert time.monotonic() - began < OPEN_S, f"{way}: {live} streams are open"
        time.sleep(0.02)
    return time.monotonic() - began


def leave(observed, count, rounds, tmp_path):
    """Leave `count` streams in each way in each round. Return their number, and what grew."""
    left, slowest_s, measured, loops = Counter(), 0.0, [], []
    log = tmp_path / "leaver.log"
    with observed(log_ttl_s=0) as server, log.open("w+") as errors:
        argv = [sys.executable, "-u", LEAVER, server.address, MODEL, str(count), str(rounds)]
        process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        try:
            for line in process.stdout:
                client = json.loads(line)
                way = client["way"]
                left[way] += client["count"]
                slowest_s = max(slowest_s, wait_until_none_open(server, way))
                if way == LAST_OF_A_ROUND:
                    measured.append((client, server.census()))
                elif way == "close_the_loop":
                    loops.append(client["blocks"])
                process.stdin.write("\n")
                process.stdin.flush()
            assert process.wait(30) == 0, log.read_text()
        finally:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()
    (client, server), (last_client, last_server) = measured[len(measured) // 4], measured[-1]
    grown = {
        "client_rss_bytes": last_client["rss_bytes"] - client["rss_bytes"],
        "client_blocks": last_client["blocks"] - client["blocks"],
        "server_rss_bytes": last_server["rss_bytes"] - server["rss_bytes"],
        "server_tasks": last_server["tasks"] - server["tasks"],
        "blocks_of_closed_loops": loops[-1] - loops[0],
    }
    print(
        f"\n{left.total():,} streams left in {len(left)} ways; none open at the server after at most "
        f"{slowest_s * 1e3:.0f} ms; after the first quarter: client "
        f"{grown['client_rss_bytes'] / 2**20:+.1f} MiB, {grown['client_blocks']:+} blocks, server "
        f"{grown['server_rss_bytes'] / 2**20:+.1f} MiB, {grown['server_tasks']:+} tasks; "
        f"{len(loops) - 1} closed loops with {count} streams each: "
        f"{grown['blocks_of_closed_loops']:+} blocks; load {os.getloadavg()[0]:.1f}"
    )
    return left, grown


def test_streams_that_are_left_in_any_way_are_not_open_at_the_server(observed, tmp_path):
    left, _ = leave(observed, 3, 1, tmp_path)
    assert len(left) == 34


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_ten_thousand_streams_are_left_without_a_trace(observed, tmp_path):
    """A loop that is closed with an open call keeps the two tasks that gRPC has for the call, about 55 blocks
    of memory, because its callbacks wait for the loop. The server's call is ended; that of a bare stub is not.
    """
    count, rounds = 20, 20
    left, grown = leave(observed, count, rounds, tmp_path)
    assert left.total() >= 10_000
    judged = (left.total() - left["close_the_loop"]) * 3 / 4
    assert grown["client_blocks"] <= judged / 10
    assert grown["client_rss_bytes"] <= 5 * 2**20
    assert grown["server_rss_bytes"] <= 5 * 2**20
    assert grown["server_tasks"] <= 2
    assert grown["blocks_of_closed_loops"] <= 100 * count * rounds
