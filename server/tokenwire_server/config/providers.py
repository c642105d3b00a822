"""The settings of providers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator

from .addresses import base_url
from .bounds import Count, Tokens
from .http_fields import Headers, Query
from .section import Section
from .sources import ConfigError

ProviderKind = Literal["openai-chat", "openai-responses", "anthropic"]


class Quirks(Section):
    """Differences between OpenAI's API and that of another server."""

    max_tokens_field: Literal["max_completion_tokens", "max_tokens"] = "max_tokens"
    """Name of the field that limits the output tokens."""
    system_role: Literal["system", "developer"] = "system"
    """Role of the messages that contain the system prompt."""
    usage_option: bool = True
    """Whether the server accepts `stream_options.include_usage`. If not, usage is estimated unless the server
    reports it anyway."""
    continuous_usage: bool = False
    """Whether the server accepts `stream_options.continuous_usage_stats`, like vLLM. Then the usage of an
    answer that is cut off is exact."""
    done_marker: bool | None = None
    """Whether the server ends an answer with `data: [DONE]`. If true, an answer without it is broken. If
    false, an answer with a `finish_reason` is complete without it. By default such an answer is complete too,
    but the missing marker is logged. OpenAI's own endpoint must send it."""
    cumulative: bool = False
    """Whether each delta of an answer repeats all earlier ones."""
    think_tags: Literal["none", "pair", "closing"] = "none"
    """Tags around the reasoning in the text. "pair": a text begins with `<think>`, reasoning and
    `</think>`. "closing": it begins with reasoning and `</think>`, because the prompt ends with `<think>`."""
    top_k: bool = False
    """Whether the server accepts `top_k`."""
    reasoning_effort: bool = True
    """Whether the server accepts `reasoning_effort`."""
    json_schema: bool = True
    """Whether the server accepts `response_format` of type `json_schema`."""
    constraints: Literal["none", "structured_outputs", "guided", "grammar", "sglang"] = "none"
    """How the server accepts regular expressions and grammars. "structured_outputs": vLLM since 0.12.
    "guided": older vLLM. "grammar": llama.cpp, which accepts only grammars. "sglang": SGLang."""
    prefill: Literal["none", "message", "prefix", "continue_final_message"] = "none"
    """How the server continues an assistant message that is the last message of a request. "message": without
    any field, like llama.cpp. "prefix": with `prefix` in the message, like Mistral and DeepSeek's beta API.
    "continue_final_message": with this field in the request, like vLLM and SGLang."""
    send_reasoning: bool = False
    """Whether the server needs its reasoning back as `reasoning_content`, like DeepSeek with tools."""
    call_signatures: bool = False
    """Whether the server refuses tool calls without its own signature, like Gemini 3. Calls that another
    provider made are then sent with the value that Google defines for them."""
    tool_images: bool = False
    """Whether the server accepts images in the results of tools."""
    fixed_sampling_models: tuple[str, ...] = ()
    """Patterns of models that refuse temperature, top_p and penalties, such as `["o3*", "gpt-5*"]`. These
    parameters are not sent to them."""


class ProviderConfig(Section):
    """One provider: its wire format, its address and its key."""

    kind: ProviderKind
    """Wire format of the provider."""
    base_url: Annotated[str, AfterValidator(base_url)]
    """HTTP or HTTPS address to which the paths of the API are appended, such as
    `https://api.openai.com/v1`."""
    api_key_env: str = ""
    """Name of the environment variable that contains the provider's API key. If empty, no key is sent."""
    headers: Headers = {}
    """Headers to add to each request, or to send in place of the usual ones. A value is a string, or
    `{ env = "NAME" }` for the value of an environment variable."""
    query: Query = {}
    """Parameters to add to the URL of each request, such as Azure's `api-version`, with values as in
    `headers`."""
    max_connections: Count | None = None
    """Maximum number of requests to this provider that are open at once. The next one is not sent: the
    next target or fallback is tried, or the caller gets OVERLOADED at once. By default only the number of
    streams is limited."""
    default_max_output_tokens: Tokens = 8192
    """Limit of output tokens, for providers that require one (Anthropic), if neither the caller nor the model
    has a limit."""
    quirks: Quirks = Quirks()
    """Differences from OpenAI's API, for the kind `openai-chat`. For `openai-responses`, only `system_role`,
    `top_k`, `reasoning_effort` and `json_schema` apply."""


OPENAI_QUIRKS = Quirks(
    max_tokens_field="max_completion_tokens", system_role="developer", done_marker=True
)


def known_providers(environ: Mapping[str, str]) -> dict[str, ProviderConfig]:
    """Return the providers that need no configuration, at their addresses in the environment."""
    openai = _address(environ, "OPENAI_BASE_URL", "https://api.openai.com/v1")
    anthropic = _address(environ, "ANTHROPIC_BASE_URL", "https://api.anthropic.com")
    return {
        "openai": ProviderConfig(
            kind="openai-chat", base_url=openai, api_key_env="OPENAI_API_KEY", quirks=OPENAI_QUIRKS
        ),
        "openai-responses": ProviderConfig(
            kind="openai-responses", base_url=openai, api_key_env="OPENAI_API_KEY"
        ),
        "anthropic": ProviderConfig(
            kind="anthropic", base_url=anthropic, api_key_env="ANTHROPIC_API_KEY"
        ),
    }


def _address(environ: Mapping[str, str], name: str, default: str) -> str:
    """Return the base URL in a variable, or `default` if it is unset or empty. Raises ConfigError."""
    try:
        return base_url(environ.get(name) or default)
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from None
