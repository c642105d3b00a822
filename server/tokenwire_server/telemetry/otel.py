"""Sends spans and metrics over OTLP, in threads of the OpenTelemetry SDK.

The SDK reads the standard variables `OTEL_*`. Its own providers are used, not the global ones: otherwise
libraries with instrumentation of their own would send spans too.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import Meter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Tracer

from .. import __version__
from ..config import ConfigError, OtelConfig

logger = logging.getLogger(__name__)

SERVICE = "tokenwire-server"
"""The `service.name`, unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES has another one."""
BATCH_SPANS = 64
"""Spans in one request, unless OTEL_BSP_MAX_EXPORT_BATCH_SIZE has another number. Encoding
them takes 6 ms of CPU, which the event loop shares. The SDK's own number, 512, takes 29 ms."""
MAX_QUEUE_SPANS = 2_048
"""Spans that may wait to be sent, unless OTEL_BSP_MAX_QUEUE_SIZE has another number."""
CLOSE_S = 0.5
"""How long the last spans and metrics may take when the server stops."""
PROTOCOL = "http/protobuf"


class OtelExport:
    """Sends spans and metrics while its `async with` block is active.

    Nothing here waits for the network in the event loop. At most OTEL_BSP_MAX_QUEUE_SIZE spans wait to be
    sent. Leaving the block sends what is left, for at most CLOSE_S. Entering raises ConfigError if a
    variable is invalid.
    """

    def __init__(self, config: OtelConfig, environ: Mapping[str, str]) -> None:
        self._config = config
        self._environ = environ
        self._tracers: TracerProvider | None = None
        self._meters: MeterProvider | None = None
        self._queue: SpanQueue | None = None

    @property
    def tracer(self) -> Tracer | None:
        """What makes spans, or None if traces are off."""
        return None if self._tracers is None else self._tracers.get_tracer("tokenwire", __version__)

    @property
    def meter(self) -> Meter | None:
        """What makes metrics, or None if they are off."""
        return None if self._meters is None else self._meters.get_meter("tokenwire", __version__)

    @property
    def dropped_count(self) -> int:
        """Spans that were not sent: too many were waiting, or the collector did not accept them."""
        return 0 if self._queue is None else self._queue.dropped_count

    async def __aenter__(self) -> Self:
        self._check_protocol()
        try:
            self._start()
        except ValueError as error:
            raise ConfigError(f"otel: a variable OTEL_* is invalid: {error}") from error
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        closing = [each.shutdown for each in (self._tracers, self._meters) if each is not None]
        is_closed = await _run_within(CLOSE_S, closing)
        unsent_count = 0 if self._queue is None else self._queue.waiting_count
        if not is_closed or unsent_count:
            logger.warning(
                "the OTLP collector did not answer in time: %d spans were not sent", unsent_count
            )

    def _check_protocol(self) -> None:
        for signal in ("", "TRACES_", "METRICS_"):
            name = f"OTEL_EXPORTER_OTLP_{signal}PROTOCOL"
            if self._environ.get(name, "").strip() not in ("", PROTOCOL):
                raise ConfigError(f"otel: {name}: only {PROTOCOL} is supported")

    def _start(self) -> None:
        attributes = {SERVICE_VERSION: __version__}
        if not self._environ.get("OTEL_SERVICE_NAME") and "service.name=" not in self._environ.get(
            "OTEL_RESOURCE_ATTRIBUTES", ""
        ):
            attributes[SERVICE_NAME] = SERVICE
        resource = Resource.create(attributes)
        if self._config.metrics:
            reader = PeriodicExportingMetricReader(OTLPMetricExporter())
            self._meters = MeterProvider([reader], resource, shutdown_on_exit=False)
        if self._config.traces:
            max_count = int(self._environ.get("OTEL_BSP_MAX_QUEUE_SIZE") or MAX_QUEUE_SPANS)
            has_size = bool(self._environ.get("OTEL_BSP_MAX_EXPORT_BATCH_SIZE"))
            batch_spans = None if has_size else BATCH_SPANS
            self._queue = SpanQueue(OTLPSpanExporter(), max_count, batch_spans)
            self._tracers = TracerProvider(resource=resource, shutdown_on_exit=False)
            self._tracers.add_span_processor(self._queue)


class SpanQueue(BatchSpanProcessor):
    """The SDK's queue, which counts the spans that are dropped.

    The SDK's own counters need its internal metrics, which have no stable names.
    """

    def __init__(self, exporter: SpanExporter, max_count: int, batch_spans: int | None) -> None:
        """`batch_spans` is the number of spans in one request. None: the SDK reads it from its variable."""
        self._max_count = max_count
        self._accepted_count = 0
        self._overflow_count = 0
        self._counting = _CountingExporter(exporter)
        if batch_spans is not None:
            batch_spans = min(batch_spans, max_count)
        super().__init__(self._counting, max_count, max_export_batch_size=batch_spans)

    @property
    def waiting_count(self) -> int:
        """Spans that wait to be sent, or are being sent."""
        return self._accepted_count - self._counting.done_count

    @property
    def dropped_count(self) -> int:
        """Spans that were not sent."""
        return self._overflow_count + self._counting.failed_count

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is None or not span.context.trace_flags.sampled:
            return
        if self.waiting_count >= self._max_count:
            self._overflow_count += 1
            return
        self._accepted_count += 1
        super().on_end(span)


class _CountingExporter(SpanExporter):
    """Counts the spans that are done. It is called in the thread of the queue, and only there."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self.done_count = 0
        self.failed_count = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            if result is not SpanExportResult.SUCCESS:
                self.failed_count += len(spans)
            self.done_count += len(spans)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


async def _run_within(limit_s: float, steps: Sequence[Callable[[], object]]) -> bool:
    """Run each step in a thread of its own. Return whether all have ended within `limit_s`.

    The threads are daemons: the process ends without them. Threads of the event loop's executor would delay
    its end.
    """
    loop = asyncio.get_running_loop()
    ended = [loop.create_future() for _ in steps]

    def settle(end: asyncio.Future[None]) -> None:
        if not end.done():
            end.set_result(None)

    def run(step: Callable[[], object], end: asyncio.Future[None]) -> None:
        try:
            step()
        finally:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(settle, end)

    for step, end in zip(steps, ended, strict=True):
        threading.Thread(target=run, args=(step, end), daemon=True, name="otel close").start()
    if not ended:
        return True
    _, late = await asyncio.wait(ended, timeout=limit_s)
    return not late
