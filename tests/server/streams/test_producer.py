"""A producer and an upstream that is played by hand."""

import asyncio
from decimal import Decimal

import pytest
from streams_support import Played, a_request, read_all, route_to

from tokenwire_server.config import ModelPrices
from tokenwire_server.errors import (
    InternalFault,
    ServerStopped,
    UpstreamBroken,
    UpstreamUnavailable,
)
from tokenwire_server.events import FinishReason, TextDelta, Usage
from tokenwire_server.pricing.estimate import Estimate
from tokenwire_server.pricing.prices import Prices
from tokenwire_server.pricing.tokens import Characters, TokenCounter
from tokenwire_server.providers.base import Route, asking
from tokenwire_server.providers.decode.base import Complete
from tokenwire_server.request import Budget
from tokenwire_server.streams.producer import STALL_RETRY_AFTER_S
from tokenwire_server.streams.stream import NOTHING

PRICED = Estimate(
    10,
    "estimate",
    TokenCounter(Characters()),
    Prices.configured(ModelPrices(input=Decimal(1), output=Decimal(1))),
)


def begun(registry, provider, estimate=None, **fields):
    request = a_request(**fields)
    stream = registry.open(request, route_to(provider), estimate=estimate)
    reader = stream.join()
    registry.produce(stream, route_to(provider), request)
    return stream, reader


@pytest.fixture
def begun_within(registry):
    """Begins a stream of a model that has its own limits."""

    def begin(provider, **limits_s):
        request, route = a_request(), Route(provider, "m", None, **limits_s)
        stream = registry.open(request, route)
        reader = stream.join()
        registry.produce(stream, route, request)
        return stream, reader

    return begin


async def test_a_bug_of_ours_ends_its_own_stream_by_name_and_no_other(registry):
    provider = Played("some", RuntimeError("CANARY"))
    _, reader = begun(registry, provider)
    with pytest.raises(InternalFault) as caught:
        await read_all(reader)
    assert "CANARY" not in str(caught.value)
    assert caught.value.at.last_sequence == 2
    assert provider.closed.is_set()
    _, other = begun(registry, Played("fine", Complete(FinishReason.STOP)))
    assert (await read_all(other))[1] == TextDelta("fine", 0)


@pytest.mark.parametrize(("steps", "kind"), [([], UpstreamUnavailable), (["some"], UpstreamBroken)])
async def test_a_fault_that_the_decoder_found_names_the_provider(registry, steps, kind):
    _, reader = begun(registry, Played(*steps, UpstreamBroken("not an answer")))
    with pytest.raises(kind) as caught:
        await read_all(reader)
    assert caught.value.facts()["provider"] == "played"


class Thinking(Played):
    """Begins its answer, and sends bytes without content from time to time."""

    def __init__(self, *steps, thinks_s, ping_s=0.01):
        super().__init__(*steps)
        self._thinks_s, self._ping_s = thinks_s, ping_s
        self.response_id = "resp_1"

    async def __aenter__(self):
        asking.get().is_sent = True
        return self

    async def read(self):
        if self._thinks_s > 0:
            self._thinks_s -= self._ping_s
            await asyncio.sleep(self._ping_s)
            return []
        return await super().read()


@pytest.mark.parametrize("ping_s", [0.01, 0.4])
async def test_until_the_first_content_only_its_own_limit_applies(begun_within, ping_s):
    thinking = Thinking("a", Complete(FinishReason.STOP), thinks_s=0.4, ping_s=ping_s)
    _, reader = begun_within(thinking, first_content_s=20, idle_s=0.1)
    assert (await read_all(reader))[-1].reason == FinishReason.STOP


@pytest.mark.parametrize("ping_s", [0.01, 30])
async def test_a_model_that_thinks_for_too_long_has_used_its_input(begun_within, ping_s):
    thinking = Thinking(thinks_s=30, ping_s=ping_s)
    stream, reader = begun_within(thinking, first_content_s=0.2, idle_s=20)
    with pytest.raises(UpstreamUnavailable, match=r"no content for 0\.2 s") as caught:
        await read_all(reader)
    assert caught.value.retry_after_s == STALL_RETRY_AFTER_S
    usage = stream.usage()
    assert (usage.input_tokens, usage.output_tokens) == (stream.estimate.input_tokens, 0)
    assert usage.estimated
    await asyncio.wait_for(thinking.closed.wait(), 1)


async def test_a_stream_that_its_server_stops_while_the_model_thinks_has_used_its_input(
    begun_within,
):
    stream, reader = begun_within(Thinking(thinks_s=30), first_content_s=20, idle_s=20)
    await asyncio.sleep(0.05)
    stream.stop()
    with pytest.raises(ServerStopped):
        await read_all(reader)
    assert stream.usage().input_tokens == stream.estimate.input_tokens > 0


async def test_a_provider_that_reports_an_error_before_its_first_token_used_nothing(begun_within):
    failing = Thinking(UpstreamBroken("overloaded"), thinks_s=0.05)
    stream, reader = begun_within(failing, first_content_s=20, idle_s=20)
    with pytest.raises(UpstreamUnavailable):
        await read_all(reader)
    assert stream.usage() == NOTHING


async def test_the_model_that_served_is_named_as_the_provider_calls_it(registry):
    provider = Played("a", Complete(FinishReason.STOP))
    provider.model = "m-2026-01-01"
    assert (await read_all(begun(registry, provider)[1]))[-1].model == "m-2026-01-01"
    silent_about_it = Played("a", Complete(FinishReason.STOP))
    assert (await read_all(begun(registry, silent_about_it)[1]))[-1].model == "asked-for"


async def test_a_reader_that_leaves_a_finished_answer_does_not_break_its_connection(registry):
    closing = asyncio.Event()
    provider = Played("a", Complete(FinishReason.STOP), closing=closing)
    _, reader = begun(registry, provider)
    await read_all(reader)
    await asyncio.sleep(0)
    assert not provider.closed.is_set()
    closing.set()
    await asyncio.wait_for(provider.closed.wait(), 1)  # which a cancel would have prevented


@pytest.mark.parametrize(
    ("figures", "reason"),
    [(Usage(10, 90), FinishReason.STOP), (Usage(10, 91), FinishReason.BUDGET)],
)
async def test_figures_that_come_without_a_text_end_a_stream_that_they_make_too_dear(
    registry, figures, reason
):
    provider = Played("a", figures, Complete(FinishReason.STOP))
    _, reader = begun(registry, provider, PRICED, budget=Budget(max_cost_microusd=100))
    finished = (await read_all(reader))[-1]
    assert finished.reason == reason
    assert finished.usage.cost_microusd == 10 + figures.output_tokens
    await asyncio.wait_for(provider.closed.wait(), 1)


async def test_an_answer_that_ends_with_what_is_too_much_has_ended_by_itself(registry):
    class EndsWithItsText(Played):
        async def read(self):
            self.end = Complete(FinishReason.STOP)
            return [TextDelta("x" * 4000, 0)]

    _, reader = begun(registry, EndsWithItsText(), PRICED, budget=Budget(max_cost_microusd=100))
    assert (await read_all(reader))[-1].reason == FinishReason.STOP


async def test_a_stream_that_exceeds_its_budget_finishes_with_budget_and_closes_its_upstream(
    registry,
):
    provider = Played(*["four"] * 20, asyncio.Event())
    stream, reader = begun(registry, provider, PRICED, budget=Budget(max_cost_microusd=20))
    events = await read_all(reader)
    assert [type(event) for event in events[1:-1]] == [TextDelta]  # merged
    assert events[-1].reason == FinishReason.BUDGET
    assert events[-1].usage == Usage(10, 11, cost_microusd=21, estimated=True)
    assert stream.usage() == events[-1].usage
    await asyncio.wait_for(provider.closed.wait(), 1)
