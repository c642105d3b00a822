"""The body for a provider's counting endpoint: that of the chat, without unsupported keys."""

import json
from functools import cache
from typing import get_type_hints

import msgspec
import pytest
from anthropic.types import MessageCountTokensParams
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import InputTokenCountParams
from pydantic import TypeAdapter

from tokenwire_server.config import ProviderConfig
from tokenwire_server.providers import anthropic, openai_responses
from tokenwire_server.request import (
    ChatRequest,
    Generation,
    JsonSchemaFormat,
    Message,
    Text,
    Tool,
    ToolChoice,
)

WEATHER = Tool("weather", "Tells the weather.", '{"type":"object","properties":{"n":{}}}')
DIALECTS = {
    "anthropic": (anthropic.AnthropicMessages(), MessageCountTokensParams),
    "openai-responses": (openai_responses.OpenAIResponses(), InputTokenCountParams),
}
SENT_AS_HEADERS = {"user_profile_id", "workspace_id"}
"""A parameter of Anthropic's SDK that is not part of the body."""

texts = st.text(min_size=1, max_size=20).filter(str.strip)  # blank text is not sent
requests = st.builds(
    ChatRequest,
    model=st.just("local/m"),
    messages=st.builds(lambda text: (Message("user", (Text(text),)),), texts),
    tools=st.sampled_from([(), (WEATHER,)]),
    tool_choice=st.sampled_from([None, ToolChoice("auto")]),
    response_format=st.sampled_from([None, JsonSchemaFormat("answer", '{"type":"object"}', True)]),
    generation=st.builds(
        Generation,
        max_output_tokens=st.sampled_from([None, 4096]),
        temperature=st.sampled_from([None, 1.0]),
        reasoning_effort=st.sampled_from([None, "none", "low"]),
    ),
    provider_options=st.sampled_from(
        [{}, {"metadata": {"user_id": "u"}}, {"service_tier": "auto"}]
    ),
)


@cache
def type_adapter(sdk_type):
    return TypeAdapter(sdk_type)


@pytest.mark.parametrize("kind", DIALECTS)
@given(request=requests)
def test_the_body_is_that_of_the_chat_without_keys_that_the_endpoint_refuses(kind, request):
    dialect, sdk_type = DIALECTS[kind]
    settings = ProviderConfig(kind=kind, base_url="http://localhost")
    assert list(dialect.check(request, settings)) == []
    chat = dialect.body(request, "m", settings, 512)
    body = dialect.count_body(chat)
    assert body == {key: chat[key] for key in body}
    assert chat.keys() - body.keys() <= {
        "max_tokens", "max_output_tokens", "temperature", "stream", "stream_options", "store",
        "include", "metadata", "service_tier",
    }  # fmt: skip
    type_adapter(sdk_type).validate_python(json.loads(msgspec.json.encode(body)))


@pytest.mark.parametrize(
    ("module", "params"),
    [(anthropic, MessageCountTokensParams), (openai_responses, InputTokenCountParams)],
)
def test_the_keys_that_are_counted_are_those_of_the_sdk(module, params):
    assert get_type_hints(params).keys() - SENT_AS_HEADERS == module.COUNTED
