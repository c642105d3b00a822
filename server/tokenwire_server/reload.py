"""Reload of the configuration while the server runs.

Everything that can fail or takes long is done first: reading and validating in a thread, and the queries that
new limits need. Then all parts of the server get their new settings in one synchronous step, so that no task
sees a mixture.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from .config import (
    ConfigError,
    FilterConfig,
    ModelConfig,
    ModerationConfig,
    Settings,
    TenantLimits,
    changed_names,
    reloaded,
)
from .content.filter_set import FilterSet
from .errors import StoreUnavailable, operator_text
from .ledger.store import UsageStore
from .moderation.moderator import ModerationSet
from .pricing.pricebook import ConfiguredPrices, PriceBook
from .routing.owner import Routing
from .routing.plan import Router
from .rpc.certificates import Certificates, PemFiles
from .rpc.tls import ServerTls
from .signals import Stop
from .streams.cache import ResponseCache
from .streams.latency import LatencyTable
from .telemetry import set_log_level
from .tenants.limits import Limiter, check_limits
from .tenants.provider_keyring import ProviderKeyring
from .tenants.spend import Periods, SpendLimiter
from .threads import ReaderThread

if TYPE_CHECKING:
    from .telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

READ_TIMEOUT_S = 10.0
"""How long reading the files, and the database if new limits need it, may take. A file system may hang."""
MAX_LOGGED_NAMES = 20

Models = Mapping[str, ModelConfig]
Spent = tuple[dict[str, int], dict[str, int]]
"""What tenants have spent today and this month, in microusd."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The parts of a server that get new settings."""

    router: Router
    book: PriceBook
    routing: Routing
    limiter: Limiter
    spend: SpendLimiter
    own_keys: ProviderKeyring
    cache: ResponseCache
    latency: LatencyTable
    metrics: Metrics | None
    tls: ServerTls | None
    store: UsageStore
    instance_id: str
    """The id of this start of the process. The costs of its own streams are counted already."""


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """What a reload gives to the parts."""

    settings: Settings
    models: Models
    filters: FilterSet
    moderation: ModerationSet
    prices: ConfiguredPrices
    configuration: bytes
    """What shared answers are found by. Empty if they are not shared."""
    files: tuple[PemFiles, Certificates] | None
    """The files of TLS, if they have changed."""
    changed: list[str]
    """The settings that differ from those in use."""
    unused: list[str]
    """The settings that differ and are used after a restart."""


class Reload:
    """Reads the configuration again when it is requested. An invalid one changes nothing."""

    def __init__(
        self,
        started: Settings,
        read: Callable[[], Settings],
        models_of: Callable[[Settings], Models],
        moderation_of: Callable[[Settings], ModerationSet],
        parts: Parts,
    ) -> None:
        """`started` are the settings with which the server started. `read` returns those that are configured
        now; `models_of` and `moderation_of` return the models and moderations of given settings. All raise
        ConfigError.
        """
        self.settings = started
        """The settings that are in use."""
        self._started = started
        self._read = read
        self._models_of = models_of
        self._moderation_of = moderation_of
        self._parts = parts
        self._reader = ReaderThread("reload")
        if parts.metrics is not None:
            parts.metrics.reload_time.set_to_current_time()

    async def follow(self, stop: Stop) -> NoReturn:
        """Reload when `stop.reload` is set, until cancelled. Requests during a reload cause one more."""
        while True:
            await stop.reload.wait()
            stop.reload.clear()
            is_success = False
            try:
                is_success = await self._reload(stop)
            except (ConfigError, StoreUnavailable) as error:
                _log_failure(operator_text(error))
            except TimeoutError:
                _log_failure(f"it could not be read within {READ_TIMEOUT_S:g} s")
            except Exception:  # streams continue after any error
                logger.exception("the configuration was not reloaded, because of an internal error")
            if self._parts.metrics is not None:
                self._parts.metrics.reloaded(is_success=is_success)

    async def _reload(self, stop: Stop) -> bool:
        """Raises ConfigError, StoreUnavailable, TimeoutError."""
        if self._reader.is_busy:
            raise ConfigError("the read that an earlier SIGHUP started has not ended")
        async with asyncio.timeout(READ_TIMEOUT_S):
            prepared = await self._reader.run(self._prepare)
            spent = await self._spent_before(prepared.settings.tenants)
        if stop.requested.is_set():
            logger.warning("the configuration was not reloaded: the server is stopping")
            return False
        self._apply(prepared, spent)
        changed = prepared.changed + (["the files of tls"] if prepared.files is not None else [])
        logger.info("the configuration was reloaded; changed: %s", _list(changed) or "nothing")
        if prepared.unused:
            logger.warning("these settings take effect after a restart: %s", _list(prepared.unused))
        return True

    def _prepare(self) -> _Prepared:
        """Read and validate the settings. Blocks: thousands of tenants and models take half a second.

        Raises ConfigError.
        """
        new = self._read()
        settings = reloaded(self._started, new)
        is_shared = settings.redis.url is not None
        check_limits(settings.tenants, settings.limits, is_shared=is_shared)
        models = self._usable_models(settings, new)
        shared = self._parts.cache.shared
        return _Prepared(
            settings=settings,
            models=models,
            filters=FilterSet.of(settings.filters, self._parts.routing.filters),
            moderation=self._moderation_of(settings),
            prices=ConfiguredPrices.of(models),
            configuration=(
                shared.configuration_of(models, settings.filters, settings.moderation)
                if shared is not None
                else b""
            ),
            files=None if self._parts.tls is None else self._parts.tls.changed(),
            changed=changed_names(self.settings, settings),
            unused=changed_names(settings, new),
        )

    def _usable_models(self, settings: Settings, new: Settings) -> Models:
        """Raises ConfigError."""
        try:
            return self._models_of(settings)
        except ConfigError as error:
            if new.providers.keys() <= settings.providers.keys():
                raise
            hint = "new providers can be used after a restart"
            raise ConfigError(f"{error} ({hint})") from error

    def _apply(self, prepared: _Prepared, spent: Spent | None) -> None:
        """Give all parts their settings. Nothing here waits or fails."""
        parts, before = self._parts, self.settings
        settings, models = prepared.settings, prepared.models
        self.settings = settings
        set_log_level(settings.log_level)
        parts.router.replace(models)
        parts.book.replace(prepared.prices)
        parts.routing.retries = parts.routing.retries.replaced(settings.retries)
        parts.routing.filters = prepared.filters
        parts.routing.moderation = prepared.moderation
        parts.limiter.replace(settings.tenants)
        parts.spend.replace(settings.tenants)
        parts.own_keys.replace(settings.tenants)
        if spent is not None:
            today, this_month = spent
            parts.spend.remember(today=today, this_month=this_month)
        if (settings.models, *_ordered(settings)) != (before.models, *_ordered(before)):
            parts.cache.clear()
        if parts.cache.shared is not None:
            parts.cache.shared.configuration = prepared.configuration
        targets = targets_of(models)
        parts.latency.replace(targets)
        if parts.metrics is not None:
            parts.metrics.include_models(targets)
        if parts.tls is not None and prepared.files is not None:
            parts.tls.use(*prepared.files)

    async def _spent_before(self, tenants: Mapping[str, TenantLimits]) -> Spent | None:
        """Return what tenants spent before this process counted it, if limits need it for the first time."""
        parts = self._parts
        if not parts.spend.must_remember(tenants):
            return None
        longest_s = self._started.limits.max_stream_duration_s
        return await spent_before(
            parts.store, longest_s, parts.instance_id, is_shared=parts.spend.is_shared
        )


async def spent_before(
    store: UsageStore, longest_stream_s: float, instance_id: str, *, is_shared: bool = False
) -> Spent:
    """Return what tenants have spent today and this month, except in one start of a process.

    If the spend is shared, it is what all processes have spent, without open streams, whose cost each process
    reports when they end.

    Raises StoreUnavailable.
    """
    while True:
        periods = Periods.at(time.time())
        today, this_month = [
            await store.spent_since(
                begin.timestamp(),
                longest_stream_s,
                except_instance="" if is_shared else instance_id,
                has_open=not is_shared,
            )
            for begin in (periods.day, periods.month)
        ]
        if periods == Periods.at(time.time()):  # and not the next day by now
            return today, this_month


def _ordered(
    settings: Settings,
) -> tuple[list[tuple[str, FilterConfig]], list[tuple[str, ModerationConfig]]]:
    """Return the filters and the moderations of settings. Their order matters."""
    return list(settings.filters.items()), list(settings.moderation.items())


def targets_of(models: Models) -> list[str]:
    """Return the models of the configuration, as `provider/model`."""
    return [target for name, model in models.items() for target in model.target_names(name)]


def _log_failure(why: str) -> None:
    logger.error("the configuration was not reloaded, and the previous one stays in use: %s", why)


def _list(names: Sequence[str]) -> str:
    """Return names in one line that is not too long."""
    more = len(names) - MAX_LOGGED_NAMES
    return ", ".join(names[:MAX_LOGGED_NAMES]) + (f" and {more} more" if more > 0 else "")
