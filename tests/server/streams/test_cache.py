"""Which answers are kept, for how long, and how they are replayed: by one server, and by two with a Redis."""

import asyncio
import secrets
import time

import pytest
from replica_support import Replica, Replicas
from streams_support import Played, Streams, a_request, read_all, route_to

from tokenwire_server.config import Limits, RedisConfig
from tokenwire_server.errors import UpstreamUnavailable
from tokenwire_server.events import FinishReason, JsonResult, Started, TextDelta
from tokenwire_server.providers.decode.base import Complete
from tokenwire_server.request import CacheUse, Retention
from tokenwire_server.streamlog.redis.connect import connected
from tokenwire_server.tenants.caller import Caller

KiB = 1024
KEPT = (FinishReason.STOP, FinishReason.STOP_SEQUENCE, FinishReason.TOOL_CALLS)


@pytest.fixture(params=["one server", "two servers"])
async def streams(request):
    async with asyncio.TaskGroup() as tasks:
        if request.param == "one server":
            yield Streams(Limits(), tasks)
            return
        url = request.getfixturevalue("redis_server").url
        async with connected(RedisConfig(url=url)) as client:
            configuration = secrets.token_bytes(32)  # other tests use other answers
            replicas = [Replica(client, tasks, configuration) for _ in range(2)]
            yield Replicas(*replicas)
            for each in replicas:
                each.close()


def use(key=b"k", *, ttl_s=60.0, read=True):
    return CacheUse(key=key, ttl_s=ttl_s, read=read)


async def answer(streams, said=("an ", "answer"), end=FinishReason.STOP, tenant="default", **asked):
    """The text and the events of an answer; `said` is what a provider would say if it were asked."""
    steps = [*said, Complete(end) if isinstance(end, FinishReason) else end]
    provider = Played(*steps)
    request = a_request(cache=use(**asked))
    stream = await streams.opened(request, route_to(provider), caller=Caller(tenant))
    reader = stream.join()
    streams.start(stream)
    events = await read_all(reader)
    assert isinstance(events[0], Started)
    assert events[0].from_cache == (not provider.opened)
    return "".join(event.text for event in events if isinstance(event, TextDelta)), events


async def is_kept(streams, **asked):
    """Whether an answer is replayed. Asking changes nothing but which was used last."""
    return (await answer(streams, ("asked again",), FinishReason.REFUSAL, **asked))[1][0].from_cache


async def wait_until_not_kept(streams, **asked):
    began = time.monotonic()
    while await is_kept(streams, **asked):
        assert time.monotonic() - began < 5
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("end", FinishReason, ids=str)
async def test_only_an_end_that_the_request_would_reach_again_is_kept(streams, end):
    await answer(streams, end=end)
    assert await is_kept(streams) == (end in KEPT)


@pytest.mark.parametrize("is_unchecked", [True, False])
async def test_a_json_answer_that_was_not_checked_is_not_kept(streams, is_unchecked):
    await answer(streams, ("[1]", JsonResult(not is_unchecked, (), is_unchecked)))
    assert await is_kept(streams) == (not is_unchecked)


async def test_a_failed_answer_is_not_kept(streams):
    with pytest.raises(Exception, match="down"):
        await answer(streams, end=UpstreamUnavailable("down"))
    assert not await is_kept(streams)


async def test_a_replay_says_the_same_and_costs_nothing(streams):
    text, events = await answer(streams)
    again, replayed = await answer(streams, ("something else",))
    assert again == text == "an answer"
    assert replayed[0].stream_id != events[0].stream_id
    finished = replayed[-1]
    assert finished.reason == FinishReason.STOP
    assert (finished.usage.input_tokens, finished.usage.output_tokens) == (0, 0)
    assert not finished.usage.estimated


async def test_an_answer_is_of_one_tenant_only(streams):
    await answer(streams)
    assert not await is_kept(streams, tenant="another")
    assert await is_kept(streams)


async def test_an_answer_older_than_the_asker_wants_stays_for_others(streams):
    await answer(streams)
    await wait_until_not_kept(streams, ttl_s=0.05)
    assert await is_kept(streams, ttl_s=60.0)


async def test_an_answer_older_than_its_keeper_allowed_is_for_nobody_however_often_it_was_replayed(
    streams,
):
    await answer(streams, ttl_s=0.5)
    assert await is_kept(streams)
    await wait_until_not_kept(streams, ttl_s=60.0)


async def test_refreshing_replaces_the_older_answer(streams):
    await answer(streams, ("old",))
    text, events = await answer(streams, ("new",), read=False)
    assert (text, events[0].from_cache) == ("new", False)
    assert (await answer(streams))[0] == "new"


async def test_refreshing_in_vain_leaves_the_older_answer(streams):
    await answer(streams, ("old",))
    await answer(streams, ("cut",), FinishReason.MAX_TOKENS, read=False)
    assert (await answer(streams))[0] == "old"


async def test_past_the_bound_the_answer_goes_that_was_used_longest_ago():
    async with asyncio.TaskGroup() as tasks:
        streams = Streams(Limits(max_cache_bytes=9 * KiB), tasks)
        for key in (b"1", b"2", b"3"):
            await answer(streams, ("x" * KiB,), key=key)  # 2 KiB and a little each
        assert await is_kept(streams, key=b"1")
        for key in (b"4", b"5"):
            await answer(streams, ("x" * KiB,), key=key)
        kept = [key for key in (b"1", b"2", b"3", b"4", b"5") if await is_kept(streams, key=key)]
    assert kept == [b"1", b"3", b"4", b"5"]


async def test_past_the_bound_the_tenant_whose_answers_take_most_loses_one():
    async with asyncio.TaskGroup() as tasks:
        streams = Streams(Limits(max_cache_bytes=12 * KiB), tasks)
        for key in (b"1", b"2"):
            await answer(streams, ("x" * KiB,), key=key, tenant="small")  # 2 KiB and a little each
        for n in range(30):
            await answer(streams, ("x" * KiB,), key=b"%d" % n, tenant="large")
        for key in (b"1", b"2"):
            assert await is_kept(streams, key=key, tenant="small")
        kept = [n for n in range(30) if await is_kept(streams, key=b"%d" % n, tenant="large")]
    assert kept == [27, 28, 29]


async def test_a_server_may_have_no_cache():
    async with asyncio.TaskGroup() as tasks:
        streams = Streams(Limits(max_cache_bytes=0), tasks)
        await answer(streams)
        assert not await is_kept(streams)


async def test_an_answer_over_its_bound_is_not_kept():
    async with asyncio.TaskGroup() as tasks:
        streams = Streams(Limits(max_cached_answer_bytes=10 * KiB), tasks)
        await answer(streams, ("x" * 9 * KiB,), key=b"smaller")
        await answer(streams, ("x" * 11 * KiB,), key=b"larger")
        assert await is_kept(streams, key=b"smaller")
        assert not await is_kept(streams, key=b"larger")


async def test_an_answer_whose_beginning_is_gone_is_not_kept():
    async with asyncio.TaskGroup() as tasks:
        streams = Streams(Limits(max_log_bytes=64 * KiB), tasks)
        request = a_request(cache=use())
        route = route_to(Played(*["x" * KiB] * 90, Complete(FinishReason.STOP)))
        stream = streams.open(request, route)
        with stream.join():
            streams.start(stream)
            await stream.log.wait_sealed()
        assert stream.log.finished.reason == FinishReason.STOP
        assert not await is_kept(streams)


WIDENING = ("x" * 4 * KiB, "x" * 4 * KiB, "x" * 4 * KiB, "🙂") * 5
"""Of one byte a character in the log; merged with one wide character each takes four."""


@pytest.mark.parametrize(
    ("max_log_bytes", "pieces"),
    [(100 * KiB, WIDENING), (64 * KiB, ("x" * 16337, "🙂"))],
    ids=["by much", "by less than its first and last event"],
)
async def test_an_answer_that_merging_makes_larger_than_a_log_is_told_whole_all_the_same(
    max_log_bytes, pieces
):
    async with asyncio.TaskGroup() as tasks:
        streams = Streams(Limits(max_log_bytes=max_log_bytes), tasks)
        for _ in range(2):
            assert (await answer(streams, pieces))[0] == "".join(pieces)


async def test_an_answer_that_merging_made_larger_than_its_bound_is_not_kept():
    async with asyncio.TaskGroup() as tasks:
        streams = Streams(Limits(max_cached_answer_bytes=100 * KiB), tasks)
        await answer(streams, WIDENING)
        replayed, events = await answer(streams, WIDENING)
        assert replayed == "".join(WIDENING)
        taken = sum(len(e.text) * 4 for e in events if isinstance(e, TextDelta) and "🙂" in e.text)
        assert not events[0].from_cache or taken <= 100 * KiB


async def test_a_deleted_stream_leaves_no_answer_behind_and_no_other_one_goes(streams):
    async def kept(read):
        """A stream that has ended, whose answer may be kept."""
        request = a_request(cache=use(read=read), retention=Retention(log_ttl_s=60.0))
        stream = await streams.opened(request, route_to(Played("said", Complete(KEPT[0]))))
        reader = stream.join()
        streams.start(stream)
        await read_all(reader)
        return stream

    older, newer = await kept(read=True), await kept(read=False)
    await streams.delete_by_id(older)
    assert await is_kept(streams)
    await streams.delete_by_id(newer)
    assert not await is_kept(streams)


@pytest.mark.parametrize("streams", ["one server"], indirect=True)
async def test_after_clear_nothing_is_replayed_that_began_before(streams):
    await answer(streams, key=b"before")
    going_on = asyncio.Event()
    during = streams.open(
        a_request(cache=use(b"during")),
        route_to(Played("a", going_on, Complete(FinishReason.STOP))),
    )
    reader = during.join()
    streams.start(during)
    streams.cache.clear()
    going_on.set()
    await read_all(reader)
    assert not await is_kept(streams, key=b"before")
    assert not await is_kept(streams, key=b"during")
    await answer(streams, key=b"after")
    assert await is_kept(streams, key=b"after")
