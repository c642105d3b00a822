"""The server's settings, their sources and their bounds."""

from __future__ import annotations

from .bounds import MAX_SPEND_USD
from .http_fields import resolve, secrets
from .limits import Limits
from .models import ModelConfig, ModelPrices
from .otel import OtelConfig
from .providers import (
    OPENAI_QUIRKS,
    ProviderConfig,
    ProviderKind,
    Quirks,
    known_providers,
)
from .retries import RetryConfig
from .settings import Settings, TlsConfig, load
from .sources import ConfigError
from .tenants import EVERY_OTHER_TENANT, CallerLimits, TenantLimits

__all__ = [
    "EVERY_OTHER_TENANT",
    "MAX_SPEND_USD",
    "OPENAI_QUIRKS",
    "CallerLimits",
    "ConfigError",
    "Limits",
    "ModelConfig",
    "ModelPrices",
    "OtelConfig",
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
