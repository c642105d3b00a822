"""Bounds on the framing around the body of an answer, tested with raw sockets."""

import asyncio

import pytest
from raw_provider import HEAD, RawProvider, wait_for_end

from tokenwire_server.config import Limits, ProviderConfig
from tokenwire_server.errors import UpstreamBroken, UpstreamUnavailable
from tokenwire_server.providers.decode.base import Complete
from tokenwire_server.providers.registry import ProviderRegistry
from tokenwire_server.request import ChatRequest, Message, Text

REQUEST = ChatRequest(model="raw/m", messages=(Message("user", (Text("hi"),)),))
TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":"hi"}}]}\n\n'
END = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
MAX_SENT_BYTES = 16 * 2**20
"""Maximum number of bytes that a provider can send before it notices: the bound and the buffers of sockets
and loop."""


def chunk(data):
    return b"%x\r\n%b\r\n" % (len(data), data)


def sends(*pieces):
    async def script(provider, reader, writer):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        await wait_for_end(reader)

    return script


def sends_for_ever(head, piece):
    async def script(provider, reader, writer):
        writer.write(head)
        while not writer.transport.is_closing():
            writer.write(piece)
            provider.received += len(piece)  # bytes that this provider has sent
            await writer.drain()

    return script


async def end_of(script):
    """Return how the answer of a provider ends, and the provider."""
    async with RawProvider(script) as provider:
        config = {"raw": ProviderConfig(kind="openai-chat", base_url=provider.url)}
        async with ProviderRegistry(config, Limits(), {}) as providers, asyncio.timeout(20):
            try:
                async with providers.get("raw").open(REQUEST, "m", None) as upstream:
                    while upstream.end is None:
                        await upstream.read()
                    return upstream.end, provider
            except UpstreamUnavailable as error:
                return error, provider


@pytest.mark.parametrize(
    ("head", "piece", "kind"),
    [
        (CHUNKED + b"1;", b"a=b;" * 2**14, UpstreamBroken),
        (CHUNKED + chunk(TOKEN) + b"1;", b"a=b;" * 2**14, UpstreamBroken),
        (CHUNKED, b"0" * 2**16, UpstreamBroken),
        (
            CHUNKED + chunk(b": %b\n\n" % (b"x" * 1000)) * 3000 + b"0\r\nX: ",
            b"x" * 2**16,
            UpstreamBroken,
        ),
        (CHUNKED, (b"1;" + b"e" * 1000 + b"\r\n\n\r\n") * 64, UpstreamBroken),
        (b"HTTP/1.1 200 OK\r\nX: ", b" " * 2**16, UpstreamUnavailable),
        (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 2000, UpstreamUnavailable),
        (b"HTTP/1.1 200 OK\r\n", b"X: %b\r\n" % (b"x" * 8000), UpstreamUnavailable),
    ],
    ids=[
        "extension",
        "extension after a token",
        "zeros",
        "trailer after a long body",
        "extensions",
        "spaces",
        "hints",
        "headers",
    ],
)
async def test_endless_framing_ends_the_answer(head, piece, kind):
    end, provider = await end_of(sends_for_ever(head, piece))
    assert type(end) is kind
    assert "provider 'raw'" in str(end)
    assert "sent" in str(end)
    await asyncio.wait_for(provider.ended_at, 20)
    assert provider.received <= MAX_SENT_BYTES


@pytest.mark.parametrize(
    "pieces",
    [
        [HEAD + b"X: %b\r\n\r\n" % (b"x" * 10_000), TOKEN + END],
        [
            b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 20,
            CHUNKED,
            chunk(TOKEN + END),
            b"0\r\n\r\n",
        ],
        [CHUNKED, *(b"1\r\n%b\r\n" % bytes([byte]) for byte in TOKEN * 2000 + END), b"0\r\n\r\n"],
        [
            CHUNKED,
            b"%x;%b\r\n%b\r\n" % (len(TOKEN), b"s" * 90, TOKEN) * 5000,
            chunk(END),
            b"0\r\n\r\n",
        ],
    ],
    ids=["a header of 10 kB", "some hints", "chunks of one byte", "short extensions"],
)
async def test_unusual_framing_within_the_bounds_is_read(pieces):
    if b"chunked" not in b"".join(pieces[:2]):
        pieces[0] = pieces[0].replace(
            b"\r\n\r\n", b"\r\nContent-Length: %d\r\n\r\n" % len(TOKEN + END)
        )
    end, _ = await end_of(sends(*pieces))
    assert isinstance(end, Complete)
