"""Attempts that are repeated before the first content, with providers that are played by hand."""

import asyncio
import gc
import logging
import time

import pytest
from attempts_support import SLOW, STOP, ScriptedProvider, begin, busy, down, retrying
from streams_support import Played, raises_failed, read_all
from test_generation import PRICED

from tokenwire_server.config import BreakerConfig, RetryConfig
from tokenwire_server.errors import (
    UpstreamBroken,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamUnavailable,
)
from tokenwire_server.events import Finished, FinishReason, NoticeKind, Started, TextDelta, Usage
from tokenwire_server.request import Budget, CacheUse, Retention
from tokenwire_server.routing.attempts import Attempts
from tokenwire_server.routing.breakers import Breakers


async def test_an_attempt_that_fails_before_its_content_is_repeated_and_the_log_reports_it():
    provider = ScriptedProvider(
        Played(down()), Played(UpstreamBroken("reset")), Played("a", "b", STOP)
    )
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
    provider = ScriptedProvider(Played(down()), Played(down()), Played(busy(7.0)))
    async with retrying() as streams:
        stream, reader = begin(streams, provider)
        generation = streams.host._live[stream.id]
        with raises_failed(UpstreamRateLimited) as caught:
            await read_all(reader)
    assert caught.value.retry_after_s == 7.0
    assert generation._attempts._request is None
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
    provider = ScriptedProvider(Played(*steps), Played("never", STOP))
    async with retrying(SLOW) as streams:
        _, reader = begin(streams, provider)
        with raises_failed(kind):
            await read_all(reader)
    assert len(provider.opened) == 1


async def test_without_retries_the_request_is_dropped_when_it_is_sent():
    waits = asyncio.Event()
    provider = ScriptedProvider(Played(waits, "a", STOP))
    async with retrying(RetryConfig(max_attempts=1)) as streams:
        stream, reader = begin(streams, provider)
        while not provider.opened:
            await asyncio.sleep(0)
        assert streams.host._live[stream.id]._attempts._request is None
        waits.set()
        await read_all(reader)


async def test_the_request_is_kept_until_the_first_content():
    has_content, may_end = asyncio.Event(), asyncio.Event()
    provider = ScriptedProvider(Played(has_content, "a", may_end, STOP))
    async with retrying() as streams:
        stream, reader = begin(streams, provider)
        generation = streams.host._live[stream.id]
        while not provider.opened:
            await asyncio.sleep(0)
        assert generation._attempts._request is not None
        has_content.set()
        while stream.log.last_sequence < 2:
            await asyncio.sleep(0)
        assert generation._attempts._request is None
        may_end.set()
        await read_all(reader)


@pytest.mark.parametrize("way", ["cancel", "leave", "stop"])
async def test_a_stream_that_ends_in_a_pause_sends_nothing_more(way):
    provider = ScriptedProvider(Played(busy(30.0)), Played("never", STOP))
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
    # A breaker would refuse the second stream.
    async with retrying(SLOW, Breakers(BreakerConfig(enabled=False))) as streams:
        provider = ScriptedProvider(Played(busy(30.0)))
        _, reader = begin(streams, provider, deadline=now + 20)
        with raises_failed(UpstreamRateLimited):
            await read_all(reader)
        for other in (now + 1000, None):
            provider = ScriptedProvider(Played(busy(30.0)))
            stream, reader = begin(streams, provider, deadline=now + 20)
            with reader, stream.join(deadline=other):
                while stream.log.last_sequence < 2 and not stream.log.sealed:
                    await asyncio.sleep(0)
                assert not stream.log.sealed
                stream.cancel()


@pytest.mark.parametrize(("left_s", "is_retried"), [(None, True), (1000.0, True), (20.0, False)])
async def test_the_deadlines_of_readers_in_other_processes_count(left_s, is_retried):
    now = time.monotonic()
    deadline = None if left_s is None else now + left_s
    async with retrying(SLOW) as streams:
        stream, reader = begin(streams, ScriptedProvider(Played(busy(30.0))), deadline=now + 20)
        with reader:
            stream.note_readers_of("another process", 1, deadline=deadline)
            while stream.log.last_sequence < 2 and not stream.log.sealed:
                await asyncio.sleep(0)
            assert stream.log.sealed != is_retried
            stream.cancel()


async def test_readers_in_other_processes_that_are_noted_after_the_failure_do_not_count():
    async with retrying(SLOW) as streams:
        provider = ScriptedProvider(Played(busy(30.0)), Played("never", STOP))
        stream, reader = begin(streams, provider, deadline=time.monotonic() + 20)
        with reader:
            await stream.log.wait_sealed()
            stream.note_readers_of("another process", 1)
        assert stream.log.failure.reason == UpstreamRateLimited.reason
        with stream.join() as late, raises_failed(UpstreamRateLimited):
            await read_all(late)
    assert len(provider.opened) == 1


async def test_a_pause_does_not_outlast_the_time_limit_of_the_stream():
    provider = ScriptedProvider(Played(busy(30.0)))
    async with retrying(SLOW, max_stream_duration_s=20) as streams:
        _, reader = begin(streams, provider)
        with raises_failed(UpstreamRateLimited):
            await read_all(reader)


async def test_the_usage_and_cost_of_all_attempts_are_added():
    figures = Usage(10, 5, cache_read_tokens=4)
    provider = ScriptedProvider(Played(figures, down()), Played("a", Usage(10, 7), STOP))
    async with retrying() as streams:
        stream, reader = begin(streams, provider, estimate=PRICED)
        finished = (await read_all(reader))[-1]
    expected = Usage(20, 12, cache_read_tokens=4, cost_microusd=15 + 17)
    assert finished.usage == stream.usage() == expected
    assert streams.follower.records[0].usage == expected


class Refusing(Played):
    async def read(self):
        raise down()


async def test_a_stream_that_was_retried_leaves_nothing_to_the_garbage_collector(caplog):
    caplog.set_level(logging.CRITICAL)  # a kept record refers to the error and its frames
    provider = ScriptedProvider(Refusing(), Played("a", STOP))
    async with retrying() as streams:
        stream, reader = begin(streams, provider, retention=Retention(log_ttl_s=0.0))
        attempts_id = id(streams.host._live[stream.id]._attempts)
        gc.disable()
        try:
            assert (await read_all(reader))[-1].reason == FinishReason.STOP
            del stream, reader
            async with asyncio.timeout(5):
                while any(
                    id(o) == attempts_id and isinstance(o, Attempts) for o in gc.get_objects()
                ):
                    await asyncio.sleep(0.01)
        finally:
            gc.enable()


async def test_a_budget_limits_all_attempts_together():
    provider = ScriptedProvider(Played(Usage(10, 60), down()), Played(*["four"] * 50, STOP))
    async with retrying() as streams:
        _, reader = begin(streams, provider, estimate=PRICED, budget=Budget(max_cost_microusd=100))
        finished = (await read_all(reader))[-1]
    assert finished.reason == FinishReason.BUDGET
    assert finished.usage.cost_microusd == 101


async def test_an_attempt_is_not_repeated_if_its_input_exceeds_the_rest_of_the_budget():
    provider = ScriptedProvider(Played(Usage(10, 81), down()), Played("never", STOP))
    async with retrying() as streams:
        _, reader = begin(streams, provider, estimate=PRICED, budget=Budget(max_cost_microusd=100))
        with raises_failed(UpstreamUnavailable):
            await read_all(reader)
    assert len(provider.opened) == 1


async def test_a_replay_from_the_cache_reports_no_retries():
    use = CacheUse(key=b"k", read=True, ttl_s=60.0)
    provider = ScriptedProvider(Played(down()), Played("a", STOP))
    async with retrying() as streams:
        for _ in range(2):
            _, reader = begin(streams, provider, cache=use)
            events = await read_all(reader)
    assert [type(event) for event in events] == [Started, TextDelta, Finished]


async def test_a_stream_that_continues_without_readers_is_retried():
    provider = ScriptedProvider(Played(busy(0.05)), Played("a", STOP))
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


async def test_a_stream_keeps_its_number_of_attempts_when_retries_are_replaced():
    failing = asyncio.Event()
    provider = ScriptedProvider(Played(failing, down()), Played("a", STOP), Played(down()))
    async with retrying(RetryConfig(max_attempts=1)) as streams:
        _, reader = begin(streams, provider)
        routing = streams.host._routing
        routing.retries = routing.retries.replaced(RetryConfig(max_attempts=5, base_s=0.0))
        failing.set()
        with raises_failed(UpstreamUnavailable):
            await read_all(reader)
        routing.retries = routing.retries.replaced(RetryConfig(max_attempts=1))
        _, reader = begin(streams, provider)
        assert (await read_all(reader))[-1].reason is FinishReason.STOP
    assert [progress.attempt_count for progress in streams.follower.records] == [1, 1]
