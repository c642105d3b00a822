"""The lifetime of connections, and callers that the network has lost, at a real server."""

import asyncio
import time

import grpc
import grpc.aio
import pytest
from e2e_calls import read, resume, said

import tokenwire
from cutting_proxy import cutting_proxy
from tokenwire.v1 import chat_pb2, event_pb2
from tokenwire_server.simulator.words import generated_text

ENDLESS = "openai/sim?repeat=forever&itl_ms=20"
KEEPALIVE_TIME_S = 0.7
KEEPALIVE_TIMEOUT_S = 0.5
SLACK_S = 8.0
"""More time for a busy machine. Without the settings above, a lost caller is noticed after 40 s."""


@pytest.fixture
def behind_proxy(start, simulator):
    """Starts a server with settings of the section `grpc`. Yields a proxy before it."""

    def starting(**settings):
        env = {f"TOKENWIRE_GRPC__{name.upper()}": str(value) for name, value in settings.items()}
        return start("serve", "--listen", "127.0.0.1:0", env=simulator.environ() | env)

    return starting


def target(proxy):
    return proxy.url.removeprefix("http://")


async def test_streams_continue_on_a_connection_that_has_reached_its_age(behind_proxy, api_on):
    with (
        behind_proxy(max_connection_age_s=0.5) as (_, address),
        cutting_proxy(f"http://{address}") as proxy,
    ):
        async with asyncio.timeout(60), grpc.aio.insecure_channel(target(proxy)) as channel:
            api = api_on(channel)
            old = api.chat_stream(api.request(ENDLESS))
            started = (await anext(aiter(old))).started
            reading = asyncio.create_task(read(old))
            # Each of these calls uses the newest connection of the channel.
            while proxy.connection_count < 2:
                await api.events("openai/sim?tokens=1")
                await asyncio.sleep(0.05)
            assert not reading.done()
            await api.cancel_stream(chat_pb2.CancelStreamRequest(stream_id=started.stream_id))
            events = await reading
            replay = await read(resume(api, started.stream_id))
    assert said(events) == said(replay)
    assert events[-1].finished.reason == event_pb2.FINISH_REASON_CANCELLED


async def test_after_the_grace_of_its_connection_a_stream_is_resumed_on_another(behind_proxy):
    grace = {"max_connection_age_s": 0.4, "max_connection_age_grace_s": 0.3}
    with behind_proxy(**grace) as (_, address), cutting_proxy(f"http://{address}") as proxy:
        async with (
            asyncio.timeout(60),
            tokenwire.AsyncClient(target(proxy), resumable=True) as client,
            client.chat_stream("openai/sim?tokens=100&itl_ms=20", "Hi") as stream,
        ):
            answer = await stream.final()
        print(f"\n{proxy.connection_count} connections")
        assert proxy.connection_count >= 2
    assert answer.message.parts[0].text == "".join(generated_text(100))


@pytest.mark.parametrize("model", ["openai/sim?tokens=5&stall_after=3", ENDLESS])
@pytest.mark.parametrize("network", ["discards", "accepts nothing"])
async def test_the_stream_of_a_caller_that_the_network_has_lost_ends_after_the_ping_timeout(
    behind_proxy, api_on, simulator, model, network
):
    key = f"lost-{network[0]}-{len(model)}"
    keepalive = {
        "keepalive_time_s": KEEPALIVE_TIME_S,
        "keepalive_timeout_s": KEEPALIVE_TIMEOUT_S,
    }
    with behind_proxy(**keepalive) as (_, address), cutting_proxy(f"http://{address}") as proxy:
        async with asyncio.timeout(60), grpc.aio.insecure_channel(target(proxy)) as channel:
            api = api_on(channel)
            call = api.chat_stream(api.request(f"{model}&key={key}"))
            await anext(aiter(call))
            await asyncio.sleep(0.1)
            if network == "discards":
                proxy.discards = True
            else:
                proxy.freeze()
            lost = time.monotonic()
            await asyncio.to_thread(simulator.wait_until_none_open, 30)
            call.cancel()
    noticed_after_s = simulator.request(key)["closed_at"] - lost
    limit_s = KEEPALIVE_TIME_S + KEEPALIVE_TIMEOUT_S + 1.0
    print(
        f"\nthe stream ended {noticed_after_s:.2f} s after the loss; the limit is {limit_s:.1f} s"
    )
    assert noticed_after_s <= limit_s + SLACK_S
