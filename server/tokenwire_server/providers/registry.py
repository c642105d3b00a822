"""The configured providers, by name, and the HTTP client that they share."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

import msgspec

from ..config import (
    ConfigError,
    Limits,
    ProviderConfig,
    ProviderKind,
    resolve,
    secrets,
    without_secrets,
)
from .anthropic import AnthropicMessages
from .base import Dialect, Provider
from .fault import Faults
from .headers import OPENAI_ORGANIZATION, OPENAI_PROVIDERS, request_headers
from .http import Connections, Sender
from .openai_chat import OpenAIChat
from .openai_responses import OpenAIResponses
from .provider import HttpProvider
from .slots import ConnectionSlots

DIALECTS: dict[ProviderKind, Dialect] = {
    "openai-chat": OpenAIChat(),
    "openai-responses": OpenAIResponses(),
    "anthropic": AnthropicMessages(),
}


class ProviderRegistry:
    """The providers that have a key or need none. An async context manager: it owns the HTTP client.

    Raises ConfigError if a key cannot be one.
    """

    def __init__(
        self,
        providers: Mapping[str, ProviderConfig],
        limits: Limits,
        environ: Mapping[str, str],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock` returns the Unix time. Some providers name the time of a retry as a date."""
        self._clock = clock
        self._configs = providers
        self._limits = limits
        self._access = {
            name: _Access.of(name, config, environ) for name, config in providers.items()
        }
        self._configured: dict[str, HttpProvider] = {}
        """All providers, also those that have no key of the server."""

    async def __aenter__(self) -> Self:
        self.connections = Connections(connect_s=self._limits.upstream_connect_s)
        """The connections to all providers."""
        for name, config in self._configs.items():
            access = self._access[name]
            self._configured[name] = HttpProvider(
                name,
                config,
                DIALECTS[config.kind],
                self._sender(name, access),
                Faults(name, config.base_url, access.secrets, clock=self._clock),
            )
        return self

    def _sender(self, name: str, access: _Access) -> Sender:
        config = self._configs[name]
        headers = request_headers(config.kind, access.key, access.organization, access.headers)
        return Sender(self.connections, config.base_url, headers, access.query)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        await self.connections.aclose()

    def get(self, name: str) -> Provider | None:
        """Return a provider by its name, or None if it is not configured or has no key."""
        return None if self.missing_key_env(name) is not None else self._configured.get(name)

    def is_configured(self, name: str) -> bool:
        """Return whether there is a provider with this name. It may have no key of the server."""
        return name in self._configs

    def with_key(self, name: str, key: str) -> Provider | None:
        """Return a provider that sends a tenant's own key. None if it is not configured.

        It sends none of the server's secrets: neither its key, nor the configured headers and query
        parameters whose values come from variables or whose names are those of keys.
        """
        provider = self._configured.get(name)
        if provider is None:
            return None
        config, access = self._configs[name], self._access[name].with_key(self._configs[name], key)
        return provider.with_key(
            self._sender(name, access),
            Faults(name, config.base_url, access.secrets, is_own_key=True, clock=self._clock),
        )

    def slots(self) -> dict[str, ConnectionSlots]:
        """Return the open requests of each provider, by its name."""
        return {name: provider.slots for name, provider in self._configured.items()}

    def names(self) -> list[str]:
        """Return the names of the providers that can be used, in the order of the configuration."""
        return [name for name in self._configured if self.get(name) is not None]

    def missing_key_env(self, name: str) -> str | None:
        """Return the environment variable that a configured provider needs and that is not set, or None."""
        access = self._access.get(name)
        return access.missing[0] if access is not None and access.missing else None


class _Access(msgspec.Struct, frozen=True):
    """What a provider's requests carry besides the chat: its key, and the configured headers and query."""

    key: str
    organization: dict[str, str]
    """The headers with the organization and the project of the server's key, for OpenAI."""
    headers: dict[str, str]
    query: dict[str, str]
    missing: list[str]
    """The environment variables that are needed and not set."""
    secrets: list[str]
    """The values that must not be in the log or in an error."""

    @classmethod
    def of(cls, name: str, config: ProviderConfig, environ: Mapping[str, str]) -> _Access:
        """Raises ConfigError."""
        key = _header_value(config.api_key_env, environ)
        organization = {}
        if name in OPENAI_PROVIDERS and config.kind != "anthropic":  # no other server may get it
            organization = {
                header: value
                for header, variable in OPENAI_ORGANIZATION.items()
                if (value := _header_value(variable, environ))
            }
        headers, missing = resolve(config.headers, environ)
        query, missing_in_query = resolve(config.query, environ)
        no_key = [config.api_key_env] if config.api_key_env and not key else []
        return cls(
            key,
            organization,
            headers,
            query,
            [*no_key, *missing, *missing_in_query],
            [
                key,
                *organization.values(),
                *secrets(config.headers, headers),
                *secrets(config.query, query),
            ],
        )

    def with_key(self, config: ProviderConfig, key: str) -> _Access:
        """Return the access with a tenant's own key, and without the server's secrets."""
        return _Access(
            key,
            {},
            without_secrets(config.headers),
            without_secrets(config.query),
            missing=[],
            secrets=[key, *self.secrets],
        )


def _header_value(variable: str, environ: Mapping[str, str]) -> str:
    """Return the value of a variable, which is sent in a header, or "". Raises ConfigError."""
    value = environ.get(variable, "").strip() if variable else ""
    if not value.isascii() or not value.isprintable():
        raise ConfigError(f"{variable}: must contain only printable ASCII characters")
    return value
