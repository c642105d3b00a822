"""What a retry policy of the caller's gRPC library does with calls that the server refuses."""

import asyncio
import json
import time
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest
from e2e_calls import details, reason

PUSHBACK = "grpc-retry-pushback-ms"


def policy(initial_backoff):
    """Return channel options with a retry policy for every refusal that can pass."""
    retries = {
        "maxAttempts": 5,
        "initialBackoff": initial_backoff,
        "maxBackoff": initial_backoff,
        "backoffMultiplier": 1,
        "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
    }
    config = {"methodConfig": [{"name": [{}], "retryPolicy": retries}]}
    return [("grpc.service_config", json.dumps(config)), ("grpc.use_local_subchannel_pool", 1)]


@asynccontextmanager
async def serving(start, simulator, api_on, *, initial_backoff, **env):
    """Yield the API with a retry policy, and without one."""
    environ = simulator.environ() | env
    with start("serve", "--listen", "127.0.0.1:0", env=environ) as (_, address):
        async with (
            grpc.aio.insecure_channel(address, policy(initial_backoff)) as retrying,
            grpc.aio.insecure_channel(address) as plain,
        ):
            yield api_on(retrying), api_on(plain)


def pushback_of(error):
    return dict(error.trailing_metadata()).get(PUSHBACK)


async def test_a_library_retries_a_refused_chat_after_the_delay_that_the_server_names(
    start, simulator, api_on
):
    env = {"TOKENWIRE_LIMITS__MAX_STREAMS": "1"}
    async with serving(start, simulator, api_on, initial_backoff="90s", **env) as (api, plain):
        held = plain.chat_stream(plain.request("openai/sim?silent=1"))
        await held.initial_metadata()
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await plain.events("openai/sim?tokens=1")
        assert reason(refusal.value) == "OVERLOADED"
        delay = details(refusal.value)["RetryInfo"].retry_delay.ToTimedelta().total_seconds()
        assert int(pushback_of(refusal.value)) == pytest.approx(delay * 1000, abs=1)
        began = time.monotonic()
        chat = asyncio.ensure_future(api.events("openai/sim?tokens=1"))
        await asyncio.sleep(0.5)  # until it was refused
        held.cancel()
        async with asyncio.timeout(60):  # the policy's own backoff is longer
            assert (await chat)[-1].HasField("finished")
        assert time.monotonic() - began >= 1


async def test_a_library_does_not_retry_where_waiting_does_not_help(start, simulator, api_on):
    """A library that waited would end the call with its deadline, without the reason."""
    env = {
        "TOKENWIRE_TENANTS": json.dumps({"*": {"requests_per_minute": 1, "bytes_per_request": 500}})
    }
    async with serving(start, simulator, api_on, initial_backoff="0.001s", **env) as (api, _):
        await api.events("openai/sim?tokens=1")
        for prompt, why, has_delay in (
            ("hello", "RATE_LIMITED", True),  # longer than the deadline
            ("hello" * 200, "QUOTA_EXHAUSTED", False),
        ):
            call = api.chat_stream(api.request("openai/sim?tokens=1", prompt), timeout=30)
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await call.read()
            assert reason(refusal.value) == why
            assert ("RetryInfo" in details(refusal.value)) == has_delay
            assert pushback_of(refusal.value) == "-1"
