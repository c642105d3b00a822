"""Limits that a chat is charged before it starts, and the metadata about what is left."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack

import grpc
import grpc.aio
import pytest
from e2e_calls import details, read, reason
from streams_support import new_chats
from tenants_support import bearer

from tokenwire.v1 import caller_pb2, chat_pb2
from tokenwire_server.config import (
    CallerLimits,
    Limits,
    ModelConfig,
    ModelPrices,
    TenantLimits,
    known_providers,
)
from tokenwire_server.errors import BudgetExceeded, QuotaExhausted, TooManyStreams
from tokenwire_server.pricing.estimate import Estimator
from tokenwire_server.pricing.pricebook import PriceBook
from tokenwire_server.pricing.tokenizers import Tokenizers
from tokenwire_server.providers.registry import ProviderRegistry
from tokenwire_server.routing.plan import Router
from tokenwire_server.rpc.parse import ChatRequestParser
from tokenwire_server.tenants.caller import Caller
from tokenwire_server.tenants.key import make_key_text
from tokenwire_server.tenants.memory_limiter import MemoryLimiter
from tokenwire_server.tenants.spend import SpendLimiter

KEY = make_key_text()
WITH_KEY = bearer(KEY)
SHORT = "openai/sim?tokens=2"


async def refused(call):
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value


async def told(call):
    """Return the limits in the initial metadata."""
    metadata = await call.initial_metadata()
    return {
        key.removeprefix("tokenwire-limit-"): value
        for key, value in metadata
        if key.startswith("tokenwire-limit-")
    }


async def left(api):
    """Return what is left of each limit, in the order of GetCaller."""
    caller = await api.get_caller(caller_pb2.GetCallerRequest(), metadata=WITH_KEY)
    return [found.remaining for found in caller.allowances]


def limited(**limits):
    return {KEY: {"limits": CallerLimits(**limits)}}


async def test_attaching_to_an_own_stream_uses_no_limit(serve):
    api = await serve(limited(requests_per_minute=1, concurrent_streams=1))
    request = api.request("openai/sim?repeat=forever&itl_ms=5", request_id="same")
    first = api.chat_stream(request, metadata=WITH_KEY)
    began = await anext(aiter(first))
    again = api.chat_stream(request, metadata=WITH_KEY)
    assert await anext(aiter(again)) == began
    assert await told(again) == {}
    assert await left(api) == [0, 0]
    for call in (first, again):
        call.cancel()


async def test_a_request_that_is_too_large_is_refused_before_it_is_parsed(serve):
    api = await serve(limited(bytes_per_request=500))
    assert reason(await refused(api.chat(b"\xff" * 500, metadata=WITH_KEY))) == "INVALID_REQUEST"
    assert reason(await refused(api.chat(b"\xff" * 501, metadata=WITH_KEY))) == "QUOTA_EXHAUSTED"


async def test_violations_are_reported_before_limits_on_size(serve):
    api = await serve(limited(messages_per_request=1))
    wrong = [chat_pb2.Message(role=chat_pb2.ROLE_USER)] * 2
    error = await refused(api.chat(api.request(SHORT, messages=wrong), metadata=WITH_KEY))
    assert reason(error) == "INVALID_REQUEST"
    assert len(details(error)["BadRequest"].field_violations) == 2


@pytest.mark.parametrize(
    ("most", "asked", "estimated"),
    [(None, None, 1024), (50, None, 50), (5000, None, 1024), (50, 20, 20), (None, 3000, 3000)],
)
async def test_an_answer_without_a_maximum_reserves_the_assumed_tokens_or_the_models_maximum(
    serve, most, asked, estimated
):
    models = {SHORT: ModelConfig(max_output_tokens=most)}
    api = await serve(limited(tokens_per_minute=10_000), models=models)
    call = api.chat(
        api.request(SHORT, generation=chat_pb2.GenerationConfig(max_output_tokens=asked)),
        metadata=WITH_KEY,
    )
    found = await told(call)
    assert found["tokens-per-minute-remaining"] == str(10_000 - estimated - 9)  # of "hello"
    await call


@pytest.mark.parametrize(
    ("key", "tenant", "said"),
    [(3, 9, ("3", "2")), (9, 3, ("3", "2")), (None, 3, ("3", "2")), (3, None, ("3", "2"))],
)
async def test_metadata_has_the_limit_of_the_key_or_the_tenant_with_less_left(
    serve, key, tenant, said
):
    tenants = {"acme": CallerLimits(requests_per_minute=tenant)} if tenant else {}
    keys = limited(requests_per_minute=key) if key else {KEY: {}}
    api = await serve(keys, tenants=tenants)
    call = api.chat_stream(api.request(SHORT), metadata=WITH_KEY)
    found = await told(call)
    assert (found["requests-per-minute"], found["requests-per-minute-remaining"]) == said
    await read(call)


async def test_metadata_has_the_larger_limit_if_less_of_it_is_left(serve):
    others = make_key_text()
    api = await serve(
        limited(requests_per_minute=3) | {others: {}},
        tenants={"acme": CallerLimits(requests_per_minute=5)},
    )
    for _ in range(4):
        await api.chat(api.request(SHORT), metadata=bearer(others))
    call = api.chat(api.request(SHORT), metadata=WITH_KEY)
    assert await told(call) == {"requests-per-minute": "5", "requests-per-minute-remaining": "0"}
    await call


async def test_limits_of_one_request_are_not_in_the_metadata(serve):
    api = await serve(limited(messages_per_request=4, bytes_per_request=5000))
    call = api.chat(api.request(SHORT), metadata=WITH_KEY)
    assert await told(call) == {}
    await call


async def test_a_flood_of_invalid_requests_does_not_refuse_the_large_request_of_another_tenant(
    serve,
):
    """Invalid requests count toward no limit of their tenant."""
    others = make_key_text()
    api = await serve({KEY: {}, others: {"tenant": "globex"}})
    user = chat_pb2.Message(role=chat_pb2.ROLE_USER, parts=[chat_pb2.Part(text="x")])
    invalid = chat_pb2.ChatRequest(messages=[user] * 10_000)  # without a model
    invalid.provider_options.update({"a": [None] * 30_000})
    data, reasons = invalid.SerializeToString(), Counter()
    chat = api.channel.unary_unary("/tokenwire.v1.ChatService/Chat")

    async def flood():
        while True:
            reasons[reason(await refused(chat(data, metadata=bearer(others))))] += 1

    tasks = [asyncio.create_task(flood()) for _ in range(50)]
    try:
        async with asyncio.timeout(60):
            while not reasons["OVERLOADED"]:
                await asyncio.sleep(0.01)
            large = api.request(SHORT)
            large.messages.extend([user] * 9_000)
            for _ in range(3):
                await api.chat(large, metadata=WITH_KEY)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


# Without a server: no provider is asked before a stream is produced.


@pytest.fixture
async def door(api_on):
    """Opens chats of a caller with limits, whose tenant may spend 1000 microusd."""
    limits, environ = Limits(), {"OPENAI_API_KEY": "k"}
    models = {SHORT: ModelConfig(prices=ModelPrices(input=1, output=5))}
    taken = CallerLimits(requests_per_minute=3, tokens_per_minute=5000, concurrent_streams=1)
    caller = Caller("acme", "tw_0123456789ab", "tw_0123456789ab", limits=taken)
    limiter, spend = (
        MemoryLimiter({}),
        SpendLimiter({"acme": TenantLimits(spend_usd_per_day="0.001")}),
    )
    providers = known_providers(environ)
    estimator = Estimator(PriceBook(models, {}), Tokenizers(), providers, limits)
    async with (
        ProviderRegistry(providers, limits, environ) as registry,
        asyncio.TaskGroup() as tasks,
        AsyncExitStack() as stack,
    ):
        chats, _ = new_chats(
            Router(registry, models),
            limits,
            tasks,
            limiter=limiter,
            spend=spend,
            estimator=estimator,
        )

        async def open_chat(most, **fields):
            generation = chat_pb2.GenerationConfig(max_output_tokens=most)
            data = api_on.request(SHORT, generation=generation, **fields).SerializeToString()
            request, violations = await ChatRequestParser(limits).parse(data, caller.tenant)
            opening = chats.open(request, caller, None, violations, request.delivery)
            chat = await stack.enter_async_context(opening)
            return {found.limit: found.remaining for found in chat.allowances}

        async def left():
            found = [*await limiter.allowances(caller), *spend.allowances("acme")]
            return {allowance.limit: allowance.remaining for allowance in found}

        yield open_chat, left


async def test_a_chat_refused_for_its_cost_charges_no_limit(door):
    open_chat, left = door
    before = await left()
    assert before["spend_microusd_per_day"] == 1000
    for _ in range(4):
        with pytest.raises(BudgetExceeded):
            await open_chat(10, budget=chat_pb2.Budget(max_input_tokens=1))
        with pytest.raises(QuotaExhausted, match="spend_microusd_per_day"):
            await open_chat(1000)
    assert await left() == before
    told = await open_chat(100)
    assert told == await left()
    assert told == {
        "requests_per_minute": 2,
        "tokens_per_minute": 5000 - 100 - 9,
        "concurrent_streams": 0,
        "spend_microusd_per_day": 1000 - 100 * 5 - 9,
    }


async def test_a_chat_refused_by_its_limits_reserves_no_spend(door):
    open_chat, left = door
    told = await open_chat(100)
    with pytest.raises(TooManyStreams):
        await open_chat(10)
    assert await left() == told
