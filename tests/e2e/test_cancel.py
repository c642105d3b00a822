"""Cancellation: however the caller leaves, the provider's connection is closed soon."""

import asyncio
import random
import signal
import subprocess
import sys
import time

import grpc
import grpc.aio
import pytest
from e2e_calls import PROVIDERS

from tokenwire.v1 import event_pb2
from tokenwire_server.config import GrpcConfig

DEFAULTS = GrpcConfig()
BLOCKING = f"repeat=forever&tokens_per_second=20000&text={'x' * 100}"
"""Fills the window of a caller that does not read within 50 ms, and the log only after seconds."""

CALLER = """
import grpc
from tokenwire.v1 import chat_pb2, chat_pb2_grpc
stub = chat_pb2_grpc.ChatServiceStub(grpc.insecure_channel("{server}"))
message = chat_pb2.Message(role=2, parts=[chat_pb2.Part(text="hi")])
request = chat_pb2.ChatRequest(model="{model}", messages=[message])
for event in stub.ChatStream(request):
    if event.HasField("text"):
        print("streaming", flush=True)
"""

SCENARIOS = {
    "before the head of the answer": "silent=1",
    "before the first byte": "headers_then_silent=1",
    "in mid-stream": "repeat=forever&itl_ms=3",
    "in mid-stream, silent": "tokens=5&stall_after=3",
    "inside a blocked write": BLOCKING,
}


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS.keys())
async def test_the_deadline_ends_the_stream_and_closes_the_providers_connection(
    api, simulator, provider, scenario
):
    key = f"deadline-{provider}-{list(SCENARIOS.values()).index(scenario)}"
    began = time.monotonic()
    call = api.chat_stream(api.request(f"{provider}/sim?{scenario}&key={key}"), timeout=0.3)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in call:
            pass
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.to_thread(simulator.wait_until_none_open, 5)
    closed_after_s = simulator.request(key)["closed_at"] - (began + 0.3)
    print(f"\nclosed {closed_after_s * 1e3:.1f} ms after the deadline")
    assert closed_after_s <= 2


async def test_the_deadline_bounds_connecting_to_a_provider_that_cannot_be_reached(
    start, api_on, unreachable
):
    env = {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": unreachable}
    with start("serve", "--listen", "127.0.0.1:0", env=env) as (_, address):
        async with grpc.aio.insecure_channel(address) as channel:
            began = time.monotonic()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                async for _ in api_on(channel).chat_stream(api_on.request("openai/m"), timeout=0.3):
                    pass
            took_s = time.monotonic() - began
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert 0.3 <= took_s < 4


async def test_killing_the_caller_closes_the_providers_connection(server, simulator):
    program = CALLER.format(server=server, model="openai/sim?repeat=forever&itl_ms=5&key=killed")
    caller = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert await asyncio.to_thread(caller.stdout.readline) == "streaming\n"
    finally:
        killed = time.monotonic()
        caller.kill()
        caller.wait()
        caller.stdout.close()
    await asyncio.to_thread(simulator.wait_until_none_open, 5)
    assert simulator.request("killed")["closed_at"] - killed <= 1.0


async def test_a_cancelled_unary_chat_closes_the_providers_connection(api, simulator):
    call = api.chat(api.request("openai/sim?repeat=forever&itl_ms=5&key=whole"))
    sending = asyncio.ensure_future(call)
    while not (await asyncio.to_thread(simulator.stats))["requests_open"]:
        await asyncio.sleep(0.01)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    await asyncio.to_thread(simulator.wait_until_none_open, 5)


@pytest.mark.faults
@pytest.mark.timeout(120)
async def test_a_frozen_caller_is_noticed_within_keepalive_and_ping_timeout(server, simulator):
    # The provider is also silent, so that no write is blocked and only a ping can detect the caller's death.
    model = "openai/sim?tokens=5&stall_after=3&key=frozen"
    caller = subprocess.Popen(
        [sys.executable, "-c", CALLER.format(server=server, model=model)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert await asyncio.to_thread(caller.stdout.readline) == "streaming\n"
        caller.send_signal(signal.SIGSTOP)
        frozen = time.monotonic()
        await asyncio.to_thread(simulator.wait_until_none_open, 60)
    finally:
        caller.kill()
        caller.wait()
        caller.stdout.close()
    noticed_after_s = simulator.request("frozen")["closed_at"] - frozen
    print(f"\nnoticed after {noticed_after_s:.1f} s")
    assert noticed_after_s <= DEFAULTS.keepalive_time_s + DEFAULTS.keepalive_timeout_s + 2


@pytest.mark.faults
@pytest.mark.timeout(120)
async def test_a_caller_that_pings_at_the_allowed_rate_is_not_disconnected(server, api_on):
    options = [
        ("grpc.keepalive_time_ms", int(DEFAULTS.min_client_ping_interval_s * 1000) + 500),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    async with grpc.aio.insecure_channel(server, options=options) as channel:
        call = api_on(channel).chat_stream(api_on.request("openai/sim?tokens=2&ttft_ms=60000"))
        assert [event async for event in call][-1].HasField("finished")


@pytest.mark.parametrize("rpc", ["chat_stream", "chat"])
async def test_a_caller_that_leaves_as_its_stream_begins_leaks_no_slot(
    start, simulator, api_on, rpc
):
    env = {**simulator.environ(), "TOKENWIRE_LIMITS__MAX_STREAMS": "40"}
    rng = random.Random(1)
    with start("serve", "--listen", "127.0.0.1:0", env=env) as (_, address):
        async with grpc.aio.insecure_channel(address) as channel:
            api = api_on(channel)

            async def leave_at_once():
                call = getattr(api, rpc)(api.request("openai/sim?repeat=forever&itl_ms=10"))
                await asyncio.sleep(rng.random() * 0.008)
                call.cancel()
                await asyncio.wait({asyncio.ensure_future(call.code())})

            for _ in range(80):
                await asyncio.gather(*(leave_at_once() for _ in range(25)))
            began = time.monotonic()
            while True:
                calls = [
                    api.chat_stream(api.request("openai/sim?repeat=forever&itl_ms=10"))
                    for _ in range(40)
                ]
                codes = await asyncio.gather(*(c.read() for c in calls), return_exceptions=True)
                for call in calls:
                    call.cancel()
                if all(isinstance(event, event_pb2.TokenEvent) for event in codes):
                    break
                assert time.monotonic() - began < 10
                await asyncio.sleep(0.1)
