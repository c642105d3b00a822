"""The behaviour of the HTTP client that streaming relies on, against real sockets."""

import asyncio
import gc
import gzip

import brotli
import pytest
from aiohttp import web

from tokenwire_server.config import Limits, ProviderConfig
from tokenwire_server.errors import (
    UpstreamAuth,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamUnavailable,
)
from tokenwire_server.events import TextDelta
from tokenwire_server.providers import http
from tokenwire_server.providers.decode.base import Complete
from tokenwire_server.providers.registry import ProviderRegistry
from tokenwire_server.providers.response import Response
from tokenwire_server.request import ChatRequest, Message, Text
from tokenwire_server.simulator import Simulator, generated_text

REQUEST = ChatRequest(model="local/m", messages=(Message("user", (Text("hi"),)),))
BODY = (
    b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"hello"},"finish_reason":null}]}\n\n'
    b'data: {"id":"1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    b"data: [DONE]\n\n"
)


def registry(url, *, limits=None, kind="openai-chat"):
    config = ProviderConfig(kind=kind, base_url=url)
    return ProviderRegistry({"local": config}, limits or Limits(), {})


async def answer(providers, model="m"):
    """Read one answer to its end; return its text and the decoder."""
    provider = providers.get("local")
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


async def test_an_answer_that_has_arrived_as_a_whole_has_more_until_its_last_read():
    async with Simulator() as simulator, registry(f"{simulator.url}/v1") as providers:
        async with providers.get("local").open(REQUEST, "sim?tokens=60&itl_ms=0", None) as upstream:
            async with asyncio.timeout(5):
                while not upstream._response.has_ended:
                    await asyncio.sleep(0.001)
            has_more = []
            while upstream.end is None:
                await upstream.read()
                has_more.append(upstream.has_more)
    assert len(has_more) > 1
    assert all(has_more[:-1])


async def test_bytes_received_before_the_connection_broke_are_decoded():
    async with Simulator() as simulator, registry(f"{simulator.url}/v1") as providers:
        text, decoder = await answer(providers, "sim?tokens=50&drop_after=20&drop=rst")
        assert text == "".join(generated_text(20))
        assert isinstance(decoder.end, UpstreamError)


@pytest.mark.parametrize("drop", ["close", "rst"])
async def test_bytes_received_before_a_break_are_decoded_even_if_the_break_is_noticed_first(drop):
    async with Simulator() as simulator, registry(f"{simulator.url}/v1") as providers:
        model = f"sim?tokens=50&drop_after=20&drop={drop}"
        provider = providers.get("local")
        async with provider.open(REQUEST, model, None) as upstream:
            async with asyncio.timeout(5):
                while simulator.stats().connections_open:
                    await asyncio.sleep(0.001)
            await asyncio.sleep(0.1)  # and this side has noticed it, too
            deltas = []
            while upstream.decoder.end is None:
                deltas += await upstream.read()
    text = "".join(delta.text for delta in deltas)
    assert text == "".join(generated_text(20))
    assert isinstance(upstream.decoder.end, UpstreamError)


async def test_a_connection_is_reused_if_the_body_ends_shortly_after_its_answer(serving):
    callers = set()

    async def handler(request):
        callers.add(request.transport.get_extra_info("peername"))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(BODY)
        await asyncio.sleep(0.03)
        return response

    async with registry(await serving(handler)) as providers:
        for _ in range(3):
            assert (await answer(providers))[0] == "hello"
    assert len(callers) == 1


@pytest.mark.parametrize(
    ("encoding", "compress"), [("gzip", gzip.compress), ("br", brotli.compress)]
)
async def test_the_body_of_a_compressing_server_is_read(serving, encoding, compress):
    async def handler(request):
        assert request.headers["Accept-Encoding"] == "identity"
        return web.Response(
            body=compress(BODY),
            headers={"Content-Encoding": encoding, "Content-Type": "text/event-stream"},
        )

    async with registry(await serving(handler)) as providers:
        assert (await answer(providers))[0] == "hello"


async def test_an_unsupported_compression_is_reported(serving):
    async def handler(_):
        return web.Response(body=b"\x1f\x9d", headers={"Content-Encoding": "compress"})

    async with registry(await serving(handler)) as providers:
        with pytest.raises(
            UpstreamUnavailable, match="encoding other than gzip, deflate, br and zstd"
        ) as caught:
            await answer(providers)
    assert caught.value.provider_text == "compress"


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


@pytest.mark.parametrize("ends", ["breaks", "never ends"])
async def test_the_error_in_an_incomplete_error_body_is_reported(serving, monkeypatch, ends):
    monkeypatch.setattr(http, "ERROR_BODY_S", 0.5)

    async def handler(request):
        response = web.StreamResponse(status=400)
        response.content_length = 1000
        await response.prepare(request)
        await response.write(b'{"error": {"type": "too_bad", "param": "messages"}}')
        if ends == "breaks":
            request.transport.close()
        await asyncio.sleep(30)

    async with registry(await serving(handler)) as providers:
        with pytest.raises(UpstreamRejected) as rejected:
            await answer(providers)
    assert rejected.value.error_type == "too_bad"


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


@pytest.mark.parametrize("kind", ["openai-chat", "openai-responses", "anthropic"])
async def test_a_failed_request_is_not_repeated(serving, kind):
    attempts = []

    async def handler(_):
        attempts.append(1)
        return web.Response(status=500)

    async with registry(await serving(handler), kind=kind) as providers:
        with pytest.raises(UpstreamUnavailable):
            await answer(providers)
    assert len(attempts) == 1


async def test_an_html_page_is_not_a_complete_answer(serving):
    async def handler(_):
        return web.Response(text="<html>Sign in to the network</html>", content_type="text/html")

    async with registry(await serving(handler)) as providers:
        text, decoder = await answer(providers)
    assert text == ""
    assert isinstance(decoder.end, UpstreamError)


async def test_cancelling_a_connect_or_a_wait_leaves_nothing_open():
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


async def test_a_request_counts_as_sent_once_it_is_written_to_a_connection():
    async with Simulator() as simulator, registry(f"{simulator.url}/v1") as providers:
        upstream = providers.get("local").open(REQUEST, "sim?silent=1", None)
        task = asyncio.create_task(upstream.__aenter__())
        assert not upstream.is_sent
        async with asyncio.timeout(5):
            while not upstream.is_sent:
                await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.wait([task])
    async with registry("http://127.0.0.1:9/v1") as providers:
        upstream = providers.get("local").open(REQUEST, "m", None)
        with pytest.raises(UpstreamUnavailable, match="connection refused"):
            await upstream.__aenter__()
        assert not upstream.is_sent


async def test_a_complete_answer_whose_body_never_ends_is_not_waited_for(serving):
    async def handler(request):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(BODY)
        await asyncio.sleep(60)
        return response

    async with registry(await serving(handler)) as providers:
        text, decoder = await asyncio.wait_for(answer(providers), 5)
    assert text == "hello"
    assert isinstance(decoder.end, Complete)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (402, UpstreamAuth),
        (408, UpstreamUnavailable),
        (409, UpstreamUnavailable),
        (418, UpstreamRejected),
        (425, UpstreamUnavailable),
        (429, UpstreamRateLimited),
        (504, UpstreamUnavailable),
    ],
)
async def test_each_status_is_mapped_to_its_error(serving, status, kind):
    async def handler(_):
        return web.Response(status=status)

    async with registry(await serving(handler)) as providers:
        with pytest.raises(UpstreamError) as caught:
            await answer(providers)
    assert type(caught.value) is kind
    assert (caught.value.retry_after_s is None) == (kind in (UpstreamAuth, UpstreamRejected))


@pytest.mark.parametrize(
    ("said", "retry_after_s"),
    [("7", 7), ("0.5", 0.5), ("0", 0), ("-5", 1), ("nan", 1), ("soon", 1), ("1e300", 3600)],
)
async def test_retry_after_is_bounded_and_must_be_seconds(serving, said, retry_after_s):
    async def handler(_):
        return web.Response(status=429, headers={"Retry-After": said})

    async with registry(await serving(handler)) as providers:
        with pytest.raises(UpstreamRateLimited) as caught:
            await answer(providers)
    assert caught.value.retry_after_s == retry_after_s


@pytest.mark.parametrize("kind", ["openai-chat", "openai-responses", "anthropic"])
async def test_the_callers_error_has_the_providers_error_type_and_not_its_text(serving, kind):
    said = {"type": "too_bad", "param": "the prompt CANARY"}

    async def handler(_):
        return web.json_response({"type": "error", "error": said}, status=400)

    async with registry(await serving(handler), kind=kind) as providers:
        with pytest.raises(UpstreamRejected) as caught:
            await answer(providers)
        said |= {"type": "the prompt CANARY", "code": "x" * 200}
        with pytest.raises(UpstreamRejected) as prose:
            await answer(providers)
    assert (caught.value.error_type, caught.value.field) == ("too_bad", "")
    assert (prose.value.error_type, prose.value.field) == ("", "")
    assert "CANARY" in prose.value.provider_text


async def test_a_server_without_tls_is_reported_as_such(serving):
    async def handler(_):
        return web.Response()

    url = (await serving(handler)).replace("http://", "https://")
    async with registry(url) as providers:
        with pytest.raises(
            UpstreamUnavailable,
            match=r"it does not use TLS; should its address begin with http://\?",
        ):
            await answer(providers)


async def test_a_tls_server_behind_an_http_url_is_reported_as_such():
    async def alert(reader, writer):
        await reader.read(1)
        writer.write(bytes.fromhex("15030300020246"))  # RFC 8446, 6: fatal, protocol_version
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(alert, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with registry(f"http://127.0.0.1:{port}") as providers:
            with pytest.raises(UpstreamUnavailable, match=r"it uses TLS; .* begin with https://"):
                await answer(providers)


async def test_openai_gets_the_operators_organization(serving):
    environ = {"OPENAI_ORG_ID": "our-own"}
    seen = []

    async def handler(request):
        seen.append(request.headers.get("OpenAI-Organization"))
        return web.Response(body=BODY, headers={"Content-Type": "text/event-stream"})

    config = ProviderConfig(kind="openai-chat", base_url=await serving(handler))
    for name in ("openai", "local"):
        async with ProviderRegistry({name: config}, Limits(), environ) as providers:
            async with providers.get(name).open(REQUEST, "m", None) as upstream:
                while upstream.decoder.end is None:
                    await upstream.read()
    assert seen == ["our-own", None]


async def test_a_host_name_that_cannot_be_resolved_is_reported_as_such():
    async with registry("http://nobody.invalid/v1") as providers:
        with pytest.raises(UpstreamUnavailable, match="cannot be resolved"):
            await answer(providers)


async def test_a_kept_alive_connection_does_not_refer_to_its_responses():
    async with Simulator() as simulator, registry(f"{simulator.url}/v1") as providers:
        for _ in range(20):
            await answer(providers, "sim?tokens=3&itl_ms=5")
        assert simulator.stats().connections_total == 1
        gc.collect()
        assert not [each for each in gc.get_objects() if type(each) is Response]


async def test_an_open_answer_refers_to_no_headers():
    async with Simulator() as simulator, registry(f"{simulator.url}/v1") as providers:
        async with providers.get("local").open(REQUEST, "sim?tokens=2&stall_after=1", None):
            gc.collect()
            answers = [each for each in gc.get_objects() if type(each) is Response]
            assert [each.headers for each in answers] == [{}]


async def test_the_reset_of_a_kept_alive_connection_is_no_error_of_ours(caplog):
    async with Simulator() as simulator, registry(f"{simulator.url}/v1") as providers:
        await answer(providers, "sim?tokens=3&itl_ms=5")
        with pytest.raises(UpstreamUnavailable):
            await answer(providers, "sim?drop_before_head=1&drop=rst")
        assert simulator.stats().connections_total == 1
        gc.collect()
        await asyncio.sleep(0)
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


async def test_a_problem_of_answers_is_a_warning_once(serving, caplog):
    async def handler(request):
        return web.Response(
            body=BODY.replace(b'"id":"1"', b'"id":{}'), content_type="text/event-stream"
        )

    async with registry(await serving(handler)) as providers:
        for _ in range(2):
            text, _ = await answer(providers)
            assert text == "hello"

    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == ["provider 'local': fields of its answer cannot be read: id: object"]
