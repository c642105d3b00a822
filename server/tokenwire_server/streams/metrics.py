"""The observer that counts streams for the metrics. It runs a few times a stream, never for a token.

Also the metrics of the live latency table, and of circuit breakers.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..ledger.record import Outcome
from ..providers.base import Route
from ..routing.attempt import Attempt
from ..routing.breakers import Breakers
from ..routing.retry import AttemptError
from ..telemetry.latency_window import WINDOW_S
from ..telemetry.metrics import Metrics, TableRow
from .admitted import Progress
from .generation import Generation, StreamObserver
from .latency import LatencyTable
from .observers import end_of


class StreamMetrics(StreamObserver):
    """Counts what streams did, used and cost."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._running: dict[str, Attempt] = {}
        """The attempt that has neither failed nor ended, by stream id."""

    def opened(self, generation: Generation) -> None:
        use = generation.cache_use
        if use is not None and use.read:
            result = "hit" if generation.from_cache else "miss"
            self._metrics.cache_requests.labels(result).inc()

    def attempt_started(self, generation: Generation, attempt: Attempt) -> None:
        self._running[generation.stream.id] = attempt
        target = self._metrics.target(attempt.route.provider.name, attempt.route.model)
        self._metrics.attempts.labels(*target, attempt.kind).inc()

    def attempt_failed(self, generation: Generation, attempt: Attempt, error: AttemptError) -> None:
        self._end_attempt(generation)
        target = self._metrics.target(attempt.route.provider.name, attempt.route.model)
        self._metrics.upstream_errors.labels(*target, error.reason).inc()
        if error.limit_name:
            self._metrics.limit_reached(error.limit_name)

    def attempt_refused(
        self,
        generation: Generation,  # noqa: ARG002
        route: Route,
        error: AttemptError,
    ) -> None:
        target = self._metrics.target(route.provider.name, route.model)
        self._metrics.refused_attempts.labels(*target, error.reason).inc()
        if error.limit_name:
            self._metrics.limit_reached(error.limit_name)

    def first_content(self, generation: Generation, attempt: Attempt) -> None:  # noqa: ARG002
        self._metrics.add_model(attempt.route.provider.name, attempt.route.model)

    def ended(self, generation: Generation) -> None:
        self._end_attempt(generation)
        metrics, route = self._metrics, generation.route
        progress, log = generation.progress(), generation.stream.log
        # The model as it was requested: providers may report another name for each of its versions.
        target = metrics.target(progress.provider or route.provider.name, route.model)
        tenant = metrics.tenant(generation.stream.tenant, target)
        outcome, reason = end_of(log)
        metrics.streams.labels(*target, outcome.value, reason, *tenant).inc()
        if outcome is Outcome.CANCELLED:
            metrics.cancels.labels(*target, _phase(progress)).inc()
        for acted in generation.filter_actions:
            metrics.filter_acted(acted.name, acted.action, acted.count)
        if generation.from_cache:
            return
        if progress.ttft_s is not None:
            metrics.first_token.labels(*target).observe(progress.ttft_s)
        if progress.first_text_s is not None:
            metrics.first_text.labels(*target).observe(progress.first_text_s)
        speed = log.finished and log.finished.timings.output_tokens_per_second
        if speed:
            metrics.per_token.labels(*target).observe(1 / speed)

    def _end_attempt(self, generation: Generation) -> None:
        """Count what an attempt used, at its own target: a fallback has other prices."""
        attempt = self._running.pop(generation.stream.id, None)
        if attempt is None:
            return
        usage = attempt.usage()
        target = self._metrics.target(attempt.route.provider.name, attempt.route.model)
        tenant = self._metrics.tenant(generation.stream.tenant, target)
        for kind, count in (
            ("input", usage.input_tokens),
            ("output", usage.output_tokens),
            ("reasoning", usage.reasoning_tokens),
            ("cache_read", usage.cache_read_tokens),
            ("cache_write", usage.cache_write_tokens),
        ):
            if count:
                self._metrics.tokens.labels(*target, kind, *tenant).inc(count)
        if usage.cost_microusd:
            self._metrics.cost.labels(*target, *tenant).inc(usage.cost_microusd / 1e6)


def _phase(progress: Progress) -> str:
    """Return how far the provider's answer was when the stream was cancelled."""
    if not progress.has_head:
        return "before_head"
    return "before_content" if progress.ttft_s is None else "mid_stream"


def add_latency(metrics: Metrics, table: LatencyTable) -> None:
    """Add the live latency table, with the models that have labels of their own."""
    minutes = f"of the last {WINDOW_S / 60:g} minutes"

    def rows() -> Iterator[TableRow]:
        for provider, model, figures in table.all_figures():
            if metrics.has_model(provider, model):
                yield (
                    (provider, model),
                    (
                        figures.ttft_p50_s,
                        figures.ttft_p95_s,
                        figures.output_tokens_per_second,
                        figures.attempt_count,
                        figures.error_rate,
                    ),
                )

    metrics.add_table(
        ("provider", "model"),
        (
            (
                "tokenwire_recent_ttft_p50_seconds",
                f"Median time to the first content {minutes}, from sending each request.",
            ),
            (
                "tokenwire_recent_ttft_p95_seconds",
                f"95th percentile of the time to the first content {minutes}.",
            ),
            (
                "tokenwire_recent_output_tokens_per_second",
                f"Mean output speed of the answers {minutes}.",
            ),
            (
                "tokenwire_recent_attempts",
                f"Requests to the provider {minutes} whose result is known.",
            ),
            (
                "tokenwire_recent_error_ratio",
                f"Share of the requests {minutes} that failed, from 0 to 1.",
            ),
        ),
        rows,
    )


def add_breakers(metrics: Metrics, breakers: Breakers) -> None:
    """Count the openings of breakers, and add their states, for the models that have labels of their own."""

    def count_opening(provider: str, model: str) -> None:
        metrics.breaker_openings.labels(*metrics.target(provider, model)).inc()

    def rows() -> Iterator[TableRow]:
        for provider, model, state in breakers.states():
            if metrics.has_model(provider, model):
                yield (provider, model), (float(state.value),)

    breakers.on_open = count_opening
    metrics.add_table(
        ("provider", "model"),
        (
            (
                "tokenwire_breaker_state",
                "State of the model's circuit breaker. 0: closed, 1: half-open, 2: open, 3: cooldown.",
            ),
        ),
        rows,
    )
