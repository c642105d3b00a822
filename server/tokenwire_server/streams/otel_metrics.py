"""The observer that records the GenAI metrics of OpenTelemetry. It runs once a stream, never for a token."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from opentelemetry.metrics import Histogram, Meter
from opentelemetry.util.types import AttributeValue

from ..routing.attempt import Attempt
from ..routing.retry import AttemptError
from ..telemetry import semconv
from ..telemetry.labels import OTHER, KnownNames
from .generation import Generation, StreamObserver

MAX_MODELS = 100
"""Models with series of their own, besides those in the configuration."""

TOKENS = tuple(4.0**n for n in range(14))
DURATION_S = tuple(0.01 * 2**n for n in range(14))
FIRST_TOKEN_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1),
    *(0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
)
PER_TOKEN_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
"""The boundaries of the buckets, as the conventions define them."""


class Instrument(NamedTuple):
    """A metric, as the documentation describes it."""

    name: str
    unit: str
    boundaries: tuple[float, ...]
    meaning: str


OPERATION_DURATION = Instrument(
    "gen_ai.client.operation.duration",
    "s",
    DURATION_S,
    "Time from each request to a provider to the end of its answer.",
)
TOKEN_USAGE = Instrument(
    "gen_ai.client.token.usage",
    "{token}",
    TOKENS,
    "Tokens of each request to a provider, by `gen_ai.token.type`: `input` or `output`.",
)
REQUEST_DURATION = Instrument(
    "gen_ai.server.request.duration",
    "s",
    DURATION_S,
    "Time from each accepted request to the end of its stream.",
)
TIME_TO_FIRST_TOKEN = Instrument(
    "gen_ai.server.time_to_first_token",
    "s",
    FIRST_TOKEN_S,
    "Time from the accepted request to the first content of any kind.",
)
TIME_PER_OUTPUT_TOKEN = Instrument(
    "gen_ai.server.time_per_output_token",
    "s",
    PER_TOKEN_S,
    "Mean time between the output tokens of a stream, without the first one.",
)
INSTRUMENTS = (
    OPERATION_DURATION,
    TOKEN_USAGE,
    REQUEST_DURATION,
    TIME_TO_FIRST_TOKEN,
    TIME_PER_OUTPUT_TOKEN,
)

Attributes = dict[str, AttributeValue]


class _Running(NamedTuple):
    """An attempt that has not ended."""

    attempt: Attempt
    started: float


class OtelMetrics(StreamObserver):
    """Records what streams and their attempts took. Replays from the response cache are not recorded."""

    def __init__(
        self,
        meter: Meter,
        api_formats: Mapping[str, str],
        models: Iterable[str] = (),
        *,
        uses_latest: bool = False,
    ) -> None:
        """`api_formats` has the value of `gen_ai.system` for each provider, by its name.

        `models` are the models of the configuration, as `provider/model`. They always have series of their
        own. Of other models, the first MAX_MODELS whose provider sent content have them.
        """
        self._api_formats = api_formats
        self._system = semconv.PROVIDER_NAME if uses_latest else semconv.SYSTEM
        self._models = KnownNames(models, max_count=MAX_MODELS)
        self._running: dict[str, _Running] = {}  # by stream id
        self._operation_duration = _histogram(meter, OPERATION_DURATION)
        self._token_usage = _histogram(meter, TOKEN_USAGE)
        self._request_duration = _histogram(meter, REQUEST_DURATION)
        self._first_token = _histogram(meter, TIME_TO_FIRST_TOKEN)
        self._per_token = _histogram(meter, TIME_PER_OUTPUT_TOKEN)

    def attempt_started(self, generation: Generation, attempt: Attempt) -> None:
        self._running[generation.stream.id] = _Running(attempt, time.monotonic())

    def attempt_failed(
        self,
        generation: Generation,
        attempt: Attempt,  # noqa: ARG002
        error: AttemptError,
    ) -> None:
        self._end_attempt(generation, error.reason)

    def first_content(self, generation: Generation, attempt: Attempt) -> None:  # noqa: ARG002  # the base's
        self._models.add(f"{attempt.route.provider.name}/{attempt.route.model}")

    def ended(self, generation: Generation) -> None:
        stream, progress = generation.stream, generation.progress()
        error_type = "" if stream.log.failure is None else stream.log.failure.reason
        running = self._running.get(stream.id)
        self._end_attempt(generation, error_type)
        if generation.from_cache:
            return
        route = generation.route if running is None else running.attempt.route
        target = self._target(progress.provider or route.provider.name, route.model)
        if stream.end_time is not None:
            attributes = target | _error(error_type)
            self._request_duration.record(stream.end_time - stream.created_time, attributes)
        if progress.ttft_s is not None:
            self._first_token.record(progress.ttft_s, target)
        finished = stream.log.finished
        speed = finished and finished.timings.output_tokens_per_second
        if speed:
            self._per_token.record(1 / speed, target)

    def _end_attempt(self, generation: Generation, error_type: str) -> None:
        running = self._running.pop(generation.stream.id, None)
        if running is None:
            return
        attempt, started = running
        target = self._target(attempt.route.provider.name, attempt.route.model)
        duration_s = time.monotonic() - started
        self._operation_duration.record(duration_s, target | _error(error_type))
        usage = attempt.usage()
        for kind, count in (("input", usage.input_tokens), ("output", usage.output_tokens)):
            if count:
                self._token_usage.record(count, target | {semconv.TOKEN_TYPE: kind})

    def _target(self, provider: str, model: str) -> Attributes:
        return {
            semconv.OPERATION: semconv.CHAT,
            self._system: self._api_formats.get(provider, provider),
            semconv.REQUEST_MODEL: model if f"{provider}/{model}" in self._models else OTHER,
            semconv.TOKENWIRE_PROVIDER: provider,
        }


def _error(error_type: str) -> Attributes:
    return {semconv.ERROR_TYPE: error_type} if error_type else {}


def _histogram(meter: Meter, instrument: Instrument) -> Histogram:
    return meter.create_histogram(
        instrument.name,
        instrument.unit,
        instrument.meaning,
        explicit_bucket_boundaries_advisory=list(instrument.boundaries),
    )
