"""Limits of tenants that two servers share in a real Redis."""

import asyncio
import json
import os
import re
import signal
import time
import urllib.request
from contextlib import AsyncExitStack, ExitStack, contextmanager
from decimal import Decimal

import grpc.aio
import pytest
from e2e_calls import read, reason
from priced_support import INPUT_PRICE, OUTPUT_PRICE, text_of
from tenants_support import Tenancy, bearer, keys

from tokenwire.v1 import caller_pb2, caller_pb2_grpc, event_pb2

ENDLESS = "openai/sim?repeat=forever&itl_ms=10"
SHORT = "openai/sim?tokens=2"
SPEND = 30_000
EXTENSION = 1024 * OUTPUT_PRICE
PRICES = {"input": INPUT_PRICE, "output": OUTPUT_PRICE}
FAST = {"target": f"openai/sim?repeat=forever&itl_ms=2&{text_of(20)}", "prices": PRICES}
LIMITS = {
    "acme": {"concurrent_streams": 5},
    "globex": {"requests_per_minute": 30},
    "initech": {"spend_usd_per_day": str(Decimal(SPEND) / 10**6)},
}
WITHIN_S = 20


@pytest.fixture
def serve(start, api_on, new_database, simulator, own_redis):
    """Starts servers with one database and one Redis."""
    database = new_database()
    tenants = {name: keys("create", "--tenant", name, database=database) for name in LIMITS}
    env = simulator.environ() | {
        "TOKENWIRE_DATABASE": database,
        "TOKENWIRE_REDIS__URL": own_redis.url,
        "TOKENWIRE_TENANTS": json.dumps(LIMITS),
        "TOKENWIRE_MODELS": json.dumps({"fast": FAST}),
        "TOKENWIRE_LIMITS__ASSUMED_OUTPUT_TOKENS": "20",
        "TOKENWIRE_METRICS_LISTEN": "127.0.0.1:0",
    }

    @contextmanager
    def running(count):
        acme, globex = tenants["acme"], tenants["globex"]
        with ExitStack() as stack:
            yield [
                Tenancy(api_on, address, database, acme, globex, simulator, process)
                for process, address in (
                    stack.enter_context(start("serve", "--listen", "127.0.0.1:0", env=env))
                    for _ in range(count)
                )
            ]

    running.tenants = tenants
    return running


async def opened(api):
    """Return an endless stream, or the reason of a refusal."""
    call = api.chat_stream(api.request(ENDLESS))
    try:
        await call.read()
    except grpc.aio.AioRpcError as refusal:
        return reason(refusal)
    return call


async def open_until(count, api):
    """Open streams until so many are open."""
    calls = []
    async with asyncio.timeout(WITHIN_S):
        while len(calls) < count:
            call = await opened(api)
            if isinstance(call, str):
                assert call == "TOO_MANY_STREAMS"
                await asyncio.sleep(0.05)
            else:
                calls.append(call)
    return calls


def is_shared(server):
    logged = os.pread(server.process.log.fileno(), 2**20, 0).decode()
    url = re.search(r"metrics are at (http://\S+)", logged)[1]
    with urllib.request.urlopen(url, timeout=10) as answer:
        value = re.search(
            r"^tokenwire_limits_not_shared (\S+)", answer.read().decode(), re.MULTILINE
        )
    return float(value[1]) == 0


async def test_two_servers_enforce_the_limits_of_a_tenant_together(serve, own_redis):
    async with AsyncExitStack() as stack:
        servers = first, second = stack.enter_context(serve(2))
        acme = [await stack.enter_async_context(server.api(server.acme)) for server in servers]
        globex = [await stack.enter_async_context(server.api(server.globex)) for server in servers]

        calls = await asyncio.gather(*[opened(acme[number % 2]) for number in range(20)])
        assert calls.count("TOO_MANY_STREAMS") == 15
        chats = [globex[number % 2].chat(globex[0].request(SHORT)) for number in range(40)]
        answers = await asyncio.gather(*chats, return_exceptions=True)
        refusals = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
        assert [reason(refusal) for refusal in refusals] == ["RATE_LIMITED"] * 10

        for call in calls:
            if not isinstance(call, str):
                call.cancel()
        await open_until(3, acme[0])
        kept = await open_until(2, acme[1])
        assert await opened(acme[0]) == await opened(acme[1]) == "TOO_MANY_STREAMS"

        own_redis.stop()
        alone = await open_until(3, acme[1])
        assert await opened(acme[1]) == "TOO_MANY_STREAMS"
        assert not is_shared(second)
        assert await globex[0].chat(globex[0].request(SHORT))
        own_redis.start()
        began = time.monotonic()
        while not (is_shared(first) and is_shared(second)):
            assert time.monotonic() - began < WITHIN_S
            await asyncio.sleep(0.05)
        for call in alone:
            call.cancel()
        assert await opened(acme[1]) == "TOO_MANY_STREAMS", (
            "three of the other server, two of this one"
        )

        first.process.send_signal(signal.SIGKILL)
        await open_until(3, acme[1])
        assert await opened(acme[1]) == "TOO_MANY_STREAMS"
        assert not kept[0].done()


async def left_to_spend(server, key):
    async with server.channel() as channel:
        stub = caller_pb2_grpc.CallerServiceStub(channel)
        caller = await stub.GetCaller(caller_pb2.GetCallerRequest(), metadata=bearer(key))
    (found,) = caller.allowances
    return found.remaining


async def test_two_servers_spend_no_more_than_a_tenant_may_also_after_redis_lost_it(
    serve, own_redis
):
    key = serve.tenants["initech"]
    async with AsyncExitStack() as stack:
        running = stack.enter_context(ExitStack())
        servers = running.enter_context(serve(2))
        apis = [await stack.enter_async_context(server.api(key)) for server in servers]
        calls = [apis[number % 2].chat_stream(apis[0].request("fast")) for number in range(6)]
        async with asyncio.timeout(WITHIN_S):
            ends = [(await read(call))[-1].finished for call in calls]
        assert {end.reason for end in ends} == {event_pb2.FINISH_REASON_BUDGET}
        spent = sum(end.usage.cost_microusd for end in ends)
        assert SPEND - 6 * EXTENSION < spent <= SPEND + 2 * EXTENSION
        assert min(end.usage.output_tokens for end in ends) > 100, (
            "each got more than it had reserved"
        )
        for server in servers:
            async with asyncio.timeout(WITHIN_S):
                while await left_to_spend(server, key) != SPEND - spent:
                    await asyncio.sleep(0.05)
        for api in apis:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                for _ in range(EXTENSION // 100):
                    await api.chat(api.request("fast"))
            assert reason(refused.value) == "QUOTA_EXHAUSTED"
        left = await left_to_spend(servers[0], key)
        running.close()  # writes the records
        own_redis.stop()
        own_redis.start()
        (other,) = running.enter_context(serve(1))
        assert await left_to_spend(other, key) == left
