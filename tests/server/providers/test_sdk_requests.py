"""The requests that providers receive, compared with those that the official SDKs send.

A release of an SDK that sends anything else, such as another header, fails these tests.
"""

import inspect
import json
from contextlib import suppress

import anthropic
import httpx2
import openai
import pytest
from aiohttp import web

from tokenwire_server.config import OPENAI_QUIRKS, Limits, ProviderConfig, Quirks
from tokenwire_server.errors import UpstreamRejected
from tokenwire_server.providers.headers import ANTHROPIC_VERSION, NO_KEY
from tokenwire_server.providers.registry import ProviderRegistry
from tokenwire_server.request import (
    Audio,
    ChatRequest,
    Document,
    Generation,
    GrammarFormat,
    Image,
    JsonFormat,
    JsonSchemaFormat,
    Message,
    Reasoning,
    RegexFormat,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from tokenwire_server.telemetry.trace_context import provider_headers

KEY = "key-of-the-server"
KINDS = ("openai-chat", "openai-responses", "anthropic")
QUIRKS = {
    "openai-chat": OPENAI_QUIRKS,
    "compatible": Quirks(
        top_k=True,
        constraints="structured_outputs",
        prefill="continue_final_message",
        send_reasoning=True,
        tool_images=True,
        continuous_usage=True,
    ),
}
COUNTS = ("openai-responses", "anthropic")

OF_THE_SDK = ("connection", "x-stainless-")
"""Prefixes of headers of the SDKs that are left out on purpose: they describe the SDK and its HTTP client."""

PNG = Image(data=b"\x89PNG", media_type="image/png")
SCHEMA = '{"type":"object","properties":{"n":{"const":9007199254740993}},"required":["n"]}'
LOOK = Tool("look", "Looks \u2603.", SCHEMA)
CALLED = (
    Message("user", (Text("Look."),)),
    Message("assistant", (Text("I look."), ToolCall("c1", "look", '{"n":1}'))),
    Message("tool", (ToolResult("c1", "a cat", is_error=True),)),
)


def hello(*parts):
    return (Message("user", (Text("Hello \U0001f43b \u2028 </script>", cache_hint=True), *parts)),)


def asking(**generation):
    return {"generation": Generation(**generation)}


def choosing(*choice, **fields):
    return {"tools": (LOOK, Tool("bare", "", "")), "tool_choice": ToolChoice(*choice, **fields)}


def turn(*parts):
    return {"messages": (*hello(), Message("assistant", parts), *hello())}


FEATURES = {
    "text": {},
    "system": {"messages": (Message("system", (Text("Be brief."),)), *hello())},
    "image": {"messages": hello(PNG)},
    "image by its address": {"messages": hello(Image(uri="https://x.test/a.png"))},
    "PDF": {"messages": hello(Document(data=b"%PDF", media_type="application/pdf", title="A"))},
    "text document": {"messages": hello(Document(data=b"Hi", media_type="text/plain", title="A"))},
    "audio": {"messages": hello(Audio(data=b"RIFF", media_type="audio/wav"))},
    "tool calls": {"messages": CALLED, "tools": (LOOK,)},
    "image of a tool": {
        "messages": (*CALLED[:2], Message("tool", (ToolResult("c1", "", parts=(PNG,)),))),
        "tools": (LOOK,),
    },
    "reasoning": turn(Reasoning("Hm.", "signature"), Text("Hi.")),
    "start of an answer": {"messages": (*hello(), Message("assistant", (Text("I"),)))},
    "max_output_tokens": asking(max_output_tokens=100),
    "temperature": asking(temperature=0.25),
    "top_p": asking(top_p=0.95),
    "top_k": asking(top_k=5),
    "seed": asking(seed=2**53 + 1),
    "penalties": asking(presence_penalty=0.5, frequency_penalty=-1.0),
    "stop_sequences": asking(stop_sequences=("END", "\u2603")),
    "effort": asking(reasoning_effort="high"),
    "reasoning budget": asking(reasoning_budget_tokens=2048),
    "reasoning summary": asking(reasoning_effort="low", reasoning_summary="auto"),
    "logprobs": asking(top_logprobs=2),
    "service_tier": asking(service_tier="auto"),
    "tools": choosing("auto"),
    "no tool": choosing("none"),
    "any tool": choosing("required", parallel=False),
    "one tool": choosing("tool", "look", parallel=True),
    "JSON": {"response_format": JsonFormat()},
    "JSON schema": {"response_format": JsonSchemaFormat("answer", SCHEMA, True)},
    "regex": {"response_format": RegexFormat("a+")},
    "grammar": {"response_format": GrammarFormat("root ::= a")},
    "options": {"provider_options": {"metadata": {"user_id": "u"}, "unknown": [1.5, None]}},
}
UNSUPPORTED = {
    "openai-chat": {
        "image of a tool", "top_k", "reasoning budget", "reasoning summary", "regex", "grammar",
    },
    "compatible": {"reasoning budget", "reasoning summary"},
    "openai-responses": {
        "audio", "top_k", "seed", "penalties", "stop_sequences", "reasoning budget", "regex", "grammar",
    },
    "anthropic": {"audio", "seed", "penalties", "logprobs", "JSON", "regex", "grammar"},
}  # fmt: skip
"""Features that a dialect refuses. The body of everything else is compared."""
SUPPORTED = [
    (kind, feature)
    for kind, unsupported in UNSUPPORTED.items()
    for feature in FEATURES
    if feature not in unsupported
]


def request(messages=None, **fields):
    return ChatRequest(model="p/m", messages=messages or hello(), **fields)


class Received:
    """A request as the server received it."""

    def __init__(self, request, content):
        self.method = request.method
        self.raw_path = request.url.raw_path_qs
        self.url = request.url
        self.headers = request.headers
        self.content = content


class Providers:
    """Sends requests of Tokenwire and of the SDKs to one server that refuses them all."""

    def __init__(self, url, received):
        self.url = url
        self._received = received

    async def ours(
        self, asked, kind, *, own_key="", counts=False, name="p", environ=None, **config
    ):
        """Return the request that the server received for a chat, or for a count of its tokens."""
        config = ProviderConfig(
            kind="openai-chat" if kind == "compatible" else kind,
            base_url=self.url,
            quirks=QUIRKS.get(kind, Quirks()),
            **config,
        )
        async with ProviderRegistry({name: config}, Limits(), environ or {"KEY": KEY}) as registry:
            provider = registry.with_key(name, own_key) if own_key else registry.get(name)
            assert list(provider.check(asked)) == []
            with pytest.raises(UpstreamRejected):
                if counts:
                    await provider.count_input_tokens(asked, "m")
                else:
                    await provider.open(asked, "m", 512).__aenter__()
        return self._received.pop()


@pytest.fixture
async def providers(serving):
    received = []

    async def handler(got):
        received.append(Received(got, await got.read()))
        return web.json_response({"error": {"message": "no"}}, status=400)

    return Providers(f"{await serving(handler)}/base/v1", received)


async def sent_by_sdk(kind, url, body, *, key=KEY, counts=False, raw_path="", **client):
    """Return the request that an SDK sends for a body, with the method that users of the SDK call.

    With `raw_path` the body is sent to this path, without the SDK's types of its fields.
    """
    requests = []

    def answer(sent):
        requests.append(sent)
        return httpx2.Response(400, json={})

    module = anthropic if kind == "anthropic" else openai
    Client = anthropic.AsyncAnthropic if kind == "anthropic" else openai.AsyncOpenAI  # noqa: N806
    async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer)) as http:
        sdk = Client(api_key=key, base_url=url, http_client=http, max_retries=0, **client)
        if kind == "anthropic":
            method = sdk.messages.count_tokens if counts else sdk.messages.create
        elif kind == "openai-responses":
            method = sdk.responses.input_tokens.count if counts else sdk.responses.create
        else:
            method = sdk.chat.completions.create
        known = inspect.signature(method).parameters.keys() & body.keys()
        with suppress(module.APIStatusError):
            if raw_path:
                await sdk.post(raw_path, body=body, cast_to=object)
            else:
                await method(
                    **{name: body[name] for name in known},
                    extra_body={name: body[name] for name in body.keys() - known},
                )
    (sent,) = requests
    return sent


def same_headers(ours, theirs, accept="text/event-stream"):
    """Check that a request has all headers of the SDK's and no other, except those set on purpose."""
    found = [(name.lower(), value) for name, value in ours.headers.items()]
    expected = {
        name: value
        for name, value in theirs.headers.items()
        if not name.startswith(OF_THE_SDK) and value
    }
    assert len(theirs.headers.multi_items()) == len(theirs.headers)
    assert expected.keys() >= {"accept", "accept-encoding", "content-length", "user-agent"}
    expected |= {
        "accept": accept,
        "accept-encoding": "identity",
        "content-length": str(len(ours.content)),
        "user-agent": ours.headers["User-Agent"],
    }
    if "anthropic-version" in expected:
        expected["anthropic-version"] = ANTHROPIC_VERSION
    assert sorted(found) == sorted(expected.items())
    assert ours.headers["User-Agent"].startswith("tokenwire/")


@pytest.mark.parametrize(("kind", "feature"), SUPPORTED)
async def test_a_chat_is_the_request_of_the_sdk(providers, kind, feature):
    ours = await providers.ours(request(**FEATURES[feature]), kind, api_key_env="KEY")
    body = json.loads(ours.content)
    theirs = await sent_by_sdk(kind, providers.url, body)
    assert (ours.method, ours.raw_path) == (theirs.method, theirs.url.raw_path.decode())
    assert body == json.loads(theirs.content)
    same_headers(ours, theirs)
    path = ours.raw_path.removeprefix("/base/v1")
    assert ours.content == (await sent_by_sdk(kind, providers.url, body, raw_path=path)).content


@pytest.mark.parametrize(("kind", "feature"), [pair for pair in SUPPORTED if pair[0] in COUNTS])
async def test_a_count_is_the_request_of_the_sdk(providers, kind, feature):
    asked = request(**FEATURES[feature])
    ours = await providers.ours(asked, kind, api_key_env="KEY", counts=True)
    body = json.loads(ours.content)
    theirs = await sent_by_sdk(kind, providers.url, body, counts=True)
    assert (ours.method, ours.raw_path) == (theirs.method, theirs.url.raw_path.decode())
    assert body == json.loads(theirs.content)
    same_headers(ours, theirs, accept="application/json")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", ["", "/", "/openai/deployments/gpt", "/a%20b/%C3%BC/@x;y=1"])
async def test_the_path_of_a_base_url_is_kept(providers, kind, path):
    providers.url = providers.url.removesuffix("/base/v1") + path
    ours = await providers.ours(request(), kind, api_key_env="KEY")
    theirs = await sent_by_sdk(kind, providers.url, json.loads(ours.content))
    assert ours.raw_path == theirs.url.raw_path.decode()


@pytest.mark.parametrize("kind", KINDS)
async def test_configured_headers_and_parameters_are_those_of_the_sdks_client(providers, kind):
    headers = {"X-Team": "blue", "authorization": "Basic abc"}
    query = {"api-version": "2024-10-21", "key": "a b/c=&?"}
    ours = await providers.ours(request(), kind, api_key_env="KEY", headers=headers, query=query)
    theirs = await sent_by_sdk(
        kind,
        providers.url,
        json.loads(ours.content),
        default_headers=headers | {"Authorization": headers["authorization"]},
        default_query=query,
    )
    assert ours.url.path == theirs.url.path
    assert list(ours.url.query.items()) == theirs.url.params.multi_items()
    del theirs.headers["authorization"]
    theirs.headers["Authorization"] = headers["authorization"]
    same_headers(ours, theirs)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_server_without_a_key_gets_a_key_only_if_no_header_is_configured(providers, kind):
    ours = await providers.ours(request(), kind)
    body = json.loads(ours.content)
    same_headers(ours, await sent_by_sdk(kind, providers.url, body, key=NO_KEY))
    ours = await providers.ours(request(), kind, headers={"api-key": "abc"})
    omitted = {"Authorization": (anthropic if kind == "anthropic" else openai).Omit()}
    body |= {"extra_headers": {"api-key": "abc"} | omitted}
    same_headers(ours, await sent_by_sdk(kind, providers.url, body))


@pytest.mark.parametrize("kind", ["openai-chat", "openai-responses"])
async def test_openai_gets_the_organization_and_the_project(providers, kind, monkeypatch):
    variables = {"OPENAI_ORG_ID": "org-1", "OPENAI_PROJECT_ID": "project-1"}
    ours = await providers.ours(
        request(), kind, name="openai", api_key_env="KEY", environ={"KEY": KEY, **variables}
    )
    for name, value in variables.items():
        monkeypatch.setenv(name, value)  # the SDK reads them itself
    assert ours.headers["OpenAI-Organization"] == "org-1"
    assert ours.headers["OpenAI-Project"] == "project-1"
    same_headers(ours, await sent_by_sdk(kind, providers.url, json.loads(ours.content)))


@pytest.mark.parametrize("kind", KINDS)
async def test_each_key_is_sent_as_the_sdk_sends_it(providers, kind):
    for own_key in ("", "own-key-1", "own-key-2"):
        ours = await providers.ours(request(), kind, api_key_env="KEY", own_key=own_key)
        body = json.loads(ours.content)
        same_headers(ours, await sent_by_sdk(kind, providers.url, body, key=own_key or KEY))


async def test_the_trace_context_of_the_task_is_added(providers):
    trace = (("traceparent", "00-1-2-01"), ("tracestate", "a=b"))
    token = provider_headers.set(trace)
    ours = await providers.ours(request(), "openai-chat", headers={"X-Team": "blue"})
    provider_headers.reset(token)
    sent = [(name.lower(), value) for name, value in ours.headers.items()]
    assert [pair for pair in sent if pair[0].startswith("trace")] == list(trace)
    assert ("x-team", "blue") in sent
