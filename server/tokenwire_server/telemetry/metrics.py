"""The metrics of this server, in a registry of their own. docs/operations.md has a table of them."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from .. import __version__
from .labels import OTHER, KnownNames

MAX_MODELS = 100
"""Models with labels of their own, besides those in the configuration."""
MAX_TENANT_MODELS = 1_000
"""Combinations of a tenant and a model with labels of their own: otherwise the bounds would multiply."""

FIRST_TOKEN_S = (
    *(0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5),
    *(10.0, 15.0, 30.0, 60.0, 120.0, 300.0),
)
PER_TOKEN_S = (
    *(0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04),
    *(0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0),
)
CHECK_S = (0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
LAG_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

Kind = Literal["counter", "gauge", "histogram"]


class Description(NamedTuple):
    """A metric, as the documentation describes it."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str


Reading = tuple[str, str, Callable[[], float]]
"""The name, the help text and the value of a metric that is read at each scrape, in another thread than the
event loop's. A counter's name ends with `_total`."""

TableRow = tuple[tuple[str, ...], tuple[float | None, ...]]
"""The values of some labels, and those of one gauge each. None: the gauge has no value for these labels."""


class Metrics:
    """The metrics of one server. Counters and histograms are updated in the event loop, once a stream.

    `models` are the models of the configuration, as `provider/model`. They always have labels of their own.
    Of other models, the first MAX_MODELS whose provider sent content have them.
    """

    def __init__(self, models: Iterable[str] = (), *, has_tenant_label: bool = False) -> None:
        # The time at which each series began would double the size of a scrape.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry(auto_describe=True)
        self.descriptions: list[Description] = []
        self.has_tenant_label = has_tenant_label
        self._models = KnownNames(models, max_count=MAX_MODELS)
        self._tenants = KnownNames((), max_count=MAX_TENANT_MODELS)
        target = ("provider", "model")
        tenant = ("tenant",) if has_tenant_label else ()
        self.first_token = self._histogram(
            "tokenwire_time_to_first_token_seconds",
            "Time from the accepted request to the first content of any kind.",
            target,
            FIRST_TOKEN_S,
        )
        self.first_text = self._histogram(
            "tokenwire_time_to_first_answer_token_seconds",
            "Time from the accepted request to the first text.",
            target,
            FIRST_TOKEN_S,
        )
        self.per_token = self._histogram(
            "tokenwire_time_per_output_token_seconds",
            "Mean time between the output tokens of a stream, without the first one.",
            target,
            PER_TOKEN_S,
        )
        self.tokens = self._counter(
            "tokenwire_tokens_total",
            "Tokens. `input` includes both cache kinds, `output` includes `reasoning`.",
            (*target, "kind", *tenant),
        )
        self.cost = self._counter(
            "tokenwire_cost_usd_total",
            "Cost in US dollars, of streams whose price is known.",
            (*target, *tenant),
        )
        self.streams = self._counter(
            "tokenwire_streams_total",
            "Streams that have ended, by the outcome and the reason in their usage records.",
            (*target, "outcome", "reason", *tenant),
        )
        self.cancels = self._counter(
            "tokenwire_streams_cancelled_total",
            "Cancelled streams: `before_head` and `before_content` of the provider's answer, or "
            "`mid_stream`.",
            (*target, "phase"),
        )
        self.attempts = self._counter(
            "tokenwire_upstream_attempts_total",
            "Requests to providers, counted when they start: the `first` of a stream, a `retry` at the same "
            "model, or a `fallback` to another one.",
            (*target, "kind"),
        )
        self.upstream_errors = self._counter(
            "tokenwire_upstream_errors_total",
            "Requests that providers refused, or answers that failed.",
            (*target, "reason"),
        )
        self.refused_attempts = self._counter(
            "tokenwire_upstream_refusals_total",
            "Requests to providers that were not sent: a breaker refused them, or no connection was free.",
            (*target, "reason"),
        )
        self.breaker_openings = self._counter(
            "tokenwire_breaker_openings_total",
            "Times that the circuit breaker of a model opened.",
            target,
        )
        self.cache_requests = self._counter(
            "tokenwire_cache_requests_total",
            "Streams that asked for the response cache: `hit` or `miss`.",
            ("result",),
        )
        self.filter_actions = self._counter(
            "tokenwire_filter_actions_total",
            "Times that a content filter or a moderation acted on an answer or a request: `block`, `redact`, "
            "`report` or `unchecked`.",
            ("filter", "action"),
        )
        self.moderation_checks = self._histogram(
            "tokenwire_moderation_check_seconds",
            "Time of the checks of moderation services, with the result `clear`, `flagged`, `failed` or "
            "`timeout`.",
            ("moderation", "result"),
            CHECK_S,
        )
        self.refusals = self._counter(
            "tokenwire_calls_refused_total",
            "Calls that ended with an error which is not the end of a stream.",
            ("method", "reason"),
        )
        self.limits_reached = self._counter(
            "tokenwire_limits_reached_total",
            "Requests to providers, and calls, that ended because of a limit of the server.",
            ("limit",),
        )
        self.loop_lag = self._histogram(
            "tokenwire_event_loop_lag_seconds",
            "How late a timer of the event loop ran, sampled every 100 ms.",
            (),
            LAG_S,
        )
        self.read_delay = self._histogram(
            "tokenwire_read_delay_seconds",
            "How long tokens collect before they are read, sampled every 100 ms. Usually 0.",
            (),
            LAG_S,
        )
        self.reloads = self._counter(
            "tokenwire_config_reloads_total",
            "Reloads of the configuration after SIGHUP: `success` or `failure`.",
            ("result",),
        )
        name = "tokenwire_config_last_reload_success_timestamp_seconds"
        help_text = "When the configuration in use was read, in seconds since the epoch."
        self._describe(name, "gauge", (), help_text)
        self.reload_time = Gauge(name, help_text, registry=self.registry)
        name = "tokenwire_upstream_connections"
        help_text = "Requests that are open at a provider, streams and counts of tokens together."
        self._describe(name, "gauge", ("provider",), help_text)
        self._connections = Gauge(name, help_text, ("provider",), registry=self.registry)
        build = "tokenwire_build_info", "Version of the server. Always 1.", ("version", "python")
        self._describe(build[0], "gauge", build[2], build[1])
        Gauge(*build, registry=self.registry).labels(__version__, platform.python_version()).set(1)
        ProcessCollector(registry=self.registry)

    def add_readings(self, *readings: Reading) -> None:
        """Add metrics whose values are read at each scrape."""
        for name, help_text, read in readings:
            self._describe(name, "counter" if name.endswith("_total") else "gauge", (), help_text)
            self.registry.register(_Reading(name, help_text, read))

    def add_table(
        self,
        labels: tuple[str, ...],
        gauges: Sequence[tuple[str, str]],
        read: Callable[[], Iterable[TableRow]],
    ) -> None:
        """Add gauges with the same labels, each with its name and help text.

        `read` returns all their values. It is called once for each scrape, in another thread than the event
        loop's.
        """
        for name, help_text in gauges:
            self._describe(name, "gauge", labels, help_text)
        self.registry.register(_Table(labels, gauges, read))

    def add_model(self, provider: str, model: str) -> None:
        """Give a model labels of its own, if there is room."""
        self._models.add(f"{provider}/{model}")

    def include_models(self, models: Iterable[str]) -> None:
        """Give models of the configuration, as `provider/model`, labels of their own."""
        self._models.include(models)

    def has_model(self, provider: str, model: str) -> bool:
        """Return whether a model has labels of its own."""
        return f"{provider}/{model}" in self._models

    def target(self, provider: str, model: str) -> tuple[str, str]:
        """Return the labels of a provider and its model."""
        return provider, model if self.has_model(provider, model) else OTHER

    def tenant(self, tenant: str, target: tuple[str, str]) -> tuple[str, ...]:
        """Return the label of a tenant for its streams of a target, or nothing if tenants have no labels."""
        if not self.has_tenant_label:
            return ()
        name = "\0".join((tenant, *target))
        self._tenants.add(name)
        return (tenant if name in self._tenants else OTHER,)

    def refused(self, method: str, reason: str) -> None:
        """Count a call that ended with an error."""
        self.refusals.labels(method, reason).inc()

    def reloaded(self, *, is_success: bool) -> None:
        """Count a reload of the configuration."""
        self.reloads.labels("success" if is_success else "failure").inc()
        if is_success:
            self.reload_time.set_to_current_time()

    def read_connections(self, provider: str, read: Callable[[], float]) -> None:
        """Read the number of a provider's open requests at each scrape, in another thread."""
        self._connections.labels(provider).set_function(read)

    def moderation_checked(self, name: str, result: str, seconds: float) -> None:
        """Count a check of a moderation service."""
        self.moderation_checks.labels(name, result).observe(seconds)

    def limit_reached(self, name: str) -> None:
        """Count that a limit of the server was reached."""
        self.limits_reached.labels(name).inc()

    def samples_of(self, delay_s: Callable[[], float]) -> Callable[[float], None]:
        """Return a function that takes samples of the event loop's lag. `delay_s` returns the read delay."""

        def observe(lag_s: float) -> None:
            self.loop_lag.observe(lag_s)
            self.read_delay.observe(delay_s())

        return observe

    def filter_acted(self, name: str, action: str, count: int) -> None:
        """Count what a content filter did."""
        self.filter_actions.labels(name, action).inc(count)

    def _counter(self, name: str, help_text: str, labels: tuple[str, ...]) -> Counter:
        self._describe(name, "counter", labels, help_text)
        return Counter(name, help_text, labels, registry=self.registry)

    def _histogram(
        self, name: str, help_text: str, labels: tuple[str, ...], buckets: tuple[float, ...]
    ) -> Histogram:
        self._describe(name, "histogram", labels, help_text)
        return Histogram(name, help_text, labels, buckets=buckets, registry=self.registry)

    def _describe(self, name: str, kind: Kind, labels: tuple[str, ...], help_text: str) -> None:
        self.descriptions.append(Description(name, kind, labels, help_text))


class _Reading(Collector):
    """One metric whose value is read at each scrape."""

    def __init__(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        self._name = name
        self._help = help_text
        self._read = read

        self._kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily

    def describe(self) -> Iterator[Metric]:
        yield self._kind(self._name, self._help)

    def collect(self) -> Iterator[Metric]:
        yield self._kind(self._name, self._help, value=self._read())


class _Table(Collector):
    """Gauges with the same labels, whose values are read together at each scrape."""

    def __init__(
        self,
        labels: tuple[str, ...],
        gauges: Sequence[tuple[str, str]],
        read: Callable[[], Iterable[TableRow]],
    ) -> None:
        self._labels = labels
        self._gauges = gauges
        self._read = read

    def describe(self) -> list[Metric]:
        return [GaugeMetricFamily(*gauge, labels=self._labels) for gauge in self._gauges]

    def collect(self) -> Iterator[Metric]:
        families = [GaugeMetricFamily(*gauge, labels=self._labels) for gauge in self._gauges]
        for labels, values in self._read():
            for family, value in zip(families, values, strict=True):
                if value is not None:
                    family.add_metric(labels, value)
        yield from families
