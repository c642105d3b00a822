"""Providers and networks that violate HTTP, on raw sockets."""

import asyncio
import ssl
import time

import grpc
import grpc.aio
import pytest
import trustme
from e2e_calls import details, reason
from raw_provider import HEAD, RawProvider, wait_for_end

ONE_ATTEMPT = {"TOKENWIRE_RETRIES__MAX_ATTEMPTS": "1"}
TOKEN = b'data: {"id":"x","model":"m","choices":[{"index":0,"delta":{"content":"hi"}}]}\n\n'


@pytest.fixture
def serving(start, api_on):
    """Runs a server with the provider `openai` at the URL. Yields an Api of it."""
    from contextlib import asynccontextmanager

    @asynccontextmanager
    async def run(url, **env):
        # The providers here answer one request on each connection, and a retry may use it again.
        environ = {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": url, **ONE_ATTEMPT, **env}
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


WHOLE = (
    b'{"id":"x","object":"chat.completion","choices":[{"index":0,"message":{"content":"hi"},'
    b'"finish_reason":"stop"}],"usage":{"prompt_tokens":5,"completion_tokens":1}}'
)


@pytest.mark.parametrize(
    ("media_type", "body", "expected", "is_retryable"),
    [
        (b"application/json", WHOLE, None, False),
        (b"application/json", b'{"error":{"code":"invalid_api_key"}}', "UPSTREAM_AUTH", False),
        (b"text/html", b"<!doctype html><p>Welcome", "UPSTREAM_UNAVAILABLE", False),
        (b"text/event-stream", b"data: nonsense\n\n", "UPSTREAM_UNAVAILABLE", True),
    ],
)
async def test_an_answer_with_status_200_that_is_not_an_event_stream(
    serving, media_type, body, expected, is_retryable
):
    async def answers(provider, reader, writer):
        head = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n"
        writer.write(head % (media_type, len(body)))
        for start in range(0, len(body), 7):  # the kind must not depend on the pieces
            writer.write(body[start : start + 7])
            await writer.drain()
            await asyncio.sleep(0)
        await wait_for_end(reader)

    async with RawProvider(answers) as provider, serving(provider.url) as api:
        if expected is None:
            events = await api.events("openai/m")
            assert "".join(event.text.text for event in events) == "hi"
            usage = events[-1].finished.usage
            assert (usage.input_tokens, usage.output_tokens) == (5, 1)
            return
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await api.events("openai/m")
    assert reason(caught.value) == expected
    assert ("RetryInfo" in details(caught.value)) == is_retryable
    assert "/v1" not in str(caught.value.details())


async def test_a_rejection_with_a_key_in_it_reaches_the_caller_without_the_key(serving):
    canary = "canary+key/of=the-operator"
    text = f"{canary} and sk-proj-canary123 of org-canary may not \\u001b[31m".encode()
    body = b'{"error":{"message":"%b","code":"%b","type":"t"}}' % (text, canary.encode())

    async def rejects(provider, reader, writer):
        head = b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n"
        writer.write(head % len(body) + body)
        await wait_for_end(reader)

    async with (
        RawProvider(rejects) as provider,
        serving(provider.url, OPENAI_API_KEY=canary) as api,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await api.events("openai/m")
    metadata = details(caught.value)["ErrorInfo"].metadata
    assert metadata["provider_message"] == "[redacted] and [redacted] of [redacted] may not [31m"
    assert "canary" not in str(caught.value) + str(metadata)
