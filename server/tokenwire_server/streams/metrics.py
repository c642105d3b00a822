"""The observer that counts streams for the metrics. It runs once a stream, never for a token."""

from __future__ import annotations

from ..ledger.record import Outcome
from ..routing.attempt import Attempt
from ..routing.retry import AttemptError
from ..telemetry.metrics import Metrics
from .generation import Generation, Progress, StreamObserver
from .observers import end_of


class StreamMetrics(StreamObserver):
    """Counts what streams did, used and cost."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def opened(self, generation: Generation) -> None:
        use = generation.cache_use
        if use is not None and use.read:
            result = "hit" if generation.from_cache else "miss"
            self._metrics.cache_requests.labels(result).inc()

    def attempt_failed(
        self,
        generation: Generation,  # noqa: ARG002
        attempt: Attempt,
        error: AttemptError,
    ) -> None:
        target = self._metrics.target(attempt.route.provider.name, attempt.route.model)
        self._metrics.upstream_errors.labels(*target, error.reason).inc()
        if error.limit_name:
            self._metrics.limit_reached(error.limit_name)

    def first_content(self, generation: Generation, attempt: Attempt) -> None:  # noqa: ARG002
        self._metrics.add_model(attempt.route.provider.name, attempt.route.model)

    def ended(self, generation: Generation) -> None:
        metrics, route = self._metrics, generation.route
        progress, log = generation.progress(), generation.stream.log
        # The model as it was requested: providers may report another name for each of its versions.
        target = metrics.target(progress.provider or route.provider.name, route.model)
        tenant = metrics.tenant(generation.stream.tenant, target)
        outcome, reason = end_of(log)
        metrics.streams.labels(*target, outcome.value, reason, *tenant).inc()
        if outcome is Outcome.CANCELLED:
            metrics.cancels.labels(*target, _phase(progress)).inc()
        if generation.from_cache:
            return
        if progress.attempt_count:
            metrics.attempts.labels(*target).inc(progress.attempt_count)
        if progress.ttft_s is not None:
            metrics.first_token.labels(*target).observe(progress.ttft_s)
        if progress.first_text_s is not None:
            metrics.first_text.labels(*target).observe(progress.first_text_s)
        speed = log.finished and log.finished.timings.output_tokens_per_second
        if speed:
            metrics.per_token.labels(*target).observe(1 / speed)
        self._count_usage(progress, target, tenant)

    def _count_usage(
        self, progress: Progress, target: tuple[str, str], tenant: tuple[str, ...]
    ) -> None:
        usage = progress.usage
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
