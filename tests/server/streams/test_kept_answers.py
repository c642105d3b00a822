"""The response cache on its edges: what a replay is made of, and what is counted."""

import asyncio
import time

import pytest
from streams_support import Played, Streams, a_request, read_all, route_to

from tokenwire_server.config import Limits
from tokenwire_server.events import Finished, FinishReason, Started, TextDelta
from tokenwire_server.providers.decode.base import Complete
from tokenwire_server.request import CacheUse

KiB = 1024
STOP = Complete(FinishReason.STOP)
NOT_KEPT = Complete(FinishReason.REFUSAL)


async def answer(streams, *steps, key=b"k", ttl_s=60.0, read=True):
    """The events of an answer; `steps` play the provider if it is asked."""
    request = a_request(cache=CacheUse(key=key, ttl_s=ttl_s, read=read))
    route = route_to(Played(*steps))
    stream = streams.open(request, route)
    reader = stream.join()
    streams.start(stream)
    return await read_all(reader)


async def is_kept(streams, key):
    return (await answer(streams, NOT_KEPT, key=key))[0].from_cache


async def test_a_replay_begins_once_and_ends_once(streams):
    for _ in range(2):
        events = await answer(streams, "an ", "answer", STOP)
        assert [type(event) for event in events] == [Started, TextDelta, Finished]


async def test_a_replay_tells_its_own_timings(streams):
    slow = asyncio.Event()
    asyncio.get_running_loop().call_later(0.1, slow.set)
    *_, first = await answer(streams, "an ", slow, "answer", STOP)
    *_, again = await answer(streams)
    assert again.timings.duration_s < first.timings.duration_s
    assert again.timings.output_tokens_per_second is None


async def test_an_answer_that_was_replaced_takes_no_room():
    async with asyncio.TaskGroup() as tasks:
        streams = Streams(Limits(max_cache_bytes=9 * KiB), tasks)
        await answer(streams, "x" * KiB, STOP, key=b"stays")
        for _ in range(50):
            await answer(streams, "x" * KiB, STOP, key=b"refreshed", read=False)
        assert await is_kept(streams, b"stays")
        assert await is_kept(streams, b"refreshed")


async def test_an_answer_too_old_for_anybody_makes_room_once_it_was_asked_for():
    async with asyncio.TaskGroup() as tasks:
        streams = Streams(Limits(max_cache_bytes=6 * KiB), tasks)
        await answer(streams, "x" * KiB, STOP, key=b"older")
        await answer(streams, "x" * KiB, STOP, key=b"short-lived", ttl_s=0.05)
        began = time.monotonic()
        while await is_kept(streams, b"short-lived"):
            assert time.monotonic() - began < 5
            await asyncio.sleep(0.01)
        await answer(streams, "x" * KiB, STOP, key=b"newer")
        assert await is_kept(streams, b"older")


@pytest.mark.parametrize(
    "limits",
    [Limits(max_cache_bytes=0), Limits(max_log_bytes=64 * KiB)],
    ids=["no cache", "its beginning is gone"],
)
async def test_a_stream_whose_answer_cannot_be_kept_ends_like_any_other(limits, caplog):
    async with asyncio.TaskGroup() as tasks:
        streams = Streams(limits, tasks)
        request = a_request(cache=CacheUse(key=b"k", ttl_s=60.0, read=True))
        route = route_to(Played(*["x" * KiB] * 90, STOP))
        stream = streams.open(request, route)
        with stream.join():
            streams.start(stream)
            await stream.log.wait_sealed()
            assert streams.ended_count == 1
        await asyncio.wait_for(streams.wait_until_idle(), 5)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
