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
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from .addresses import listen_address
from .bounds import Days, Seconds, SecondsOrZero, Workers
from .breaker import BreakerConfig
from .filters import MAX_FILTER_NAME_CHARS, MAX_FILTERS, FilterConfig
from .grpc import GrpcConfig
from .limits import Limits
from .models import ModelConfig
from .moderation import MAX_MODERATION_NAME_CHARS, MAX_MODERATIONS, ModerationConfig
from .otel import OtelConfig
from .overload import OverloadConfig
from .providers import ProviderConfig
from .redis import RedisConfig
from .retries import RetryConfig
from .section import Section
from .sources import ConfigError, Sources, fault_at
from .tenants import TenantLimits

LONGEST_MONTH_DAYS = 31


def _one_line(value: object) -> object:
    """Reject a text that cannot name a file: an empty one, or one with control characters such as NUL."""
    if isinstance(value, str) and not (value and value.isprintable()):
        raise ValueError("is empty or contains a control character")
    return value


PemFile = Annotated[Path, BeforeValidator(_one_line)]


class TlsConfig(Section):
    """PEM files of TLS. They are read again when they change; open connections keep their certificates."""

    cert: PemFile | None = None
    """File with the server's certificate, followed by the intermediate certificates. By default TLS is
    off."""
    key: PemFile | None = None
    """File with the private key of the server's certificate."""
    client_ca: PemFile | None = None
    """File with the authorities of client certificates. If set, a connection without a certificate of one of
    them is refused."""


class Settings(Section):
    """All settings of the server. The variable of a nested one is `TOKENWIRE_LIMITS__MAX_STREAMS`."""

    listen: Annotated[str, AfterValidator(listen_address)] = "127.0.0.1:50051"
    """Address to listen on, as HOST:PORT. Port 0 selects a free port."""
    workers: Workers = 1
    """Number of processes that share the address, to use several cores. A caller's connection belongs to one
    of them, and each has the limits of `[limits]` for itself. More than 1 needs `[redis]`, or
    `resume = false`."""
    resume: bool = True
    """Whether streams can be resumed, cancelled, deleted and looked up by their ids, and chats may have a
    `request_id`. If not, ResumeStream, CancelStream, DeleteStream and GetStream get RESUME_DISABLED, a chat
    with a `request_id` gets INVALID_REQUEST, and streams are not kept after their ends."""
    metrics_listen: Annotated[str, AfterValidator(listen_address)] | None = None
    """Address on which Prometheus metrics are served at `/metrics`, as HOST:PORT. Every caller that reaches
    it may read them. By default there are none."""
    metrics_tenant_label: bool = False
    """Whether the metrics of streams, tokens and cost have a label with the tenant."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Lowest level of the log records that are written to stderr."""
    log_format: Literal["text", "json", "auto"] = "text"
    """Format of the log records. "text": a line of text. "json": a JSON object in a line. "auto": text if
    stderr is a terminal, JSON otherwise."""
    log_streams: bool = True
    """Whether the end of each stream is logged, at the level INFO."""
    drain_grace_s: SecondsOrZero = 5.0
    """Seconds for which open streams may continue after SIGTERM. Then they end with SERVER_STOPPED."""
    drain_accept_s: SecondsOrZero = 2.0
    """Seconds after SIGTERM for which new chats are accepted, while health reports NOT_SERVING: the time in
    which load balancers notice it. Then new chats get DRAINING. This time is part of
    `drain_grace_s`. After SIGINT, such as Ctrl-C, new chats get DRAINING at once."""
    database: Annotated[str, BeforeValidator(_one_line)] = "sqlite:///tokenwire.db"
    """Database of keys, usage records and the keys of tenants at providers: `sqlite:///FILE` or
    `postgresql://USER:PASSWORD@HOST/NAME`. With --demo the default is a temporary file, which is removed when
    the server stops."""
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
    grpc: GrpcConfig = GrpcConfig()
    """Lifetime of the connections of callers, and the HTTP/2 pings on them."""
    overload: OverloadConfig = OverloadConfig()
    """When the server refuses new chats because its event loop is late."""
    retries: RetryConfig = RetryConfig()
    """How the server repeats requests to a provider that failed before the first content of the answer."""
    breaker: BreakerConfig = BreakerConfig()
    """When the server sends no requests to a model of a provider because they would fail."""
    redis: RedisConfig = RedisConfig()
    """Redis, or Valkey, through which several servers share streams. It needs the extra `redis`."""
    otel: OtelConfig = OtelConfig()
    """What the server sends over OTLP, the protocol of OpenTelemetry."""
    tenants: dict[str, TenantLimits] = {}
    """Limits of tenants, by name. The name "*" is for every tenant that is not named."""
    providers: dict[str, ProviderConfig] = {}
    """Providers by name, in addition to `openai`, `openai-responses` and `anthropic`, or in place of them.
    `openai` and `openai-responses` also send the organization in OPENAI_ORG_ID and the project in
    OPENAI_PROJECT_ID, if these variables are set, with the server's key."""
    models: dict[str, ModelConfig] = {}
    """Aliases of models, and facts about models, by name."""
    filters: dict[str, FilterConfig] = Field(default={}, max_length=MAX_FILTERS)
    """Filters of what models answer and of what callers send, by name. They act in this order. They need the
    extra `filters`."""
    moderation: dict[str, ModerationConfig] = Field(default={}, max_length=MAX_MODERATIONS)
    """Services that check what callers send or what models answer, by name. They act after the filters."""

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

    @model_validator(mode="after")
    def _workers_share_streams(self) -> Self:
        if self.workers > 1 and self.resume and self.redis.url is None:
            raise fault_at(
                ["workers"],
                f"{self.workers} workers need redis.url, or resume = false: without Redis, only the "
                "worker that runs a stream finds it by its id",
            )
        return self

    @field_validator("filters")
    @classmethod
    def _filter_names(cls, value: dict[str, FilterConfig]) -> dict[str, FilterConfig]:
        for name in value:
            if not (name and name.isprintable() and len(name) <= MAX_FILTER_NAME_CHARS):
                raise fault_at(
                    [name],
                    f"a filter's name must have 1 to {MAX_FILTER_NAME_CHARS} printable characters",
                )
        return value

    @field_validator("moderation")
    @classmethod
    def _moderation_names(cls, value: dict[str, ModerationConfig]) -> dict[str, ModerationConfig]:
        for name in value:
            if not (name and name.isprintable() and len(name) <= MAX_MODERATION_NAME_CHARS):
                raise fault_at(
                    [name],
                    f"a moderation's name must have 1 to {MAX_MODERATION_NAME_CHARS} printable "
                    "characters",
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
