"""The live latency table: what each provider and model did in the last minutes, over all callers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from ..errors import (
    ContextTooLong,
    ProviderBusy,
    UnknownModel,
    UpstreamAuth,
    UpstreamRateLimited,
    UpstreamRejected,
)
from ..ledger.record import Outcome
from ..routing.attempt import Attempt
from ..routing.retry import AttemptError
from ..telemetry.latency_window import LatencyFigures, LatencyWindow
from .generation import Generation, StreamObserver
from .observers import end_of

MAX_MODELS = 100
"""Models with figures, besides those in the configuration: those that were used last."""

_UNRELATED_ERRORS = (UpstreamRejected, ContextTooLong, ProviderBusy)
"""Errors of the request or of this server, which say nothing about the provider."""
_ACCOUNT_ERRORS = (UpstreamAuth, UpstreamRateLimited)
"""Errors of an account. If it is the one of a tenant's own key, they say nothing to other tenants."""


class LatencyTable(StreamObserver):
    """Measures the attempts at each provider and model: a failed attempt and its retry are two samples.

    - TTFT is the time from sending a request to its first content, and counts when that arrives. It counts
      also if the stream is cancelled afterwards.
    - An attempt counts for the error rate when it ends: as an error if it failed, whether it is repeated or
      not, and as none if it sent content or ended by itself. An attempt does not count if the caller or this
      server ended it before its first content, if the provider refused the request as invalid or too
      long, or if no connection to the provider was free. With a tenant's own key, it does not count either if
      the provider refused the key or limited its rate.
    - The output speed is that of streams that finished, or were cancelled after their first token.

    Streams that were replayed from the response cache have no attempts.
    """

    def __init__(
        self, configured: Iterable[str], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`configured` are the models of the configuration, as `provider/model`. They are never dropped."""
        self._clock = clock
        self._configured = {model: LatencyWindow() for model in configured}
        self._others: dict[str, LatencyWindow] = {}  # the least recently used one first
        self._started: dict[str, tuple[str, float]] = {}
        """The model and the start of the current attempt, by stream id: of open streams only."""

    def replace(self, configured: Iterable[str]) -> None:
        """Use another configuration. Models that stay in it, or come into it, keep their figures."""
        before = self._configured
        self._configured = {
            model: before.get(model) or self._others.pop(model, None) or LatencyWindow()
            for model in dict.fromkeys(configured)  # several names may have the same model
        }

    def figures(self, provider: str, model: str) -> LatencyFigures | None:
        """Return the figures of a model, or None if it has none."""
        name = f"{provider}/{model}"
        window = self._configured.get(name) or self._others.get(name)
        return None if window is None else window.figures(self._clock())

    def all_figures(self) -> Iterator[tuple[str, str, LatencyFigures]]:
        """Yield the provider, the model and the figures of each model that has any. Thread-safe."""
        now = self._clock()
        for name, window in [*self._configured.items(), *list(self._others.items())]:
            figures = window.figures(now)
            if figures is not None:
                provider, _, model = name.partition("/")
                yield provider, model, figures

    # StreamObserver

    def attempt_started(self, generation: Generation, attempt: Attempt) -> None:
        model = f"{attempt.route.provider.name}/{attempt.route.model}"
        self._started[generation.stream.id] = model, self._clock()

    def first_content(self, generation: Generation, attempt: Attempt) -> None:  # noqa: ARG002
        started = self._started.get(generation.stream.id)
        if started is not None:
            model, start = started
            now = self._clock()
            self._window(model).add_ttft(now - start, now)

    def attempt_failed(
        self,
        generation: Generation,
        attempt: Attempt,
        error: AttemptError,
    ) -> None:
        started = self._started.pop(generation.stream.id, None)
        if started is None or isinstance(error, _UNRELATED_ERRORS):
            return
        if attempt.route.key_owner and isinstance(error, _ACCOUNT_ERRORS):
            return
        model, _ = started
        # Names that a caller invented must not displace models that exist.
        if not isinstance(error, UnknownModel) or self._has(model):
            self._window(model).add_end(self._clock(), is_error=True)

    def ended(self, generation: Generation) -> None:
        started = self._started.pop(generation.stream.id, None)
        if started is None:
            return
        progress, log = generation.progress(), generation.stream.log
        outcome, _ = end_of(log)
        if progress.ttft_s is None and outcome is not Outcome.FINISHED:
            return
        model, _ = started
        now, window = self._clock(), self._window(model)
        window.add_end(now, is_error=False)
        speed = log.finished and log.finished.timings.output_tokens_per_second
        if speed:
            tokens = progress.usage.output_tokens - 1
            window.add_output(tokens, tokens / speed, now)

    def _has(self, model: str) -> bool:
        return model in self._configured or model in self._others

    def _window(self, model: str) -> LatencyWindow:
        """Return the window of a model that is used now."""
        window = self._configured.get(model)
        if window is not None:
            return window
        window = self._others.pop(model, None)
        if window is None:
            window = LatencyWindow()
        self._others[model] = window
        if len(self._others) > MAX_MODELS:
            del self._others[next(iter(self._others))]
        return window
