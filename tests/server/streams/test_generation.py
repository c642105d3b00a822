"""A generation, with an upstream that is played by hand."""

import asyncio
import contextlib
import re
import time
from decimal import Decimal
from types import SimpleNamespace

import msgspec
import pytest
from streams_support import Played, Streams, a_request, begun, raises_failed, read_all, route_to

from tokenwire_server.config import FilterConfig, Limits, ModelPrices, TenantLimits
from tokenwire_server.content.filter_set import FilterSet
from tokenwire_server.errors import (
    Failure,
    InternalFault,
    ServerStopped,
    StreamFailed,
    UpstreamBroken,
    UpstreamRejected,
    UpstreamUnavailable,
)
from tokenwire_server.events import (
    NO_USAGE,
    FinishReason,
    Notice,
    NoticeKind,
    TextDelta,
    Usage,
)
from tokenwire_server.pricing.estimate import Estimate
from tokenwire_server.pricing.prices import Prices
from tokenwire_server.pricing.tariff import Tariff
from tokenwire_server.pricing.tokens import Characters, TokenCounter, estimate_input_tokens
from tokenwire_server.providers.base import Route
from tokenwire_server.providers.decode.base import Complete
from tokenwire_server.request import Budget, Retention
from tokenwire_server.routing.attempt import STALL_RETRY_AFTER_S
from tokenwire_server.routing.plan import Plan
from tokenwire_server.streams import generation, host
from tokenwire_server.streams.admitted import AdmittedChat
from tokenwire_server.streams.generation import StreamObserver
from tokenwire_server.tenants.caller import Caller
from tokenwire_server.tenants.reservation import Reservation
from tokenwire_server.tenants.spend import SpendLimiter

PRICED = Estimate(
    10,
    "estimate",
    TokenCounter(Characters()),
    Tariff(Prices.configured(ModelPrices(input=Decimal(1), output=Decimal(1)))),
)


@pytest.fixture
def begun_within(streams):
    """Begins a stream of a model that has its own limits."""

    def begin(provider, **limits_s):
        request, route = a_request(), Route(provider, "m", None, **limits_s)
        stream = streams.open(request, route)
        reader = stream.join()
        streams.start(stream)
        return stream, reader

    return begin


async def test_a_bug_of_ours_ends_its_own_stream_by_name_and_no_other(streams):
    provider = Played("some", RuntimeError("CANARY"))
    _, reader = begun(streams, provider)
    with raises_failed(InternalFault) as caught:
        await read_all(reader)
    assert "CANARY" not in str(caught.value)
    assert caught.value.at.last_sequence == 2
    assert provider.closed.is_set()
    _, other = begun(streams, Played("fine", Complete(FinishReason.STOP)))
    assert (await read_all(other))[1] == TextDelta("fine", 0)


@pytest.mark.parametrize(("steps", "kind"), [([], UpstreamUnavailable), (["some"], UpstreamBroken)])
async def test_a_fault_that_the_decoder_found_names_the_provider(streams, steps, kind):
    _, reader = begun(streams, Played(*steps, UpstreamBroken("not an answer")))
    with raises_failed(kind) as caught:
        await read_all(reader)
    assert caught.value.facts()["provider"] == "played"


class Thinking(Played):
    """Begins its answer, and sends bytes without content from time to time."""

    def __init__(self, *steps, thinks_s, ping_s=0.01):
        super().__init__(*steps)
        self._thinks_s, self._ping_s = thinks_s, ping_s
        self.response_id = "resp_1"

    async def __aenter__(self):
        self.is_sent = True
        return self

    async def read(self):
        if self._thinks_s > 0:
            self._thinks_s -= self._ping_s
            await asyncio.sleep(self._ping_s)
            return []
        return await super().read()


async def test_a_model_that_thinks_and_sends_pings_is_waited_for(begun_within):
    thinking = Thinking("a", Complete(FinishReason.STOP), thinks_s=0.4)
    _, reader = begun_within(thinking, reasons=True, idle_s=0.3)
    assert (await read_all(reader))[-1].reason == FinishReason.STOP


@pytest.mark.parametrize(
    ("ping_s", "limits", "message"),
    [
        (0.01, {"first_content_s": 0.2}, "no content for 0.2 s (upstream_first_content_s)"),
        (30, {"first_content_s": 0.2}, "no content for 0.2 s (upstream_first_content_s)"),
        (0.01, {"reasons": True, "drip_s": 0.2}, "without content for 0.2 s (upstream_drip_s)"),
        (30, {"reasons": True, "idle_s": 0.2}, "sent nothing for 0.2 s (upstream_idle_s)"),
    ],
)
async def test_a_model_that_thinks_for_too_long_has_used_its_input(
    begun_within, ping_s, limits, message
):
    thinking = Thinking(thinks_s=30, ping_s=ping_s)
    began = time.monotonic()
    stream, reader = begun_within(thinking, **limits)
    with raises_failed(UpstreamUnavailable, match=re.escape(message)) as caught:
        await read_all(reader)
    assert time.monotonic() - began >= 0.2
    assert caught.value.facts()["limit_name"] in message
    assert caught.value.retry_after_s == STALL_RETRY_AFTER_S
    usage = stream.usage()
    assert (usage.input_tokens, usage.output_tokens) == (estimate_input_tokens(a_request()), 0)
    assert usage.estimated
    await asyncio.wait_for(thinking.closed.wait(), 10)


async def test_a_stream_that_its_server_stops_while_the_model_thinks_has_used_its_input(
    streams, begun_within
):
    stream, reader = begun_within(Thinking(thinks_s=30), first_content_s=20, idle_s=20)
    await asyncio.sleep(0.05)
    streams.stop_all()
    with raises_failed(ServerStopped):
        await read_all(reader)
    assert stream.usage().input_tokens == estimate_input_tokens(a_request()) > 0


async def test_a_provider_that_reports_an_error_before_its_first_token_used_nothing(begun_within):
    failing = Thinking(UpstreamBroken("overloaded"), thinks_s=0.05)
    stream, reader = begun_within(failing, first_content_s=20, idle_s=20)
    with raises_failed(UpstreamUnavailable):
        await read_all(reader)
    assert stream.usage() == NO_USAGE


async def test_the_model_that_served_is_named_as_the_provider_calls_it(streams):
    provider = Played("a", Complete(FinishReason.STOP))
    provider.model = "m-2026-01-01"
    assert (await read_all(begun(streams, provider)[1]))[-1].model == "m-2026-01-01"
    silent_about_it = Played("a", Complete(FinishReason.STOP))
    assert (await read_all(begun(streams, silent_about_it)[1]))[-1].model == "asked-for"


@pytest.mark.parametrize("filters", [{}, {"f": FilterConfig(action="redact", words=("held",))}])
async def test_a_finished_answer_does_not_wait_for_the_end_of_its_connection(streams, filters):
    streams.routing.filters = FilterSet.of(filters)
    closing = asyncio.Event()
    provider = Played("hel", Complete(FinishReason.STOP), closing=closing)
    _, reader = begun(streams, provider)
    *texts, finished = await asyncio.wait_for(read_all(reader), 10)
    assert (texts[-1].text, finished.reason) == ("hel", FinishReason.STOP)
    assert not provider.closed.is_set()
    closing.set()


async def test_a_reader_that_leaves_a_finished_answer_does_not_break_its_connection(streams):
    closing = asyncio.Event()
    provider = Played("a", Complete(FinishReason.STOP), closing=closing)
    _, reader = begun(streams, provider)
    await read_all(reader)
    await asyncio.sleep(0)
    assert not provider.closed.is_set()
    closing.set()
    await asyncio.wait_for(provider.closed.wait(), 10)  # which a cancel would have prevented


@pytest.mark.parametrize(
    ("figures", "reason"),
    [(Usage(10, 90), FinishReason.STOP), (Usage(10, 91), FinishReason.BUDGET)],
)
async def test_figures_that_come_without_a_text_end_a_stream_that_they_make_too_dear(
    streams, figures, reason
):
    provider = Played("a", figures, Complete(FinishReason.STOP))
    _, reader = begun(streams, provider, PRICED, budget=Budget(max_cost_microusd=100))
    finished = (await read_all(reader))[-1]
    assert finished.reason == reason
    assert finished.usage.cost_microusd == 10 + figures.output_tokens
    await asyncio.wait_for(provider.closed.wait(), 10)


async def test_an_answer_that_ends_with_what_is_too_much_has_ended_by_itself(streams):
    class EndsWithItsText(Played):
        async def read(self):
            self.end = Complete(FinishReason.STOP)
            return [TextDelta("x" * 4000, 0)]

    _, reader = begun(streams, EndsWithItsText(), PRICED, budget=Budget(max_cost_microusd=100))
    assert (await read_all(reader))[-1].reason == FinishReason.STOP


async def test_a_stream_that_exceeds_its_budget_finishes_with_budget_and_closes_its_upstream(
    streams,
):
    provider = Played(*["four"] * 20, asyncio.Event())
    stream, reader = begun(streams, provider, PRICED, budget=Budget(max_cost_microusd=20))
    events = await read_all(reader)
    assert [type(event) for event in events[1:-1]] == [TextDelta]  # merged
    assert events[-1].reason == FinishReason.BUDGET
    assert events[-1].usage == Usage(10, 11, cost_microusd=21, estimated=True)
    assert stream.usage() == events[-1].usage
    await asyncio.wait_for(provider.closed.wait(), 10)


@pytest.mark.parametrize(
    ("tokens", "tier", "charged"), [(500, "scale", 510), (2, "scale", 30), (2, "", 12)]
)
async def test_a_stream_whose_cost_is_unknown_is_charged_for_its_tokens_or_what_it_reserved(
    streams, tokens, tier, charged
):
    class Reports(Played):
        """A provider that reports its usage with the end of its answer."""

        async def read(self):
            self.end = Complete(FinishReason.STOP)
            self.usage = Usage(10, tokens, service_tier=tier)
            return [TextDelta("four", 0)]

    day = Decimal(1000) / 10**6
    limiter = SpendLimiter({"acme": TenantLimits(spend_usd_per_day=day)})

    async def reserve():
        return None, limiter.reserve("acme", 30, "m")

    route, acme = route_to(Reports()), Caller("acme")
    stream = streams.open(a_request(), route, caller=acme, estimate=PRICED, reserve=reserve)
    reader = stream.join()
    streams.start(stream)
    finished = (await read_all(reader))[-1]
    assert (finished.usage.cost_microusd is None) == bool(tier)
    assert [found.remaining for found in limiter.allowances("acme")] == [1000 - charged]


async def test_final_figures_of_an_answer_that_fits_do_not_end_it(streams):
    """They contain reasoning that was not streamed, and no more tokens arrive."""
    day = Decimal(2000) / 10**6
    limiter = SpendLimiter({"acme": TenantLimits(spend_usd_per_day=day)})
    limiter.reserve("acme", 500, "m")  # for another stream

    async def reserve():
        return None, limiter.reserve("acme", 1100, "m")

    route, acme = (
        route_to(Played("four", Usage(10, 1000), Complete(FinishReason.STOP))),
        Caller("acme"),
    )
    stream = streams.open(a_request(), route, caller=acme, estimate=PRICED, reserve=reserve)
    reader = stream.join()
    streams.start(stream)
    finished = (await read_all(reader))[-1]
    assert finished.reason == FinishReason.STOP
    assert finished.usage.cost_microusd == 1010


async def test_a_cancelled_stream_closes_its_upstream_undisturbed_by_further_ends(streams):
    closing = asyncio.Event()
    provider = Played(asyncio.Event(), closing=closing)
    stream, reader = begun(streams, provider)
    await asyncio.sleep(0.01)
    stream.cancel()
    await asyncio.sleep(0)
    stream.cancel()
    with reader:
        pass
    streams.stop_all()
    await asyncio.sleep(0)
    assert not stream.log.sealed
    closing.set()
    await asyncio.wait_for(stream.log.wait_sealed(), 10)
    assert provider.closed.is_set()
    assert stream.log.finished.reason == FinishReason.CANCELLED


async def test_a_stream_whose_task_never_ran_a_step_is_sealed(streams):
    provider = Played(asyncio.Event())
    _, reader = begun(streams, provider)
    streams.stop_all()
    with raises_failed(ServerStopped):
        await read_all(reader)
    assert provider.opened == 0


async def test_a_stream_that_was_stopped_before_it_was_started_contacts_no_provider(streams):
    provider = Played(asyncio.Event())
    stream = streams.open(a_request(), route_to(provider))
    reader = stream.join()
    streams.stop_all()
    streams.start(stream)
    with raises_failed(ServerStopped):
        await read_all(reader)
    assert provider.opened == 0


async def test_a_stream_that_failed_refers_to_no_error(streams):
    stream, reader = begun(
        streams,
        Played(UpstreamUnavailable("down", provider_text="CANARY")),
        retention=Retention(linger_s=60.0, log_ttl_s=60.0),
    )
    with reader:
        pass
    await asyncio.wait_for(stream.log.wait_sealed(), 5)
    encoded = msgspec.json.encode(stream.log.failure)
    assert msgspec.json.decode(encoded, type=Failure) == stream.log.failure
    assert b"CANARY" not in encoded


async def test_the_duration_of_a_stream_does_not_depend_on_the_systems_clock(streams, monkeypatch):
    stream = streams.open(a_request(), route_to(Played(asyncio.Event())))
    ended = time.monotonic() + 1.5
    monkeypatch.setattr(host, "time", SimpleNamespace(time=lambda: 0.0))
    monkeypatch.setattr(generation, "time", SimpleNamespace(monotonic=lambda: ended))
    with stream.join():
        streams.start(stream)
        stream.cancel()
        await asyncio.wait_for(stream.log.wait_sealed(), 10)
    assert stream.end_time - stream.created_time == pytest.approx(1.5, abs=0.1)


async def test_a_stream_whose_time_has_passed_before_it_starts_contacts_no_provider(streams):
    provider = Played(asyncio.Event())
    request = a_request(retention=Retention(soft_deadline_margin_s=0.01))
    deadline = time.monotonic() + 0.03
    stream = streams.open(request, route_to(provider), deadline=deadline)
    with stream.join() as reader:
        await asyncio.sleep(0.03)  # as while the initial metadata is sent
        streams.start(stream)
        assert (await read_all(reader))[-1].reason == FinishReason.TIME_LIMIT
    assert provider.opened == 0


@pytest.mark.parametrize(
    ("deadline_s", "margin_s", "limit_s"),
    [(10.0, 3.0, 7.0), (1e6, 3.0, 100.0), (10.0, None, 100.0), (None, 3.0, 100.0)],
)
def test_a_stream_may_take_until_its_margin_before_the_deadline_and_at_most_the_limit(
    deadline_s, margin_s, limit_s
):
    request = a_request(retention=Retention(soft_deadline_margin_s=margin_s))
    chat = AdmittedChat(
        request,
        Caller(),
        Plan((route_to(Played()),)),
        PRICED,
        Reservation(),
        None if deadline_s is None else 1000.0 + deadline_s,
    )
    limits = Limits(max_stream_duration_s=100.0)
    assert chat.time_limit_s(limits, 1000.0) == limit_s


class Recorder(StreamObserver):
    """Records what is announced."""

    def __init__(self):
        self.seen = []

    def opened(self, generation):
        self.seen.append("opened")

    def attempt_started(self, generation, attempt):
        self.seen.append("attempt started")

    def attempt_failed(self, generation, attempt, error):
        self.seen.append(f"attempt failed: {error.reason}")

    def first_content(self, generation, attempt):
        self.seen.append("first content")

    def ended(self, generation):
        assert generation.stream.log.sealed
        self.seen.append(f"ended with {generation.progress().usage.output_tokens} tokens")


class Broken(StreamObserver):
    def opened(self, generation):
        raise RuntimeError("CANARY")

    ended = first_content = attempt_started = opened


MODEL_CHANGED = Notice(NoticeKind.MODEL_CHANGED, "m-2", "played")


@pytest.mark.parametrize(
    ("steps", "announced"),
    [
        (["a", "b", Complete(FinishReason.STOP)], ["first content", "ended with 1 tokens"]),
        ([Complete(FinishReason.STOP)], ["ended with 0 tokens"]),
        (
            [MODEL_CHANGED, UpstreamBroken("gone")],
            ["attempt failed: UPSTREAM_BROKEN", "ended with 0 tokens"],
        ),
        (
            ["a", UpstreamBroken("gone")],
            ["first content", "attempt failed: UPSTREAM_BROKEN", "ended with 1 tokens"],
        ),
        ([UpstreamRejected("no")], ["attempt failed: UPSTREAM_REJECTED", "ended with 0 tokens"]),
    ],
)
async def test_observers_learn_each_step_once_even_if_another_observer_fails(steps, announced):
    recorder = Recorder()
    async with asyncio.TaskGroup() as tasks:
        streams = Streams(Limits(), tasks, observers=(Broken(), recorder))
        _, reader = begun(streams, Played(*steps))
        with contextlib.suppress(StreamFailed):
            await read_all(reader)
    assert recorder.seen == ["opened", "attempt started", *announced]
