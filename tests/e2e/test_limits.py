"""Limits of callers on a real server: reported before, exact during use, released completely."""

import asyncio
import random
import time

import grpc
import grpc.aio
import pytest
from e2e_calls import CONTINUE, details, info, read, reason
from google.rpc import error_details_pb2
from tenants_support import bearer

from tokenwire.v1 import caller_pb2, caller_pb2_grpc, chat_pb2

ENDLESS = "openai/sim?repeat=forever&itl_ms=10"
SHORT = "openai/sim?tokens=2"
PREFIX = "tokenwire-limit-"


async def refused(call):
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value


async def limits_in_metadata(call):
    """Return the limits in a call's initial metadata."""
    return {
        key.removeprefix(PREFIX): int(value)
        for key, value in await call.initial_metadata()
        if key.startswith(PREFIX)
    }


async def left(tenancy, key):
    """Return what is left of each limit, by name."""
    async with tenancy.channel() as channel:
        stub = caller_pb2_grpc.CallerServiceStub(channel)
        caller = await stub.GetCaller(caller_pb2.GetCallerRequest(), metadata=bearer(key))
    return {
        caller_pb2.Limit.Name(found.limit).removeprefix("LIMIT_").lower(): found.remaining
        for found in caller.allowances
    }


async def test_initial_metadata_has_what_is_left_of_each_limit(tenancy):
    key = await tenancy.new_key(
        "--limits", "requests_per_minute=5,tokens_per_minute=10000,concurrent_streams=3"
    )
    async with tenancy.api(key) as api:
        generation = chat_pb2.GenerationConfig(max_output_tokens=100)
        call = api.chat_stream(api.request(SHORT, generation=generation))
        metadata = await limits_in_metadata(call)
        await read(call)
        assert metadata == {
            "requests-per-minute": 5,
            "requests-per-minute-remaining": 4,
            "tokens-per-minute": 10000,
            "tokens-per-minute-remaining": 10000 - 108,  # "hello", and 7 tokens around it
            "concurrent-streams": 3,
            "concurrent-streams-remaining": 2,
        }
        unary = api.chat(api.request(SHORT))
        assert (await limits_in_metadata(unary))["requests-per-minute-remaining"] == 3
        await unary


async def test_without_limits_no_limit_metadata_is_sent(tenancy):
    async with tenancy.api(tenancy.acme) as api:
        call = api.chat_stream(api.request(SHORT))
        assert await limits_in_metadata(call) == {}
        await read(call)


async def test_a_refusal_names_the_limit_its_size_and_the_retry_delay(tenancy):
    key = await tenancy.new_key("--limits", "requests_per_minute=2")
    async with tenancy.api(key) as api:
        for _ in range(2):
            await api.chat(api.request(SHORT))
        for call in (api.chat(api.request(SHORT)), read(api.chat_stream(api.request(SHORT)))):
            error = await refused(call)
            assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            found = details(error)
            assert found["ErrorInfo"].reason == "RATE_LIMITED"
            assert dict(found["ErrorInfo"].metadata) == {
                "limit": "requests_per_minute",
                "scope": "key",
                "allowed": "2",
                "remaining": "0",
                "asked": "1",
            }
            (violation,) = found["QuotaFailure"].violations
            assert violation.subject == f"key:{key[:15]}"
            retry_s = found["RetryInfo"].retry_delay.ToTimedelta().total_seconds()
            assert 50 < retry_s <= 60.01
            assert "requests_per_minute of this key is 2" in error.details()


async def test_a_refusal_is_trailers_only(tenancy):
    key = await tenancy.new_key("--limits", "requests_per_minute=1")
    async with tenancy.api(key) as api:
        await api.chat(api.request(SHORT))
        call = api.chat_stream(api.request(SHORT))
        assert await limits_in_metadata(call) == {}
        await refused(read(call))


async def test_a_request_with_more_tokens_than_the_limit_is_refused_without_a_retry_delay(tenancy):
    key = await tenancy.new_key("--limits", "tokens_per_minute=100")
    async with tenancy.api(key) as api:
        error = await refused(api.chat(api.request(SHORT)))  # 1,024 output tokens are assumed
        assert reason(error) == "RATE_LIMITED"
        assert "RetryInfo" not in details(error)
        assert info(error).metadata["limit"] == "tokens_per_minute"
        assert int(info(error).metadata["asked"]) > 1000
        generation = chat_pb2.GenerationConfig(max_output_tokens=50)
        await api.chat(api.request(SHORT, generation=generation))


async def test_token_limits_are_corrected_with_the_providers_figures(tenancy):
    key = await tenancy.new_key("--limits", "tokens_per_minute=5000")
    async with tenancy.api(key) as api:
        model = "openai/sim?tokens=2&input_tokens=30&output_tokens=12"
        await api.chat(api.request(model))
        assert (await left(tenancy, key))["tokens_per_minute"] == 5000 - 42


async def test_a_request_larger_than_the_callers_limit_is_refused_with_the_path(tenancy):
    key = await tenancy.new_key("--limits", "messages_per_request=2,bytes_per_request=500")
    message = chat_pb2.Message(role=chat_pb2.ROLE_USER, parts=[chat_pb2.Part(text="hi")])
    async with tenancy.api(key) as api:
        await api.chat(api.request(SHORT, messages=[message] * 2))
        for messages, path, limit in (
            ([message] * 3, "messages", "messages_per_request"),
            (
                [chat_pb2.Message(role=chat_pb2.ROLE_USER, parts=[chat_pb2.Part(text="x" * 600)])],
                "",
                "bytes_per_request",
            ),
        ):
            error = await refused(api.chat(api.request(SHORT, messages=messages)))
            assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            found = details(error)
            assert found["ErrorInfo"].reason == "QUOTA_EXHAUSTED"
            assert found["ErrorInfo"].metadata["limit"] == limit
            assert "RetryInfo" not in found
            assert found["QuotaFailure"].violations
            # The path of the whole request is empty.
            fields = found.get("BadRequest", error_details_pb2.BadRequest()).field_violations
            assert [violation.field for violation in fields] == [path]


async def test_a_tenants_limit_is_shared_by_all_its_keys(limited_tenancy):
    first, second = [await limited_tenancy.new_key() for _ in range(2)]
    async with limited_tenancy.api(first) as one, limited_tenancy.api(second) as other:
        calls = [api.chat_stream(api.request(ENDLESS)) for api in (one, other)]
        for call in calls:
            await anext(aiter(call))
        error = await refused(one.chat(one.request(SHORT)))
        assert reason(error) == "TOO_MANY_STREAMS"
        assert info(error).metadata["scope"] == "tenant"
        assert details(error)["QuotaFailure"].violations[0].subject == "tenant:acme"
        async with limited_tenancy.api(limited_tenancy.globex) as globex:
            await globex.chat(globex.request(SHORT))
        for call in calls:
            call.cancel()


# 100 concurrent callers with a limit of 10 streams.


async def test_a_hundred_callers_never_have_more_than_ten_streams(own_simulator, serving):
    with own_simulator() as simulator, serving(simulator) as tenancy:
        key = await tenancy.new_key("--limits", "concurrent_streams=10")
        done, refusals = 0, 0

        async def caller():
            nonlocal done, refusals
            async with tenancy.api(key) as api:
                while done < 200:
                    try:
                        await api.chat(api.request("openai/sim?tokens=6&itl_ms=20"))
                    except grpc.aio.AioRpcError as error:
                        assert reason(error) == "TOO_MANY_STREAMS"
                        refusals += 1
                    else:
                        done += 1

        async with asyncio.timeout(60):
            await asyncio.gather(*(caller() for _ in range(100)))
        assert refusals > 100
        assert tenancy.simulator.stats()["requests_open_peak"] == 10
        assert (await left(tenancy, key))["concurrent_streams"] == 10


async def end_in_some_way(api, random_):
    """Run a stream that ends in one of all ways, or is refused."""
    way = random_.choice(WAYS)
    await way(api, random_)


async def _finishes(api, _):
    await read(api.chat_stream(api.request(SHORT)))


async def _is_answered_whole(api, _):
    await api.chat(api.request(SHORT))


async def _is_left_at_once(api, random_):
    call = api.chat_stream(api.request(ENDLESS))
    await asyncio.sleep(random_.random() * 0.005)
    call.cancel()


async def _is_left_in_the_middle(api, _):
    call = api.chat_stream(api.request(ENDLESS))
    await anext(aiter(call))
    call.cancel()


async def _passes_its_deadline(api, random_):
    await read(api.chat_stream(api.request(ENDLESS), timeout=0.001 + random_.random() * 0.02))


async def _is_cancelled(api, _):
    call = api.chat_stream(api.request(ENDLESS, retention=CONTINUE))
    started = (await anext(aiter(call))).started
    await api.cancel_stream(chat_pb2.CancelStreamRequest(stream_id=started.stream_id))


async def _is_deleted(api, _):
    call = api.chat_stream(api.request(ENDLESS))
    started = (await anext(aiter(call))).started
    await api.delete_stream(chat_pb2.DeleteStreamRequest(stream_id=started.stream_id))


async def _lingers(api, _):
    retention = chat_pb2.RetentionOptions(on_disconnect=chat_pb2.ON_DISCONNECT_CONTINUE)
    retention.linger.FromMilliseconds(50)
    call = api.chat_stream(api.request(ENDLESS, retention=retention))
    await anext(aiter(call))
    call.cancel()


async def _breaks(api, _):
    await read(api.chat_stream(api.request("openai/sim?drop_after=1&drop=rst")))


async def _is_refused_by_the_provider(api, _):
    await api.chat(api.request("openai/sim?status=429"))


async def _is_invalid(api, _):
    await api.chat(api.request(""))


async def _attaches(api, random_):
    request = api.request(SHORT, request_id=f"r{random_.randrange(5)}")
    await read(api.chat_stream(request))


async def _is_replayed(api, _):
    cache = chat_pb2.CacheOptions(mode=chat_pb2.CACHE_MODE_READ_WRITE)
    await api.chat(api.request(SHORT, cache=cache))


WAYS = [
    _finishes, _is_answered_whole, _is_left_at_once, _is_left_in_the_middle, _passes_its_deadline,
    _is_cancelled, _is_deleted, _lingers, _breaks, _is_refused_by_the_provider, _is_invalid,
    _attaches, _is_replayed,
]  # fmt: skip


async def end_in_every_way(tenancy, key, count, seed):
    """Run `count` tries by 100 callers. Return how many were refused because no slot was free."""
    begun, refusals = 0, 0

    async def caller(number):
        nonlocal begun, refusals
        random_ = random.Random(seed * 1000 + number)
        async with tenancy.api(key) as api:
            while begun < count:
                begun += 1
                try:
                    await end_in_some_way(api, random_)
                except grpc.aio.AioRpcError as error:
                    if error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED:
                        assert reason(error) == "TOO_MANY_STREAMS"
                        refusals += 1
                        begun -= 1  # there was none

    await asyncio.gather(*(caller(number) for number in range(100)))
    return refusals


async def all_slots_back(tenancy, key, allowed):
    began = time.monotonic()
    while (found := (await left(tenancy, key))["concurrent_streams"]) < allowed:
        assert found >= 0
        assert time.monotonic() - began < 10, f"{allowed - found} slots did not come back"
        await asyncio.sleep(0.01)


async def test_every_slot_is_released_however_its_stream_ends(tenancy):
    key = await tenancy.new_key("--limits", "concurrent_streams=10")
    async with asyncio.timeout(100):
        await end_in_every_way(tenancy, key, count=1000, seed=random.randrange(1000))
        await all_slots_back(tenancy, key, 10)


@pytest.mark.faults
@pytest.mark.timeout(900)
async def test_every_slot_is_released_after_10_000_streams_with_all_kinds_of_ends(tenancy):
    key = await tenancy.new_key("--limits", "concurrent_streams=10")
    began = time.monotonic()
    refusals = await end_in_every_way(tenancy, key, count=10_000, seed=1)
    await all_slots_back(tenancy, key, 10)
    print(
        f"10,000 streams of 100 callers, {refusals} refusals: 10 of 10 slots are back, "
        f"{time.monotonic() - began:.0f} s"
    )


async def test_a_request_whose_duplicate_starts_during_its_estimate_attaches_and_uses_nothing(
    tenancy,
):
    key = await tenancy.new_key("--limits", "concurrent_streams=1,requests_per_minute=1")
    async with tenancy.api(key) as api:
        request = api.request("openai/sim?tokens=20&itl_ms=20", "word " * 200_000, request_id="one")
        answers = await asyncio.gather(*(read(api.chat_stream(request)) for _ in range(6)))
        assert len({events[0].started.stream_id for events in answers}) == 1
