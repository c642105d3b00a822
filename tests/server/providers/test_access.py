"""Configured headers and query parameters of a provider's requests, over real HTTP."""

import asyncio

import pytest
from aiohttp import web

from tokenwire_server.config import ConfigError, Limits, ProviderConfig, known_providers
from tokenwire_server.errors import (
    UpstreamAuth,
    UpstreamError,
    UpstreamRejected,
    UpstreamUnavailable,
)
from tokenwire_server.providers.registry import ProviderRegistry
from tokenwire_server.request import ChatRequest, Message, Text

REQUEST = ChatRequest(model="local/m", messages=(Message("user", (Text("hi"),)),))
SECRET = "canary-of-the-operator"


@pytest.fixture
async def requested(serving):
    """Sends a chat to a server that refuses it. Returns the request, and the error."""

    async def run(environ, path="", own_key="", status=400, **fields):
        seen = []

        async def handler(request):
            seen.append(request)
            return web.json_response({"message": f"not with {own_key or SECRET}"}, status=status)

        config = ProviderConfig(
            **{"kind": "openai-chat", "base_url": await serving(handler) + path} | fields
        )
        async with ProviderRegistry({"local": config}, Limits(), environ) as providers:
            provider = providers.get("local")
            if own_key:
                provider = providers.with_key("local", own_key)
            with pytest.raises(UpstreamError) as caught:
                await provider.open(REQUEST, "m", None).__aenter__()
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
async def test_a_configured_header_replaces_the_usual_one_and_no_other_is_sent(requested, kind):
    request, _ = await requested(
        {"K": "the-key", "OPENAI_ORG_ID": "not-for-others"},
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


@pytest.mark.parametrize("kind", ["openai-chat", "openai-responses", "anthropic"])
async def test_a_tenants_own_key_replaces_all_secrets_of_the_server(requested, kind):
    own_key = "own-key-of-a-tenant"
    request, error = await requested(
        {"K": SECRET, "OPENAI_ORG_ID": SECRET},
        own_key=own_key,
        status=401,
        kind=kind,
        api_key_env="K",
        headers={
            "Authorization": f"Basic {SECRET}",
            "api-key": {"env": "K"},
            "X-Secret": SECRET,
            "X-Team": "blue",
        },
        query={"api-version": "1", "subscription": {"env": "K"}},
    )
    assert request.headers.getall("Authorization") == [f"Bearer {own_key}"]
    assert request.headers["X-Team"] == "blue"
    assert dict(request.query) == {"api-version": "1"}
    assert SECRET not in str(request.headers)
    assert isinstance(error, UpstreamAuth)
    assert own_key not in str(error) + str(error.facts()) + error.provider_text
    assert error.facts()["key_owner"] == "tenant"


@pytest.mark.parametrize("own_key", ["", "own-key-of-a-tenant"], ids=["server's", "tenant's"])
@pytest.mark.parametrize("kind", ["openai-chat", "openai-responses", "anthropic"])
async def test_variables_of_the_sdks_do_not_replace_the_key(requested, kind, own_key):
    lines = [f"{name}: {SECRET}" for name in ("authorization", "Authorization", "openai-project")]
    variables = ("OPENAI_CUSTOM_HEADERS", "ANTHROPIC_CUSTOM_HEADERS")
    environ = {"K": "the-key"} | dict.fromkeys(variables, "\n".join(lines))
    request, _ = await requested(environ, kind=kind, api_key_env="K", own_key=own_key)
    assert request.headers.getall("Authorization") == [f"Bearer {own_key or 'the-key'}"]
    assert SECRET not in str(request.headers)


async def test_openai_does_not_get_the_servers_organization_with_a_tenants_key(serving):
    environ = {
        "OPENAI_API_KEY": "k",
        "OPENAI_ORG_ID": "org-of-the-server",
        "OPENAI_PROJECT_ID": "project-of-the-server",
    }
    seen = []

    async def handler(request):
        seen.append(request.headers.get("OpenAI-Organization"))
        return web.json_response({}, status=400)

    config = known_providers({})["openai"].model_copy(update={"base_url": await serving(handler)})
    async with ProviderRegistry({"openai": config}, Limits(), environ) as providers:
        for provider in (providers.get("openai"), providers.with_key("openai", "own")):
            with pytest.raises(UpstreamRejected):
                await provider.open(REQUEST, "m", None).__aenter__()
    assert seen == ["org-of-the-server", None]


def test_a_provider_whose_variable_is_not_set_is_not_offered():
    fields = {"kind": "openai-chat", "base_url": "http://a"}
    for where in ("headers", "query"):
        config = ProviderConfig(**fields, **{where: {"x": {"env": "NOT_SET"}}})
        registry = ProviderRegistry({"local": config}, Limits(), {"NOT_SET": " "})
        assert registry.missing_key_env("local") == "NOT_SET"


@pytest.mark.parametrize("variable", ["ODD", "OPENAI_ORG_ID"])
def test_a_variable_that_cannot_be_sent_is_named_without_its_value(variable):
    fields = {"kind": "openai-chat", "base_url": "http://a"}
    config = ProviderConfig(**fields, headers={"x": {"env": "ODD"}})
    environ = {"ODD": "even", variable: "canary\nX-Other: 1"}
    with pytest.raises(
        ConfigError, match=f"{variable}: must contain only printable ASCII"
    ) as caught:
        ProviderRegistry({"openai": config}, Limits(), environ)
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
    assert "HTTP/9 what" in caught.value.provider_text
    assert "key=" not in caught.value.provider_text
    assert SECRET not in caught.value.provider_text
