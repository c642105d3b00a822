"""The server's settings: defaults, then a TOML file, then `TOKENWIRE_*` variables, then flags.

The text under each field is its description in the reference of all settings. Unknown names are errors, so
that a misspelled limit is not ignored. Every number has an upper bound, see `bounds`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from .addresses import listen_address
from .bounds import Days, Seconds, SecondsOrZero
from .limits import Limits
from .models import ModelConfig
from .otel import OtelConfig
from .providers import ProviderConfig
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
    otel: OtelConfig = OtelConfig()
    """What the server sends over OTLP, the protocol of OpenTelemetry."""
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
