"""A server behind nginx with the configuration in deploy/nginx: limits, time-outs, errors, cancels, TLS."""

import asyncio
import socket

import grpc
import grpc.aio
import pytest
import trustme
from e2e_calls import read, reason, said

import tokenwire
from nginx_process import running_nginx

pytestmark = pytest.mark.process
FOREVER = "openai/sim?repeat=forever&itl_ms=10"
QUICK = {
    "grpc_read_timeout 60s": "grpc_read_timeout 2s",
    "keepalive_requests 100000": "keepalive_requests 20",
}
"""nginx's time-out of silence, and calls until it sends GOAWAY."""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """The paths of a certificate for 127.0.0.1, its key, and its authority."""
    folder = tmp_path_factory.mktemp("certificate")
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    return folder / "cert.pem", folder / "key.pem", folder / "ca.pem"


@pytest.fixture(scope="module")
def nginx(server, certificate):
    """In front of a server, and of an address where there is none."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = f"127.0.0.1:{free.getsockname()[1]}"
    with running_nginx(
        servers=[nobody, server], certificate=certificate[:2], replaced=QUICK
    ) as nginx:
        yield nginx


@pytest.fixture
async def proxied(nginx, api_on):
    async with grpc.aio.insecure_channel(nginx.target) as channel:
        yield api_on(channel)


async def error_of(call):
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await read(call)
    return failed.value


async def test_silent_calls_and_long_streams_outlive_the_time_outs_of_nginx(proxied, simulator):
    """nginx also sends GOAWAY while they are open: a connection may carry 20 calls."""
    long = proxied.chat_stream(proxied.request(FOREVER))
    often = tokenwire.delivery(heartbeat_s=1)
    model = "openai/sim?ttft_ms=5000&tokens=3"
    silent = asyncio.create_task(proxied.events(model, delivery=often))
    whole = proxied.chat(proxied.request(model))
    for _ in range(10):
        chats = [proxied.events("openai/sim?tokens=3") for _ in range(5)]
        assert all(said(events) for events in await asyncio.gather(*chats))
    assert said(await silent)
    assert (await whole).message.parts
    for _ in range(300):
        await long.read()
    long.cancel()
    await asyncio.to_thread(simulator.wait_until_none_open, 20)


async def test_large_requests_and_metadata_get_the_answer_of_the_server(proxied):
    too_large = proxied.request("openai/sim", "x" * (8 * 2**20))
    assert reason(await error_of(proxied.chat_stream(too_large))) == "INVALID_REQUEST"
    far_too_large = proxied.request("openai/sim", "x" * (20 * 2**20))
    error = await error_of(proxied.chat_stream(far_too_large))
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    metadata = (("x-large", "v" * 15_000),)
    request = proxied.request("openai/sim?tokens=3")
    assert said(await read(proxied.chat_stream(request, metadata=metadata)))


async def test_callers_get_unavailable_if_no_server_answers(api_on):
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = f"127.0.0.1:{free.getsockname()[1]}"
    with running_nginx(servers=[nobody]) as nginx:
        async with grpc.aio.insecure_channel(nginx.target) as channel:
            api = api_on(channel)
            error = await error_of(api.chat_stream(api.request("openai/sim")))
        assert error.code() == grpc.StatusCode.UNAVAILABLE
        assert error.details() == "no Tokenwire server answered"
        async with tokenwire.AsyncClient(nginx.target) as client:
            with pytest.raises(tokenwire.ConnectionLost, match="no Tokenwire server answered"):
                await client.chat("openai/sim", "hello")


async def test_callers_may_use_tls(nginx, certificate):
    tls = tokenwire.Tls(ca=certificate[2])
    async with tokenwire.AsyncClient(nginx.tls_target, tls=tls) as client:
        assert (await client.chat("openai/sim?tokens=3", "hello")).message.parts
