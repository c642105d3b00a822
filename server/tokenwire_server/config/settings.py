"""The server's settings: defaults, then a TOML file, then `TOKENWIRE_*` variables, then flags.

The text under each field is its description in the reference of all settings. Unknown names are errors, so
that a misspelled limit is not ignored. Every number has an upper bound, see `bounds`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from .addresses import base_url, listen_address
from .bounds import (
    Attempts,
    Bytes,
    CallerLimit,
    Count,
    Days,
    Percent,
    PriceFactor,
    Seconds,
    SecondsOrZero,
    Tokens,
    Usd,
    UsdPerCall,
    UsdPerMillionTokens,
)
from .http_fields import Headers, Query
from .sources import ConfigError, Sources, fault_at

LONGEST_MONTH_DAYS = 31
EVERY_OTHER_TENANT = "*"

ProviderKind = Literal["openai-chat", "openai-responses", "anthropic"]
Capability = Literal["tools", "images", "reasoning", "json_schema"]


def _one_line(value: object) -> object:
    """Reject a text that cannot name a file: an empty one, or one with control characters such as NUL."""
    if isinstance(value, str) and not (value and value.isprintable()):
        raise ValueError("is empty or contains a control character")
    return value


PemFile = Annotated[Path, BeforeValidator(_one_line)]


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Quirks(_Section):
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


class ProviderConfig(_Section):
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
    default_max_output_tokens: Tokens = 8192
    """Limit of output tokens, for providers that require one (Anthropic), if neither the caller nor the model
    has a limit."""
    quirks: Quirks = Quirks()
    """Differences from OpenAI's API, for the kind `openai-chat`. For `openai-responses`, only `system_role`,
    `top_k`, `reasoning_effort` and `json_schema` apply."""


class ModelPrices(_Section):
    """Prices of a model, in US dollars per million tokens. A price of 0 means that the tokens are free.

    These prices replace all public prices of the model. The two are never mixed.
    """

    input: UsdPerMillionTokens
    """Price of input, in US dollars per million tokens."""
    output: UsdPerMillionTokens
    """Price of output, in US dollars per million tokens."""
    cache_read: UsdPerMillionTokens | None = None
    """Price of input that is read from the provider's prompt cache, in US dollars per million tokens. By
    default the price of `input`."""
    cache_write: UsdPerMillionTokens | None = None
    """Price of input that is written to the provider's prompt cache, in US dollars per million tokens. By
    default the price of `input`."""
    cache_write_1h: UsdPerMillionTokens | None = None
    """Price of input that the provider keeps in its prompt cache for an hour, in US dollars per million
    tokens. By default twice the price of `input`, as Anthropic charges."""
    reasoning: UsdPerMillionTokens | None = None
    """Price of output that is reasoning, in US dollars per million tokens. By default the price of
    `output`."""
    server_tool_usd: dict[str, UsdPerCall] = {}
    """Prices of one call of a tool that the provider runs, in US dollars, by the name of the tool, such as
    `{ web_search = 0.01 }`. The cost of a stream with another tool is unknown."""
    tier_factors: dict[str, PriceFactor] = {}
    """Factors by which the prices of tokens are multiplied in a service tier, by the provider's name of the
    tier, such as `{ priority = 2, flex = 0.5 }`. The cost of a stream in another tier than the standard one
    is unknown."""


class ModelConfig(_Section):
    """One model: an alias, or facts about `provider/model`."""

    target: str = ""
    """The `provider/model` that an alias stands for. If empty, the name itself is `provider/model`."""
    capabilities: tuple[Capability, ...] = ()
    """What the model supports, as GetModel reports it."""
    context_window_tokens: Tokens | None = None
    """Size of the context window in tokens, as GetModel reports it. By default GetModel reports none."""
    max_output_tokens: Tokens | None = None
    """Maximum number of output tokens, as GetModel reports it. It is also sent to providers that require a
    limit, if the caller has none. By default GetModel reports none."""
    first_content_s: Seconds | None = None
    """Overrides `limits.upstream_first_content_s` for this model, in seconds."""
    idle_s: Seconds | None = None
    """Overrides `limits.upstream_idle_s` for this model, in seconds."""
    prices: ModelPrices | None = None
    """Prices of the model. By default the public prices, if the model has any."""


class Limits(_Section):
    """Limits of the server, each with what happens when it is reached."""

    max_streams: Count = 2000
    """Maximum number of streams that generate at once. The next one gets OVERLOADED."""
    assumed_output_tokens: Tokens = 1024
    """Number of output tokens to assume for a chat without `max_output_tokens`, when tokens per minute and
    spend are reserved for it. The real number replaces it when the stream ends."""
    max_request_bytes: Bytes = Field(default=8 * 2**20, ge=1024, le=64 * 2**20)
    """Maximum size of a chat request, in bytes after decompression. A larger one gets INVALID_REQUEST. For
    all other requests the maximum is 64 KiB."""
    max_request_fields: Count = Field(default=100_000, ge=1000, le=1_000_000)
    """Maximum number of fields of a chat request, including the entries of its lists and maps and the
    values of its JSON schemas. A request with more gets INVALID_REQUEST. The number bounds the cost of
    parsing, which delays other streams."""
    max_log_bytes: Bytes = Field(default=8 * 2**20, ge=4096)
    """Maximum size of the content that is kept of one stream, in bytes. Beyond it the oldest entries are
    dropped, and a reader that needs them gets SLOW_READER."""
    max_total_log_bytes: Bytes = Field(default=512 * 2**20, ge=2**20)
    """Maximum size of the content that is kept of all streams, in bytes. Beyond it ended streams are
    dropped: the oldest ones of the tenant whose ended streams take the most memory. If no ended stream is
    left, the next stream gets OVERLOADED."""
    max_chat_answer_bytes: Bytes = Field(default=4 * 2**20 - 4096, ge=1024, le=64 * 2**20)
    """Maximum size of the response of a Chat call, in bytes. At most `max_log_bytes`. A larger answer ends
    the call with ANSWER_TOO_LARGE, and its stream can be read for at least `log_ttl_s` more. Most gRPC
    clients refuse messages above 4 MiB by default."""
    max_counts: Count = 64
    """Maximum number of CountTokens calls that run at once. One tenant may have a quarter of them, at least
    1. The next call gets OVERLOADED."""
    max_readers: Count = 10_000
    """Maximum number of calls that read streams at once. The next one gets OVERLOADED."""
    heartbeat_interval_s: Seconds = 15.0
    """Seconds without an event until a reader gets a heartbeat, if the caller sets no interval."""
    min_delivery_interval_s: Seconds = 1.0
    """Minimum interval of heartbeats and usage events that a caller may set, in seconds. A shorter one gets
    INVALID_REQUEST."""
    linger_s: Seconds = 30.0
    """Seconds for which a stream with ON_DISCONNECT_CONTINUE continues without a reader, if the caller sets
    no `linger`."""
    max_linger_s: Seconds = 600.0
    """Maximum `linger` that a caller may set, in seconds. A longer one gets INVALID_REQUEST."""
    log_ttl_s: SecondsOrZero = 60.0
    """Seconds for which a stream can be read after its end, if the caller sets no `log_ttl`."""
    max_log_ttl_s: SecondsOrZero = 3600.0
    """Maximum `log_ttl` that a caller may set, in seconds. A longer one gets INVALID_REQUEST."""
    max_cache_bytes: Bytes = 64 * 2**20
    """Maximum size of all answers in the response cache, in bytes. Beyond it the least recently used answers
    are dropped, of the tenant whose answers take the most memory. 0 turns the cache off."""
    max_cached_answer_bytes: Bytes = 2 * 2**20
    """Maximum size of one cached answer, in bytes of its log: about 110 bytes for each token. A larger answer
    is not cached."""
    cache_ttl_s: Seconds = 3600.0
    """Maximum age of an answer from the response cache, in seconds, if the caller sets no `ttl`."""
    max_cache_ttl_s: Seconds = 86400.0
    """Maximum `ttl` of cached answers that a caller may set, in seconds. A longer one gets
    INVALID_REQUEST."""
    reader_stall_s: Seconds = 30.0
    """Seconds for which a write may be blocked because the caller accepts nothing. Then the caller gets
    SLOW_READER."""
    max_stream_duration_s: Seconds = 3600.0
    """Maximum duration of a stream in seconds, from the accepted request to its end. Then the stream finishes
    with TIME_LIMIT."""
    upstream_connect_s: Seconds = 5.0
    """Seconds for connecting to a provider: name lookup, TCP and TLS together. Then the request has failed:
    it is repeated, or the stream fails with UPSTREAM_UNAVAILABLE."""
    upstream_first_content_s: Seconds = 600.0
    """Seconds from the request to a provider until the first text, reasoning or tool call. Headers, role
    chunks and pings do not count, so a model may think for this long without output. Then the stream fails
    with UPSTREAM_UNAVAILABLE, without a retry: the provider may bill the request."""
    upstream_idle_s: Seconds = 300.0
    """Maximum time without any bytes from a provider after the first content, in seconds. Then the stream
    fails with UPSTREAM_STALLED."""

    @model_validator(mode="after")
    def _defaults_are_within_maxima(self) -> Self:
        """Reject a default above its maximum if it was set. Otherwise it is lowered where it is used."""
        for name, maximum in _MAXIMA.items():
            if name in self.model_fields_set and getattr(self, name) > getattr(self, maximum):
                raise fault_at([name], f"is above limits.{maximum}, {getattr(self, maximum):g}")
        return self


_MAXIMA = {
    "linger_s": "max_linger_s",
    "log_ttl_s": "max_log_ttl_s",
    "cache_ttl_s": "max_cache_ttl_s",
    "max_cached_answer_bytes": "max_cache_bytes",
    "max_chat_answer_bytes": "max_log_bytes",
    "max_log_bytes": "max_total_log_bytes",
}
"""The limits that have another limit as their maximum, and that maximum."""


class RetryConfig(_Section):
    """How the server repeats requests to a provider that failed before the first content of the answer."""

    max_attempts: Attempts = 3
    """Maximum number of requests to a provider for one stream. 1 turns retries off."""
    base_s: SecondsOrZero = 0.25
    """Longest pause before the second attempt, in seconds. It doubles before each further attempt. The
    pause is a random time between 0 and this."""
    cap_s: SecondsOrZero = 8.0
    """The longest pause that `base_s` grows to, in seconds."""
    max_retry_after_s: SecondsOrZero = 20.0
    """Maximum delay that a provider may request before a retry, in seconds. The delay is added to the
    pause. If the provider requests a longer one, the stream fails at once, and its caller gets the delay
    as RetryInfo."""
    budget_percent: Percent = 10.0
    """Maximum number of retries at one provider, in percent of the streams of about the last minute. In
    addition, 3 retries per minute are always allowed. Without the limit, retries would multiply the load on
    a provider that is overloaded."""


class CallerLimits(_Section):
    """Limits of one key, or of one tenant. By default there is no limit besides those of the server."""

    requests_per_minute: CallerLimit | None = None
    """Maximum number of chats and CountTokens calls in any 60 seconds. The next one gets RATE_LIMITED."""
    tokens_per_minute: CallerLimit | None = None
    """Maximum number of input and output tokens in any 60 seconds. A chat counts with its estimate when it
    starts, and with its real usage when it ends. A chat whose estimate exceeds what is left gets
    RATE_LIMITED."""
    concurrent_streams: CallerLimit | None = None
    """Maximum number of streams that generate at once. The next one gets TOO_MANY_STREAMS."""
    messages_per_request: CallerLimit | None = None
    """Maximum number of messages in a chat. A chat with more gets QUOTA_EXHAUSTED."""
    bytes_per_request: CallerLimit | None = None
    """Maximum size of a request, in bytes after decompression. A larger one gets QUOTA_EXHAUSTED."""


class TenantLimits(CallerLimits):
    """Limits of all callers of a tenant together."""

    spend_usd_per_day: Usd | None = None
    """Maximum cost of the tenant's streams in one day (UTC), in US dollars. A chat reserves its likely
    cost. If less is left, it gets QUOTA_EXHAUSTED. If a stream needs more than it reserved and
    nothing is left, it finishes with BUDGET. Models without a known price are refused."""
    spend_usd_per_month: Usd | None = None
    """Maximum cost of the tenant's streams in one month (UTC), in US dollars, with the effects of
    `spend_usd_per_day`."""


class TlsConfig(_Section):
    """PEM files of TLS. They are read again when they change; open connections keep their certificates."""

    cert: PemFile | None = None
    """File with the server's certificate, followed by the intermediate certificates. By default TLS is
    off."""
    key: PemFile | None = None
    """File with the private key of the server's certificate."""
    client_ca: PemFile | None = None
    """File with the authorities of client certificates. If set, a connection without a certificate of one of
    them is refused."""


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


class Settings(_Section):
    """All settings of the server. The variable of a nested one is `TOKENWIRE_LIMITS__MAX_STREAMS`."""

    listen: Annotated[str, AfterValidator(listen_address)] = "127.0.0.1:50051"
    """Address to listen on, as HOST:PORT. Port 0 selects a free port."""
    metrics_listen: Annotated[str, AfterValidator(listen_address)] | None = None
    """Address on which Prometheus metrics are served at `/metrics`, as HOST:PORT. Every caller that reaches
    it may read them. By default there are none."""
    metrics_tenant_label: bool = False
    """Whether the metrics of streams, tokens and cost have a label with the tenant."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Lowest level of the log records that are written to stderr."""
    drain_grace_s: SecondsOrZero = 5.0
    """Seconds for which open streams may continue after SIGTERM. Then they end with SERVER_STOPPED."""
    database: Annotated[str, BeforeValidator(_one_line)] = "sqlite:///tokenwire.db"
    """Database of keys and usage records: `sqlite:///FILE` or `postgresql://USER:PASSWORD@HOST/NAME`. With
    --demo the default is a temporary file, which is removed when the server stops."""
    usage_kept_days: Days | None = None
    """Days for which usage records are kept after the end of their streams. By default they are kept for
    ever. At least 31 if a tenant has a limit on its spend per month, because a restarted server sums the
    records."""
    migrate: bool = True
    """Whether the server updates the database's schema when it starts. If not, run
    `tokenwire-server migrate`."""
    auth: Literal["auto", "keys", "none"] = "auto"
    """Whether callers need keys. With "auto" they do if the database contains any; a server without keys
    listens only on loopback. With "none" they never do, on any address."""
    reflection: Literal["keys", "open", "off"] = "keys"
    """Who may use server reflection. "keys": callers that may call the other services. "open": all callers.
    "off": no caller."""
    keys_trusted_s: Seconds = 300.0
    """Seconds for which the keys that were read last are used while the database cannot be reached. Then new
    calls get STORE_UNAVAILABLE."""
    tls: TlsConfig = TlsConfig()
    """Certificates of the server and of its callers."""
    limits: Limits = Limits()
    """Limits of the server."""
    retries: RetryConfig = RetryConfig()
    """How the server repeats requests to a provider that failed before the first content of the answer."""
    tenants: dict[str, TenantLimits] = {}
    """Limits of tenants, by name. The name "*" is for every tenant that is not named."""
    providers: dict[str, ProviderConfig] = {}
    """Providers by name, in addition to `openai`, `openai-responses` and `anthropic`, or in place of them."""
    models: dict[str, ModelConfig] = {}
    """Aliases of models, and facts about models, by name."""

    @field_validator("tenants")
    @classmethod
    def _records_are_kept_for_a_month(
        cls, value: dict[str, TenantLimits], info: ValidationInfo
    ) -> dict[str, TenantLimits]:
        kept_days = info.data.get("usage_kept_days")
        if kept_days is not None and kept_days < LONGEST_MONTH_DAYS:
            for name, limits in value.items():
                if limits.spend_usd_per_month is not None:
                    raise fault_at(
                        [name, "spend_usd_per_month"],
                        f"needs usage_kept_days of at least {LONGEST_MONTH_DAYS}, not {kept_days}: "
                        "a restarted server sums the records of the month",
                    )
        return value

    @field_validator("providers")
    @classmethod
    def _provider_names(cls, value: dict[str, ProviderConfig]) -> dict[str, ProviderConfig]:
        for name in value:
            if not name or "/" in name:
                raise fault_at([name], "a provider's name must not be empty or contain a slash")
        return value


def load(
    path: Path | None, flags: Mapping[str, Any], environ: Mapping[str, str] = os.environ
) -> Settings:
    """Return the settings. Raises ConfigError with the source, the path and the text of every fault."""
    sources = Sources(Settings, path, flags, environ)
    try:
        return Settings.model_validate(sources.values)
    except ValidationError as error:
        raise ConfigError(sources.describe(error)) from error
