"""The observers of streams: usage records, and the settlement of what streams reserved."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Protocol

from ..events import NO_USAGE, FinishReason
from ..ledger.record import FailedAttempt, FilterAction, Outcome, UsageRecord
from ..routing.attempt import Attempt
from ..routing.retry import AttemptError
from ..streamlog.base import StreamLog
from ..tenants.spend import SpendLimiter
from .generation import Generation, StreamObserver

_OUTCOMES = {
    FinishReason.CANCELLED: Outcome.CANCELLED,
    FinishReason.TIME_LIMIT: Outcome.TIME_LIMIT,
    FinishReason.BUDGET: Outcome.BUDGET,
}
"""The outcomes of the reasons that this server sets. All other reasons are FINISHED."""


class Settlement(StreamObserver):
    """Settles the reservation of each stream when it ends. `spend` counts costs that were not reserved."""

    def __init__(self, spend: SpendLimiter | None = None) -> None:
        self._spend = spend

    def ended(self, generation: Generation) -> None:
        reservation, usage = generation.reservation, generation.usage()
        is_charged = not generation.route.key_owner
        cost = usage.cost_microusd if is_charged else 0
        if self._spend is not None and reservation.spend is None and cost:
            self._spend.count(generation.stream.tenant, cost)
        reservation.settle(usage, generation.estimated_cost_microusd(), is_charged=is_charged)


class UsageSink(Protocol):
    """Takes usage records. Each method is one synchronous step."""

    instance_id: str

    def begin(self, record: UsageRecord) -> None:
        """Take the record of a stream that was accepted."""
        ...

    def close(self, record: UsageRecord) -> None:
        """Take the record of a stream that has ended."""
        ...


class UsageRecorder(StreamObserver):
    """Writes one usage record for each stream."""

    def __init__(self, sink: UsageSink) -> None:
        self._sink = sink
        self._open: dict[str, Generation] = {}  # by stream id
        self._failed: dict[str, tuple[FailedAttempt, ...]] = {}
        """By stream id, for the streams with such attempts."""

    def opened(self, generation: Generation) -> None:
        self._open[generation.stream.id] = generation
        self._sink.begin(self._record(generation))

    def attempt_failed(self, generation: Generation, attempt: Attempt, error: AttemptError) -> None:
        usage, route = attempt.usage(), attempt.route
        failed = FailedAttempt(
            provider=route.provider.name,
            model=route.model,
            reason=error.reason,
            duration_s=time.monotonic() - attempt.created,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cost_microusd=usage.cost_microusd if usage is not NO_USAGE else None,
        )
        stream_id = generation.stream.id
        self._failed[stream_id] = (*self._failed.get(stream_id, ()), failed)

    def ended(self, generation: Generation) -> None:
        stream_id = generation.stream.id
        self._open.pop(stream_id, None)
        failed_attempts = self._failed.pop(stream_id, ())
        record = self._record(generation, failed_attempts, generation.filter_actions)
        self._sink.close(record)

    def open_records(self) -> Iterator[UsageRecord]:
        """Yield the current records of the open streams. Streams may open and end between two records."""
        for generation in list(self._open.values()):
            if not generation.stream.log.sealed:
                yield self._record(generation)

    def _record(
        self,
        generation: Generation,
        failed_attempts: tuple[FailedAttempt, ...] = (),
        filters: tuple[FilterAction, ...] = (),
    ) -> UsageRecord:
        stream, progress, route = generation.stream, generation.progress(), generation.route
        outcome, reason = end_of(stream.log)
        return UsageRecord(
            stream_id=stream.id,
            instance_id=self._sink.instance_id,
            tenant=stream.tenant,
            key_prefix=generation.caller.key_prefix,
            request_id=stream.request_id,
            labels=generation.labels,
            model_asked=generation.requested_model,
            provider=progress.provider or route.provider.name,
            model=progress.model or route.model,
            provider_response_id=progress.provider_response_id,
            created_time=stream.created_time,
            end_time=stream.end_time,
            ttft_s=progress.ttft_s,
            outcome=outcome,
            reason=reason,
            usage=progress.usage,
            partial=outcome is not Outcome.FINISHED or _is_blocked(stream.log),
            attempts=progress.attempt_count,
            from_cache=generation.from_cache,
            own_key=bool(route.key_owner) and not generation.from_cache,
            failed_attempts=failed_attempts,
            filters=filters,
        )


def _is_blocked(log: StreamLog) -> bool:
    """Return whether a filter of this server ended the answer, and not one of the provider."""
    end = log.finished
    return (
        end is not None
        and end.reason is FinishReason.CONTENT_FILTER
        and not end.provider_finish_reason
    )


def end_of(log: StreamLog) -> tuple[Outcome, str]:
    """Return how a stream ended, and the name of its finish reason or the reason of its error."""
    if log.finished is not None:
        reason = log.finished.reason
        return _OUTCOMES.get(reason, Outcome.FINISHED), reason.name
    if log.failure is not None:
        return Outcome.FAILED, log.failure.reason
    return Outcome.OPEN, ""
