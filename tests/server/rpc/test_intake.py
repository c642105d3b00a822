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
    slots = CallSlots("calls", per_connection=1, total=2)
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


async def test_calls_whose_request_never_arrives_are_bounded_and_their_slots_are_released():
    async def echo(request, context):
        return request

    keyring = Keyring(NoKeys(), mode="none", trusted_s=60)
    server = grpc.aio.server(interceptors=[Authentication(keyring, OpenCalls(max_calls=2))])
    methods = {"Echo": grpc.unary_unary_rpc_method_handler(echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        silent = [channel.stream_unary("/test/Echo")() for _ in range(2)]
        for call in silent:
            await call.wait_for_connection()
        one_more = channel.unary_unary("/test/Echo")
        async with asyncio.timeout(10):
            while True:  # until both have reached the server
                try:
                    await one_more(b"x")
                except grpc.aio.AioRpcError as refused:
                    assert details(refused)["ErrorInfo"].reason == "OVERLOADED"
                    assert "RetryInfo" in details(refused)
                    break
            silent[0].cancel()
            while True:
                try:
                    assert await one_more(b"x") == b"x"
                    break
                except grpc.aio.AioRpcError as refused:
                    assert details(refused)["ErrorInfo"].reason == "OVERLOADED"
        silent[1].cancel()
    await server.stop(0)
