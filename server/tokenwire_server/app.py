"""The composition root: builds the server from its settings, owns every long-lived task."""

from __future__ import annotations

import asyncio
import gc
import logging
import secrets
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING

from . import install_hint
from .chats.admission import Admission
from .chats.chats import Chats
from .chats.load import LoadControl
from .chats.screening import Screening
from .config import (
    ConfigError,
    Limits,
    ModelConfig,
    ModelPrices,
    ProviderConfig,
    Settings,
    WorkerConfig,
    known_providers,
    require_a_key,
    require_models,
    require_targets,
)
from .content.filter_set import FilterSet
from .exposure import log_exposure, require_keys
from .ledger.instances import new_instance_id
from .ledger.retention import Retention
from .ledger.store import UsageStore
from .ledger.writer import Ledger
from .moderation.moderator import ModerationSet
from .monitoring import read_at_scrapes, serve_metrics, start_otel_exports, stream_metrics
from .pricing.estimate import Estimator
from .pricing.pricebook import PriceBook
from .pricing.tokenizers import Tokenizers
from .providers.registry import ProviderRegistry
from .reload import Parts, Reload, spent_before, targets_of
from .routing.breakers import Breakers
from .routing.owner import Routing
from .routing.pacing import ReadPacing
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
from .shutdown import shut_down
from .signals import Stop
from .simulator import Simulator
from .storage.database import Database
from .storage.sqlite import temporary_database
from .streams.cache import ResponseCache
from .streams.directory import StreamDirectory
from .streams.generation import StreamObserver
from .streams.host import StreamHost
from .streams.latency import LatencyTable
from .streams.observers import Settlement, UsageRecorder
from .streams.summary import StreamSummary
from .telemetry.event_loop import sample_lag
from .tenants.keyring import Keyring
from .tenants.keystore import KeyStore
from .tenants.master_keys import VARIABLE as ENCRYPTION_KEYS
from .tenants.master_keys import MasterKeys
from .tenants.memory_limiter import MemoryLimiter
from .tenants.provider_keyring import ProviderKeyring
from .tenants.provider_keystore import ProviderKeyStore
from .tenants.spend import SpendLimiter

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from .streamlog.redis.connect import Redis
    from .streams.shared import SharedStreams
    from .streams.shared_answers import SharedAnswers
    from .tenants.redis.start import SharedLimits

logger = logging.getLogger(__name__)

GC_THRESHOLDS = (1_000, 0, 1_000)
"""A collection starts when 1,000 more objects were created than freed, and visits those created since
the last one; every second collection also visits those that the one before kept. The last number makes
collections of all objects rare. If as many streams end as begin, collections are rare too, and each
visits many objects: an open stream has 200. With 500 open streams it takes up to 12 ms, and with a first
number of 10,000 up to 50 ms. With Python's own numbers, (700, 10, 10), all objects are visited more
often: 300 streams pause for 25 ms every 1.5 s. Streams leave little garbage: 5 small objects of gRPC
each, or 90 if the stream failed."""

DEMO_KEYS = {"OPENAI_API_KEY": "demo", "ANTHROPIC_API_KEY": "demo"}
DEMO_MODELS = ("openai/demo", "openai-responses/demo", "anthropic/demo")
DEMO_MODEL = ModelConfig(
    capabilities=("tools", "reasoning"), prices=ModelPrices(input=Decimal(1), output=Decimal(5))
)


async def serve(
    settings: Settings,
    environ: Mapping[str, str],
    *,
    read: Callable[[], Settings],
    demo: bool,
    ready: Callable[[str], None],
    stop_on_signals: Callable[[], Stop],
    worker: WorkerConfig | None = None,
    offer_metrics: Callable[[CollectorRegistry], None] | None = None,
) -> bool:
    """Serve until a stop is requested, then drain. Return True, or False if gRPC died while serving.

    `read` returns the settings that are configured now, for a reload. `stop_on_signals` is called right
    before RPCs are answered; it returns the Stop that ends the server. `ready` gets the address once RPCs
    are answered. `worker` is set if this is one of several processes of a server. `offer_metrics` gets the
    metrics, if they are on; then they are not served over HTTP.

    Raises ConfigError if no provider can be used, or if the address, the database or a certificate cannot be
    used; StoreUnavailable if the database cannot be reached.
    """
    async with AsyncExitStack() as stack:
        moderation_environ = (
            environ  # the keys of the demo's providers are not those of moderations
        )
        if demo:
            if worker is not None:
                simulator_url = worker.simulator_url
            else:
                simulator_url = (await stack.enter_async_context(Simulator())).url
            environ = {
                **environ,
                **DEMO_KEYS,
                "OPENAI_BASE_URL": f"{simulator_url}/v1",
                "ANTHROPIC_BASE_URL": simulator_url,
            }
        providers = {**known_providers(environ), **settings.providers}
        # Tenants may have their own keys.
        if not environ.get(ENCRYPTION_KEYS):
            require_a_key(providers, environ)

        def models_of(settings: Settings) -> dict[str, ModelConfig]:
            demo_models = dict.fromkeys(DEMO_MODELS if demo else (), DEMO_MODEL)
            models = {**demo_models, **settings.models}
            require_targets(models, providers)
            for name, chosen in settings.filters.items():
                require_models(f"filters.{name}.models", chosen.models, models, providers)
            for name, checked in settings.moderation.items():
                require_models(f"moderation.{name}.models", checked.models, models, providers)
            return models

        models = models_of(settings)
        filters = FilterSet.of(settings.filters)
        tls = ServerTls.of(settings.tls)
        redis = await _connect_redis(settings, stack)
        registry = await stack.enter_async_context(
            ProviderRegistry(providers, settings.limits, environ)
        )
        breakers = Breakers(settings.breaker)
        book, tokenizers = PriceBook(models, providers), Tokenizers()
        await book.load()
        await tokenizers.load()
        url = settings.database if worker is None else worker.database
        if worker is None and demo and "database" not in settings.model_fields_set:
            # Keys in the database of this folder would make the demo refuse callers without a key.
            url = stack.enter_context(temporary_database())
        database = await stack.enter_async_context(Database(url))
        await database.prepare(migrate=settings.migrate if worker is None else worker.migrates)
        keyring = Keyring(KeyStore(database), mode=settings.auth, trusted_s=settings.keys_trusted_s)
        await keyring.refresh()
        require_keys(settings, keyring)
        own_keys = ProviderKeyring(
            ProviderKeyStore(database),
            MasterKeys.of(environ),
            registry,
            settings.tenants,
            trusted_s=settings.keys_trusted_s,
        )
        await own_keys.refresh()
        router = Router(registry, models, own_keys=own_keys, blocked_s=breakers.blocked_s)

        def has_tenants() -> bool:
            return keyring.needs_keys or settings.tls.client_ca is not None

        def moderation_of(settings: Settings) -> ModerationSet:
            observe = metrics.moderation_checked if metrics else None
            return ModerationSet.of(
                settings.moderation, moderation_environ, registry.connections, observe
            )

        calls = OpenCalls(settings.limits.max_readers + SPARE_CALLS, has_tenants)
        open_services = REFLECTION_SERVICES if settings.reflection == "open" else frozenset[str]()
        metrics = await serve_metrics(settings, models, stack, offer_metrics)
        # Before the task group is entered, which would wrap a ConfigError in an ExceptionGroup.
        moderation = moderation_of(settings)
        otel = await start_otel_exports(settings, providers, models, environ, stack)
        authentication = Authentication(
            keyring,
            calls,
            open_services,
            on_refusal=metrics.refused if metrics else None,
            on_limit=metrics.limit_reached if metrics else None,
        )
        server = GrpcServer(
            settings.limits, settings.grpc, authentication, shares_port=worker is not None
        )
        listen = settings.listen if worker is None else worker.address
        port = server.bind(listen, tls.credentials() if tls else None)
        if worker is None or worker.number == 1:
            log_exposure(settings, keyring)
            if url != settings.database:
                logger.info(
                    "keys and usage records are lost when the demo stops: keep them with --database"
                )
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        store = UsageStore(database)
        keep_days = settings.usage_kept_days
        retention = None if keep_days is None else Retention(store, keep_days * 86400.0)
        ledger = Ledger(store, new_instance_id(), retention=retention)
        recorder, cache = UsageRecorder(ledger), ResponseCache.within(settings.limits)
        directory = StreamDirectory()
        latency = LatencyTable(targets_of(models))
        shared_limits = _share_limits(redis, settings, tasks, stack)
        spend = shared_limits.spend if shared_limits else SpendLimiter(settings.tenants)
        observers: list[StreamObserver] = [Settlement(spend), recorder, cache, latency]
        if metrics is not None:
            observers.append(stream_metrics(metrics, latency, breakers))
        if settings.log_streams:
            observers.append(StreamSummary(otel.traces.trace_id if otel and otel.traces else None))
        if otel is not None:
            observers += otel.observers
        estimator = Estimator(book, tokenizers, providers, settings.limits)
        retries = Retries(settings.retries)
        pacing = ReadPacing(settings.overload, registry.connections.backlog.waiting_s)
        routing = Routing(
            settings.limits, retries, breakers, estimator, pacing, filters, moderation
        )
        streams = StreamHost(tasks, directory, routing, observers, has_tenants=has_tenants)
        process = secrets.token_hex(8)
        if redis is not None:
            cache.shared = _share_answers(
                redis, process, settings, providers, models, tasks=tasks, stack=stack
            )
        if redis is not None and settings.resume:
            directory.shared = _share(redis, process, settings.limits, streams, directory)
            directory.shared.cache = cache
            directory.shared.start(tasks)
            stack.callback(directory.shared.close)
        limiter = shared_limits.limiter if shared_limits else MemoryLimiter(settings.tenants)
        if spend.must_remember():
            longest_s = settings.limits.max_stream_duration_s
            today, this_month = await spent_before(
                store, longest_s, ledger.instance_id, is_shared=spend.is_shared
            )
            spend.remember(today=today, this_month=this_month)
        admission = Admission(router, limiter, spend, estimator)
        screening = Screening(routing, metrics.filter_acted if metrics else None)
        chats = Chats(admission, spend, directory, streams, cache, screening)
        load = LoadControl(
            settings.overload,
            lambda: streams.live_count,
            has_tenants,
            delay_s=pacing.delay_s,
        )

        def revoked(key_prefix: str) -> None:
            calls.end(key_prefix)  # first, so that its callers get the reason
            streams.cancel_all_of(key_prefix)

        stack.callback(tasks.create_task(keyring.follow(revoked), name="keyring").cancel)
        stack.callback(tasks.create_task(own_keys.follow(), name="provider keys").cancel)
        keeping = tasks.create_task(ledger.run(recorder.open_records), name="ledger")
        stack.callback(keeping.cancel)
        if metrics is not None:
            shared = directory.shared
            read_at_scrapes(metrics, streams, ledger, otel, load, shared, shared_limits)
            for name, slots in registry.slots().items():
                metrics.read_connections(name, partial(getattr, slots, "in_use"))
        if tls is not None:
            stack.callback(tasks.create_task(tls.follow(), name="certificates").cancel)
        parts = Parts(
            router=router,
            book=book,
            routing=routing,
            limiter=limiter,
            spend=spend,
            own_keys=own_keys,
            cache=cache,
            latency=latency,
            metrics=metrics,
            tls=tls,
            store=store,
            instance_id=ledger.instance_id,
        )
        reload = Reload(settings, read, models_of, moderation_of, parts)
        stop = stop_on_signals()
        stack.callback(tasks.create_task(reload.follow(stop), name="reload").cancel)
        await server.start(
            ChatService(chats, settings.limits, resumable=settings.resume),
            ModelService(router, book, settings.limits, latency, breakers),
            CallerService(limiter, spend, settings.limits),
            UsageService(store, settings.limits),
            reflects=settings.reflection != "off",
            resumable=settings.resume,
            admit_chat=load.admitted,
        )
        # A collection of all objects that the imports made would stop every stream.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        of_lag: list[Callable[[float], None]] = [pacing.observe, load.observe]
        if metrics is not None:
            of_lag.append(metrics.samples_of(pacing.delay_s))
        lag = sample_lag(*of_lag)
        stack.callback(tasks.create_task(lag, name="event loop lag").cancel)
        ready(f"{settings.listen.rpartition(':')[0]}:{port}")
        clean_stop = await server.serve(stop.requested)
        await shut_down(
            server,
            streams,
            ledger,
            database,
            directory.shared,
            accept_s=0.0 if stop.is_interrupt else reload.settings.drain_accept_s,
            grace_s=reload.settings.drain_grace_s if clean_stop else 0.0,
            hurried=stop.hurried,
        )
    return clean_stop


def _share(
    redis: Redis, process: str, limits: Limits, streams: StreamHost, directory: StreamDirectory
) -> SharedStreams:
    from .streams.shared import SharedStreams

    return SharedStreams(
        redis,
        process,
        limits,
        host=streams,
        space=streams.log_space,
        find_local=directory.find_local,
        delete_local=streams.delete,
    )


def _share_answers(
    redis: Redis,
    process: str,
    settings: Settings,
    providers: Mapping[str, ProviderConfig],
    models: Mapping[str, ModelConfig],
    *,
    tasks: asyncio.TaskGroup,
    stack: AsyncExitStack,
) -> SharedAnswers | None:
    from .streams.shared_answers import share_answers

    return share_answers(redis, process, settings, providers, models, tasks=tasks, stack=stack)


def _share_limits(
    redis: Redis | None, settings: Settings, tasks: asyncio.TaskGroup, stack: AsyncExitStack
) -> SharedLimits | None:
    if redis is None:
        return None
    from .tenants.redis.start import share_limits

    return share_limits(redis, settings.tenants, tasks, stack)


async def _connect_redis(settings: Settings, stack: AsyncExitStack) -> Redis | None:
    """Connect to Redis until the stack is left. Return None if it is not used. Raises ConfigError."""
    if settings.redis.url is None:
        return None
    try:
        from .streamlog.redis.connect import connected
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"redis: the package {error.name} is missing: {install_hint('redis')}"
        ) from error
    return await stack.enter_async_context(connected(settings.redis))
