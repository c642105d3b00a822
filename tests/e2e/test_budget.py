"""Budgets of requests: refused before the provider is called, and enforced while streaming."""

import asyncio
import itertools
import time

import grpc
import pytest
from e2e_calls import CONTINUE, PROVIDERS, details, info, read, reason, resume, said
from priced_support import (
    ARRIVAL,
    INPUT_PRICE,
    OUTPUT_PRICE,
    PRICED,
    at_most,
    budget,
    calling,
    model,
    priced,
    record_of,
    refused,
    text_of,
)

from tokenwire.v1 import chat_pb2, event_pb2, usage_pb2

ONCE = chat_pb2.CacheOptions(mode=chat_pb2.CACHE_MODE_READ_WRITE)
CLOSED_WITHIN_S = 0.25
"""Time limit from the last event at the caller to the end of the request at the provider. A millisecond if
idle."""
WORDS = (1, 20, 47)
"""Budgets for the output, in words."""


SILENT_AFTER = [words + 15 for words in (*WORDS, 30)]
"""Lengths of answers, in words: above the budgets by less than ARRIVAL."""


def silent_after(words):
    """Return the query of an answer that falls silent after a number of words.

    On a busy machine one arrival can hold any number of words. This bounds it: a stream that its budget does
    not end by then has no other end than the time limit for silence.
    """
    return f"repeat=forever&itl_ms=3&{text_of(50)}&stall_after={words}"


@pytest.fixture(scope="module")
def simulator(own_simulator):
    with own_simulator() as simulator:
        yield simulator


@pytest.fixture(scope="module")
def address(start, simulator, tmp_path_factory):
    tables = [
        model(f"{name}-{provider}", f"{provider}/sim?key={name}-{provider}&{query}", prices)
        for provider in PROVIDERS
        for name, query, prices in (
            ("endless", f"repeat=forever&itl_ms=3&{text_of(50)}", PRICED),
            *((f"silent-after-{words}", silent_after(words), PRICED) for words in SILENT_AFTER),
            ("burst", f"repeat=forever&{text_of(50)}", PRICED),
            ("short", f"itl_ms=2&{text_of(20)}", PRICED),
            ("large", f"input_tokens=5000&{silent_after(20)}", PRICED),
            ("free", text_of(20), "{ input = 0, output = 0 }"),
            ("unpriced", text_of(20), None),
        )
    ]  # fmt: skip
    with priced(start, simulator, tmp_path_factory.mktemp("budget"), *tables) as (_, address):
        yield address


@pytest.fixture
async def api(api_on, address):
    async with calling(api_on, address) as api:
        yield api


async def input_cost(api, alias):
    """Return the estimated cost of the input "hello"."""
    return (await api.count_tokens(api.request(alias))).input_cost_microusd


# Before the provider is called.


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("rpc", ["chat", "chat_stream"])
@pytest.mark.parametrize("limit", ["max_cost_microusd", "max_input_tokens"])
async def test_a_request_over_its_budget_is_refused_before_the_provider_is_called(
    api, simulator, provider, rpc, limit
):
    cost = await input_cost(api, f"endless-{provider}")
    before = simulator.stats()["requests_total"]
    request = api.request(
        f"endless-{provider}", budget=chat_pb2.Budget(**{limit: cost // INPUT_PRICE - 1})
    )
    call = getattr(api, rpc)(request)
    keys = {key for key, _ in await call.initial_metadata()}
    error = await refused(read(call) if rpc == "chat_stream" else call)
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert set(details(error)) == {"ErrorInfo"}
    assert reason(error) == "BUDGET_EXCEEDED"
    assert dict(info(error).metadata) == {
        "limit": limit,
        "allowed": str(cost - 1),
        "estimated": str(cost),
    }
    assert not any(key.startswith("tokenwire") for key in keys)
    assert simulator.stats()["requests_total"] == before


async def test_a_budget_that_just_covers_the_input_is_accepted(api):
    cost = await input_cost(api, "short-openai")
    both = budget(cost, cost // INPUT_PRICE)
    finished = (await api.events("short-openai", budget=both))[-1].finished
    assert finished.reason == event_pb2.FINISH_REASON_BUDGET


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_cost_limit_is_refused_for_a_model_without_a_price(api, simulator, provider):
    before = simulator.stats()["requests_total"]
    request = api.request(f"unpriced-{provider}", budget=budget(10**9))
    for call in (api.chat(request), read(api.chat_stream(request)), api.count_tokens(request)):
        error = await refused(call)
        assert (error.code(), reason(error)) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_REQUEST",
        )
        (violation,) = details(error)["BadRequest"].field_violations
        assert violation.field == "budget.max_cost_microusd"
        assert f"unpriced-{provider}" in violation.description
    assert simulator.stats()["requests_total"] == before
    finished = (await api.events(f"unpriced-{provider}", budget=budget(input_tokens=1000)))[-1]
    assert not finished.finished.usage.HasField("cost_microusd")


async def test_a_negative_budget_is_refused_with_its_path(api):
    request = api.request("short-openai", budget=budget(-1, -(2**63)))
    for call in (api.chat(request), read(api.chat_stream(request)), api.count_tokens(request)):
        error = await refused(call)
        fields = [found.field for found in details(error)["BadRequest"].field_violations]
        assert fields == ["budget.max_cost_microusd", "budget.max_input_tokens"]


async def test_the_largest_and_the_smallest_budget_are_accepted(api):
    largest = budget(2**63 - 1, 2**63 - 1)
    finished = (await api.events("short-openai", budget=largest))[-1].finished
    assert finished.reason == event_pb2.FINISH_REASON_STOP
    assert reason(await refused(api.chat(api.request("short-openai", budget=budget(0))))) == (
        "BUDGET_EXCEEDED"
    )
    free = (await api.chat(api.request("free-openai", budget=budget(0)))).finished
    assert (free.reason, free.usage.cost_microusd) == (event_pb2.FINISH_REASON_STOP, 0)


# When the budget is exceeded.


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("words", WORDS)
async def test_a_stream_ends_with_the_arrival_that_exceeds_its_budget(
    api, simulator, provider, words
):
    alias = f"silent-after-{words + 15}-{provider}"
    cost = await input_cost(api, alias)
    call = api.chat_stream(api.request(alias, budget=budget(cost + words * OUTPUT_PRICE)))
    events = await read(call)
    ended = time.monotonic()
    finished = events[-1].finished
    assert finished.reason == event_pb2.FINISH_REASON_BUDGET
    usage = finished.usage
    if provider != "anthropic":  # it reports the size of the input at its start
        assert usage.output_tokens > words
    assert len(said(events).split()) == usage.output_tokens
    assert usage.cost_microusd == (
        usage.input_tokens * INPUT_PRICE + usage.output_tokens * OUTPUT_PRICE
    )
    over = usage.cost_microusd - (cost + words * OUTPUT_PRICE)
    assert over > 0
    assert over <= ARRIVAL
    assert usage.estimated
    while (seen := simulator.request(alias))["closed_at"] is None:
        assert time.monotonic() - ended < CLOSED_WITHIN_S
    assert seen["aborted"]
    assert seen["closed_at"] - ended < CLOSED_WITHIN_S
    stream_id = events[0].started.stream_id
    stream = await api.get_stream(chat_pb2.GetStreamRequest(stream_id=stream_id))
    assert stream.usage == usage
    assert stream.finish_reason == event_pb2.FINISH_REASON_BUDGET
    record = await record_of(api, stream_id)
    assert record.usage == usage
    assert (record.outcome, record.reason) == (usage_pb2.USAGE_OUTCOME_BUDGET, "BUDGET")
    assert record.partial


async def test_exceeding_the_budget_closes_the_providers_connection_within_milliseconds(
    api, simulator
):
    took_s = []
    for _ in range(20):
        await api.events("endless-openai", budget=budget(50))
        ended = time.monotonic()
        simulator.wait_until_none_open(CLOSED_WITHIN_S)
        took_s.append(simulator.request("endless-openai")["closed_at"] - ended)
    print(f"closed {sorted(took_s)[10] * 1000:.1f} ms after the last event, p50 of 20")
    assert sorted(took_s)[10] < 0.05


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_an_answer_that_arrives_in_one_burst_ends_after_that_burst(api, simulator, provider):
    finished = (await api.events(f"burst-{provider}", budget=budget(400)))[-1].finished
    assert finished.reason == event_pb2.FINISH_REASON_BUDGET
    assert finished.usage.cost_microusd > 400
    simulator.wait_until_none_open(CLOSED_WITHIN_S)


async def test_the_input_tokens_count_as_soon_as_the_provider_reports_them(api, simulator):
    events = await api.events("large-anthropic", budget=budget(4000))
    finished = events[-1].finished
    assert finished.reason == event_pb2.FINISH_REASON_BUDGET
    assert finished.usage.input_tokens == 5000
    assert (
        5000 <= finished.usage.cost_microusd <= 5000 + ARRIVAL
    )  # the count may come before a token
    simulator.wait_until_none_open(CLOSED_WITHIN_S)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_an_answer_within_its_budget_is_complete(api, provider):
    answer = await api.chat(api.request(f"short-{provider}", budget=budget(1000)))
    assert answer.finished.reason == event_pb2.FINISH_REASON_STOP
    assert not answer.finished.usage.estimated
    assert answer.message.parts[0].text == " ".join(["word"] * 20)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_unary_chat_also_stops_at_its_budget(api, provider):
    answer = await api.chat(api.request(f"silent-after-45-{provider}", budget=budget(150)))
    assert answer.finished.reason == event_pb2.FINISH_REASON_BUDGET
    usage = answer.finished.usage
    assert len(answer.message.parts[0].text.split()) == usage.output_tokens
    assert 150 < usage.cost_microusd <= 150 + ARRIVAL


async def test_all_readers_get_the_same_end_when_the_budget_is_exceeded(api):
    request = api.request("endless-openai", budget=budget(300), retention=CONTINUE)
    call = api.chat_stream(request)
    started = (await anext(aiter(call))).started
    others = [resume(api, started.stream_id) for _ in range(3)]
    ends = [events[-1].finished for events in await asyncio.gather(*map(read, [call, *others]))]
    assert ends[0].reason == event_pb2.FINISH_REASON_BUDGET
    assert all(end == ends[0] for end in ends)
    late = await read(resume(api, started.stream_id))
    assert late[-1].finished == ends[0]


# Together with the cache and request ids.

_ids = itertools.count()


def prompt():
    """Return a prompt that no other test uses."""
    message = chat_pb2.Message(role=chat_pb2.ROLE_USER)
    message.parts.add(text=f"prompt {next(_ids)}")
    return [message]


async def test_a_replay_costs_nothing_whatever_its_budget(api, simulator):
    messages = prompt()
    first = await api.chat(api.request("short-openai", messages=messages, cache=ONCE))
    assert first.finished.usage.cost_microusd > 100
    before = simulator.stats()["requests_total"]
    for limit in (budget(50), budget(10**9), budget(input_tokens=100)):
        events = await api.events("short-openai", messages=messages, cache=ONCE, budget=limit)
        assert events[0].started.from_cache
        assert events[0].started.estimated_cost_microusd == 0
        assert said(events) == first.message.parts[0].text
        assert events[-1].finished.reason == event_pb2.FINISH_REASON_STOP
        assert events[-1].finished.usage == usage_pb2.Usage(cost_microusd=0)
        record = await record_of(api, events[0].started.stream_id)
        assert record.from_cache
        assert record.usage == usage_pb2.Usage(cost_microusd=0)
        assert record.attempts == 0
    assert simulator.stats()["requests_total"] == before


async def test_an_answer_that_its_budget_cut_off_is_not_cached(api):
    messages = prompt()
    cut = await api.chat(
        api.request("short-openai", messages=messages, cache=ONCE, budget=budget(50))
    )
    assert cut.finished.reason == event_pb2.FINISH_REASON_BUDGET
    events = await api.events("short-openai", messages=messages, cache=ONCE)
    assert not events[0].started.from_cache
    assert events[-1].finished.reason == event_pb2.FINISH_REASON_STOP


async def test_a_repeated_request_id_with_another_budget_is_refused(api):
    first = await api.events("short-openai", request_id="budget-1", budget=budget(500))
    again = await api.events("short-openai", request_id="budget-1", budget=budget(500))
    assert again[0].started == first[0].started
    for other in (budget(501), None, budget(500, 1000)):
        request = api.request("short-openai", request_id="budget-1", budget=other)
        assert reason(await refused(api.chat(request))) == "REQUEST_ID_REUSED"


async def test_a_request_refused_for_its_budget_does_not_reserve_its_id(api):
    request = api.request("short-openai", request_id="budget-2", budget=budget(1))
    assert reason(await refused(api.chat(request))) == "BUDGET_EXCEEDED"
    await api.chat(api.request("short-openai", request_id="budget-2", budget=budget(500)))


# Many concurrent budgets.


async def test_a_hundred_concurrent_budgets_are_all_enforced(api, simulator):
    async def one(n):
        limit = 150 + n % 50
        call = api.request("silent-after-45-openai-responses", budget=budget(limit))
        finished = (await api.chat(call)).finished
        assert finished.reason == event_pb2.FINISH_REASON_BUDGET
        return finished.usage.cost_microusd - limit

    over = await asyncio.gather(*(one(n) for n in range(100)))
    assert all(0 < cost <= ARRIVAL for cost in over)
    simulator.wait_until_none_open(1)


async def test_max_output_tokens_ends_a_stream_before_its_budget_does(api):
    request = api.request("short-openai", budget=budget(1000), generation=at_most(5))
    answer = await api.chat(request)
    assert answer.finished.reason == event_pb2.FINISH_REASON_MAX_TOKENS
    assert answer.finished.usage.output_tokens == 5
