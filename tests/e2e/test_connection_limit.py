"""A provider with a maximum number of connections: the next stream is refused at once, never queued."""

import asyncio
import json
import random
import time
from contextlib import suppress

import grpc
import grpc.aio
import pytest
from e2e_calls import details, read
from test_metrics import Scrape, url_of

from tokenwire.v1 import chat_pb2, chat_pb2_grpc, event_pb2

ALLOWED = 4
FACTS = {"limit_name": "max_connections", "limit": str(ALLOWED), "provider": "few"}
BY_PROVIDER = chat_pb2.TOKEN_COUNTING_PROVIDER
ENDLESS = "few/sim?repeat=forever&itl_ms=5"


@pytest.fixture
async def api(start, api_on, simulator):
    few = {
        "kind": "anthropic",
        "base_url": simulator.url,
        "max_connections": ALLOWED,
    }
    env = simulator.environ() | {
        "TOKENWIRE_PROVIDERS": json.dumps({"few": few}),
        "TOKENWIRE_METRICS_LISTEN": "127.0.0.1:0",
    }
    with start("serve", "--listen", "127.0.0.1:0", env=env) as (process, address):
        async with grpc.aio.insecure_channel(address) as channel:
            api = api_on(channel)
            api.count_tokens = chat_pb2_grpc.ChatServiceStub(channel).CountTokens
            api.metrics_url = url_of(process)
            yield api


async def begun(api, model=ENDLESS):
    """Return a call whose answer has begun."""
    call = api.chat_stream(api.request(model))
    while not (await call.read()).HasField("text"):
        pass
    return call


async def refused(api):
    """Start a stream that must be refused. Return the error's details and how long it took in seconds."""
    began = time.monotonic()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await api.events(ENDLESS)
    return details(caught.value), time.monotonic() - began


async def test_a_stream_above_the_limit_is_refused_at_once_and_other_providers_are_unaffected(api):
    calls = [await begun(api) for _ in range(ALLOWED)]
    tries = [await refused(api) for _ in range(20)]
    times_ms = sorted(took_s * 1e3 for _, took_s in tries)
    print(f"\nrefused after {times_ms[10]:.1f} ms (median), {times_ms[-1]:.1f} ms (maximum)")
    assert times_ms[10] < 1000
    for found, _ in tries:
        assert found["ErrorInfo"].reason == "OVERLOADED"
        assert dict(found["ErrorInfo"].metadata).items() >= FACTS.items()
        assert found["RetryInfo"].retry_delay.ToTimedelta().total_seconds() >= 1
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await api.count_tokens(api.request(ENDLESS, token_counting=BY_PROVIDER))
    assert dict(details(caught.value)["ErrorInfo"].metadata) == FACTS
    events = await api.events(ENDLESS, fallback_models=["openai/sim?tokens=1"])
    assert events[1].notice.kind == event_pb2.NOTICE_KIND_FALLBACK
    assert events[-1].finished.provider == "openai"
    scrape = await asyncio.to_thread(Scrape, api.metrics_url)
    assert scrape.by("upstream_connections", "provider") == {"few": ALLOWED}
    assert scrape.by("limits_reached_total", "limit") == {"max_connections": 22}
    calls.pop().cancel()
    async with asyncio.timeout(10):
        while True:
            try:
                await api.events("few/sim?tokens=1")
                break
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.01)


async def test_every_connection_is_free_again_however_its_stream_ends(api):
    endings = (
        "tokens=2", "status=503", "status=400", "drop_after=0", "drop_after=2", "silent=1",
        "headers_then_silent=1", "repeat=forever&itl_ms=1", "stall_after=1", "instead=html",
    )  # fmt: skip
    random_ = random.Random(1)

    async def caller():
        for _ in range(10):
            model = f"few/sim?{random_.choice(endings)}"
            request = api.request(model, token_counting=BY_PROVIDER)
            timeout_s = random_.uniform(0.005, 0.2)
            with suppress(grpc.aio.AioRpcError):
                if random_.random() < 0.3:
                    await api.count_tokens(request, timeout=timeout_s)
                else:
                    await read(api.chat_stream(request, timeout=timeout_s))

    await asyncio.gather(*(caller() for _ in range(8)))
    async with asyncio.timeout(10):
        while True:
            try:
                calls = await asyncio.gather(*(begun(api) for _ in range(ALLOWED)))
                break
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.05)
    await refused(api)
    for call in calls:
        call.cancel()
