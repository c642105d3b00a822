"""The server's settings: defaults, then a TOML file, then `TOKENWIRE_*` variables, then flags.

Every limit has a unit in its name and a documented effect where it is enforced. Unknown keys are
refused: a misspelt limit must not be silently absent. Every number has an upper bound, see `bounds`.
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
    Bytes,
    CallerLimit,
    Count,
    Days,
    Seconds,
    SecondsOrZero,
    Tokens,
    Usd,
    UsdPerMillionTokens,
)
from .sources import ConfigError, Sources, fault_at

LONGEST_MONTH_DAYS = 31
EVERY_OTHER_TENANT = "*"

ProviderKind = Literal["openai-chat", "openai-responses", "anthropic"]
Capability = Literal["tools", "images", "reasoning", "json_schema"]


def _one_line(value: object) -> object:
    """Refuse a text that cannot name a file: an empty one, or one with control characters such as NUL."""
    if isinstance(value, str) and not (value and value.isprintable()):
        raise ValueError("is empty or contains a control character")
    return value


PemFile = Annotated[Path, BeforeValidator(_one_line)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Quirks(_Section):
    """How a server that speaks OpenAI Chat Completions differs from OpenAI's own. Data, not code."""

    max_tokens_field: Literal["max_completion_tokens", "max_tokens"] = "max_tokens"
    """Under which name it takes the limit of output tokens."""
    system_role: Literal["system", "developer"] = "system"
    """Which role carries instructions."""
    usage_option: bool = True
    """It knows `stream_options.include_usage`. Otherwise usage is what it volunteers, or an estimate."""
    continuous_usage: bool = False
    """It knows `stream_options.continuous_usage_stats` (vLLM), so that a broken answer has figures."""
    done_marker: bool = True
    """It ends with `data: [DONE]`. Otherwise a `finish_reason` and the end of the body are the end."""
    top_k: bool = False
    """It takes `top_k`."""
    reasoning_effort: bool = True
    """It takes `reasoning_effort`."""
    json_schema: bool = True
    """It takes `response_format` of type `json_schema`."""


class ProviderConfig(_Section):
    """One provider: which wire format, where, and whose key."""

    kind: ProviderKind
    base_url: Annotated[str, AfterValidator(base_url)]
    api_key_env: str = ""
    """Name of the variable that holds the key. Empty: the server takes no key."""
    default_max_output_tokens: Tokens = 8192
    """For providers that demand a limit (Anthropic), when neither the caller nor the model sets one."""
    quirks: Quirks = Quirks()


class ModelPrices(_Section):
    """What a model's tokens cost, in US dollars per million tokens. 0 is a price: it costs nothing.

    The table stands for itself: nothing that is known of the model from elsewhere is mixed into it.
    """

    input: UsdPerMillionTokens
    output: UsdPerMillionTokens
    cache_read: UsdPerMillionTokens | None = None
    """Of input read from the provider's prompt cache. Left out: as `input`."""
    cache_write: UsdPerMillionTokens | None = None
    """Of input written to it. Left out: as `input`."""
    reasoning: UsdPerMillionTokens | None = None
    """Of output that is reasoning. Left out: as `output`."""


class ModelConfig(_Section):
    """A model the operator names: an alias, or facts about `provider/model`."""

    target: str = ""
    """`provider/model` that an alias stands for. Empty: the name itself is `provider/model`."""
    capabilities: tuple[Capability, ...] = ()
    context_window_tokens: Tokens | None = None
    max_output_tokens: Tokens | None = None
    """The most it gives: told by GetModel, and asked for where a provider demands a limit."""
    first_content_s: Seconds | None = None
    """Replaces `limits.upstream_first_content_s` for this model. None: that limit applies."""
    idle_s: Seconds | None = None
    """Replaces `limits.upstream_idle_s` for this model. None: that limit applies."""
    prices: ModelPrices | None = None
    """What its tokens cost. None: what is known of the model without configuration, if anything."""


class Limits(_Section):
    """Bounds, each with the effect of reaching it."""

    max_streams: Count = 2000
    """Streams generating at once. The next one gets OVERLOADED."""
    assumed_output_tokens: Tokens = 1024
    """Output tokens that are assumed for a chat without `max_output_tokens`, when its caller's tokens per
    minute and its tenant's spend are reserved. At the end the real number replaces them."""
    max_request_bytes: Bytes = Field(default=8 * 2**20, ge=1024, le=64 * 2**20)
    """Size of one chat request on the wire. A larger one gets INVALID_REQUEST; so does any other request
    of more than 64 KiB."""
    max_request_fields: Count = Field(default=100_000, ge=1000, le=1_000_000)
    """Fields of one chat request, including entries of its lists and maps and values of its JSON schemas.
    They bound the cost of parsing, which delays other streams. A request with more gets INVALID_REQUEST."""
    max_log_bytes: Bytes = Field(default=8 * 2**20, ge=4096)
    """Content kept of one stream. Past it the oldest entries are dropped, and a reader that needs them
    gets SLOW_READER."""
    max_total_log_bytes: Bytes = Field(default=512 * 2**20, ge=2**20)
    """Content kept of all streams. Past it ended streams are dropped: the oldest ones of the tenant whose
    ended streams take the most memory. If there are none, the next stream gets OVERLOADED."""
    max_counts: Count = 64
    """Calls of CountTokens that run at once. One tenant may have a quarter of them (at least 1). The next
    one gets OVERLOADED."""
    max_readers: Count = 10_000
    """Calls reading streams at once. The next one gets OVERLOADED."""
    heartbeat_interval_s: Seconds = 15.0
    """Longest silence towards a reader that names none."""
    min_delivery_interval_s: Seconds = 1.0
    """Shortest interval of heartbeats and usage that a reader may ask for."""
    linger_s: Seconds = 30.0
    """How long a stream asked to CONTINUE goes on without a reader, when the caller does not say."""
    max_linger_s: Seconds = 600.0
    """The longest that a caller may ask for."""
    log_ttl_s: SecondsOrZero = 60.0
    """How long a stream stays readable after its end, when the caller does not say."""
    max_log_ttl_s: SecondsOrZero = 3600.0
    """The longest that a caller may ask for."""
    max_cache_bytes: Bytes = 64 * 2**20
    """Size of all answers in the response cache. Past it the least recently used answers of the tenant
    whose answers take the most memory are dropped. 0: no cache."""
    max_cached_answer_bytes: Bytes = 2 * 2**20
    """Size of one answer, as its log counts it (about 110 bytes a token). A larger one is not cached."""
    cache_ttl_s: Seconds = 3600.0
    """How old an answer from the response cache may be, when the caller does not say."""
    max_cache_ttl_s: Seconds = 86400.0
    """The oldest that a caller may ask for."""
    reader_stall_s: Seconds = 30.0
    """How long a write to a caller may be blocked because it accepts nothing. Then SLOW_READER."""
    max_stream_duration_s: Seconds = 3600.0
    """From acceptance to end. Then the stream finishes with TIME_LIMIT."""
    upstream_connect_s: Seconds = 5.0
    """Name lookup, TCP and TLS together. Then UPSTREAM_UNAVAILABLE."""
    upstream_first_content_s: Seconds = 600.0
    """From opening the upstream to the first text, reasoning or tool call of the answer. Headers, role
    chunks and pings are not content, so a model may think for this long without output. Then
    UPSTREAM_UNAVAILABLE."""
    upstream_idle_s: Seconds = 300.0
    """Longest gap between two arrivals of bytes after the first content. Then UPSTREAM_STALLED."""

    @model_validator(mode="after")
    def _defaults_are_within_maxima(self) -> Self:
        """Refuse a default that is set above its maximum. One that is not set is lowered where it is used."""
        for name, maximum in _MAXIMA.items():
            if name in self.model_fields_set and getattr(self, name) > getattr(self, maximum):
                raise fault_at([name], f"is above limits.{maximum}, {getattr(self, maximum):g}")
        return self


_MAXIMA = {
    "linger_s": "max_linger_s",
    "log_ttl_s": "max_log_ttl_s",
    "cache_ttl_s": "max_cache_ttl_s",
    "max_cached_answer_bytes": "max_cache_bytes",
    "max_log_bytes": "max_total_log_bytes",
}
"""Each limit that has another limit as its maximum, and that maximum."""


class CallerLimits(_Section):
    """What the calls of one key, or of one tenant, may take. None: as much as the server itself."""

    requests_per_minute: CallerLimit | None = None
    """Chats started and calls of CountTokens in any 60 seconds. The next one gets RATE_LIMITED."""
    tokens_per_minute: CallerLimit | None = None
    """Input and output tokens in any 60 seconds. A chat takes its estimate when it starts, and what it
    really used when it ends; one that finds too little left gets RATE_LIMITED."""
    concurrent_streams: CallerLimit | None = None
    """Streams that generate at once. The next one gets TOO_MANY_STREAMS."""
    messages_per_request: CallerLimit | None = None
    """Messages of a chat. A longer one gets QUOTA_EXHAUSTED."""
    bytes_per_request: CallerLimit | None = None
    """Size of one request on the wire. A larger one gets QUOTA_EXHAUSTED."""


class TenantLimits(CallerLimits):
    """What all callers of a tenant may take together."""

    spend_usd_per_day: Usd | None = None
    """What its streams may cost in one day (UTC), as far as this server knows prices: a chat reserves
    what it may cost, and what does not fit gets QUOTA_EXHAUSTED; one whose answer grows past what it has
    reserved, and finds nothing left, finishes with BUDGET. Models without a known price are refused."""
    spend_usd_per_month: Usd | None = None
    """The same for one month (UTC)."""


class TlsConfig(_Section):
    """PEM files, read again when they change: connections that are open stay as they are."""

    cert: PemFile | None = None
    """The server's certificate, and those between it and its authority. None: no TLS."""
    key: PemFile | None = None
    """Its private key."""
    client_ca: PemFile | None = None
    """Authorities of callers' certificates. Set: a connection without such a certificate is refused."""


OPENAI_QUIRKS = Quirks(max_tokens_field="max_completion_tokens", system_role="developer")


def known_providers(environ: Mapping[str, str]) -> dict[str, ProviderConfig]:
    """The providers that need no configuration, at the addresses the environment names."""
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
    """All settings of the server. Nested ones as `TOKENWIRE_LIMITS__MAX_STREAMS`."""

    listen: Annotated[str, AfterValidator(listen_address)] = "127.0.0.1:50051"
    """HOST:PORT; port 0 takes a free one."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    drain_grace_s: SecondsOrZero = 5.0
    """How long open streams may go on after SIGTERM. Then they end with SERVER_STOPPED."""
    database: Annotated[str, BeforeValidator(_one_line)] = "sqlite:///tokenwire.db"
    """Where keys and usage records are kept: `sqlite:///FILE` or `postgresql://USER:PASSWORD@HOST/NAME`.
    With --demo the default is a temporary file, which is removed when the server stops."""
    usage_kept_days: Days | None = None
    """How long usage records are kept, from the end of their streams. None: for ever. At least 31 where a
    tenant's spend is limited by the month: after a restart it is summed from the records."""
    migrate: bool = True
    """Bring the database's schema up to date at start. Otherwise `tokenwire-server migrate` does."""
    auth: Literal["auto", "keys", "none"] = "auto"
    """Whether callers need keys. "auto": when there are any; without any, only loopback can be listened
    on. "none": nobody needs one, on any address."""
    reflection: Literal["keys", "open", "off"] = "keys"
    """Whether the server tells its API: to callers with keys where they need them, to all, to nobody."""
    keys_trusted_s: Seconds = 300.0
    """How long keys are taken as they were last read when the database cannot be reached. Past it new
    calls get STORE_UNAVAILABLE."""
    tls: TlsConfig = TlsConfig()
    limits: Limits = Limits()
    tenants: dict[str, TenantLimits] = {}
    """What all callers of a tenant may take together; "*" stands for every tenant not named."""
    providers: dict[str, ProviderConfig] = {}
    models: dict[str, ModelConfig] = {}

    @field_validator("tenants")
    @classmethod
    def _months_are_kept(
        cls, value: dict[str, TenantLimits], info: ValidationInfo
    ) -> dict[str, TenantLimits]:
        kept_days = info.data.get("usage_kept_days")
        if kept_days is not None and kept_days < LONGEST_MONTH_DAYS:
            for name, limits in value.items():
                if limits.spend_usd_per_month is not None:
                    raise fault_at(
                        [name, "spend_usd_per_month"],
                        f"needs usage_kept_days of at least {LONGEST_MONTH_DAYS}, not {kept_days}: "
                        "after a restart the records show what was spent",
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
    """Return the settings. Raises ConfigError with every fault: its source, its path, what is wrong."""
    sources = Sources(Settings, path, flags, environ)
    try:
        return Settings.model_validate(sources.values)
    except ValidationError as error:
        raise ConfigError(sources.describe(error)) from error
