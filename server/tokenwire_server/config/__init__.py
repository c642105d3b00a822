"""The server's settings, their sources and their bounds."""

from __future__ import annotations

from .bounds import MAX_SPEND_USD
from .breaker import BreakerConfig
from .checks import require_a_key, require_models, require_targets
from .filters import FilterConfig
from .grpc import GrpcConfig
from .http_fields import resolve, secrets, without_secrets
from .limits import Limits
from .models import ModelConfig, ModelPrices, ModelTarget, TargetChoice
from .moderation import ModerationConfig
from .otel import OtelConfig
from .overload import OverloadConfig
from .providers import (
    OPENAI_QUIRKS,
    ProviderConfig,
    ProviderKind,
    Quirks,
    known_providers,
)
from .redis import RedisAddress, RedisConfig
from .reloading import changed_names, reloaded
from .retries import RetryConfig
from .settings import Settings, TlsConfig, load
from .sources import ConfigError
from .tenants import EVERY_OTHER_TENANT, CallerLimits, TenantLimits
from .worker import WorkerConfig

__all__ = [
    "EVERY_OTHER_TENANT",
    "MAX_SPEND_USD",
    "OPENAI_QUIRKS",
    "BreakerConfig",
    "CallerLimits",
    "ConfigError",
    "FilterConfig",
    "GrpcConfig",
    "Limits",
    "ModelConfig",
    "ModelPrices",
    "ModelTarget",
    "ModerationConfig",
    "OtelConfig",
    "OverloadConfig",
    "ProviderConfig",
    "ProviderKind",
    "Quirks",
    "RedisAddress",
    "RedisConfig",
    "RetryConfig",
    "Settings",
    "TargetChoice",
    "TenantLimits",
    "TlsConfig",
    "WorkerConfig",
    "changed_names",
    "known_providers",
    "load",
    "reloaded",
    "require_a_key",
    "require_models",
    "require_targets",
    "resolve",
    "secrets",
    "without_secrets",
]
