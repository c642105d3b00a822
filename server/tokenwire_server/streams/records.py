"""What the ledger keeps of a stream."""

from __future__ import annotations

from ..events import FinishReason
from ..ledger.record import Outcome, UsageRecord
from .stream import Stream

_OUTCOMES = {
    FinishReason.CANCELLED: Outcome.CANCELLED,
    FinishReason.TIME_LIMIT: Outcome.TIME_LIMIT,
    FinishReason.BUDGET: Outcome.BUDGET,
}
"""Of the ends that are not the provider's own."""


def record_of(stream: Stream, instance_id: str) -> UsageRecord:
    """A stream as it stands: open, or ended."""
    outcome, reason = _end_of(stream)
    progress = stream.progress()
    return UsageRecord(
        stream_id=stream.id,
        instance_id=instance_id,
        tenant=stream.tenant,
        key_prefix=stream.key_prefix,
        request_id=stream.request_id,
        labels=stream.labels,
        model_asked=stream.model_asked,
        provider=stream.provider,
        model=progress.model or stream.model,
        provider_response_id=progress.provider_response_id,
        created_time=stream.created_time,
        end_time=stream.end_time,
        ttft_s=progress.ttft_s,
        outcome=outcome,
        reason=reason,
        usage=progress.usage,
        partial=outcome is not Outcome.FINISHED,
        attempts=progress.attempts,
        from_cache=stream.from_cache,
    )


def _end_of(stream: Stream) -> tuple[Outcome, str]:
    log = stream.log
    if log.finished is not None:
        reason = log.finished.reason
        return _OUTCOMES.get(reason, Outcome.FINISHED), reason.name
    if log.failure is not None:
        return Outcome.FAILED, log.failure.reason
    return Outcome.OPEN, ""
