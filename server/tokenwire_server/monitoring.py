"""The metrics and traces of a server, as its settings define them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from . import install_hint
from .chats.load import LoadControl
from .config import ConfigError, ModelConfig, ProviderConfig, Settings
from .ledger.writer import Ledger
from .reload import targets_of
from .routing.breakers import Breakers
from .streams.generation import StreamObserver
from .streams.host import StreamHost
from .streams.latency import LatencyTable

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from .streams.otel import Otel
    from .streams.shared import SharedStreams
    from .telemetry.metrics import Metrics
    from .tenants.redis.start import SharedLimits


async def serve_metrics(
    settings: Settings,
    models: Mapping[str, ModelConfig],
    stack: AsyncExitStack,
    offer: Callable[[CollectorRegistry], None] | None,
) -> Metrics | None:
    """Serve metrics until the stack is left, or offer them. Return None if they are off. Raises
    ConfigError.
    """
    address = settings.metrics_listen
    if address is None:
        return None
    # Imported here, because most servers have no metrics: it takes 0.1 s.
    from .telemetry.metrics import Metrics
    from .telemetry.metrics_server import serving_metrics

    metrics = Metrics(targets_of(models), has_tenant_label=settings.metrics_tenant_label)
    if offer is None:
        await stack.enter_async_context(serving_metrics(address, metrics.registry))
    else:
        offer(metrics.registry)
    return metrics


def stream_metrics(metrics: Metrics, latency: LatencyTable, breakers: Breakers) -> StreamObserver:
    """Return the observer that counts streams, and add the metrics of latency and breakers."""
    from .streams.metrics import StreamMetrics, add_breakers, add_latency

    add_latency(metrics, latency)
    add_breakers(metrics, breakers)
    return StreamMetrics(metrics)


async def start_otel_exports(
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
    return await start_otel(settings.otel, providers, targets_of(models), environ, stack)


def read_at_scrapes(
    metrics: Metrics,
    streams: StreamHost,
    ledger: Ledger,
    otel: Otel | None,
    load: LoadControl,
    shared: SharedStreams | None,
    shared_limits: SharedLimits | None,
) -> None:
    """Add the figures that are read when the metrics are scraped."""
    metrics.add_readings(
        ("tokenwire_streams_open", "Streams that generate.", lambda: streams.live_count),
        (
            "tokenwire_overload_chat_limit",
            "Chats that may be open at once because the event loop has too much work.",
            lambda: load.limit,
        ),
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
        (
            "tokenwire_streams_not_shared",
            "1 while Redis does not serve the logs of streams, and other servers cannot read new entries.",
            lambda: shared is not None and shared.is_failing,
        ),
        (
            "tokenwire_shared_logs_due",
            "Streams with entries that Redis does not have yet.",
            lambda: 0 if shared is None else shared.due_count,
        ),
        (
            "tokenwire_log_copies",
            "Streams of other servers that this server has a copy of.",
            lambda: 0 if shared is None else shared.copy_count,
        ),
        (
            "tokenwire_limits_not_shared",
            "1 while Redis does not serve the limits of tenants, and this server enforces them alone.",
            lambda: shared_limits is not None and shared_limits.exchange.is_failing,
        ),
    )
