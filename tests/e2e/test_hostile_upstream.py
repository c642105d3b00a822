"""Providers and networks that violate HTTP, on raw sockets."""

import asyncio
import ssl
import time

import grpc
import grpc.aio
import pytest
import trustme
from e2e_calls import reason
from raw_provider import HEAD, RawProvider, wait_for_end

TOKEN = b'data: {"id":"x","model":"m","choices":[{"index":0,"delta":{"content":"hi"}}]}\n\n'


@pytest.fixture
def serving(start, api_on):
    """Runs a server with the provider `openai` at the URL. Yields an Api of it."""
    from contextlib import asynccontextmanager

    @asynccontextmanager
    async def run(url, **env):
        environ = {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": url, **env}
        with start("serve", "--listen", "127.0.0.1:0", env=environ) as (_, address):
            async with grpc.aio.insecure_channel(address) as channel:
                yield api_on(channel)

    return run


async def streams_endlessly(provider, reader, writer):
    writer.write(HEAD + b"\r\n")
    while True:
        writer.write(TOKEN)
        await writer.drain()
        await asyncio.sleep(0.005)


async def sends_nothing(provider, reader, writer):
    writer.write(HEAD + b"\r\n" + TOKEN)
    await wait_for_end(reader)


@pytest.mark.parametrize("script", [streams_endlessly, sends_nothing])
async def test_a_cancel_closes_a_tls_connection_without_waiting_for_close_notify(
    serving, tmp_path, script
):
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with (
        RawProvider(script, context) as provider,
        serving(provider.url, SSL_CERT_FILE=str(tmp_path / "ca.pem")) as api,
    ):
        call = api.chat_stream(api.request("openai/m"))
        while not (await call.read()).HasField("text"):
            pass
        cancelled = time.monotonic()
        call.cancel()
        closed = await asyncio.wait_for(provider.ended_at, 10)
    print(f"\nclosed {(closed - cancelled) * 1e3:.1f} ms after the cancel")
    assert closed - cancelled <= 2


async def test_a_cancel_during_the_upload_does_not_send_the_rest_of_the_prompt(serving):
    let_it_read = asyncio.Event()

    async def reads_late(provider, reader, writer):
        writer.transport.pause_reading()
        await let_it_read.wait()
        writer.transport.resume_reading()
        while data := await reader.read(65536):
            provider.received += len(data)

    async with RawProvider(reads_late) as provider, serving(provider.url) as api:
        call = api.chat_stream(api.request("openai/m", "x" * 8_000_000))
        assert (await call.read()).HasField("started")
        await asyncio.sleep(0.5)  # the kernel's buffers fill
        call.cancel()
        await asyncio.sleep(0.2)
        let_it_read.set()
        await asyncio.wait_for(provider.ended_at, 10)
    assert provider.received < 7_000_000


async def test_invalid_framing_breaks_the_stream_immediately(serving):
    async def breaks(provider, reader, writer):
        chunk = b"%x\r\n%b\r\n" % (len(TOKEN), TOKEN)
        writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk)
        await writer.drain()
        await asyncio.sleep(0.1)
        writer.write(b"ZZZ\r\n")
        await wait_for_end(reader)

    async with RawProvider(breaks) as provider, serving(provider.url) as api:
        began = time.monotonic()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await api.events("openai/m")
    assert reason(caught.value) == "UPSTREAM_BROKEN"
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: 1000\r\n\r\n{",  # cut off
        b"Transfer-Encoding: chunked\r\n\r\n",  # never comes
        b"Content-Type: text/plain; charset=rot13\r\nContent-Length: 2\r\n\r\nno",
        b"Content-Length: 500000000\r\n\r\n" + b"x" * 1_000_000,  # far too long
    ],
    ids=["cut", "slow", "odd charset", "huge"],
)
async def test_the_status_of_an_error_counts_even_if_its_body_cannot_be_read(serving, body):
    async def refuses(provider, reader, writer):
        writer.write(b"HTTP/1.1 401 Unauthorized\r\n" + body)
        await writer.drain()
        if body.startswith(b"Content-Length: 1000"):
            return
        await wait_for_end(reader)

    async with RawProvider(refuses) as provider, serving(provider.url) as api:
        began = time.monotonic()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await api.events("openai/m")
    assert reason(caught.value) == "UPSTREAM_AUTH"
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 999 What\r\nContent-Length: 0\r\n\r\n",
        b"junk\r\n\r\n",
    ],
)
async def test_an_invalid_response_head_is_upstream_unavailable(serving, head):
    async def answers(provider, reader, writer):
        writer.write(head)
        await wait_for_end(reader)

    async with RawProvider(answers) as provider, serving(provider.url) as api:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await api.events("openai/m")
    assert reason(caught.value) == "UPSTREAM_UNAVAILABLE"
