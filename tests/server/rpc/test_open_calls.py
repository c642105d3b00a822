"""Calls are known by their keys while they run, and each is ended once, by who ends it first."""

import asyncio

import grpc
import grpc.aio
import pytest
from tenants_support import bearer

from tokenwire_server.errors import Unauthenticated
from tokenwire_server.rpc.authentication import Authentication, OpenCalls
from tokenwire_server.tenants.caller import Caller
from tokenwire_server.tenants.key import ApiKey, make_key_text, parse_key_text
from tokenwire_server.tenants.keyring import Keyring

FIRST = Caller("acme", "tw_000000000001", "tw_000000000000")
SECOND = Caller("acme", "tw_000000000002", "tw_000000000000")
KEY = make_key_text()


@pytest.fixture
def calls():
    return OpenCalls()


async def begun(calls, caller, end=None):
    """A call of a caller that runs until it is ended, or until `end` is set."""
    running = asyncio.Event()

    async def call():
        with calls.running(caller):
            running.set()
            await (end or asyncio.Event()).wait()

    task = asyncio.create_task(call())
    await running.wait()
    return task


async def test_a_call_that_ends_leaves_the_others_of_its_key_known(calls):
    end = asyncio.Event()
    ending, staying = await begun(calls, FIRST, end), await begun(calls, FIRST)
    end.set()
    await ending
    calls.end(FIRST.key_prefix)
    with pytest.raises(Unauthenticated):
        await asyncio.wait_for(staying, 5)


async def test_a_revoked_key_leaves_the_calls_of_the_key_that_took_its_place(calls):
    end = asyncio.Event()
    old, fresh = await begun(calls, FIRST), await begun(calls, SECOND, end)
    calls.end(FIRST.key_prefix)
    with pytest.raises(Unauthenticated, match=FIRST.key_prefix):
        await asyncio.wait_for(old, 5)
    end.set()
    await asyncio.wait_for(fresh, 5)


async def test_a_call_that_is_cancelled_by_others_is_cancelled(calls):
    call = await begun(calls, FIRST)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_a_call_that_was_ended_can_wait_while_it_says_so(calls):
    """Otherwise the next timeout or group of tasks around it takes the old cancellation for its own."""

    async def call():
        with pytest.raises(Unauthenticated), calls.running(FIRST):
            asyncio.get_running_loop().call_soon(calls.end, FIRST.key_prefix)
            await asyncio.Event().wait()
        return asyncio.current_task().cancelling()

    assert await asyncio.create_task(call()) == 0


async def test_a_call_that_was_ended_is_left_to_end_in_peace(calls):
    ending, go_on, left = asyncio.Event(), asyncio.Event(), []

    async def call():
        with calls.running(FIRST):
            try:
                await asyncio.Event().wait()
            finally:
                ending.set()
                await go_on.wait()
                left.append("whole")

    task = asyncio.create_task(call())
    await asyncio.sleep(0)
    calls.end(FIRST.key_prefix)
    await ending.wait()
    calls.end(FIRST.key_prefix)
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(Unauthenticated):
        await task
    assert left == ["whole"]


async def test_calls_that_were_ended_leave_nothing_behind(calls):
    tasks = [await begun(calls, FIRST) for _ in range(3)]
    calls.end(FIRST.key_prefix)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (calls._tasks, calls._ended) == ({}, set())


class OneKey:
    async def changes(self, since_revision):
        secret = parse_key_text(KEY)
        return 1, [ApiKey(secret.prefix, secret.prefix, "acme", secret.digest, 0.0)]


@pytest.fixture
def answered():
    """Set once the first answer is out: until then gRPC is at work in the call's task, not we."""
    return asyncio.Event()


@pytest.fixture
async def channel(calls, answered):
    """To a server whose method answers what it is sent, one by one, as reflection does."""

    async def echo(requests, context):
        async for request in requests:
            await context.write(request)
            answered.set()

    keyring = Keyring(OneKey(), mode="keys", trusted_s=60.0)
    await keyring.refresh()
    server = grpc.aio.server(interceptors=[Authentication(keyring, calls)])
    methods = {"Echo": grpc.stream_stream_rpc_method_handler(echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(0)


async def test_a_revoked_key_ends_an_open_call_that_waits_for_a_request(channel, calls, answered):
    call = channel.stream_stream("/test/Echo")(metadata=bearer(KEY))
    await call.write(b"said")
    assert await call.read() == b"said"
    await asyncio.wait_for(answered.wait(), 5)
    calls.end(KEY[:15])
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await asyncio.wait_for(call.read(), 5)
    assert ended.value.code() == grpc.StatusCode.UNAUTHENTICATED
