"""The moderations of the configuration: whom each is for, and how its checks are bounded and counted."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence

from ..config import ConfigError, ModerationConfig, resolve
from ..errors import Overloaded
from ..providers.http import Connections
from ..turns import Turns
from .client import ModerationClient
from .http_service import HttpModeration
from .openai_service import PATH, OpenAIModeration
from .service import ModerationFailed, ModerationService, TextSource, Verdict

logger = logging.getLogger(__name__)

Observe = Callable[[str, str, float], object]
"""Takes the name of a moderation, the result of a check, and its seconds. The results are "clear", "flagged",
"failed" and "timeout"."""

MAX_WAITING = 10_000
"""Checks of all tenants that may wait for their turn. The wait counts as their time, so it is short."""
TOO_MANY = "too many checks wait"


class Moderator:
    """A moderation of the configuration. Shared by all streams of a process, in one event loop."""

    def __init__(
        self,
        name: str,
        config: ModerationConfig,
        service: ModerationService,
        observe: Observe | None = None,
    ) -> None:
        self.name = name
        self.config = config
        self._service = service
        self._observe = observe
        self._turns = Turns(
            max_waiting=MAX_WAITING, refusal=TOO_MANY, at_once=config.max_concurrent
        )
        self._categories = frozenset(config.categories)
        self._is_failing = False

    def applies(self, tenant: str, model: str) -> bool:
        """Return whether a tenant's requests for a model, and their answers, are checked."""
        config = self.config
        return (not config.tenants or tenant in config.tenants) and (
            not config.models or model in config.models
        )

    async def check(self, text: str, source: TextSource, tenant: str = "") -> Verdict:
        """Check a text, when it is its turn, and decide by the configured categories.

        Turns go to the tenants in rotation, so that one with many texts does not delay those of others.
        Raises ModerationFailed, at the latest after `timeout_s`. Cancellation closes the connection.
        """
        began = time.monotonic()
        try:
            async with asyncio.timeout(self.config.timeout_s), self._turns.turn(tenant, 1):
                verdict = await self._service.check(text, source)
        except TimeoutError:
            self._count("timeout", began)
            raise self._failed(f"no result within {self.config.timeout_s:g} s") from None
        except (ModerationFailed, Overloaded) as error:
            self._count("failed", began)
            raise self._failed(str(error)) from error
        except Exception:
            self._count("failed", began)
            raise
        verdict = Verdict.of(
            flagged=verdict.flagged, categories=verdict.categories, counting=self._categories
        )
        self._count("flagged" if verdict.flagged else "clear", began)
        if self._is_failing:
            self._is_failing = False
            logger.info("moderation %s works again", self.name)
        return verdict

    def _failed(self, why: str) -> ModerationFailed:
        """Return the failure of a check. Log the first one of several as a warning."""
        level = logging.DEBUG if self._is_failing else logging.WARNING
        self._is_failing = True
        logger.log(level, "moderation %s fails: %s", self.name, why)
        return ModerationFailed(why)

    def _count(self, result: str, began: float) -> None:
        if self._observe is not None:
            self._observe(self.name, result, time.monotonic() - began)


class ModerationSet:
    """All moderations of a configuration, in their order."""

    def __init__(self, moderators: Sequence[Moderator] = ()) -> None:
        self._moderators = tuple(moderators)

    @classmethod
    def of(
        cls,
        configs: Mapping[str, ModerationConfig],
        environ: Mapping[str, str],
        connections: Connections,
        observe: Observe | None = None,
    ) -> ModerationSet:
        """Raises ConfigError with the path of what cannot be used."""
        return cls(
            [
                Moderator(name, config, _service(name, config, environ, connections), observe)
                for name, config in configs.items()
            ]
        )

    def of_input(self, tenant: str, model: str) -> list[Moderator]:
        """Return what checks a request. `model` is as the caller named it."""
        return [m for m in self._moderators if m.config.input and m.applies(tenant, model)]

    def of_output(self, tenant: str, model: str) -> list[Moderator]:
        """Return what checks the answer to a request. `model` is as the caller named it."""
        return [
            m for m in self._moderators if m.config.output != "off" and m.applies(tenant, model)
        ]


NO_MODERATION = ModerationSet()


def _service(
    name: str,
    config: ModerationConfig,
    environ: Mapping[str, str],
    connections: Connections,
) -> ModerationService:
    """Raises ConfigError."""
    path = f"moderation.{name}"
    key = _key(path, config, environ)
    headers, missing = resolve(config.headers, environ)
    if missing:
        raise ConfigError(f"{path}.headers: the variable {missing[0]} is not set")
    if config.service == "openai":
        client = ModerationClient(connections, config.base_url + PATH, key, headers)
        return OpenAIModeration(config.model, client)
    return HttpModeration(name, ModerationClient(connections, config.url or "", key, headers))


def _key(path: str, config: ModerationConfig, environ: Mapping[str, str]) -> str:
    """Raises ConfigError."""
    name = config.api_key_env
    if not name:
        return ""
    key = environ.get(name, "").strip()
    if not key:
        raise ConfigError(f"{path}.api_key_env: the variable {name} is not set")
    if not key.isascii() or not key.isprintable():
        raise ConfigError(f"{name}: must contain only printable ASCII characters")
    return key
