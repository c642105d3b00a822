"""Counting of input tokens by the providers' endpoints, over real HTTP."""

import asyncio
import time

import pytest
from aiohttp import web

from tokenwire_server.config import Limits, ProviderConfig
from tokenwire_server.errors import (
    UnknownModel,
    UpstreamAuth,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamUnavailable,
)
from tokenwire_server.providers import provider
from tokenwire_server.providers.registry import ProviderRegistry
from tokenwire_server.request import (
    ChatRequest,
    Generation,
    Image,
    JsonSchemaFormat,
    Message,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from tokenwire_server.simulator import Simulator

KINDS = ["anthropic", "openai-responses"]
HELLO = Message("user", (Text("Hello"),))
WEATHER = Tool("weather", "Tells the weather.", '{"type":"object","properties":{"n":{}}}')
LOOKED_UP = (
    Message("system", (Text("Be brief."),)),
    HELLO,
    Message("assistant", (Text("I look."), ToolCall("c1", "weather", '{"n":9007199254740993}'))),
    Message("tool", (ToolResult("c1", "rain"),)),
    Message("user", (Text("And this?"), Image(data=b"\x89PNG", media_type="image/png"))),
)


def ask(*messages, **fields):
    return ChatRequest(model="local/m", messages=messages or (HELLO,), **fields)


def config(kind, url):
    return ProviderConfig(kind=kind, base_url=url if kind == "anthropic" else f"{url}/v1")


def registry(kind, url):
    return ProviderRegistry({"local": config(kind, url)}, Limits(), {})


async def count(providers, request=None, model="sim"):
    return await providers.get("local").count_input_tokens(request or ask(), model)


async def usage_of(providers, request, model):
    """Return the usage that the provider reports after it answered the same request."""
    provider = providers.get("local")
    async with provider.open(request, model, None) as answer:
        while answer.decoder.end is None:
            await answer.read()
    return answer.decoder.usage


@pytest.fixture
async def left_alone():
    """Waits until a simulator has no answer in progress and no connection."""

    async def wait(simulator, within_s=5.0):
        async with asyncio.timeout(within_s):
            while simulator.stats().requests_open or simulator.stats().connections_open:
                await asyncio.sleep(0.001)

    return wait


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "request_",
    [
        ask(),
        ask(*LOOKED_UP, tools=(WEATHER,), tool_choice=ToolChoice("auto")),
        ask(response_format=JsonSchemaFormat("answer", '{"type":"object"}', True)),
        ask(generation=Generation(max_output_tokens=4096, reasoning_effort="low")),
        ask(generation=Generation(temperature=1.0, top_p=0.95)),
        ask(provider_options={"metadata": {"user_id": "u"}, "service_tier": "auto"}),
    ],
)
async def test_the_count_is_what_the_stream_later_reports(kind, request_):
    async with Simulator() as simulator, registry(kind, simulator.url) as providers:
        for model in ("sim?tokens=2", "sim?tokens=2&cache_read_tokens=60&cache_write_tokens=9"):
            counted = await count(providers, request_, model)
            assert counted == (await usage_of(providers, request_, model)).input_tokens
        assert await count(providers, request_, "sim?input_tokens=0") == 0
        assert counted > 69


@pytest.mark.parametrize("kind", KINDS)
async def test_counting_starts_no_answer_and_reuses_its_connection(kind):
    async with Simulator() as simulator, registry(kind, simulator.url) as providers:
        for _ in range(3):
            await count(providers, model="sim?key=k")
        stats = simulator.stats()
        assert (stats.tokens_sent, stats.requests_total, stats.connections_total) == (0, 3, 1)
        entry = simulator.find("k:count")
        assert entry.headers["accept"] == "application/json"
        assert entry.headers["content-type"] == "application/json"


@pytest.mark.parametrize("kind", KINDS)
async def test_the_operators_key_is_sent(kind):
    async with Simulator() as simulator:
        keyed = config(kind, simulator.url).model_copy(update={"api_key_env": "KEY"})
        for key in ("right", "wrong"):
            async with ProviderRegistry({"local": keyed}, Limits(), {"KEY": key}) as providers:
                if key == "right":
                    assert await count(providers, model="sim?api_key=right")
                else:
                    with pytest.raises(UpstreamAuth):
                        await count(providers, model="sim?api_key=right")


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("openai-chat", {}),
        ("openai-responses", {"prompt": {"id": "pmpt_1"}}),
        ("anthropic", {"container": {"skills": []}}),
    ],
)
async def test_input_that_the_endpoint_cannot_count_is_not_sent(kind, options):
    async with Simulator() as simulator, registry(kind, simulator.url) as providers:
        assert await count(providers, ask(provider_options=options)) is None
        assert simulator.stats().connections_total == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, UpstreamRejected),
        (401, UpstreamAuth),
        (404, UnknownModel),
        (429, UpstreamRateLimited),
        (500, UpstreamUnavailable),
        (529, UpstreamUnavailable),
    ],
)
async def test_a_failed_count_has_the_error_of_a_chat_and_is_not_repeated(kind, status, error):
    async with Simulator() as simulator, registry(kind, simulator.url) as providers:
        model = f"sim?status={status}&retry_after=7"
        with pytest.raises(error) as counting:
            await count(providers, model=model)
        assert simulator.stats().requests_total == 1
        with pytest.raises(error) as chatting:
            await usage_of(providers, ask(), model)
    assert str(counting.value) == str(chatting.value)
    assert counting.value.facts() == chatting.value.facts()
    if isinstance(counting.value, UpstreamError):
        assert counting.value.retry_after_s == chatting.value.retry_after_s


async def test_a_refusal_names_the_field():
    async with Simulator() as simulator, registry("openai-responses", simulator.url) as providers:
        with pytest.raises(UpstreamRejected) as caught:
            await count(providers, ask(provider_options={"tool_choice": 7, "tools": 7}))
    assert (caught.value.status, caught.value.field) == (400, "tools")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("status", "said"),
    [
        (404, "404 page not found"),
        (404, ""),
        (404, '{"detail":"Not Found"}'),
        (404, '{"error":{"message":"Invalid URL","type":"invalid_request_error","code":null}}'),
        (404, '{"error":"the model is fine"}'),
        (405, '{"error":{"code":"model_not_found"}}'),
        (501, ""),
    ],
)
async def test_a_compatible_server_without_a_counting_endpoint_returns_no_count(
    serving, kind, status, said
):
    async def handler(_):
        return web.Response(status=status, text=said, content_type="application/json")

    async with registry(kind, await serving(handler)) as providers:
        assert await count(providers) is None


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (
            "openai-responses",
            {"error": {"code": "model_not_found", "type": "invalid_request_error"}},
        ),
        ("openai-responses", {"error": {"param": "model", "type": "NotFoundError"}}),
        ("anthropic", {"type": "error", "error": {"type": "not_found_error", "message": "CANARY"}}),
    ],
)
async def test_a_404_for_the_model_is_unknown_model(serving, kind, said):
    async def handler(_):
        return web.json_response(said, status=404)

    async with registry(kind, await serving(handler)) as providers:
        with pytest.raises(UnknownModel) as caught:
            await count(providers)
    assert "CANARY" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "said",
    [
        b"<html>Sign in to the network CANARY</html>",
        b"",
        b"{}",
        b"[]",
        b'{"input_tokens": -1}',
        b'{"input_tokens": "7"}',
        b'{"input_tokens": 7.5}',
        b'{"input_tokens": null}',
        b'{"input_tokens": 9999999999999999999}',
        b'{"input_tokens": 7',
        b'{"input_tokens": 7}\xff',
        b'{"a":' + b"[" * 60_000,
        b'{"input_tokens": "\xff"}',
    ],
)
async def test_an_answer_without_a_count_is_an_error(serving, kind, said):
    async def handler(_):
        return web.Response(body=said)

    async with registry(kind, await serving(handler)) as providers:
        with pytest.raises(UpstreamUnavailable, match="without a count") as caught:
            await count(providers)
    assert caught.value.retry_after_s is not None
    assert "CANARY" not in str(caught.value)
    assert ("CANARY" in caught.value.provider_text) == (b"CANARY" in said)


async def test_an_answer_without_a_count_is_logged_without_the_key(serving):
    async def handler(_):
        return web.Response(text="no route for horse-battery-staple")

    url = await serving(handler)
    providers = {"local": ProviderConfig(kind="anthropic", base_url=url, api_key_env="KEY")}
    async with ProviderRegistry(providers, Limits(), {"KEY": "horse-battery-staple"}) as registry:
        with pytest.raises(UpstreamUnavailable, match="without a count") as caught:
            await count(registry)
    assert caught.value.provider_text == "no route for [redacted]"


@pytest.mark.parametrize("kind", KINDS)
async def test_other_fields_of_the_answer_are_ignored(serving, kind):
    async def handler(_):
        return web.json_response({"context": {"used": [1]}, "input_tokens": 7, "object": None})

    async with registry(kind, await serving(handler)) as providers:
        assert await count(providers) == 7


async def test_an_endless_answer_is_not_read_to_its_end(serving):
    gone = asyncio.Event()

    async def handler(request):
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b" " * 4096)
        except ConnectionError:
            gone.set()
        return response

    async with registry("anthropic", await serving(handler)) as providers:
        with pytest.raises(UpstreamUnavailable, match="without a count"):
            await count(providers)
        await asyncio.wait_for(gone.wait(), 5)


async def test_a_connection_that_breaks_in_the_answer_is_an_error(serving):
    async def handler(request):
        response = web.StreamResponse(headers={"Content-Length": "50"})
        await response.prepare(request)
        await response.write(b'{"input_tokens": 7')
        request.transport.abort()
        return response

    async with registry("anthropic", await serving(handler)) as providers:
        with pytest.raises(UpstreamUnavailable, match="the connection broke"):
            await count(providers)


@pytest.mark.parametrize("kind", KINDS)
async def test_an_unreachable_provider_is_reported(kind, unused_tcp_port):
    async with registry(kind, f"http://127.0.0.1:{unused_tcp_port}") as providers:
        with pytest.raises(UpstreamUnavailable, match="connection refused"):
            await count(providers)


@pytest.mark.parametrize("kind", KINDS)
async def test_counting_by_a_silent_provider_times_out(kind, monkeypatch, left_alone):
    monkeypatch.setattr(provider, "COUNT_S", 1.0)
    async with Simulator() as simulator, registry(kind, simulator.url) as providers:
        began = time.monotonic()
        with pytest.raises(UpstreamUnavailable, match=r"took longer than 1 s") as caught:
            await count(providers, model="sim?silent=1")
        assert 1.0 <= time.monotonic() - began < 10
        assert caught.value.retry_after_s is not None
        await left_alone(simulator)
        assert simulator.stats().requests_aborted == 1


async def test_the_timeout_includes_a_slow_body(serving, monkeypatch):
    monkeypatch.setattr(provider, "COUNT_S", 0.2)

    async def handler(request):
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.01)

    async with registry("anthropic", await serving(handler)) as providers:
        with pytest.raises(UpstreamUnavailable, match="took longer"):
            await asyncio.wait_for(count(providers), 5)


@pytest.mark.parametrize("kind", KINDS)
async def test_cancelling_at_any_moment_closes_the_connection(kind, left_alone):
    async with Simulator() as simulator, registry(kind, simulator.url) as providers:
        for delay_s in (0, 0.001, 0.003, 0.01, 0.03):
            task = asyncio.create_task(count(providers, model="sim?silent=1"))
            await asyncio.sleep(delay_s)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await left_alone(simulator)


@pytest.mark.parametrize("kind", KINDS)
async def test_cancelling_while_the_provider_is_silent_closes_the_connection(kind, left_alone):
    async with Simulator() as simulator, registry(kind, simulator.url) as providers:
        task = asyncio.create_task(count(providers, model="sim?silent=1"))
        async with asyncio.timeout(5):
            while not simulator.stats().requests_open:
                await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await left_alone(simulator)
        assert simulator.stats().requests_aborted == 1
