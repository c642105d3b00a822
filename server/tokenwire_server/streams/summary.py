"""The observer that logs the end of each stream: one line, with what the stream did, used and cost."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ..telemetry import FIELDS
from .generation import Generation, StreamObserver
from .observers import end_of

logger = logging.getLogger(__name__)


class StreamSummary(StreamObserver):
    """Logs the end of each stream, without its content.

    If traces are sent, this observer must come before the one that ends their spans.
    """

    def __init__(self, trace_id: Callable[[Generation], str] | None = None) -> None:
        """`trace_id` returns the id of a stream's trace, or an empty string if it has none."""
        self._trace_id = trace_id

    def ended(self, generation: Generation) -> None:
        if logger.isEnabledFor(logging.INFO):
            logger.info("stream ended", extra={FIELDS: self._fields(generation)})

    def _fields(self, generation: Generation) -> dict[str, object]:
        stream, progress, route = generation.stream, generation.progress(), generation.route
        outcome, reason = end_of(stream.log)
        usage = progress.usage
        fields: dict[str, object] = {"stream_id": stream.id}
        if stream.request_id:
            fields["request_id"] = stream.request_id
        if self._trace_id is not None and (trace_id := self._trace_id(generation)):
            fields["trace_id"] = trace_id
        fields |= {
            "tenant": stream.tenant,
            "model": generation.requested_model,
            "provider": progress.provider or route.provider.name,
            "provider_model": progress.model or route.model,
            "outcome": outcome.value,
            "reason": reason,
            "attempts": progress.attempt_count,
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
        }
        if usage.cost_microusd is not None:
            fields["cost_usd"] = usage.cost_microusd / 1e6
        if progress.ttft_s is not None:
            fields["ttft_s"] = round(progress.ttft_s, 4)
        if stream.end_time is not None:
            fields["duration_s"] = round(stream.end_time - stream.created_time, 4)
        if generation.from_cache:
            fields["from_cache"] = True
        return fields
