"""Streams and circuit breakers, with providers that are played by hand and a clock of the tests."""

import asyncio

import pytest
from attempts_support import (
    NO_REPETITION,
    QUICK,
    STOP,
    ScriptedProvider,
    begin,
    busy,
    down,
    notices,
    retrying,
    routes,
)
from streams_support import Played, raises_failed, read_all, route_to

from tokenwire_server.config import BreakerConfig, RetryConfig
from tokenwire_server.errors import (
    ProviderBusy,
    UpstreamAuth,
    UpstreamBroken,
    UpstreamRateLimited,
    UpstreamUnavailable,
)
from tokenwire_server.events import NoticeKind
from tokenwire_server.providers.slots import ConnectionSlots
from tokenwire_server.routing.breaker import BreakerState
from tokenwire_server.routing.breakers import Breakers


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def breakers(failures=1, **fields):
    """Return breakers that open after so many failures, for the longest time."""
    config = BreakerConfig(consecutive_failures=failures, **fields)
    return Breakers(config, clock=Clock(), uniform=max)


async def fail_with(streams, route, error):
    with raises_failed(error) as caught:
        await read_all(begin(streams, route)[1])
    return caught.value


@pytest.mark.parametrize(
    ("error", "kind", "delay_s"),
    [
        (down(), UpstreamUnavailable, 4.0),
        (busy(50.0), UpstreamRateLimited, 49.0),
        (UpstreamAuth("no credit"), UpstreamAuth, None),
    ],
)
async def test_a_refused_stream_fails_at_once_with_the_cause_and_counts_no_attempt(
    error, kind, delay_s
):
    if isinstance(error, UpstreamAuth):
        error.is_out_of_credit = True
    provider = ScriptedProvider(Played(error))
    async with retrying(NO_REPETITION, breakers()) as streams:
        await fail_with(streams, route_to(provider), kind)
        streams.breakers._clock.now += 1.0
        refused = await fail_with(streams, route_to(provider), kind)
    assert refused.retry_after_s == delay_s
    assert [record.attempt_count for record in streams.follower.records] == [1, 0]
    assert streams.follower.seen == ["started", kind.reason, "refused"]


async def test_a_model_whose_breaker_is_open_is_skipped_with_a_notice():
    first, second = ScriptedProvider(Played(down())), ScriptedProvider(Played("a", STOP))
    async with retrying(NO_REPETITION, breakers()) as streams:
        plan = routes(first, second)
        await fail_with(streams, plan[:1], UpstreamUnavailable)
        events = await read_all(begin(streams, plan)[1])
    assert events[0].provider == "p0"
    assert notices(events) == [(NoticeKind.FALLBACK, "p1", 1)]
    assert (events[-1].provider, streams.follower.records[-1].attempt_count) == ("p1", 1)


async def test_a_fallback_whose_breaker_is_open_is_skipped():
    first, second, third = (
        ScriptedProvider(Played(down())),
        ScriptedProvider(Played(down())),
        ScriptedProvider(Played("a", STOP)),
    )
    async with retrying(NO_REPETITION, breakers()) as streams:
        plan = routes(first, second, third)
        await fail_with(streams, plan[1:2], UpstreamUnavailable)
        assert notices(await read_all(begin(streams, plan)[1])) == [(NoticeKind.FALLBACK, "p2", 2)]


async def test_another_target_of_the_model_answers_without_a_notice_if_nothing_was_sent():
    first, second = ScriptedProvider(Played(down())), ScriptedProvider(Played("a", STOP))
    async with retrying(NO_REPETITION, breakers()) as streams:
        plan = routes(first, second)
        plan = tuple(route_to(route.provider, "m") for route in plan)
        await fail_with(streams, plan[:1], UpstreamUnavailable)
        events = await read_all(begin(streams, plan)[1])
    assert notices(events) == []
    assert events[-1].provider == "p1"


async def test_the_attempt_that_opens_the_breaker_is_not_repeated():
    provider = ScriptedProvider(Played(down()))
    async with retrying(breakers=breakers()) as streams:
        await fail_with(streams, route_to(provider), UpstreamUnavailable)
    assert len(provider.opened) == 1


async def test_a_retry_is_not_sent_or_counted_if_the_breaker_opened_in_its_pause():
    provider = ScriptedProvider(Played(down()), Played(down()))
    # With more attempts, the refused one might be followed by a pause that is longer than the breaker is open.
    config = RetryConfig(max_attempts=2, base_s=2.0)
    async with retrying(config, breakers(failures=2)) as streams:
        budget = streams.host._routing.retries._budget("played")
        _, waiting = begin(streams, provider)
        reading = asyncio.create_task(read_all(waiting))
        async with asyncio.timeout(10):
            while not budget._retries:  # it is in its pause
                await asyncio.sleep(0)
        await fail_with(streams, route_to(provider), UpstreamUnavailable)
        with raises_failed(UpstreamUnavailable):
            await reading
    assert len(provider.opened) == 2
    assert budget._retries == 0


async def test_content_closes_the_breaker_and_what_fails_later_does_not_open_it():
    provider = ScriptedProvider(
        Played(down()), Played("a", UpstreamBroken("cut")), Played("b", STOP)
    )
    async with retrying(NO_REPETITION, breakers()) as streams:
        route = route_to(provider)
        await fail_with(streams, route, UpstreamUnavailable)
        streams.breakers._clock.now += 5.0
        assert streams.breakers.state(route) is BreakerState.HALF_OPEN
        await fail_with(streams, route, UpstreamBroken)
        assert streams.breakers.state(route) is BreakerState.CLOSED
        await read_all(begin(streams, provider)[1])


@pytest.mark.parametrize("when", ["running", "estimating"])
async def test_the_probe_of_a_stream_that_is_cancelled_is_released(when):
    never = asyncio.Event()
    first = ScriptedProvider(Played(down()))
    probed = ScriptedProvider(Played(down()), Played(never), Played("a", STOP))
    async with retrying(NO_REPETITION, breakers()) as streams:
        other, route = routes(first, probed)
        await fail_with(streams, route, UpstreamUnavailable)
        streams.breakers._clock.now += 5.0
        if when == "estimating":
            probed._upstreams.pop(0)
            streams.estimator.waits = never
        stream, reader = begin(streams, (other, route) if when == "estimating" else route)
        reading = asyncio.create_task(read_all(reader))
        async with asyncio.timeout(10):
            while not streams.breakers.blocked_s(route):
                await asyncio.sleep(0)
        streams.host._live[stream.id].cancel()
        await reading
        streams.estimator.waits = None
        assert streams.breakers.blocked_s(route) == 0
        assert (await read_all(begin(streams, route)[1]))[-1].provider == "p1"


async def test_a_provider_without_a_free_connection_is_skipped_and_counts_no_attempt():
    first, second = ScriptedProvider(), ScriptedProvider(Played("a", STOP))
    first.slots = ConnectionSlots("p0", 1)
    first.slots.acquire()
    async with retrying(QUICK) as streams:
        plan = routes(first, second)
        assert notices(await read_all(begin(streams, plan)[1])) == [(NoticeKind.FALLBACK, "p1", 1)]
        await fail_with(streams, plan[:1], ProviderBusy)
    assert [record.attempt_count for record in streams.follower.records] == [1, 0]
