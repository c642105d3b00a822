"""The server's settings, their sources and their bounds."""

from __future__ import annotations

from .bounds import MAX_SPEND_USD
from .http_fields import resolve, secrets
from .settings import (
    EVERY_OTHER_TENANT,
    OPENAI_QUIRKS,
    CallerLimits,
    Limits,
    ModelConfig,
    ModelPrices,
    ProviderConfig,
    ProviderKind,
    Quirks,
    RetryConfig,
    Settings,
    TenantLimits,
    TlsConfig,
    known_providers,
    load,
)
from .sources import ConfigError

__all__ = [
    "EVERY_OTHER_TENANT",
    "MAX_SPEND_USD",
    "OPENAI_QUIRKS",
    "CallerLimits",
    "ConfigError",
    "Limits",
    "ModelConfig",
    "ModelPrices",
    "ProviderConfig",
    "ProviderKind",
    "Quirks",
    "RetryConfig",
    "Settings",
    "TenantLimits",
    "TlsConfig",
    "known_providers",
    "load",
    "resolve",
    "secrets",
]
