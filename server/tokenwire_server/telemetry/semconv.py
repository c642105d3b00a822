"""Names of OpenTelemetry's semantic conventions for generative AI, in two versions.

By default the names are those of version 1.36, which most tools read. With
`OTEL_SEMCONV_STABILITY_OPT_IN=gen_ai_latest_experimental` they are those of the repository
`open-telemetry/semantic-conventions-genai`. The package `opentelemetry-semantic-conventions` has deprecated
its constants for both, so the names are defined here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

OPT_IN = "OTEL_SEMCONV_STABILITY_OPT_IN"
LATEST = "gen_ai_latest_experimental"

OPERATION = "gen_ai.operation.name"
SYSTEM = "gen_ai.system"
PROVIDER_NAME = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
REQUEST_STREAM = "gen_ai.request.stream"
RESPONSE_MODEL = "gen_ai.response.model"
RESPONSE_ID = "gen_ai.response.id"
FINISH_REASONS = "gen_ai.response.finish_reasons"
FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
CACHE_READ_TOKENS = "gen_ai.usage.cache_read.input_tokens"
CACHE_WRITE_TOKENS = "gen_ai.usage.cache_write.input_tokens"
REASONING_TOKENS = "gen_ai.usage.reasoning.output_tokens"
TOKEN_TYPE = "gen_ai.token.type"  # noqa: S105  # not a password
ERROR_TYPE = "error.type"
HTTP_STATUS = "http.response.status_code"

STREAM_ID = "tokenwire.stream_id"
TENANT = "tokenwire.tenant"
REQUEST_ID = "tokenwire.request_id"
FROM_CACHE = "tokenwire.from_cache"
TOKENWIRE_PROVIDER = "tokenwire.provider"
OUTCOME = "tokenwire.outcome"
REASON = "tokenwire.reason"
ATTEMPTS = "tokenwire.attempts"
ATTEMPT = "tokenwire.attempt"
FIRST_TOKEN = "tokenwire.time_to_first_token_s"  # noqa: S105  # not a password
TOTAL_INPUT_TOKENS = "tokenwire.input_tokens"
TOTAL_OUTPUT_TOKENS = "tokenwire.output_tokens"
COST_USD = "tokenwire.cost_usd"

CHAT = "chat"
"""The value of `gen_ai.operation.name`."""


class Attribute(NamedTuple):
    """An attribute of spans, as the documentation describes it."""

    name: str
    spans: Literal["stream", "attempt", "both"]
    meaning: str
    version: Literal["both", "default", "latest"] = "both"
    """The version of the conventions with which it is set."""


ATTRIBUTES = (
    Attribute(OPERATION, "both", "Always `chat`."),
    Attribute(
        REQUEST_MODEL, "both", "The model that was requested: by the caller, or from the provider."
    ),
    Attribute(RESPONSE_MODEL, "both", "The model as the provider names it in its answer."),
    Attribute(ERROR_TYPE, "both", "The reason of the error: of the stream, or of the attempt."),
    Attribute(TOKENWIRE_PROVIDER, "both", "The provider's name in the configuration."),
    Attribute(STREAM_ID, "stream", "The id of the stream."),
    Attribute(REQUEST_ID, "stream", "The caller's `request_id`, if there is one."),
    Attribute(TENANT, "stream", "The caller's tenant."),
    Attribute(OUTCOME, "stream", "The outcome in the usage record."),
    Attribute(REASON, "stream", "The finish reason, or the reason of the error."),
    Attribute(ATTEMPTS, "stream", "The number of requests to providers."),
    Attribute(FROM_CACHE, "stream", "Whether the answer came from the response cache."),
    Attribute(FIRST_TOKEN, "stream", "Seconds from the accepted request to the first content."),
    Attribute(TOTAL_INPUT_TOKENS, "stream", "Input tokens of all attempts."),
    Attribute(TOTAL_OUTPUT_TOKENS, "stream", "Output tokens of all attempts."),
    Attribute(COST_USD, "stream", "Cost in US dollars, if the price is known."),
    Attribute(
        SYSTEM, "attempt", "Format of the provider's API: `openai` or `anthropic`.", "default"
    ),
    Attribute(PROVIDER_NAME, "attempt", "The same as `gen_ai.system`.", "latest"),
    Attribute(ATTEMPT, "attempt", "The number of the attempt, from 1."),
    Attribute(RESPONSE_ID, "attempt", "The provider's id of the answer."),
    Attribute(FINISH_REASONS, "attempt", "The finish reason as the provider names it."),
    Attribute(INPUT_TOKENS, "attempt", "Input tokens, including cached ones."),
    Attribute(OUTPUT_TOKENS, "attempt", "Output tokens, including reasoning."),
    Attribute(HTTP_STATUS, "attempt", "The HTTP status of a provider's refusal."),
    Attribute(REQUEST_STREAM, "attempt", "Always `true`.", "latest"),
    Attribute(FIRST_CHUNK, "attempt", "Seconds from the request to the first content.", "latest"),
    Attribute(CACHE_READ_TOKENS, "attempt", "Input tokens read from the prompt cache.", "latest"),
    Attribute(CACHE_WRITE_TOKENS, "attempt", "Input tokens written to the prompt cache.", "latest"),
    Attribute(REASONING_TOKENS, "attempt", "Output tokens of reasoning.", "latest"),
)


def uses_latest(environ: Mapping[str, str]) -> bool:
    """Return whether the operator has opted in to the latest version of the conventions."""
    return LATEST in (name.strip() for name in environ.get(OPT_IN, "").split(","))


def api_format(kind: str) -> str:
    """Return the value of `gen_ai.system` for a kind of provider."""
    return "anthropic" if kind == "anthropic" else "openai"
