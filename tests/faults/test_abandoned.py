"""Streams that continue without their callers: all of them end in time and leave nothing."""

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration

from tokenwire.v1 import chat_pb2

CALLER = Path(__file__).with_name("caller.py")
PROVIDERS = ["openai", "openai-responses", "anthropic"]
PACE = "repeat=forever&itl_ms=500"
# Fills the window of a caller that does not read within a second or two.
WIDE = f"repeat=forever&itl_ms=10&text={'漢' * 180}"
SMALL_WINDOW = [("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0)]
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]
ENDING_S = 10
"""Time limit for everything to be gone after linger and log_ttl. It takes a fraction of a second."""
OURS = ("tokenwire_server.streams", "tokenwire_server.streamlog", "tokenwire_server.providers.")


def span(seconds):
    span = Duration()
    span.FromMilliseconds(round(seconds * 1000))
    return span


class Round:
    """Streams that are opened, read for a short time, and abandoned in five ways."""

    def __init__(self, address, api_on, linger_s, log_ttl_s, deadline_s):
        self.address = address
        self.api_on = api_on
        self.linger_s = linger_s
        self.log_ttl_s = log_ttl_s
        self.deadline_s = deadline_s
        self.ids = []

    def request(self, model):
        retention = chat_pb2.RetentionOptions(
            on_disconnect=chat_pb2.ON_DISCONNECT_CONTINUE,
            linger=span(self.linger_s),
            log_ttl=span(self.log_ttl_s),
        )
        return self.api_on.request(model, retention=retention)

    async def open(self, channel, count, script=PACE, timeout=None):
        """Open calls and wait for their first events."""
        api = self.api_on(channel)
        calls = [
            api.chat_stream(self.request(f"{PROVIDERS[n % 3]}/sim?{script}"), timeout=timeout)
            for n in range(count)
        ]
        self.ids += [
            started.started.stream_id
            for started in await asyncio.gather(*(call.read() for call in calls))
        ]
        return calls

    def spawn(self, count):
        argv = [sys.executable, CALLER, self.address, str(count), f"openai/sim?{PACE}"]
        argv += [str(self.linger_s), str(self.log_ttl_s)]
        return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)

    async def abandon(self, count):
        """Open `count` streams, some for each way, and abandon them all. No readers are left then."""
        blocked, share = count // 50, count // 4
        cancelled = count - 3 * share - blocked
        process = self.spawn(share)
        patient = grpc.aio.insecure_channel(self.address, OWN_CONNECTION)
        closed = grpc.aio.insecure_channel(self.address, OWN_CONNECTION)
        narrow = grpc.aio.insecure_channel(self.address, SMALL_WINDOW + OWN_CONNECTION)
        try:
            kept = await self.open(closed, share)
            kept += await self.open(narrow, blocked, WIDE)
            calls = await self.open(patient, cancelled)
            self.ids += [
                (await asyncio.to_thread(process.stdout.readline)).strip() for _ in range(share)
            ]
            late = await self.open(patient, share, timeout=self.deadline_s)
            await asyncio.gather(*(drained(call) for call in late))  # their deadlines pass
            for call in calls:
                call.cancel()
            await closed.close()
            await narrow.close()
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
            await patient.close()
        assert len(set(self.ids)) == count

    async def states(self):
        """Return the GetStream response for each stream, or None if it is not found."""
        async with grpc.aio.insecure_channel(self.address) as channel:
            get = self.api_on(channel).get_stream

            async def state(stream_id):
                try:
                    return await get(chat_pb2.GetStreamRequest(stream_id=stream_id))
                except grpc.aio.AioRpcError as error:
                    assert error.code() == grpc.StatusCode.NOT_FOUND
                    return None

            return await asyncio.gather(*map(state, self.ids))


async def drained(call):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        while await call.read() is not grpc.aio.EOF:
            pass
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


async def until(reached, within_s):
    """Poll until the condition holds or time is up. Return its last result."""
    limit = time.monotonic() + within_s
    while not (answer := await reached()) and time.monotonic() < limit:
        await asyncio.sleep(0.1)
    return answer


def left_of(baseline, now):
    """Return objects of each type beyond the baseline: the project's types, and types that could refer to
    them.
    """
    grown = {
        kind: count - baseline["objects"].get(kind, 0) for kind, count in now["objects"].items()
    }
    return {
        kind: count
        for kind, count in grown.items()
        if count > 0 and kind.startswith((*OURS, "_asyncio.Task", "builtins.coroutine"))
    }


async def abandon_in_rounds(observed, simulator, api_on, count, linger_s, deadline_s):
    """Run three rounds after a small one. Return the census after each, taken when its streams
    have expired.
    """
    log_ttl_s = 0.5
    with observed(max_streams=count) as server:

        async def one(size):
            round_ = Round(server.address, api_on, linger_s, log_ttl_s, deadline_s)
            await round_.abandon(size)

            async def left():
                return not server.census()["objects"].get("tokenwire_server.streams.reader.Reader")

            assert await until(left, linger_s), "readers are left"
            peak = server.census()
            assert peak["live_streams"] == size, "they ended with their callers"
            assert simulator.stats()["requests_open"] == size
            states = await round_.states()
            assert {(s.state, s.reader_count) for s in states} == {
                (chat_pb2.STREAM_STATE_RUNNING, 0)
            }
            await asyncio.to_thread(simulator.wait_until_none_open, linger_s + ENDING_S)

            async def are_expired():
                return not any(await round_.states())

            assert await until(are_expired, log_ttl_s + ENDING_S), "they are still found"

            after = {}

            async def back():
                after.update(server.census())
                is_back = after["tasks"] <= idle["tasks"]
                return is_back and not (baseline and left_of(baseline, after))

            await until(back, ENDING_S)
            return peak, after

        idle, baseline = server.census(), None
        _, baseline = await one(max(50, count // 20))
        print(f"\nbaseline: {summary(baseline)}")
        censuses = []
        for number in range(3):
            peak, after = await one(count)
            print(f"round {number + 1}: {count} streams alive: {summary(peak)}")
            print(f"         after they expired: {summary(after)}")
            censuses.append(after)
    return baseline, censuses


def summary(census):
    return (
        f"RSS {census['rss_bytes'] / 2**20:.1f} MiB, {census['tasks']} tasks, {census['files']} files, "
        f"{census['blocks']:,} blocks, {census['log_bytes']:,} B of logs"
    )


def assert_nothing_is_left(baseline, censuses):
    for census in censuses:
        assert census["live_streams"] == census["ended_streams"] == census["log_bytes"] == 0
        assert census["tasks"] <= baseline["tasks"]
        assert left_of(baseline, census) == {}


@pytest.mark.timeout(120)
async def test_abandoned_streams_end_in_time_and_leave_nothing(observed, simulator, api_on):
    baseline, censuses = await abandon_in_rounds(
        observed, simulator, api_on, 60, linger_s=2.5, deadline_s=1
    )
    assert_nothing_is_left(baseline, censuses)
    assert censuses[2]["rss_bytes"] <= 1.5 * censuses[0]["rss_bytes"]


@pytest.mark.faults
@pytest.mark.timeout(600)
async def test_three_rounds_of_a_thousand_abandoned_streams_leave_nothing(
    observed, simulator, api_on
):
    baseline, censuses = await abandon_in_rounds(
        observed, simulator, api_on, 1000, linger_s=15, deadline_s=5
    )
    assert_nothing_is_left(baseline, censuses)
    assert censuses[2]["rss_bytes"] <= 1.05 * censuses[0]["rss_bytes"]
