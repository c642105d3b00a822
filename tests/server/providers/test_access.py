"""Configured headers and query parameters of a provider's requests, over real HTTP."""

import asyncio

import pytest
from aiohttp import web

from tokenwire_server.config import ConfigError, Limits, ProviderConfig
from tokenwire_server.errors import UpstreamRejected, UpstreamUnavailable
from tokenwire_server.providers.registry import ProviderRegistry
from tokenwire_server.request import ChatRequest, Message, Text

REQUEST = ChatRequest(model="local/m", messages=(Message("user", (Text("hi"),)),))
SECRET = "canary-of-the-operator"


@pytest.fixture
async def requested(serving):
    """Sends a chat to a server that refuses it. Returns the request, and the error."""

    async def run(environ, path="", **fields):
        seen = []

        async def handler(request):
            seen.append(request)
            return web.json_response({"message": f"not with {SECRET}"}, status=400)

        config = ProviderConfig(
            **{"kind": "openai-chat", "base_url": await serving(handler) + path} | fields
        )
        async with ProviderRegistry({"local": config}, Limits(), environ) as providers:
            with pytest.raises(UpstreamRejected) as caught:
                await providers.get("local").open(REQUEST, "m", None).__aenter__()
        return seen[0], caught.value

    return run


async def test_azure_gets_its_key_and_its_version(requested):
    request, error = await requested(
        {"AZURE_KEY": f" {SECRET}\n"},
        "/openai/deployments/gpt",
        headers={"api-key": {"env": "AZURE_KEY"}},
        query={"api-version": "2024-10-21", "x y": "&=?"},
    )
    assert request.path == "/openai/deployments/gpt/chat/completions"
    assert request.headers["api-key"] == SECRET
    assert dict(request.query) == {"api-version": "2024-10-21", "x y": "&=?"}
    assert "Authorization" not in request.headers
    assert SECRET not in str(error) + str(error.facts()) + error.provider_text
    assert error.provider_message == "not with [redacted]"


@pytest.mark.parametrize("kind", ["openai-chat", "openai-responses", "anthropic"])
async def test_a_configured_header_replaces_the_usual_one_and_no_other_is_sent(
    requested, monkeypatch, kind
):
    monkeypatch.setenv("OPENAI_ORG_ID", "not-for-others")
    request, _ = await requested(
        {"K": "the-key"},
        kind=kind,
        api_key_env="K",
        headers={"authorization": "Basic abc", "X-Team": "blue", "User-Agent": "ours"},
    )
    sent = {name.lower() for name in request.headers}
    usual = {"accept", "accept-encoding", "content-type", "content-length", "host"}
    more = {"anthropic-version"} if kind == "anthropic" else set()
    assert sent == usual | more | {"authorization", "x-team", "user-agent"}
    assert request.headers.getall("Authorization") == ["Basic abc"]
    assert request.headers["User-Agent"] == "ours"
    assert request.headers["Accept-Encoding"] == "identity"


def test_a_provider_whose_variable_is_not_set_is_not_offered():
    fields = {"kind": "openai-chat", "base_url": "http://a"}
    for where in ("headers", "query"):
        config = ProviderConfig(**fields, **{where: {"x": {"env": "NOT_SET"}}})
        registry = ProviderRegistry({"local": config}, Limits(), {"NOT_SET": " "})
        assert registry.missing_key_env("local") == "NOT_SET"


def test_a_variable_that_cannot_be_sent_is_named_without_its_value():
    fields = {"kind": "openai-chat", "base_url": "http://a"}
    config = ProviderConfig(**fields, headers={"x": {"env": "ODD"}})
    with pytest.raises(ConfigError, match="ODD: must contain only printable ASCII") as caught:
        ProviderRegistry({"local": config}, Limits(), {"ODD": "canary\nX-Other: 1"})
    assert "canary" not in str(caught.value)


async def test_the_error_of_a_broken_response_has_no_query():
    async def junk(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/9 what\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(junk, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        config = ProviderConfig(kind="openai-chat", base_url=url, query={"key": {"env": "K"}})
        secret = f"{SECRET}+/ ="
        async with ProviderRegistry({"local": config}, Limits(), {"K": secret}) as providers:
            with pytest.raises(UpstreamUnavailable) as caught:
                await providers.get("local").open(REQUEST, "m", None).__aenter__()
    assert f"{url}/chat/completions?[redacted]" in caught.value.provider_text
    assert SECRET not in caught.value.provider_text
