"""Fallbacks before the first content, with providers that are played by hand."""

import asyncio
from contextlib import suppress
from decimal import Decimal

import pytest
from attempts_support import (
    NO_REPETITION,
    STOP,
    ScriptedProvider,
    begin,
    busy,
    down,
    notices,
    retrying,
    routes,
)
from streams_support import Played, a_request, raises_failed, read_all, route_to
from test_generation import PRICED

from tokenwire_server.config import ModelPrices, TenantLimits
from tokenwire_server.errors import (
    ContextTooLong,
    StreamFailed,
    UnknownModel,
    UpstreamAuth,
    UpstreamBroken,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamStalled,
    UpstreamUnavailable,
)
from tokenwire_server.events import FinishReason, NoticeKind, TextDelta, Usage
from tokenwire_server.pricing.prices import Prices
from tokenwire_server.pricing.tariff import Tariff
from tokenwire_server.request import Budget, CacheUse
from tokenwire_server.tenants.spend import SpendLimiter

DEAR = Tariff(Prices.configured(ModelPrices(input=Decimal(10), output=Decimal(10))))


async def test_the_next_model_answers_after_the_retries_of_the_first_one():
    first = ScriptedProvider(*(Played(down()) for _ in range(3)))
    second = ScriptedProvider(Played("a", STOP))
    async with retrying() as streams:
        stream, reader = begin(streams, routes(first, second))
        generation = streams.host._live[stream.id]
        events = await read_all(reader)
    assert events[0].provider == "p0"
    assert notices(events) == [
        (NoticeKind.RETRYING, "", 2),
        (NoticeKind.RETRYING, "", 3),
        (NoticeKind.FALLBACK, "p1", 4),
    ]
    assert events[-2] == TextDelta("a", 0)
    assert (events[-1].provider, events[-1].reason) == ("p1", FinishReason.STOP)
    assert (generation.route.provider, generation.is_fallback) == (second, True)
    (progress,) = streams.follower.records
    assert (progress.attempt_count, progress.provider) == (4, "p1")


async def test_all_models_of_a_stream_share_its_retries():
    providers = [ScriptedProvider(*(Played(down()) for _ in range(3))) for _ in range(3)]
    async with retrying() as streams:
        _, reader = begin(streams, routes(*providers))
        with raises_failed(UpstreamUnavailable):
            await read_all(reader)
    assert [len(provider.opened) for provider in providers] == [3, 1, 1]


@pytest.mark.parametrize(
    ("error", "has_fallback"),
    [
        (UpstreamAuth("key"), True),
        (UnknownModel("m", why="gone"), True),
        (ContextTooLong("long"), True),
        (UpstreamStalled("silent"), True),
        (busy(5.0), True),  # it requests a delay, which is not waited for
        (UpstreamRejected("no"), False),
    ],
)
async def test_what_is_not_retried_is_followed_by_a_fallback_unless_it_was_rejected(
    error, has_fallback
):
    first, second = ScriptedProvider(Played(error)), ScriptedProvider(Played("a", STOP))
    async with retrying() as streams:
        _, reader = begin(streams, routes(first, second))
        if has_fallback:
            assert notices(await read_all(reader)) == [(NoticeKind.FALLBACK, "p1", 2)]
        else:
            with raises_failed(type(error)):
                await read_all(reader)
    assert (len(first.opened), len(second.opened)) == (1, int(has_fallback))


async def test_what_has_content_is_not_followed_by_a_fallback():
    first, second = (
        ScriptedProvider(Played("a", UpstreamBroken("cut"))),
        ScriptedProvider(Played("never", STOP)),
    )
    async with retrying() as streams:
        _, reader = begin(streams, routes(first, second))
        with raises_failed(UpstreamBroken):
            await read_all(reader)
    assert not second.opened


@pytest.mark.parametrize(
    ("errors", "kind"),
    [
        ((UpstreamAuth("key"), UnknownModel("m", why="gone")), UpstreamAuth),
        ((UpstreamAuth("key"), busy(60.0)), UpstreamRateLimited),
        ((busy(60.0), UpstreamAuth("key")), UpstreamRateLimited),
    ],
)
async def test_the_error_is_the_last_one_that_can_pass_or_else_the_first(errors, kind):
    async with retrying() as streams:
        _, reader = begin(streams, routes(*(ScriptedProvider(Played(error)) for error in errors)))
        with raises_failed(kind):
            await read_all(reader)


async def test_each_attempt_is_priced_on_its_model():
    first = ScriptedProvider(Played(Usage(10, 5), UpstreamAuth("key")))
    second = ScriptedProvider(Played("a", Usage(10, 7), STOP))
    async with retrying() as streams:
        streams.estimator.tariffs["p1/asked-for"] = DEAR
        _, reader = begin(streams, routes(first, second), estimate=PRICED)
        finished = (await read_all(reader))[-1]
    assert finished.usage.cost_microusd == 15 + 17 * 10


@pytest.mark.parametrize("price", ["dear", "unknown"])
async def test_a_model_that_is_too_expensive_for_the_budget_is_skipped(price):
    first, second, third = (
        ScriptedProvider(Played(down())),
        ScriptedProvider(Played("never", STOP)),
        ScriptedProvider(Played("a", STOP)),
    )
    async with retrying(NO_REPETITION) as streams:
        tariffs = {"p1/asked-for": DEAR if price == "dear" else None, "p2/asked-for": PRICED.tariff}
        streams.estimator.tariffs = tariffs
        budget = Budget(max_cost_microusd=5)
        _, reader = begin(streams, routes(first, second, third), estimate=PRICED, budget=budget)
        assert notices(await read_all(reader)) == [(NoticeKind.FALLBACK, "p2", 2)]
    assert not second.opened


@pytest.mark.parametrize(("budget", "fallback_count"), [(70, 0), (71, 1)])
async def test_the_budget_of_a_fallback_is_what_the_failed_attempts_left(budget, fallback_count):
    first = ScriptedProvider(Played(Usage(10, 60), UpstreamStalled("silent")))
    second = ScriptedProvider(Played("a", STOP))
    async with retrying(NO_REPETITION) as streams:
        streams.estimator.tariffs["p1/asked-for"] = PRICED.tariff
        budget = Budget(max_cost_microusd=budget)
        stream, reader = begin(streams, routes(first, second), estimate=PRICED, budget=budget)
        with suppress(StreamFailed):
            await read_all(reader)
    assert len(second.opened) == fallback_count
    assert (
        stream.usage().cost_microusd <= budget.max_cost_microusd + 2
    )  # the last check may be late


@pytest.mark.parametrize("is_target", [False, True])
async def test_if_every_other_model_is_skipped_the_first_one_is_tried_again(is_target):
    first, second = ScriptedProvider(Played(busy(0.01)), Played("a", STOP)), ScriptedProvider()
    plan = (route_to(first, "m"), route_to(second, "m" if is_target else "other"))
    async with retrying() as streams:  # the price of the second one is unknown
        budget = Budget(max_cost_microusd=1000)
        _, reader = begin(streams, plan, estimate=PRICED, budget=budget)
        events = await read_all(reader)
    assert [(e.kind, e.attempt) for e in events if hasattr(e, "kind")] == [(NoticeKind.RETRYING, 2)]
    assert events[1].delay_s >= 0.01
    assert events[-1].reason == FinishReason.STOP


async def test_the_repetitions_are_bounded_if_every_other_model_is_skipped():
    first, second = ScriptedProvider(*(Played(busy(0.01)) for _ in range(9))), ScriptedProvider()
    async with retrying() as streams:
        budget = Budget(max_cost_microusd=1000)
        _, reader = begin(streams, routes(first, second), estimate=PRICED, budget=budget)
        with raises_failed(UpstreamRateLimited):
            await read_all(reader)
    assert len(first.opened) == 3


async def test_a_model_that_is_too_expensive_for_the_tenants_spend_is_skipped():
    limiter = SpendLimiter({"default": TenantLimits(spend_usd_per_day=Decimal(3) / 10**6)})
    first, second = ScriptedProvider(Played(down())), ScriptedProvider(Played("never", STOP))

    async def reserve():
        return None, limiter.reserve("default", 3, "m")

    async with retrying(NO_REPETITION) as streams:
        streams.estimator.tariffs["p1/asked-for"] = DEAR
        stream = streams.open(a_request(), routes(first, second), estimate=PRICED, reserve=reserve)
        generation, reader = streams.host._live[stream.id], stream.join()
        streams.start(stream)
        with raises_failed(UpstreamUnavailable):
            await read_all(reader)
    assert not second.opened
    assert (generation.route.provider, generation.is_fallback) == (first, False)


async def test_the_answer_of_a_fallback_is_not_cached():
    use = CacheUse(key=b"k", read=True, ttl_s=60.0)
    async with retrying(NO_REPETITION) as streams:
        for _ in range(2):
            first, second = ScriptedProvider(Played(down())), ScriptedProvider(Played("a", STOP))
            _, reader = begin(streams, routes(first, second), cache=use)
            await read_all(reader)
            assert len(second.opened) == 1


async def test_the_request_is_dropped_when_the_last_model_is_tried():
    waits = asyncio.Event()
    first, second = (
        ScriptedProvider(Played(UpstreamAuth("key"))),
        ScriptedProvider(Played(waits, "a", STOP)),
    )
    async with retrying(NO_REPETITION) as streams:
        stream, reader = begin(streams, routes(first, second))
        while not second.opened:
            await asyncio.sleep(0)
        assert streams.host._live[stream.id]._attempts._request is None
        waits.set()
        await read_all(reader)
