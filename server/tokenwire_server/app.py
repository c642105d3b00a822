"""The composition root: builds the server from its settings, owns every long-lived task."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from decimal import Decimal
from typing import TYPE_CHECKING

from . import install_hint
from .chats.admission import Admission
from .chats.chats import Chats
from .config import ConfigError, ModelConfig, ModelPrices, ProviderConfig, Settings, known_providers
from .ledger.instances import new_instance_id
from .ledger.retention import Retention
from .ledger.store import UsageStore
from .ledger.writer import Ledger
from .pricing.estimate import Estimator
from .pricing.pricebook import PriceBook
from .pricing.tokenizers import Tokenizers
from .providers.registry import ProviderRegistry
from .routing.attempts import Routing
from .routing.plan import Router
from .routing.retry import Retries
from .rpc.authentication import SPARE_CALLS, Authentication, OpenCalls
from .rpc.callers import CallerService
from .rpc.models import ModelService
from .rpc.reflection import REFLECTION_SERVICES
from .rpc.server import GrpcServer
from .rpc.service import ChatService
from .rpc.tls import ServerTls
from .rpc.usage import UsageService
from .shutdown import Stop, shut_down
from .simulator import Simulator
from .storage.database import Database
from .storage.sqlite import temporary_database
from .streams.cache import ResponseCache
from .streams.directory import StreamDirectory
from .streams.generation import StreamObserver
from .streams.host import StreamHost
from .streams.observers import Settlement, UsageRecorder
from .telemetry.event_loop import sample_lag
from .tenants.keyring import Keyring
from .tenants.keystore import KeyStore
from .tenants.memory_limiter import MemoryLimiter
from .tenants.spend import Periods, SpendLimiter

if TYPE_CHECKING:
    from .streams.otel import Otel
    from .telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

GC_THRESHOLDS = (2_000, 10, 100)
"""Python's own, (700, 10, 10), stop 300 streams for 25 ms every 1.5 s and take 3.5 % of the CPU. Streams
leave little for collection: 9 small objects each, 90 where one failed."""

DEMO_KEYS = {"OPENAI_API_KEY": "demo", "ANTHROPIC_API_KEY": "demo"}
DEMO_MODELS = ("openai/demo", "openai-responses/demo", "anthropic/demo")
DEMO_MODEL = ModelConfig(
    capabilities=("tools", "reasoning"), prices=ModelPrices(input=Decimal(1), output=Decimal(5))
)


async def serve(
    settings: Settings,
    environ: Mapping[str, str],
    *,
    demo: bool,
    ready: Callable[[str], None],
    stop_on_signals: Callable[[], Stop],
) -> bool:
    """Serve until a stop is requested, then drain. Return True, or False if gRPC died while serving.

    `stop_on_signals` is called right before RPCs are answered; it returns the Stop that ends the server.
    `ready` gets the address once RPCs are answered.

    Raises ConfigError if no provider can be used, or if the address, the database or a certificate cannot be
    used; StoreUnavailable if the database cannot be reached.
    """
    async with AsyncExitStack() as stack:
        models = dict(settings.models)
        if demo:
            simulator = await stack.enter_async_context(Simulator())
            environ = {
                **environ,
                **DEMO_KEYS,
                "OPENAI_BASE_URL": f"{simulator.url}/v1",
                "ANTHROPIC_BASE_URL": simulator.url,
            }
            models = {**dict.fromkeys(DEMO_MODELS, DEMO_MODEL), **models}
        providers = {**known_providers(environ), **settings.providers}
        _require_a_key(providers, environ)
        _require_targets(models, providers)
        tls = ServerTls.of(settings.tls)
        registry = await stack.enter_async_context(
            ProviderRegistry(providers, settings.limits, environ)
        )
        router = Router(registry, models)
        book, tokenizers = PriceBook(models, providers), Tokenizers()
        await book.load()
        await tokenizers.load()
        url = settings.database
        if demo and "database" not in settings.model_fields_set:
            # Keys in the database of this folder would make the demo refuse callers without a key.
            url = stack.enter_context(temporary_database())
        database = await stack.enter_async_context(Database(url))
        await database.prepare(migrate=settings.migrate)
        keyring = Keyring(KeyStore(database), mode=settings.auth, trusted_s=settings.keys_trusted_s)
        await keyring.refresh()
        _require_keys(settings, keyring)

        def has_tenants() -> bool:
            return keyring.needs_keys or settings.tls.client_ca is not None

        calls = OpenCalls(settings.limits.max_readers + SPARE_CALLS, has_tenants)
        open_services = REFLECTION_SERVICES if settings.reflection == "open" else frozenset[str]()
        metrics = await _serve_metrics(settings, models, stack)
        otel = await _start_otel(settings, providers, models, environ, stack)
        authentication = Authentication(
            keyring,
            calls,
            open_services,
            on_refusal=metrics.refused if metrics else None,
            on_limit=metrics.limit_reached if metrics else None,
        )
        server = GrpcServer(settings.limits, authentication)
        port = server.bind(settings.listen, tls.credentials() if tls else None)
        _log_exposure(settings, keyring)
        if url != settings.database:
            logger.info("keys and usage records are kept until the demo stops: see --database")
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        store = UsageStore(database)
        keep_days = settings.usage_kept_days
        retention = None if keep_days is None else Retention(store, keep_days * 86400.0)
        ledger = Ledger(store, new_instance_id(), retention=retention)
        recorder, cache = UsageRecorder(ledger), ResponseCache.within(settings.limits)
        directory = StreamDirectory()
        observers: list[StreamObserver] = [Settlement(), recorder, cache]
        if metrics is not None:
            observers.append(_stream_metrics(metrics))
        if otel is not None:
            observers += otel.observers
        estimator = Estimator(book, tokenizers, providers, settings.limits)
        routing = Routing(settings.limits, Retries(settings.retries), estimator)
        streams = StreamHost(tasks, directory, routing, observers, has_tenants=has_tenants)
        limiter = MemoryLimiter(settings.tenants)
        spend = SpendLimiter(settings.tenants)
        await _remember_spend(store, spend, settings.limits.max_stream_duration_s)
        admission = Admission(router, limiter, spend, estimator)
        chats = Chats(admission, spend, directory, streams, cache)

        def revoked(key_prefix: str) -> None:
            calls.end(key_prefix)  # first, so that its callers get the reason
            streams.cancel_all_of(key_prefix)

        stack.callback(tasks.create_task(keyring.follow(revoked), name="keyring").cancel)
        keeping = tasks.create_task(ledger.run(recorder.open_records), name="ledger")
        stack.callback(keeping.cancel)
        if metrics is not None:
            _read_at_scrapes(metrics, streams, ledger, otel)
        if tls is not None:
            stack.callback(tasks.create_task(tls.follow(), name="certificates").cancel)
        stop = stop_on_signals()
        await server.start(
            ChatService(chats, settings.limits),
            ModelService(router, book, settings.limits),
            CallerService(limiter, spend, settings.limits),
            UsageService(store, settings.limits),
            reflects=settings.reflection != "off",
        )
        # A collection of all objects that the SDKs imported would stop every stream for 100 ms.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        if metrics is not None:
            lag = sample_lag(metrics.loop_lag.observe)
            stack.callback(tasks.create_task(lag, name="event loop lag").cancel)
        ready(f"{settings.listen.rpartition(':')[0]}:{port}")
        clean_stop = await server.serve(stop.requested)
        grace_s = settings.drain_grace_s if clean_stop else 0.0
        await shut_down(server, streams, ledger, database, grace_s=grace_s, hurried=stop.hurried)
    return clean_stop


async def _serve_metrics(
    settings: Settings, models: Mapping[str, ModelConfig], stack: AsyncExitStack
) -> Metrics | None:
    """Serve metrics until the stack is left. Return None if they are off. Raises ConfigError."""
    address = settings.metrics_listen
    if address is None:
        return None
    # Imported here, because most servers have no metrics: it takes 0.1 s.
    from .telemetry.metrics import Metrics
    from .telemetry.metrics_server import PATH, MetricsServer

    names = [model.target or name for name, model in models.items()]
    metrics = Metrics(names, has_tenant_label=settings.metrics_tenant_label)
    host, _, port = address.rpartition(":")
    server = MetricsServer(metrics.registry, host.strip("[]"), int(port))
    try:
        await stack.enter_async_context(server)
    except OSError as error:
        raise ConfigError(
            f"metrics_listen: cannot listen on {address}: in use, or not an address of this machine"
        ) from error
    logger.info("metrics are at http://%s:%d%s", host, server.port, PATH)
    return metrics


def _stream_metrics(metrics: Metrics) -> StreamObserver:
    from .streams.metrics import StreamMetrics

    return StreamMetrics(metrics)


async def _start_otel(
    settings: Settings,
    providers: Mapping[str, ProviderConfig],
    models: Mapping[str, ModelConfig],
    environ: Mapping[str, str],
    stack: AsyncExitStack,
) -> Otel | None:
    """Start to send traces and metrics over OTLP. Return None if they are off. Raises ConfigError."""
    if not settings.otel.is_on:
        return None
    try:
        from .streams.otel import start_otel
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"otel: the package {error.name} is missing: {install_hint('otel')}"
        ) from error
    names = [model.target or name for name, model in models.items()]
    return await start_otel(settings.otel, providers, names, environ, stack)


def _read_at_scrapes(
    metrics: Metrics, streams: StreamHost, ledger: Ledger, otel: Otel | None
) -> None:
    metrics.add_readings(
        ("tokenwire_streams_open", "Streams that generate.", lambda: streams.live_count),
        ("tokenwire_readers", "Calls that read streams.", lambda: streams.reader_count),
        ("tokenwire_log_bytes", "Memory of the logs of all streams.", lambda: streams.log_bytes),
        (
            "tokenwire_ledger_queue",
            "Usage records that wait to be written.",
            lambda: ledger.pending_count,
        ),
        (
            "tokenwire_ledger_drops_total",
            "Streams that ended without a usage record: too many were waiting.",
            lambda: ledger.dropped_count,
        ),
        (
            "tokenwire_spans_dropped_total",
            "Spans that were not sent: too many were waiting, or the collector did not accept them.",
            lambda: 0 if otel is None else otel.export.dropped_count,
        ),
    )


async def _remember_spend(store: UsageStore, spend: SpendLimiter, longest_stream_s: float) -> None:
    """Load what tenants have spent today and this month. Raises StoreUnavailable."""
    while spend.limits_anybody:
        periods = Periods.at(time.time())
        today = await store.spent_since(periods.day.timestamp(), longest_stream_s)
        this_month = await store.spent_since(periods.month.timestamp(), longest_stream_s)
        if periods == Periods.at(time.time()):  # and not the next day by now
            spend.remember(today=today, this_month=this_month)
            return


def _require_a_key(providers: Mapping[str, ProviderConfig], environ: Mapping[str, str]) -> None:
    if any(not p.api_key_env or environ.get(p.api_key_env, "").strip() for p in providers.values()):
        return
    names = sorted({p.api_key_env for p in providers.values()})
    raise ConfigError(
        f"no provider can be used: set {' or '.join(names)}, configure a provider that needs no key, "
        "or try --demo"
    )


def _require_targets(
    models: Mapping[str, ModelConfig], providers: Mapping[str, ProviderConfig]
) -> None:
    for name, model in models.items():
        target = model.target or name
        provider, _, rest = target.partition("/")
        if provider not in providers or not rest:
            raise ConfigError(
                f"models.{name}: {target!r} is not provider/model of one of {', '.join(providers)}"
            )
        for index, fallback in enumerate(model.fallbacks):
            if fallback in models:
                continue
            provider, _, rest = fallback.partition("/")
            if provider not in providers or not rest:
                raise ConfigError(
                    f"models.{name}.fallbacks[{index}]: {fallback!r} is neither an alias nor "
                    f"provider/model of one of {', '.join(providers)}"
                )


def _require_keys(settings: Settings, keyring: Keyring) -> None:
    """Check that an address that other machines can reach needs keys, unless the operator opted out."""
    if keyring.needs_keys or settings.auth == "none" or _is_loopback(settings.listen):
        return
    raise ConfigError(
        f"listen: {settings.listen} can be reached from other machines, and there are no keys: create one "
        "with tokenwire-server keys create --tenant NAME, or serve with --auth none"
    )


def _log_exposure(settings: Settings, keyring: Keyring) -> None:
    """Log a warning if the server accepts more callers, or fewer, than the operator may expect."""
    if keyring.needs_keys and not keyring.has_active_key():
        logger.warning(
            "a key is required and no key is active, so every call is refused: create one with "
            "tokenwire-server keys create --tenant NAME, or serve with --auth none"
        )
    if _is_loopback(settings.listen):
        if not keyring.needs_keys:
            logger.info("no key is needed: every process of this machine is served")
    elif not keyring.needs_keys:
        logger.warning("no key is needed: every caller that reaches %s is served", settings.listen)
    elif settings.tls.cert is None:
        logger.warning("keys and prompts reach %s in clear text: see --tls-cert", settings.listen)


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
