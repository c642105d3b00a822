"""The server's settings: defaults, then a TOML file, then `TOKENWIRE_*` variables, then flags.

Every limit has a unit in its name and a documented effect where it is enforced. Unknown keys are
refused: a misspelt limit must not be silently absent.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

MAX_PORT = 65535
MAX_CALLER_LIMIT = 10**12
MAX_PRICE_USD = 10**6
MAX_PRICE_DECIMALS = 9
MAX_SPEND_USD = 10**9
LONGEST_MONTH_DAYS = 31
EVERY_OTHER_TENANT = "*"
ENV_PREFIX = "TOKENWIRE_"
OTHERS_VARIABLES = frozenset(
    {
        "TOKENWIRE_KEY",
        "TOKENWIRE_MODEL",
        "TOKENWIRE_PLAINTEXT",
        "TOKENWIRE_TARGET",
        "TOKENWIRE_TLS_CA",
        "TOKENWIRE_TLS_CLIENT_CERT",
        "TOKENWIRE_TLS_CLIENT_KEY",
        "TOKENWIRE_TRANSCRIPTS",
    }
)
"""Variables of the client's and of the tests'."""

RENAMED_SETTINGS = {
    "upstream_first_byte_s": "upstream_first_content_s",
    "upstream_silence_s": "upstream_idle_s",
}
"""Old names of settings, which are refused with their new name."""

ProviderKind = Literal["openai-chat", "openai-responses", "anthropic"]
Capability = Literal["tools", "images", "reasoning", "json_schema"]


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
    base_url: str
    api_key_env: str = ""
    """Name of the variable that holds the key. Empty: the server takes no key."""
    default_max_output_tokens: int = Field(default=8192, ge=1)
    """For providers that demand a limit (Anthropic), when neither the caller nor the model sets one."""
    quirks: Quirks = Quirks()

    @field_validator("base_url")
    @classmethod
    def _is_http(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        return value.rstrip("/")


class ModelPrices(_Section):
    """What a model's tokens cost, in US dollars per million tokens. 0 is a price: it costs nothing.

    The table stands for itself: nothing that is known of the model from elsewhere is mixed into it.
    """

    input: Decimal = Field(ge=0, le=MAX_PRICE_USD, decimal_places=MAX_PRICE_DECIMALS)
    output: Decimal = Field(ge=0, le=MAX_PRICE_USD, decimal_places=MAX_PRICE_DECIMALS)
    cache_read: Decimal | None = Field(
        default=None, ge=0, le=MAX_PRICE_USD, decimal_places=MAX_PRICE_DECIMALS
    )
    """Of input read from the provider's prompt cache. Left out: as `input`."""
    cache_write: Decimal | None = Field(
        default=None, ge=0, le=MAX_PRICE_USD, decimal_places=MAX_PRICE_DECIMALS
    )
    """Of input written to it. Left out: as `input`."""
    reasoning: Decimal | None = Field(
        default=None, ge=0, le=MAX_PRICE_USD, decimal_places=MAX_PRICE_DECIMALS
    )
    """Of output that is reasoning. Left out: as `output`."""


class ModelConfig(_Section):
    """A model the operator names: an alias, or facts about `provider/model`."""

    target: str = ""
    """`provider/model` that an alias stands for. Empty: the name itself is `provider/model`."""
    capabilities: tuple[Capability, ...] = ()
    context_window_tokens: int | None = Field(default=None, ge=1)
    max_output_tokens: int | None = Field(default=None, ge=1)
    """The most it gives: told by GetModel, and asked for where a provider demands a limit."""
    first_content_s: float | None = Field(default=None, gt=0)
    """Replaces `limits.upstream_first_content_s` for this model. None: that limit applies."""
    idle_s: float | None = Field(default=None, gt=0)
    """Replaces `limits.upstream_idle_s` for this model. None: that limit applies."""
    prices: ModelPrices | None = None
    """What its tokens cost. None: what is known of the model without configuration, if anything."""


class Limits(_Section):
    """Bounds. What happens at each stands with it."""

    max_streams: int = Field(default=2000, ge=1)
    """Streams generating at once. The next one gets OVERLOADED."""
    assumed_output_tokens: int = Field(default=1024, ge=1)
    """What a chat that names no `max_output_tokens` takes from its caller's tokens per minute, and for how
    many it reserves of its tenant's spend, until it ends and the truth is known."""
    max_request_bytes: int = Field(default=8 * 2**20, ge=1024, le=64 * 2**20)
    """Size of one request on the wire. A larger one gets INVALID_REQUEST."""
    max_log_bytes: int = Field(default=8 * 2**20, ge=4096)
    """Content kept of one stream. Past it the oldest entries go, and who needs them gets SLOW_READER."""
    max_total_log_bytes: int = Field(default=512 * 2**20, ge=2**20)
    """Content kept of all streams. Past it streams that have ended go, oldest first, and then the next
    stream gets OVERLOADED."""
    max_readers: int = Field(default=10_000, ge=1)
    """Calls reading streams at once. The next one gets OVERLOADED."""
    heartbeat_interval_s: float = Field(default=15.0, gt=0)
    """Longest silence towards a reader that names none."""
    min_delivery_interval_s: float = Field(default=1.0, gt=0)
    """Shortest interval of heartbeats and usage that a reader may ask for."""
    linger_s: float = Field(default=30.0, gt=0)
    """How long a stream asked to CONTINUE goes on without a reader, when the caller does not say."""
    max_linger_s: float = Field(default=600.0, gt=0)
    """The longest that a caller may ask for."""
    log_ttl_s: float = Field(default=60.0, ge=0)
    """How long a stream stays readable after its end, when the caller does not say."""
    max_log_ttl_s: float = Field(default=3600.0, ge=0)
    """The longest that a caller may ask for."""
    max_cache_bytes: int = Field(default=64 * 2**20, ge=0)
    """Answers kept in the response cache. Past it those go that were used longest ago. 0: no cache."""
    max_cached_answer_bytes: int = Field(default=2 * 2**20, ge=0)
    """Size of one answer, as its log counts it (about 110 bytes a token). A larger one is not cached."""
    cache_ttl_s: float = Field(default=3600.0, gt=0)
    """How old an answer from the response cache may be, when the caller does not say."""
    max_cache_ttl_s: float = Field(default=86400.0, gt=0)
    """The oldest that a caller may ask for."""
    reader_stall_s: float = Field(default=30.0, gt=0)
    """How long a write to a caller may be blocked because it accepts nothing. Then SLOW_READER."""
    max_stream_duration_s: float = Field(default=3600.0, gt=0)
    """From acceptance to end. Then the stream finishes with TIME_LIMIT."""
    upstream_connect_s: float = Field(default=5.0, gt=0)
    """Name lookup, TCP and TLS together. Then UPSTREAM_UNAVAILABLE."""
    upstream_first_content_s: float = Field(default=600.0, gt=0)
    """From opening the upstream to the first text, reasoning or tool call of the answer. Headers, role
    chunks and pings are not content, so a model may think in silence for this long. Then
    UPSTREAM_UNAVAILABLE."""
    upstream_idle_s: float = Field(default=300.0, gt=0)
    """Longest gap between two arrivals of bytes after the first content. Then UPSTREAM_STALLED."""


class CallerLimits(_Section):
    """What the calls of one key, or of one tenant, may take. None: as much as the server itself."""

    requests_per_minute: int | None = Field(default=None, ge=1, le=MAX_CALLER_LIMIT)
    """Chats started in any 60 seconds. The next one gets RATE_LIMITED."""
    tokens_per_minute: int | None = Field(default=None, ge=1, le=MAX_CALLER_LIMIT)
    """Input and output tokens in any 60 seconds. A chat takes its estimate when it starts, and what it
    really used when it ends; one that finds too little left gets RATE_LIMITED."""
    concurrent_streams: int | None = Field(default=None, ge=1, le=MAX_CALLER_LIMIT)
    """Streams that generate at once. The next one gets TOO_MANY_STREAMS."""
    messages_per_request: int | None = Field(default=None, ge=1, le=MAX_CALLER_LIMIT)
    """Messages of a chat. A longer one gets QUOTA_EXHAUSTED."""
    bytes_per_request: int | None = Field(default=None, ge=1, le=MAX_CALLER_LIMIT)
    """Size of one request on the wire. A larger one gets QUOTA_EXHAUSTED."""

    @field_validator("*", mode="before")
    @classmethod
    def _is_a_number(cls, value: object) -> object:
        if isinstance(value, bool):  # which pydantic would take for 1
            raise ValueError("must be a whole number")  # noqa: TRY004  # pydantic's way to say no
        return value


class TenantLimits(CallerLimits):
    """What all callers of a tenant may take together."""

    spend_usd_per_day: Decimal | None = Field(default=None, ge=0, le=MAX_SPEND_USD)
    """What its streams may cost in one day (UTC), as far as this server knows prices: a chat reserves
    what it may cost, and what does not fit gets QUOTA_EXHAUSTED; one whose answer grows past what it has
    reserved, and finds nothing left, finishes with BUDGET. Models without a known price are refused."""
    spend_usd_per_month: Decimal | None = Field(default=None, ge=0, le=MAX_SPEND_USD)
    """The same for one month (UTC)."""


class TlsConfig(_Section):
    """PEM files, read again when they change: connections that are open stay as they are."""

    cert: Path | None = None
    """The server's certificate, and those between it and its authority. None: no TLS."""
    key: Path | None = None
    """Its private key."""
    client_ca: Path | None = None
    """Authorities of callers' certificates. Set: a connection without such a certificate is refused."""


OPENAI_QUIRKS = Quirks(max_tokens_field="max_completion_tokens", system_role="developer")


def known_providers(environ: Mapping[str, str]) -> dict[str, ProviderConfig]:
    """The providers that need no configuration, at the addresses the environment names."""
    for name in ("OPENAI_BASE_URL", "ANTHROPIC_BASE_URL"):
        if not environ.get(name, "http://").startswith(("http://", "https://")):
            raise ConfigError(f"{name}: must begin with http:// or https://")
    openai = environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
    anthropic = environ.get("ANTHROPIC_BASE_URL") or "https://api.anthropic.com"
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


class ConfigError(Exception):
    """The settings cannot be had: one line that says which, and what to do."""


class Settings(BaseSettings):
    """All settings of the server. Nested ones as `TOKENWIRE_LIMITS__MAX_STREAMS`."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True
    )

    listen: str = "127.0.0.1:50051"
    """HOST:PORT; port 0 takes a free one."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    drain_grace_s: float = Field(default=5.0, ge=0)
    """How long open streams may go on after SIGTERM. Then they end with SERVER_STOPPED."""
    database: str = "sqlite:///tokenwire.db"
    """Where keys and usage records are kept: `sqlite:///FILE` or `postgresql://USER:PASSWORD@HOST/NAME`.
    With --demo the default is a temporary file, which is removed when the server stops."""
    usage_kept_days: int | None = Field(default=None, ge=1, le=36500)
    """How long usage records are kept, from the end of their streams. None: for ever. At least 31 where a
    tenant's spend is limited by the month: after a restart it is summed from the records."""
    migrate: bool = True
    """Bring the database's schema up to date at start. Otherwise `tokenwire-server migrate` does."""
    auth: Literal["auto", "keys", "none"] = "auto"
    """Whether callers need keys. "auto": when there are any; without any, only loopback can be listened
    on. "none": nobody needs one, on any address."""
    reflection: Literal["keys", "open", "off"] = "keys"
    """Whether the server tells its API: to callers with keys where they need them, to all, to nobody."""
    keys_trusted_s: float = Field(default=300.0, gt=0)
    """How long keys are taken as they were last read when the database cannot be reached. Past it new
    calls get STORE_UNAVAILABLE."""
    tls: TlsConfig = TlsConfig()
    limits: Limits = Limits()
    tenants: dict[str, TenantLimits] = {}
    """What all callers of a tenant may take together; "*" stands for every tenant not named."""
    providers: dict[str, ProviderConfig] = {}
    models: dict[str, ModelConfig] = {}

    @field_validator("listen")
    @classmethod
    def _is_host_and_port(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        if not host or not port.isascii() or not port.isdigit() or int(port) > MAX_PORT:
            raise ValueError(f"must be HOST:PORT, such as 127.0.0.1:50051, not {value!r}")
        return value

    @field_validator("tenants")
    @classmethod
    def _months_are_kept(
        cls, value: dict[str, TenantLimits], info: ValidationInfo
    ) -> dict[str, TenantLimits]:
        kept_days = info.data.get("usage_kept_days")
        if kept_days is not None and kept_days < LONGEST_MONTH_DAYS:
            for name, limits in value.items():
                if limits.spend_usd_per_month is not None:
                    raise ValueError(
                        f"{name}.spend_usd_per_month needs usage_kept_days of at least "
                        f"{LONGEST_MONTH_DAYS}, not {kept_days}: a restart reads there what was spent"
                    )
        return value

    @field_validator("providers")
    @classmethod
    def _provider_names(cls, value: dict[str, ProviderConfig]) -> dict[str, ProviderConfig]:
        for name in value:
            if not name or "/" in name:
                raise ValueError(f"provider name {name!r} must not be empty or hold a slash")
        return value


def load(
    path: Path | None, flags: Mapping[str, Any], environ: Mapping[str, str] = os.environ
) -> Settings:
    """The settings. Raises ConfigError with every fault: where it stands and what is wrong."""
    if path is not None and not path.is_file():
        raise ConfigError(f"{path}: there is no such file")
    for name in environ:
        section = name.removeprefix(ENV_PREFIX).partition("__")[0].lower()
        if (
            name.startswith(ENV_PREFIX)
            and name not in OTHERS_VARIABLES
            and section not in Settings.model_fields
        ):
            raise ConfigError(f"{name}: there is no such setting")

    class Layered(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            del dotenv_settings, file_secret_settings
            file = TomlConfigSettingsSource(settings_cls, toml_file=path)
            return (init_settings, env_settings, file)

    try:
        return Layered(**flags)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(step) for step in fault['loc'])}: {_said(fault['msg'], fault['loc'])}"
            for fault in error.errors(include_url=False, include_input=False)
        )
        raise ConfigError(f"{path or 'settings'}: {faults}") from error
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError, SettingsError) as error:
        raise ConfigError(f"{path or 'settings'}: {error}") from error


def _said(message: str, path: tuple[str | int, ...]) -> str:
    """Pydantic's words without its jargon."""
    if message == "Extra inputs are not permitted":
        new_name = RENAMED_SETTINGS.get(str(path[-1]))
        return f"renamed to {new_name}" if new_name else "there is no such setting"
    return message.removeprefix("Value error, ")
