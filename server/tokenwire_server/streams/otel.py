"""What the composition root starts if `[otel]` is on: the export, and the observers of streams that feed it.

Import it only then: the OpenTelemetry SDK takes 0.2 s to import, and most servers do not have it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack

from ..config import OtelConfig, ProviderConfig
from ..telemetry import semconv
from ..telemetry.otel import OtelExport
from .generation import StreamObserver
from .otel_metrics import OtelMetrics
from .traces import StreamTraces


class Otel:
    """The export of one server, and its observers."""

    def __init__(
        self, export: OtelExport, traces: StreamTraces | None, metrics: OtelMetrics | None
    ) -> None:
        self.export = export
        self.traces = traces
        self._metrics = metrics

    @property
    def observers(self) -> list[StreamObserver]:
        """The observers of all streams."""
        return [each for each in (self.traces, self._metrics) if each is not None]


async def start_otel(
    config: OtelConfig,
    providers: Mapping[str, ProviderConfig],
    models: Iterable[str],
    environ: Mapping[str, str],
    stack: AsyncExitStack,
) -> Otel:
    """Start to send what is on, until the stack is left. `models` are `provider/model` of the configuration.

    Leaving the stack ends the spans of streams that have not ended. Raises ConfigError.
    """
    export = await stack.enter_async_context(OtelExport(config, environ))
    api_formats = {name: semconv.api_format(each.kind) for name, each in providers.items()}
    uses_latest = semconv.uses_latest(environ)
    traces = metrics = None
    if (tracer := export.tracer) is not None:
        traces = StreamTraces(
            tracer, api_formats, uses_latest=uses_latest, propagates=config.propagate
        )
        stack.callback(traces.close)
    if (meter := export.meter) is not None:
        metrics = OtelMetrics(meter, api_formats, models, uses_latest=uses_latest)
    return Otel(export, traces, metrics)
