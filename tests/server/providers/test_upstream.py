"""What the token's path relies on in the HTTP client and the SDKs, against real sockets."""

import asyncio
import gzip

import pytest
from aiohttp import web

from tokenwire_server.config import Limits, ProviderConfig
from tokenwire_server.errors import UpstreamError, UpstreamRejected, UpstreamUnavailable
from tokenwire_server.events import TextDelta
from tokenwire_server.providers.decode.base import Complete
from tokenwire_server.providers.registry import Registry
from tokenwire_server.request import ChatRequest, Message, Text
from tokenwire_server.simulator import Simulator, generated_text

REQUEST = ChatRequest(model="local/m", messages=(Message("user", (Text("hi"),)),))
BODY = (
    b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"hello"},"finish_reason":null}]}\n\n'
    b'data: {"id":"1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    b"data: [DONE]\n\n"
)


@pytest.fixture
async def serving():
    """Starts an HTTP server with one handler for every POST; returns its URL."""
    runners = []

    async def start(handler):
        app = web.Application()
        app.router.add_post("/{path:.*}", handler)
        runners.append(web.AppRunner(app, shutdown_timeout=0.1))
        await runners[-1].setup()
        site = web.TCPSite(runners[-1], "127.0.0.1", 0)
        await site.start()
        return "http://{}:{}".format(*runners[-1].addresses[0])

    yield start
    for runner in runners:
        await runner.cleanup()


def registry(url, *, limits=None):
    config = ProviderConfig(kind="openai-chat", base_url=url)
    return Registry({"local": config}, {}, limits or Limits(), {})


async def answer(providers, model="m"):
    """Read one answer to its end; return its text and the decoder."""
    provider = providers.route(f"local/{model}").provider
    text = ""
    async with provider.open(REQUEST, model, None) as upstream:
        while upstream.decoder.end is None:
            for delta in await upstream.read():
                if isinstance(delta, TextDelta):
                    text += delta.text
    return text, upstream.decoder


async def test_a_connection_is_used_again_after_a_complete_answer():
    async with Simulator() as simulator, registry(f"{simulator.url}/v1") as providers:
        for _ in range(5):
            text, decoder = await answer(providers, "sim?tokens=3")
            assert text == "".join(generated_text(3))
            assert isinstance(decoder.end, Complete)
        assert simulator.stats().connections_open == 1


async def test_what_came_before_the_connection_broke_is_not_lost():
    async with Simulator() as simulator, registry(f"{simulator.url}/v1") as providers:
        text, decoder = await answer(providers, "sim?tokens=50&drop_after=20&drop=rst")
        assert text == "".join(generated_text(20))
        assert isinstance(decoder.end, UpstreamError)


async def test_the_body_of_a_compressing_server_is_read(serving):
    async def handler(request):
        assert request.headers["Accept-Encoding"] == "identity"
        return web.Response(
            body=gzip.compress(BODY),
            headers={"Content-Encoding": "gzip", "Content-Type": "text/event-stream"},
        )

    async with registry(await serving(handler)) as providers:
        assert (await answer(providers))[0] == "hello"


async def test_the_error_of_a_compressing_server_is_read(serving):
    async def handler(_):
        return web.Response(
            status=400,
            body=gzip.compress(b'{"error": {"type": "too_bad", "param": "messages"}}'),
            headers={"Content-Encoding": "gzip", "Content-Type": "application/json"},
        )

    async with registry(await serving(handler)) as providers:
        with pytest.raises(UpstreamRejected) as caught:
            await answer(providers)
    assert (caught.value.error_type, caught.value.field) == ("too_bad", "messages")


async def test_cookies_of_a_provider_are_not_kept(serving):
    seen = []

    async def handler(request):
        seen.append(request.headers.get("Cookie"))
        return web.Response(
            body=BODY, headers={"Set-Cookie": "who=tenant-1", "Content-Type": "text/event-stream"}
        )

    async with registry(await serving(handler)) as providers:
        await answer(providers)
        await answer(providers)
    assert seen == [None, None]


async def test_proxies_of_the_environment_are_not_used(serving, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    async def handler(_):
        return web.Response(body=BODY, headers={"Content-Type": "text/event-stream"})

    async with registry(await serving(handler)) as providers:
        assert (await answer(providers))[0] == "hello"


async def test_a_failed_request_is_not_repeated(serving):
    attempts = []

    async def handler(_):
        attempts.append(1)
        return web.Response(status=500)

    async with registry(await serving(handler)) as providers:
        with pytest.raises(UpstreamUnavailable):
            await answer(providers)
    assert len(attempts) == 1


async def test_a_page_of_html_is_never_an_answer(serving):
    async def handler(_):
        return web.Response(text="<html>Sign in to the network</html>", content_type="text/html")

    async with registry(await serving(handler)) as providers:
        text, decoder = await answer(providers)
    assert text == ""
    assert isinstance(decoder.end, UpstreamError)


async def test_cancelled_while_it_connects_or_waits_nothing_stays_open():
    async with Simulator() as simulator, registry(f"{simulator.url}/v1") as providers:
        for delay_s in (0, 0.001, 0.003, 0.01, 0.03):
            task = asyncio.create_task(answer(providers, "sim?silent=1"))
            await asyncio.sleep(delay_s)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        async with asyncio.timeout(5):
            while simulator.stats().connections_open or simulator.stats().requests_open:
                await asyncio.sleep(0.001)
