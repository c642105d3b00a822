"""Attempts that are repeated before the first content, with providers that are played by hand."""

import asyncio
import time
from contextlib import asynccontextmanager

import pytest
from streams_support import Played, Streams, a_request, raises_failed, read_all, route_to
from test_generation import PRICED

from tokenwire_server.config import Limits, RetryConfig
from tokenwire_server.errors import (
    UpstreamBroken,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamUnavailable,
)
from tokenwire_server.events import (
    Finished,
    FinishReason,
    NoticeKind,
    Started,
    TextDelta,
    Usage,
)
from tokenwire_server.providers.decode.base import Complete
from tokenwire_server.request import Budget, CacheUse, Retention
from tokenwire_server.streams.generation import StreamObserver

QUICK = RetryConfig(base_s=0.005, cap_s=0.005, budget_percent=100)
SLOW = RetryConfig(base_s=0, max_retry_after_s=60)
STOP = Complete(FinishReason.STOP)


def down():
    return UpstreamUnavailable("down", status=503, retry_after_s=1.0)


def busy(delay_s):
    return UpstreamRateLimited("busy", retry_after_s=delay_s, requested_delay_s=delay_s)


class Attempts:
    """A provider that plays one upstream after the other."""

    name = "played"

    def __init__(self, *upstreams):
        self.opened = []
        self._upstreams = list(upstreams)

    def open(self, request, model, max_output_tokens):
        assert request.messages
        self.opened.append(request)
        return self._upstreams.pop(0)


class Follower(StreamObserver):
    def __init__(self):
        self.seen = []
        self.records = []

    def attempt_started(self, generation, attempt):
        self.seen.append("started")

    def attempt_failed(self, generation, attempt, error):
        self.seen.append(error.reason)

    def first_content(self, generation, attempt):
        assert generation._request is None
        self.seen.append("content")

    def ended(self, generation):
        self.records.append(generation.progress())


@asynccontextmanager
async def retrying(config=QUICK, **limits):
    async with asyncio.TaskGroup() as tasks:
        follower = Follower()
        streams = Streams(Limits(**limits), tasks, (follower,), retries=config)
        streams.follower = follower
        yield streams


def begin(streams, provider, *, deadline=None, estimate=None, **fields):
    stream = streams.open(a_request(**fields), route_to(provider), estimate=estimate)
    reader = stream.join(deadline=deadline)
    streams.start(stream)
    return stream, reader


async def test_an_attempt_that_fails_before_its_content_is_repeated_and_the_log_reports_it():
    provider = Attempts(Played(down()), Played(UpstreamBroken("reset")), Played("a", "b", STOP))
    async with retrying() as streams:
        stream, reader = begin(streams, provider)
        started, first, second, text, finished = await read_all(reader)
    assert isinstance(started, Started)
    assert [(n.kind, n.attempt) for n in (first, second)] == [
        (NoticeKind.RETRYING, 2),
        (NoticeKind.RETRYING, 3),
    ]
    assert 0 <= first.delay_s <= 0.005
    assert (text, finished.reason) == (TextDelta("ab", 0), FinishReason.STOP)
    assert stream.log.last_sequence == 6  # both texts were merged
    (progress,) = streams.follower.records
    assert progress.attempt_count == 3
    assert streams.follower.seen == [
        *("started", "UPSTREAM_UNAVAILABLE", "started", "UPSTREAM_BROKEN", "started", "content")
    ]
    assert len({id(request) for request in provider.opened}) == 1


async def test_the_last_error_ends_the_stream_and_its_request_is_dropped():
    provider = Attempts(Played(down()), Played(down()), Played(busy(7.0)))
    async with retrying() as streams:
        stream, reader = begin(streams, provider)
        generation = streams.host._live[stream.id]
        with raises_failed(UpstreamRateLimited) as caught:
            await read_all(reader)
    assert caught.value.retry_after_s == 7.0
    assert generation._request is None
    assert streams.follower.records[0].attempt_count == 3


@pytest.mark.parametrize(
    ("steps", "kind"),
    [
        (["a", UpstreamBroken("cut")], UpstreamBroken),
        (["a", down()], UpstreamBroken),
        ([UpstreamRejected("no")], UpstreamRejected),
        ([busy(60.1)], UpstreamRateLimited),
    ],
)
async def test_what_has_content_or_cannot_pass_is_attempted_once(steps, kind):
    provider = Attempts(Played(*steps), Played("never", STOP))
    async with retrying(SLOW) as streams:
        _, reader = begin(streams, provider)
        with raises_failed(kind):
            await read_all(reader)
    assert len(provider.opened) == 1


async def test_without_retries_the_request_is_dropped_when_it_is_sent():
    waits = asyncio.Event()
    provider = Attempts(Played(waits, "a", STOP))
    async with retrying(RetryConfig(max_attempts=1)) as streams:
        stream, reader = begin(streams, provider)
        while not provider.opened:
            await asyncio.sleep(0)
        assert streams.host._live[stream.id]._request is None
        waits.set()
        await read_all(reader)


async def test_the_request_is_kept_until_the_first_content():
    has_content, may_end = asyncio.Event(), asyncio.Event()
    provider = Attempts(Played(has_content, "a", may_end, STOP))
    async with retrying() as streams:
        stream, reader = begin(streams, provider)
        generation = streams.host._live[stream.id]
        while not provider.opened:
            await asyncio.sleep(0)
        assert generation._request is not None
        has_content.set()
        while stream.log.last_sequence < 2:
            await asyncio.sleep(0)
        assert generation._request is None
        may_end.set()
        await read_all(reader)


@pytest.mark.parametrize("way", ["cancel", "leave", "stop"])
async def test_a_stream_that_ends_in_a_pause_sends_nothing_more(way):
    provider = Attempts(Played(busy(30.0)), Played("never", STOP))
    async with retrying(SLOW) as streams:
        stream, reader = begin(streams, provider)
        while stream.log.last_sequence < 2:
            await asyncio.sleep(0)
        with reader:
            if way == "cancel":
                stream.cancel()
            elif way == "stop":
                streams.stop_all()
        await asyncio.wait_for(stream.log.wait_sealed(), 5)
    assert len(provider.opened) == 1
    assert (stream.log.failure is None) == (way != "stop")
    (progress,) = streams.follower.records
    assert (progress.attempt_count, progress.provider) == (1, "played")
    assert progress.usage.cost_microusd == 0


async def test_a_pause_does_not_outlast_the_latest_deadline_of_the_readers():
    now = time.monotonic()
    async with retrying(SLOW) as streams:
        provider = Attempts(Played(busy(30.0)))
        _, reader = begin(streams, provider, deadline=now + 20)
        with raises_failed(UpstreamRateLimited):
            await read_all(reader)
        for other in (now + 1000, None):
            provider = Attempts(Played(busy(30.0)))
            stream, reader = begin(streams, provider, deadline=now + 20)
            with reader, stream.join(deadline=other):
                while stream.log.last_sequence < 2:
                    await asyncio.sleep(0)
                assert not stream.log.sealed
                stream.cancel()


async def test_a_pause_does_not_outlast_the_time_limit_of_the_stream():
    provider = Attempts(Played(busy(30.0)))
    async with retrying(SLOW, max_stream_duration_s=20) as streams:
        _, reader = begin(streams, provider)
        with raises_failed(UpstreamRateLimited):
            await read_all(reader)


async def test_the_usage_and_cost_of_all_attempts_are_added():
    figures = Usage(10, 5, cache_read_tokens=4)
    provider = Attempts(Played(figures, down()), Played("a", Usage(10, 7), STOP))
    async with retrying() as streams:
        stream, reader = begin(streams, provider, estimate=PRICED)
        finished = (await read_all(reader))[-1]
    expected = Usage(20, 12, cache_read_tokens=4, cost_microusd=15 + 17)
    assert finished.usage == stream.usage() == expected
    assert streams.follower.records[0].usage == expected


async def test_a_budget_limits_all_attempts_together():
    provider = Attempts(Played(Usage(10, 60), down()), Played(*["four"] * 50, STOP))
    async with retrying() as streams:
        _, reader = begin(streams, provider, estimate=PRICED, budget=Budget(max_cost_microusd=100))
        finished = (await read_all(reader))[-1]
    assert finished.reason == FinishReason.BUDGET
    assert finished.usage.cost_microusd == 101


async def test_a_replay_from_the_cache_reports_no_retries():
    use = CacheUse(key=b"k", read=True, ttl_s=60.0)
    provider = Attempts(Played(down()), Played("a", STOP))
    async with retrying() as streams:
        for _ in range(2):
            _, reader = begin(streams, provider, cache=use)
            events = await read_all(reader)
    assert [type(event) for event in events] == [Started, TextDelta, Finished]


async def test_a_stream_that_continues_without_readers_is_retried():
    provider = Attempts(Played(busy(0.05)), Played("a", STOP))
    async with retrying() as streams:
        stream, reader = begin(
            streams, provider, deadline=time.monotonic() + 5, retention=Retention(linger_s=5.0)
        )
        while stream.log.last_sequence < 2:
            await asyncio.sleep(0)
        with reader:
            pass
        await asyncio.wait_for(stream.log.wait_sealed(), 5)
    assert stream.log.finished.reason == FinishReason.STOP
