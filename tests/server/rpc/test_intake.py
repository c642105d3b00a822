"""Decompression of requests, and bounds on calls whose request is not parsed yet."""

import asyncio
import gzip
import zlib

import grpc
import grpc.aio
import pytest
from e2e_calls import details
from hypothesis import given
from hypothesis import strategies as st
from raw_call import connected, send_call
from tenants_support import bearer

from tokenwire_server.errors import Overloaded
from tokenwire_server.rpc.authentication import Authentication, OpenCalls
from tokenwire_server.rpc.intake import CallSlots, inflate
from tokenwire_server.tenants.key import make_key_text
from tokenwire_server.tenants.keyring import Keyring

KEY = make_key_text()


@given(st.binary(max_size=2000), st.sampled_from([gzip.compress, zlib.compress]))
def test_compressed_data_is_inflated_up_to_the_limit(data, compress):
    assert inflate(compress(data), 1000) == data[:1001]


@given(st.one_of(st.binary(), st.binary().map(lambda rest: b"\x78\x9c" + rest)))
def test_uncompressed_data_is_unchanged(data):
    assert inflate(data, 10**6) == data


def test_truncated_compressed_data_is_unchanged():
    cut = gzip.compress(bytes(range(256)) * 4)[:-1]
    assert inflate(cut, 10**6) == cut


@pytest.mark.parametrize("compression", list(grpc.Compression))
async def test_a_chat_may_be_compressed_and_is_bounded_by_its_true_size(serve, api_on, compression):
    api = await serve({KEY: {}})

    async def chat(prompt):
        request = api_on.request("openai/sim?tokens=3", prompt)
        call = api.chat_stream(request, compression=compression, metadata=bearer(KEY))
        return [event async for event in call]

    assert (await chat("x" * 5000))[-1].HasField("finished")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await chat("x" * 9 * 2**20)
    assert details(refused.value)["ErrorInfo"].reason == "INVALID_REQUEST"


def test_slots_are_bounded_by_connection_and_in_total_and_are_released():
    slots = CallSlots("calls", per_owner=1, total=2)
    with slots.slot("a"):
        with pytest.raises(Overloaded, match="on this connection"), slots.slot("a"):
            pass
        with slots.slot("b"), pytest.raises(Overloaded), slots.slot("c"):
            pass
        with slots.slot("c"):
            pass
    assert not slots._open


class NoKeys:
    async def changes(self, since_revision):
        return 0, ()


@pytest.fixture
async def echoing():
    """Start servers with a method that returns its request; return a function to connect to one."""
    servers, channels = [], []

    async def echo(request, context, caller):
        return request

    async def start(calls):
        keyring = Keyring(NoKeys(), mode="none", trusted_s=60)
        server = grpc.aio.server()
        servers.append(server)
        methods = {"Echo": Authentication(keyring, calls).unary(echo)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", methods),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()

        def connect(raw=False):
            if raw:  # accepts no message
                return connected(f"127.0.0.1:{port}", stream_window=0)
            options = [("grpc.use_local_subchannel_pool", 1)]  # a connection of its own
            channels.append(grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options))
            return channels[-1]

        return connect

    yield start
    for channel in channels:
        await channel.close()
    for server in servers:
        await server.stop(0)


async def silent_call(channel):
    """Open a call that sends no request. Its connection is open on return."""
    call = channel.stream_unary("/test/Echo")()
    await call.wait_for_connection()
    return call


async def refusal(call):
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await asyncio.wait_for(call, 10)
    return details(refused.value)


async def test_calls_whose_request_does_not_arrive_give_way_to_newer_calls(echoing):
    calls = OpenCalls(max_calls=8)  # 4 may wait, 2 of them on one connection
    connect = await echoing(calls)
    slow, flooding = connect(), connect()

    async def slow_request():
        await arriving.wait()
        yield b"late"

    arriving = asyncio.Event()
    slow_call = slow.stream_unary("/test/Echo")(slow_request())
    await slow_call.wait_for_connection()
    while len(calls._receiving) < 1:
        await asyncio.sleep(0.01)
    silent = [await silent_call(flooding) for _ in range(5)]
    displaced = [await refusal(call) for call in silent[:3]]
    assert {each["ErrorInfo"].reason for each in displaced} == {"OVERLOADED"}
    assert all("RetryInfo" in each for each in displaced)
    assert await connect().unary_unary("/test/Echo")(b"x") == b"x"
    arriving.set()
    assert await slow_call == b"late"
    for call in silent:
        call.cancel()
    async with asyncio.timeout(10):
        while (
            calls._receiving or calls._receiving._of_owner or calls._ending or calls._running.used
        ):
            await asyncio.sleep(0.01)


async def test_a_call_is_served_even_if_other_connections_use_all_places(echoing):
    calls = OpenCalls(max_calls=8)
    connect = await echoing(calls)
    silent = [await silent_call(connect()) for _ in range(4)]
    while len(calls._receiving) < 4:
        await asyncio.sleep(0.01)
    assert await connect().unary_unary("/test/Echo")(b"x") == b"x"
    # Only one of them was displaced.
    assert len(calls._receiving) == 3
    for call in silent:
        call.cancel()


async def test_the_wait_for_a_request_ends(echoing):
    calls = OpenCalls(max_wait_s=0.1)
    connect = await echoing(calls)
    refused = await refusal(await silent_call(connect()))
    assert refused["ErrorInfo"].reason == "INVALID_REQUEST"
    (violation,) = refused["BadRequest"].field_violations
    assert violation.description == "did not arrive within 0.1 s"
    assert not calls._receiving


async def test_a_call_that_ends_without_a_request_is_refused(echoing):
    connect = await echoing(OpenCalls())
    refused = await refusal(connect().stream_unary("/test/Echo")(iter(())))
    assert refused["ErrorInfo"].reason == "INVALID_REQUEST"


async def test_the_wait_until_the_caller_accepts_the_response_ends(echoing):
    calls = OpenCalls(max_wait_s=0.5)
    connect = await echoing(calls)
    with await asyncio.to_thread(connect, raw=True) as connection:
        send_call(connection, 1, b"/test/Echo", b"x")
        async with asyncio.timeout(10):
            while not calls._ending:
                await asyncio.sleep(0.01)
            assert calls._running.used == 0
            while calls._ending:
                await asyncio.sleep(0.01)
