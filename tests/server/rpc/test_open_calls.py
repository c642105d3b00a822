"""Open calls are found by their keys and ended when the key is revoked, each of them once."""

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
    """Start a call that runs until it is ended, or until `end` is set."""
    running = asyncio.Event()

    async def call():
        with calls.running(caller):
            running.set()
            await (end or asyncio.Event()).wait()

    task = asyncio.create_task(call())
    await running.wait()
    return task


async def test_a_call_that_ends_does_not_remove_other_calls_of_its_key(calls):
    end = asyncio.Event()
    ending, staying = await begun(calls, FIRST, end), await begun(calls, FIRST)
    end.set()
    await ending
    calls.end(FIRST.key_prefix)
    with pytest.raises(Unauthenticated):
        await asyncio.wait_for(staying, 5)


async def test_revoking_a_key_does_not_end_the_calls_of_its_replacement(calls):
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


async def test_a_call_that_was_ended_can_await_while_it_sends_its_status(calls):
    """Otherwise the next timeout or task group treats the old cancellation as its own."""

    async def call():
        with pytest.raises(Unauthenticated), calls.running(FIRST):
            asyncio.get_running_loop().call_soon(calls.end, FIRST.key_prefix)
            await asyncio.Event().wait()
        return asyncio.current_task().cancelling()

    assert await asyncio.create_task(call()) == 0


async def test_a_call_that_was_ended_is_not_cancelled_a_second_time(calls):
    ending, go_on, left = asyncio.Event(), asyncio.Event(), []

    async def call():
        with calls.running(FIRST):
            try:
                await asyncio.Event().wait()
            finally:
                ending.set()
                await go_on.wait()
                left.append("finished")

    task = asyncio.create_task(call())
    await asyncio.sleep(0)
    calls.end(FIRST.key_prefix)
    await ending.wait()
    calls.end(FIRST.key_prefix)
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(Unauthenticated):
        await task
    assert left == ["finished"]


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
    """Set once the first answer is written. Until then the call's task runs code of gRPC."""
    return asyncio.Event()


@pytest.fixture
async def channel(calls, answered):
    """A channel to a server with a method that answers each request in turn, as reflection does."""

    async def echo(requests, context):
        async for request in requests:
            await context.write(request)
            answered.set()

    keyring = Keyring(OneKey(), mode="keys", trusted_s=60.0)
    await keyring.refresh()
    server = grpc.aio.server()
    methods = {"Echo": Authentication(keyring, calls).reading("test", echo)}
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
