"""The configured providers, by name, and where a request's `model` leads."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import TracebackType
from typing import Self

import anthropic
import httpx2
import msgspec
import openai

from .. import __version__
from ..config import ConfigError, Limits, ModelConfig, ProviderConfig, ProviderKind, known_providers
from ..errors import UnknownModel
from .anthropic import AnthropicMessages
from .base import Dialect, Provider
from .http import AiohttpTransport
from .openai_chat import OpenAIChat
from .openai_responses import OpenAIResponses
from .upstream import HttpProvider, SdkClient

DIALECTS: dict[ProviderKind, Dialect] = {
    "openai-chat": OpenAIChat(),
    "openai-responses": OpenAIResponses(),
    "anthropic": AnthropicMessages(),
}

MAX_NEAREST = 3
MAX_COMPARED_CHARS = 256
"""Characters of an unknown name that are compared: the time for this grows with the length."""

ANTHROPIC_VERSION = "2023-06-01"
"""The wire format that our decoder reads. Newer ones refuse temperature, top_p and top_k even for models
that take them, and an SDK's default would change the format with an upgrade."""
NO_KEY = "none"
"""The SDKs want a key, and send it: for a server that takes none, a word that is no secret."""

_USER_AGENT = f"tokenwire/{__version__}"


class Route(msgspec.Struct, frozen=True):
    """Where a request goes: a provider, and the model's name there."""

    provider: Provider
    model: str
    max_output_tokens: int | None
    """The most the model gives, where the configuration says so."""
    first_content_s: float | None = None
    """The model's own limit for its first content. None: `Limits.upstream_first_content_s` applies."""
    idle_s: float | None = None
    """The model's own limit between two arrivals. None: `Limits.upstream_idle_s` applies."""


class Registry:
    """Every provider that has a key or needs none. An async context: it owns the HTTP client.

    Raises ConfigError when a key is none.
    """

    def __init__(
        self,
        providers: Mapping[str, ProviderConfig],
        models: Mapping[str, ModelConfig],
        limits: Limits,
        environ: Mapping[str, str],
    ) -> None:
        self._configs = providers
        self._models = models
        self._limits = limits
        self._keys = {name: _key(config, environ) for name, config in providers.items()}
        self._providers: dict[str, Provider] = {}

    async def __aenter__(self) -> Self:
        self._http = httpx2.AsyncClient(
            transport=AiohttpTransport(connect_s=self._limits.upstream_connect_s),
            headers={"Accept-Encoding": "identity"},
            cookies=CookieJar(
                DefaultCookiePolicy(allowed_domains=())
            ),  # none: all tenants share it
            timeout=None,  # every wait has its own named limit, see SilenceLimit
            follow_redirects=False,
            trust_env=False,
        )
        for name, config in self._configs.items():
            key = self._keys[name]
            if key or not config.api_key_env:
                self._providers[name] = HttpProvider(
                    name, config, DIALECTS[config.kind], _sdk_client(name, config, key, self._http)
                )
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        await self._http.aclose()

    def model_ids(self) -> list[str]:
        """The models and aliases the configuration names, sorted."""
        return sorted(self._models)

    def describe(self, model: str) -> tuple[Route, ModelConfig]:
        """Where a model leads, and what the configuration knows of it. Raises UnknownModel."""
        config = self._models.get(model)
        target = (config.target if config else "") or model
        facts = _merged(self._models.get(target), config)
        name, slash, rest = target.partition("/")
        if not slash or not rest:
            raise UnknownModel(
                model,
                why=f"{model!r} is neither provider/model nor an alias of this server",
                nearest=self._nearest(model),
            )
        provider = self._providers.get(name)
        if provider is None:
            missing = self._configs.get(name)
            why = (
                f"provider {name!r} has no key on this server; its operator must set {missing.api_key_env}"
                if missing is not None
                else f"there is no provider {name!r} on this server"
            )
            raise UnknownModel(model, why=why, nearest=self._nearest(model))
        route = Route(provider, rest, facts.max_output_tokens, facts.first_content_s, facts.idle_s)
        return route, facts

    def route(self, model: str) -> Route:
        """Where a request for a model goes. Raises UnknownModel."""
        return self.describe(model)[0]

    def _nearest(self, model: str) -> list[str]:
        model = model[:MAX_COMPARED_CHARS]
        _, _, rest = model.partition("/")
        known = [*self._models, *(f"{provider}/{rest or '...'}" for provider in self._providers)]
        close = difflib.get_close_matches(model, known, n=MAX_NEAREST, cutoff=0.6)
        return close or [f"{p}/..." for p in sorted(self._providers)][:MAX_NEAREST]


def _merged(target: ModelConfig | None, alias: ModelConfig | None) -> ModelConfig:
    """What is known of a model: what the alias says, and where it is silent, what its target says."""
    said = [config.model_dump(exclude_unset=True) for config in (target, alias) if config]
    return ModelConfig(**{key: value for facts in said for key, value in facts.items()})


def _key(config: ProviderConfig, environ: Mapping[str, str]) -> str:
    key = environ.get(config.api_key_env, "").strip() if config.api_key_env else ""
    if not key.isascii() or not key.isprintable():
        raise ConfigError(f"{config.api_key_env}: a key is printable ASCII, and this one is not")
    return key


def _sdk_client(name: str, config: ProviderConfig, key: str, http: httpx2.AsyncClient) -> SdkClient:
    """An SDK client without retries of its own, that sends our key and nobody's identity by accident."""
    if config.kind == "anthropic":
        return anthropic.AsyncAnthropic(
            api_key=key or NO_KEY,
            base_url=config.base_url,
            http_client=http,
            max_retries=0,
            timeout=None,
            default_headers={"User-Agent": _USER_AGENT, "anthropic-version": ANTHROPIC_VERSION},
            open_telemetry=False,
        )
    is_openai = name in known_providers({})
    return openai.AsyncOpenAI(
        api_key=key or NO_KEY,
        base_url=config.base_url,
        # The SDK would take these from OPENAI_ORG_ID and OPENAI_PROJECT_ID: no one else's business.
        organization=None if is_openai else "",
        project=None if is_openai else "",
        http_client=http,
        max_retries=0,
        timeout=None,
        default_headers={"User-Agent": _USER_AGENT},
    )
