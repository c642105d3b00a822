"""Two tenants on a real server, one of which opens as much as it can."""

import asyncio
from contextlib import asynccontextmanager

import grpc.aio
from e2e_calls import details, reason

from tokenwire.v1 import chat_pb2


@asynccontextmanager
async def two_tenants(serving, simulator, **limits):
    env = {f"TOKENWIRE_LIMITS__{name.upper()}": str(value) for name, value in limits.items()}
    with serving(simulator, **env) as tenancy:
        async with tenancy.api(tenancy.acme) as acme, tenancy.api(tenancy.globex) as globex:
            yield acme, globex


async def opened(calls, refusal="of this tenant"):
    """Return the calls that were accepted, after checking how the others were refused."""

    async def outcome(call):
        try:
            await call.initial_metadata()
            await call.read()
        except grpc.aio.AioRpcError as error:
            assert reason(error) == "OVERLOADED"
            assert refusal in error.details()
            assert "RetryInfo" in details(error)
            return None
        return call

    found = await asyncio.gather(*(outcome(call) for call in calls))
    return [call for call in found if call is not None]


async def assert_served(api, count=5):
    for _ in range(count):
        assert (await api.events("openai/sim?tokens=2"))[-1].HasField("finished")


async def test_a_flood_of_streams_leaves_streams_for_another_tenant(serving, simulator):
    async with two_tenants(serving, simulator, max_streams=27) as (acme, globex):
        request = acme.request("openai/sim?silent=1")
        held = await opened([acme.chat_stream(request) for _ in range(100)])
        assert len(held) == 24
        await assert_served(globex)
        theirs = await opened([globex.chat_stream(request) for _ in range(2)])
        assert len(theirs) == 2
        for call in (*held, *theirs):
            call.cancel()


async def test_a_flood_of_readers_leaves_readers_for_another_tenant(serving, simulator):
    async with two_tenants(serving, simulator, max_readers=27) as (acme, globex):
        stream = acme.chat_stream(acme.request("openai/sim?silent=1"))
        stream_id = (await stream.read()).started.stream_id
        request = chat_pb2.ResumeStreamRequest(stream_id=stream_id)
        held = await opened([acme.resume_stream(request) for _ in range(100)])
        assert len(held) == 23
        await assert_served(globex)
        for call in (stream, *held):
            call.cancel()


async def test_a_tenant_whose_open_streams_fill_the_memory_takes_none_from_another(
    serving, simulator
):
    limits = {"max_total_log_bytes": 2**20, "max_log_bytes": 2**20}
    async with two_tenants(serving, simulator, **limits) as (acme, globex):
        kept = await globex.events("openai/sim?tokens=5")
        model = f"openai/sim?repeat=forever&tokens_per_second=5000&text={'x' * 180}"
        floods = [acme.chat_stream(acme.request(model)) for _ in range(3)]

        async def read(call):
            async for _ in call:
                pass

        reading = [asyncio.ensure_future(read(call)) for call in floods]
        async with asyncio.timeout(60):  # until the logs of acme have filled the memory
            chat = acme.request("openai/sim?tokens=1")
            while await opened([acme.chat_stream(chat)], "memory"):
                await asyncio.sleep(0.05)
        await assert_served(globex)
        again = chat_pb2.ResumeStreamRequest(stream_id=kept[0].started.stream_id)
        assert [event async for event in globex.resume_stream(again)][-1].HasField("finished")
        for call in floods:
            call.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
