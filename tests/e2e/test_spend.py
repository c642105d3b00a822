"""Spend limits of tenants by day and month, also with a hundred concurrent callers."""

import asyncio
import contextlib
import random
import time

import grpc
import grpc.aio
import pytest
from e2e_calls import details, info, read, reason
from priced_support import (
    ARRIVAL,
    INPUT_PRICE,
    OUTPUT_PRICE,
    at_most,
    budget,
    calling,
    cap,
    model,
    new_keys,
    priced,
    refused,
    text_of,
)

from tokenwire.v1 import chat_pb2, event_pb2, usage_pb2

CALLERS = 100
WORDS = 20
INPUT_TOKENS = 40
ESTIMATED_INPUT = 8  # for "hello" to a model of OpenAI; the provider reports more
ONE_STREAM = INPUT_TOKENS * INPUT_PRICE + WORDS * OUTPUT_PRICE
DAY = "spend_microusd_per_day"
MONTH = "spend_microusd_per_month"
ASSUMED = "[limits]\nassumed_output_tokens = 20\n"
SAYS = f"input_tokens={INPUT_TOKENS}"
MODELS = "".join(
    [
        # No stream has ended when the last of a hundred callers arrives.
        model("late", f"openai/sim?ttft_ms=2000&itl_ms=1&{SAYS}&{text_of(WORDS)}"),
        model("paced", f"openai/sim?itl_ms=10&{SAYS}&{text_of(WORDS)}"),
        model("quick", f"openai/sim?itl_ms=1&{SAYS}&{text_of(WORDS)}"),
        model("endless", f"openai/sim?repeat=forever&itl_ms=5&{text_of(WORDS)}"),
        model("free", "openai/sim?tokens=5", "{ input = 0, output = 0 }"),
        model("unpriced", "openai/sim?tokens=5", None),
        model("silent", "openai/sim?silent=1"),
        model("status-500", "openai/sim?status=500"),
        model("status-429", "openai/sim?status=429"),
        model("dropped-early", "openai/sim?drop_after=0&drop=rst"),
        model("dropped-late", f"openai/sim?itl_ms=1&drop_after=5&drop=rst&{text_of(WORDS)}"),
        model("slipping", f"openai/sim?itl_ms=1&output_tokens={2**53}&{text_of(3)}"),
    ]
)


RESERVED = ESTIMATED_INPUT + WORDS * OUTPUT_PRICE
CAPS = {
    "hundred": {"day": 10 * RESERVED},
    "unused": {"day": 10 * (ESTIMATED_INPUT + 200 * OUTPUT_PRICE)},
    "endless": {"day": 20_000},
    "reported": {"day": 1000, "month": 5000},
    "nothing": {"day": 0},
    "thousand": {"day": 1000},
    "grows": {"day": 500},
    "fails": {"day": 1000},
    "breaks": {"day": 1000},
    "slips": {"day": 10**9},
    "leaves": {"day": 100_000},
}
"""Spend limits of the tenants, one for each test."""


@pytest.fixture(scope="module")
def served(start, simulator, tmp_path_factory):
    """Start a server with tenants that have limits. Return its address, and a key for each tenant."""
    folder = tmp_path_factory.mktemp("spend")
    database = f"sqlite:///{folder}/tokenwire.db"
    keys = new_keys(database, CAPS)
    tables = (ASSUMED, MODELS, *(cap(tenant, **limits) for tenant, limits in CAPS.items()))
    with priced(start, simulator, folder, *tables, database=database) as (_, address):
        yield address, keys


@pytest.fixture
def spending(api_on, served):
    """Yield the RPCs for callers of a tenant."""
    address, keys = served
    return lambda tenant: calling(api_on, address, keys[tenant])


@pytest.fixture
def spending_again(start, simulator, tmp_path, api_on, database_url):
    """Starts servers on the same database, whose callers need no key."""

    @contextlib.asynccontextmanager
    async def run(*tables, **limits):
        tables = (ASSUMED, MODELS, cap("default", **limits), *tables)
        with priced(start, simulator, tmp_path, *tables, database=database_url) as server:
            process, address = server
            async with calling(api_on, address) as api:
                api.process = process
                yield api

    return run


async def spent(api, allowed):
    """Return the cost of all streams. When nothing is reserved, check that the records agree with what is
    left.
    """
    give_up = time.monotonic() + 10
    while True:
        records = await api.records()
        total = sum(record.usage.cost_microusd for record in records)
        left = (await api.left())[DAY]
        if left == allowed - total and not any(map(is_open, records)):
            return total
        assert time.monotonic() < give_up, f"{left} left of {allowed}, {total} spent"
        await asyncio.sleep(0.1)


def is_open(record):
    return record.outcome == usage_pb2.USAGE_OUTCOME_OPEN


def retry_s(error):
    """Return the retry delay of a refused call, or None."""
    found = details(error).get("RetryInfo")
    return found and found.retry_delay.ToTimedelta().total_seconds()


# A hundred concurrent callers.


async def test_of_a_hundred_concurrent_callers_only_those_within_the_limit_are_admitted(spending):
    allowed = CAPS["hundred"]["day"]
    async with spending("hundred") as api:
        calls = (api.chat(api.request("late", generation=at_most(WORDS))) for _ in range(CALLERS))
        answers = await asyncio.gather(*calls, return_exceptions=True)
        refusals = [error for error in answers if isinstance(error, grpc.aio.AioRpcError)]
        assert CALLERS - len(refusals) == 10
        for error in refusals:
            assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            found = details(error)
            assert found["ErrorInfo"].reason == "QUOTA_EXHAUSTED"
            assert dict(found["ErrorInfo"].metadata) == {
                "limit": DAY, "scope": "tenant", "allowed": str(allowed), "remaining": "0",
                "asked": str(RESERVED),
            }  # fmt: skip
            (violation,) = found["QuotaFailure"].violations
            assert violation.subject == "tenant:hundred"
            assert retry_s(error) == 1.0
        # Their input was larger than estimated. Only by that can they exceed the limit.
        assert await spent(api, allowed) <= allowed + 10 * (INPUT_TOKENS - ESTIMATED_INPUT)


async def test_unused_reservations_admit_others_until_the_limit_is_spent(spending):
    allowed = CAPS["unused"]["day"]
    async with spending("unused") as api:
        answers = 0

        async def caller():
            nonlocal answers
            while True:
                try:
                    await api.chat(api.request("quick", generation=at_most(200)))
                except grpc.aio.AioRpcError as error:
                    assert reason(error) == "QUOTA_EXHAUSTED"
                    if retry_s(error) > 1:
                        return
                    await asyncio.sleep(0.02)
                else:
                    answers += 1

        async with asyncio.timeout(30):
            await asyncio.gather(*(caller() for _ in range(CALLERS)))
        total = await spent(api, allowed)
        assert total == answers * ONE_STREAM
        # The last one that did not fit would have reserved 1,008.
        assert allowed - 1008 < total <= allowed + ONE_STREAM


async def test_a_hundred_endless_answers_exceed_the_limit_by_less_than_one_stream(spending):
    allowed = CAPS["endless"]["day"]
    async with spending("endless") as api:
        calls = (api.chat(api.request("endless")) for _ in range(CALLERS))
        answers = await asyncio.gather(*calls, return_exceptions=True)
        ends = [answer.finished for answer in answers if isinstance(answer, chat_pb2.ChatResponse)]
        assert len(ends) > 10
        assert {end.reason for end in ends} == {event_pb2.FINISH_REASON_BUDGET}
        assert {reason(error) for error in answers if isinstance(error, Exception)} <= {
            "QUOTA_EXHAUSTED"
        }
        total = await spent(api, allowed)
        largest = max(end.usage.cost_microusd for end in ends)
        print(f"{total - allowed} microusd above {allowed}; the largest stream cost {largest}")
        assert allowed < total <= allowed + largest
        assert retry_s(await refused(api.chat(api.request("endless")))) != 1.0


# What is left, before, during and after.


async def test_initial_metadata_and_get_caller_have_what_is_left(spending):
    async with spending("reported") as api:
        assert await api.left() == {DAY: 1000, MONTH: 5000}
        call = api.chat_stream(api.request("late", generation=at_most(WORDS)))
        metadata = {
            key.removeprefix("tokenwire-limit-"): value
            for key, value in await call.initial_metadata()
            if key.startswith("tokenwire-limit-")
        }
        assert metadata == {
            "spend-microusd-per-day": "1000",
            "spend-microusd-per-day-remaining": str(1000 - RESERVED),
            "spend-microusd-per-month": "5000",
            "spend-microusd-per-month-remaining": str(5000 - RESERVED),
        }
        assert (await api.left())[DAY] == 1000 - RESERVED
        await read(call)
        assert await api.left() == {DAY: 1000 - ONE_STREAM, MONTH: 5000 - ONE_STREAM}


async def test_spend_is_kept_across_a_restart(spending_again):
    allowed, month = 5 * ONE_STREAM, 5 * ONE_STREAM + 50
    async with spending_again(day=allowed, month=month) as api:
        for _ in range(3):
            await api.chat(api.request("quick", generation=at_most(WORDS)))
        assert await api.left() == {DAY: 2 * ONE_STREAM, MONTH: 2 * ONE_STREAM + 50}
    dearer = model("dear", f"openai/sim?{SAYS}&{text_of(WORDS)}", "{ input = 2, output = 10 }")
    async with spending_again(dearer, day=allowed, month=month) as api:
        # Changed prices do not change what was spent.
        assert await api.left() == {DAY: 2 * ONE_STREAM, MONTH: 2 * ONE_STREAM + 50}
        error = await refused(api.chat(api.request("dear", generation=at_most(2 * WORDS))))
        assert (info(error).metadata["limit"], retry_s(error) > 1) == (MONTH, True)
        await api.chat(api.request("dear", generation=at_most(WORDS)))
        assert await spent(api, allowed) == allowed
    async with spending_again(month=20) as api:
        assert await api.left() == {MONTH: 20 - allowed}
        assert retry_s(await refused(api.chat(api.request("quick", generation=at_most(1))))) > 1


async def test_spend_recorded_by_a_killed_server_is_kept(spending_again):
    async with spending_again(day=10**6) as api:
        await api.chat(api.request("quick", generation=at_most(WORDS)))
        call = api.chat_stream(api.request("endless", generation=at_most(10_000)))
        await anext(aiter(call))
        give_up = time.monotonic() + 10
        while sum(each.usage.cost_microusd for each in await api.records()) < ONE_STREAM + 200:
            assert time.monotonic() < give_up
            await asyncio.sleep(0.1)
        api.process.kill()
        api.process.wait()
    async with spending_again(day=10**6) as api:
        assert 10**6 - 20_000 < (await api.left())[DAY] <= 10**6 - ONE_STREAM - 200


# At the limit.


async def test_with_a_limit_of_zero_free_models_can_be_used(spending):
    async with spending("nothing") as api:
        free = (await api.chat(api.request("free"))).finished
        assert (free.reason, free.usage.cost_microusd) == (event_pb2.FINISH_REASON_STOP, 0)
        error = await refused(api.chat(api.request("quick")))
        assert reason(error) == "QUOTA_EXHAUSTED"
        assert retry_s(error) is None
        assert (await api.count_tokens(api.request("quick"))).input_tokens > 0
        # A budget lowers the reservation, but not below the cost of the input.
        within = api.request("quick", budget=budget(ESTIMATED_INPUT), generation=at_most(1))
        assert reason(await refused(api.chat(within))) == "QUOTA_EXHAUSTED"


async def test_a_spend_limit_refuses_only_models_without_a_price(spending):
    async with spending("thousand") as api:
        before = (await api.left())[DAY]
        error = await refused(api.chat(api.request("unpriced")))
        assert reason(error) == "QUOTA_EXHAUSTED"
        assert retry_s(error) is None
        assert "the price of unpriced is not known" in error.details()
        await api.chat(api.request("quick", generation=at_most(WORDS)))
        assert (await api.left())[DAY] == before - ONE_STREAM


async def test_a_request_above_the_whole_limit_is_refused_without_a_retry_delay(spending):
    async with spending("thousand") as api:
        error = await refused(api.chat(api.request("quick", generation=at_most(1000))))
        assert retry_s(error) is None
        assert int(info(error).metadata["asked"]) == ESTIMATED_INPUT + 1000 * OUTPUT_PRICE
        within = api.request("quick", generation=at_most(1000), budget=budget(500))
        await api.chat(within)


async def test_a_stream_that_exhausts_the_spend_limit_finishes_with_budget(spending):
    allowed = CAPS["grows"]["day"]
    async with spending("grows") as api:
        finished = (await api.events("endless"))[-1].finished
        assert finished.reason == event_pb2.FINISH_REASON_BUDGET
        assert allowed < finished.usage.cost_microusd <= allowed + ARRIVAL
        assert await spent(api, allowed) == finished.usage.cost_microusd


@pytest.mark.parametrize("alias", ["status-500", "status-429", "dropped-early"])
async def test_a_provider_that_fails_before_the_first_token_costs_nothing(spending, alias):
    async with spending("fails") as api:
        for call in (api.chat(api.request(alias)), read(api.chat_stream(api.request(alias)))):
            assert reason(await refused(call)).startswith("UPSTREAM")
        assert await spent(api, 1000) == 0


async def test_a_broken_answer_costs_what_was_received(spending):
    async with spending("breaks") as api:
        error = await refused(api.chat(api.request("dropped-late")))
        assert reason(error) == "UPSTREAM_BROKEN"
        cost = int(info(error).metadata["cost_microusd"])
        assert 0 < cost <= ESTIMATED_INPUT + 5 * OUTPUT_PRICE
        assert await spent(api, 1000) == cost


async def test_usage_beyond_any_real_answer_is_recorded_with_a_bounded_cost(spending):
    async with spending("slips") as api:
        finished = (await api.events("slipping"))[-1].finished
        assert finished.usage.output_tokens == 2**53
        assert finished.usage.cost_microusd == 10**15  # bounded, so that sums do not overflow
        assert (await api.left())[DAY] < 0
        assert retry_s(await refused(api.chat(api.request("quick")))) > 1


# All reservations are released.


async def test_all_reservations_are_released_however_streams_end(spending):
    allowed = CAPS["leaves"]["day"]
    rng = random.Random(7)

    async def one(api, n):
        alias = rng.choice(
            ["paced", "quick", "endless", "silent", "status-500", "dropped-early", "dropped-late"]
        )
        request = api.request(alias, generation=at_most(rng.randint(1, 300)))
        if rng.random() < 0.3:
            request.budget.max_cost_microusd = rng.randint(5, 200)
        if rng.random() < 0.2:
            request.request_id = f"same-{rng.randrange(5)}"
        call = api.chat_stream(request, timeout=rng.choice([0.02, 0.2, 1]))
        if rng.random() < 0.5:
            asyncio.get_running_loop().call_later(rng.random() * 0.05, call.cancel)
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
            await read(call)

    async with spending("leaves") as api:
        for _ in range(5):
            await asyncio.gather(*(one(api, n) for n in range(CALLERS)))
        assert await spent(api, allowed) > 0
