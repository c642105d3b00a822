"""CountTokens: who counts, the cost, and no side effects."""

import asyncio
import itertools
import statistics
import time

import grpc
import grpc.aio
import pytest
from e2e_calls import details, read, reason
from google.protobuf.duration_pb2 import Duration
from priced_support import (
    INPUT_PRICE,
    OUTPUT_PRICE,
    at_most,
    budget,
    calling,
    model,
    priced,
    refused,
    text_of,
)
from tenants_support import keys

from tokenwire.v1 import chat_pb2

BY_PROVIDER = chat_pb2.TOKEN_COUNTING_PROVIDER
COUNTED = ["anthropic", "openai-responses"]
"""Providers with an endpoint for counting."""
AWAY = """
[providers.away]
kind = "anthropic"
base_url = "http://127.0.0.1:9"

[providers.away-openai]
kind = "openai-chat"
base_url = "http://127.0.0.1:9/v1"
"""
PROSE = (
    "Nothing is ever held back on an idle connection; merging happens only while a reader is "
    "still busy with the previous write (see rule 2). Überraschung: 漢字 and 🙂 count as well.\n"
)
KNOWN = [("hello", 1), ("hello world", 2), ("tiktoken is great!", 6), (PROSE, 41)]
"""Count tokens of o200k_base with another implementation."""


@pytest.fixture(scope="module")
def simulator(own_simulator):
    with own_simulator() as simulator:
        yield simulator


@pytest.fixture(scope="module")
def address(start, simulator, tmp_path_factory):
    tables = [
        AWAY,
        model("known", "openai/gpt-4o"),
        model("unknown", "openai/gpt-of-tomorrow", None),
        model("away", "away/claude-sonnet-4-5"),
        model("away-openai", "away-openai/gpt-4o"),
        model("bounded", "openai/sim") + "max_output_tokens = 300\n",
        model("slow", f"openai/sim?itl_ms=10&{text_of(300)}"),
        *(model(f"sim-{name}", f"{name}/sim?tokens=5&key=count-{name}") for name in COUNTED),
        *(model(f"silent-{name}", f"{name}/sim?silent=1&key=silent-{name}") for name in COUNTED),
        *(model(f"status-{n}", f"anthropic/sim?status={n}") for n in (400, 401, 404, 429, 500, 529)),
    ]  # fmt: skip
    with priced(start, simulator, tmp_path_factory.mktemp("count"), *tables) as (_, address):
        yield address


@pytest.fixture
async def api(api_on, address):
    async with calling(api_on, address) as api:
        yield api


def source(counted):
    return chat_pb2.TokenCountSource.Name(counted.source).removeprefix("TOKEN_COUNT_SOURCE_")


def said_by(*texts, role=chat_pb2.ROLE_USER):
    return [chat_pb2.Message(role=role, parts=[chat_pb2.Part(text=text)]) for text in texts]


# Counting.


@pytest.mark.parametrize(("text", "tokens"), KNOWN)
async def test_a_model_with_a_public_vocabulary_is_counted_exactly(api, text, tokens):
    for alias in ("known", "openai/gpt-4o", "openai/gpt-4o-mini-2024-07-18", "away-openai"):
        request = api.request(alias, messages=said_by(text, text))
        counted = await api.count_tokens(request)
        assert (counted.input_tokens, source(counted)) == (2 * (tokens + 4) + 3, "TOKENIZER")
    assert (counted.provider, counted.model) == ("away-openai", "gpt-4o")


async def test_a_count_without_the_models_vocabulary_is_marked_as_an_estimate(api):
    image = chat_pb2.Part(image=chat_pb2.Image(uri="https://example.test/a.png"))
    seen = chat_pb2.Message(role=chat_pb2.ROLE_USER, parts=[image])
    for request in (
        api.request("away"),
        api.request("unknown"),
        api.request("known", messages=[seen]),
        api.request("known", tools=[chat_pb2.Tool(name="f")]),
        api.request("openai-responses/gpt-4o"),
    ):
        counted = await api.count_tokens(request)
        assert source(counted) == "ESTIMATE"
        assert counted.input_tokens > 0


@pytest.mark.parametrize("provider", COUNTED)
async def test_a_provider_counts_what_it_later_reports(api, simulator, provider):
    messages = [*said_by(PROSE, role=chat_pb2.ROLE_SYSTEM), *said_by("hello", PROSE * 20)]
    tools = [chat_pb2.Tool(name="f", parameters_json_schema='{"type":"object"}')]
    request = api.request(
        f"sim-{provider}", messages=messages, tools=tools, token_counting=BY_PROVIDER
    )
    counted = await api.count_tokens(request)
    assert source(counted) == "PROVIDER"
    before = simulator.stats()["requests_total"]
    usage = (await api.chat(request)).finished.usage
    assert simulator.stats()["requests_total"] == before + 1  # a chat does not wait for a count
    assert counted.input_tokens == usage.input_tokens
    assert counted.input_cost_microusd == usage.input_tokens * INPUT_PRICE


async def test_this_server_counts_if_the_provider_cannot(api, simulator):
    before = simulator.stats()["requests_total"]
    counted = await api.count_tokens(api.request("known", token_counting=BY_PROVIDER))
    assert source(counted) == "TOKENIZER"
    assert simulator.stats()["requests_total"] == before


async def test_an_unreachable_provider_fails_only_counts_that_request_it(api):
    counted = await api.count_tokens(api.request("away"))
    assert counted.input_tokens > 0
    error = await refused(api.count_tokens(api.request("away", token_counting=BY_PROVIDER)))
    assert (error.code(), reason(error)) == (
        grpc.StatusCode.UNAVAILABLE,
        "UPSTREAM_UNAVAILABLE",
    )
    assert "RetryInfo" in details(error)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, "UPSTREAM_REJECTED"),
        (401, "UPSTREAM_AUTH"),
        (404, "UNKNOWN_MODEL"),
        (429, "UPSTREAM_RATE_LIMITED"),
        (500, "UPSTREAM_UNAVAILABLE"),
        (529, "UPSTREAM_UNAVAILABLE"),
    ],
)
async def test_a_providers_refusal_to_count_has_the_same_error_as_for_a_chat(api, status, expected):
    request = api.request(f"status-{status}", token_counting=BY_PROVIDER)
    error = await refused(api.count_tokens(request))
    assert reason(error) == expected
    assert ("Simulated" in str(details(error))) == (status == 400)
    chat = await refused(api.chat(request))
    assert (chat.code(), reason(chat)) == (error.code(), reason(error))


@pytest.mark.parametrize("provider", COUNTED)
@pytest.mark.parametrize("how", ["cancel", "deadline"])
async def test_cancelling_a_count_closes_the_providers_connection(api, simulator, provider, how):
    request = api.request(f"silent-{provider}", token_counting=BY_PROVIDER)
    call = api.count_tokens(request, timeout=0.3 if how == "deadline" else 30)
    give_up = time.monotonic() + 5
    while not simulator.stats()["requests_open"]:
        assert time.monotonic() < give_up
        await asyncio.sleep(0.005)
    if how == "cancel":
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    else:
        assert (await refused(call)).code() == grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.to_thread(simulator.wait_until_none_open, 3)
    assert simulator.request(f"silent-{provider}:count")["aborted"]


# Costs.


async def test_it_returns_the_cost_of_the_input_and_the_maximum_cost(api):
    counted = await api.count_tokens(api.request("known"))
    assert counted.input_cost_microusd == counted.input_tokens * INPUT_PRICE
    assert not counted.HasField("max_output_tokens")
    assert not counted.HasField("max_cost_microusd")
    counted = await api.count_tokens(api.request("known", generation=at_most(50)))
    assert counted.max_output_tokens == 50
    assert counted.max_cost_microusd == counted.input_cost_microusd + 50 * OUTPUT_PRICE
    counted = await api.count_tokens(api.request("bounded"))
    assert counted.max_output_tokens == 300
    assert counted.max_cost_microusd == counted.input_cost_microusd + 300 * OUTPUT_PRICE


async def test_the_maximum_cost_covers_the_longest_answer(api):
    counted = await api.count_tokens(api.request("known", generation=at_most(2**31 - 1)))
    assert counted.max_cost_microusd == counted.input_tokens + (2**31 - 1) * OUTPUT_PRICE


async def test_without_a_price_there_is_no_cost(api):
    counted = await api.count_tokens(api.request("unknown", generation=at_most(50)))
    assert not counted.HasField("input_cost_microusd")
    assert not counted.HasField("max_cost_microusd")
    assert counted.max_output_tokens == 50


@pytest.mark.parametrize("rpc", ["chat", "chat_stream"])
async def test_exceeds_budget_predicts_the_refusal(api, rpc):
    tokens = (await api.count_tokens(api.request("slow"))).input_tokens
    for limit, exceeds in (
        (budget(tokens), False),
        (budget(tokens - 1), True),
        (budget(None, tokens), False),
        (budget(None, tokens - 1), True),
    ):
        request = api.request("slow", budget=limit)
        assert (await api.count_tokens(request)).exceeds_budget == exceeds
        call = getattr(api, rpc)(request)
        if exceeds:
            error = await refused(call if rpc == "chat" else read(call))
            assert reason(error) == "BUDGET_EXCEEDED"
        else:
            call.cancel()


# No side effects.


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": []},
        {"messages": said_by("hi", ""), "generation": chat_pb2.GenerationConfig(temperature=9)},
        {"budget": chat_pb2.Budget(max_cost_microusd=-1, max_input_tokens=-1)},
        {"token_counting": 99},
        {"labels": {"Upper": "x", "nul\0": "x", "long": "x" * 65536, "newline": "\n", "ok": "x"}},
        {"labels": {"x" * 65536: "y", "a": "nul\0"}},
        {"labels": {f"k{n}": "" for n in range(33)}},
    ],
)
async def test_an_invalid_request_has_the_same_errors_as_for_a_chat(api, fields):
    request = api.request("known", **fields)
    found = []
    for call in (api.count_tokens(request), api.chat(request), read(api.chat_stream(request))):
        error = await refused(call)
        assert reason(error) == "INVALID_REQUEST"
        found.append((error.details(), details(error)["BadRequest"]))
    assert found[0] == found[1] == found[2]


async def test_the_deadline_of_a_count_does_not_limit_soft_deadline_margin(api):
    retention = chat_pb2.RetentionOptions(soft_deadline_margin=Duration(seconds=60))
    request = api.request("known", retention=retention)
    assert (await api.count_tokens(request, timeout=30)).input_tokens == 8
    assert reason(await refused(api.chat(request, timeout=30))) == "INVALID_REQUEST"


async def test_an_unknown_model_has_the_same_error_as_for_a_chat(api):
    for alias in ("nobody/model", "no-alias"):
        error = await refused(api.count_tokens(api.request(alias)))
        assert (error.code(), reason(error)) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_MODEL")
    assert reason(await refused(api.count_tokens(b"\xff" * 10))) == "INVALID_REQUEST"


async def test_a_count_opens_no_stream_and_writes_no_record(api, simulator):
    before = simulator.stats()["requests_total"]
    request = api.request("known", request_id="counted", labels={"a": "b"})
    for _ in range(3):
        await api.count_tokens(request)
    assert simulator.stats()["requests_total"] == before
    assert not [record for record in await api.records() if record.request_id == "counted"]
    other = api.request("bounded", request_id="counted")
    await api.chat(other)  # the id is not reserved


async def test_counting_respects_keys_limits_and_models_and_charges_one_request(
    start, simulator, tmp_path, api_on
):
    database = f"sqlite:///{tmp_path}/tokenwire.db"
    key = keys("create", "--tenant", "acme", "--models", "mine", database=database)
    acme = "[tenants.acme]\nrequests_per_minute = 12\nbytes_per_request = 2000\n"
    tables = (
        model("mine", "openai/gpt-4o"),
        model("theirs", "openai/gpt-4o-mini"),
        acme + 'spend_usd_per_day = "0.000001"\n',
    )
    with priced(start, simulator, tmp_path, *tables, database=database) as (_, address):
        async with calling(api_on, address) as stranger:
            error = await refused(stranger.count_tokens(stranger.request("mine")))
            assert error.code() == grpc.StatusCode.UNAUTHENTICATED
        async with calling(api_on, address, key) as api:
            before = await api.left()
            for _ in range(5):
                assert (await api.count_tokens(api.request("mine"))).input_tokens == 8
            after = await api.left()
            assert after == before | {"requests_per_minute": before["requests_per_minute"] - 5}
            large = api.request("mine", prompt="x" * 3000)
            assert reason(await refused(api.count_tokens(large))) == "QUOTA_EXHAUSTED"
            for counting in (chat_pb2.TOKEN_COUNTING_LOCAL, BY_PROVIDER):
                for alias in ("theirs", "openai/gpt-4o-mini", "nobody/model"):
                    request = api.request(alias, token_counting=counting)
                    error = await refused(api.count_tokens(request))
                    assert reason(error) == "PERMISSION_DENIED"
            # Refused calls are charged, too, because the limit bounds the server's work for counting.
            error = await refused(api.count_tokens(api.request("mine")))
            assert reason(error) == "RATE_LIMITED"
            assert details(error)["RetryInfo"].retry_delay.ToSeconds() > 0


# Effect on other callers.


async def test_a_thousand_tokens_are_counted_within_two_milliseconds(api):
    request = api.request("known", prompt=PROSE * 23)
    took_ms = []
    for _ in range(200):
        began = time.perf_counter()
        counted = await api.count_tokens(request)
        took_ms.append((time.perf_counter() - began) * 1000)
    assert 900 < counted.input_tokens < 1100
    print(f"{counted.input_tokens} tokens over gRPC: p50 {statistics.median(took_ms):.2f} ms")
    assert statistics.median(took_ms) < 10  # most of it is the RPC


async def gaps_ms(api, began):
    """Measure the gaps between the tokens of a stream with one every 10 ms."""
    arrivals = []
    async for event in api.chat_stream(api.request("slow")):
        if event.HasField("text"):
            arrivals.append(time.perf_counter())
            began.set()
    return sorted((b - a) * 1000 for a, b in itertools.pairwise(arrivals))


async def test_counting_long_prompts_does_not_delay_a_stream(api_on, address):
    """More calls than may wait. The others are refused with a retry delay."""
    prompt = (PROSE * 4000)[: 2**19]
    async with calling(api_on, address) as reader, calling(api_on, address) as flood:
        request = flood.request("known", prompt=prompt).SerializeToString()
        began = asyncio.Event()
        streaming = asyncio.create_task(gaps_ms(reader, began))
        await began.wait()
        counts = [asyncio.create_task(_count(flood, request)) for _ in range(300)]
        gaps = await streaming
        found = await asyncio.gather(*counts)
    refusals = [error for error in found if isinstance(error, grpc.aio.AioRpcError)]
    assert {reason(error) for error in refusals} <= {"OVERLOADED"}
    assert len(refusals) < len(found)
    print(
        f"gaps p50 {gaps[len(gaps) // 2]:.0f}, p99 {gaps[int(len(gaps) * 0.99)]:.0f}, "
        f"largest {gaps[-1]:.0f} ms; {len(refusals)} of {len(found)} refused"
    )
    assert gaps[len(gaps) // 2] < 100


async def _count(api, request):
    try:
        return await api.count_tokens(request)
    except grpc.aio.AioRpcError as error:
        return error
