"""The settings of OpenTelemetry."""

from __future__ import annotations

from .section import Section


class OtelConfig(Section):
    """What the server sends over OTLP. It needs the extra `otel`. The variables `OTEL_*` of the OpenTelemetry
    SDK define where it is sent and how.
    """

    traces: bool = False
    """Whether the server sends a span for each stream and for each request to a provider. They contain no
    prompts and no answers."""
    propagate: bool = True
    """Whether requests to providers have the headers `traceparent` and `tracestate`, if `traces` is on."""
    metrics: bool = False
    """Whether the server sends the GenAI metrics of OpenTelemetry, in addition to those for Prometheus."""

    @property
    def is_on(self) -> bool:
        """Whether anything is sent."""
        return self.traces or self.metrics
