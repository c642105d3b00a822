"""The columns of usage records and summaries, with exact values, for CSV."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message as ProtoMessage
from google.protobuf.timestamp_pb2 import Timestamp

from tokenwire.v1.usage_pb2 import (
    FailedAttempt,
    FilterAction,
    UsageRecord,
    UsageSummary,
)

from ...enums import UsageOutcome
from ..money import usd_decimal
from .csv_writer import CellValue

_OptionalCount = Literal[
    "reasoning_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "long_cache_write_tokens",
    "cost_microusd",
]

Columns = dict[str, Callable[[Any], CellValue]]
"""How to read each column of a message, by its heading."""


def time_text(time: Timestamp) -> str:
    """Return a time as ISO 8601 in UTC, with microseconds."""
    seconds = datetime.fromtimestamp(time.seconds, UTC)
    return f"{seconds:%Y-%m-%dT%H:%M:%S}.{time.nanos // 1000:06d}Z"


def outcome_text(outcome: int) -> str:
    """Return the name of an outcome, such as `time_limit`."""
    known = UsageOutcome(outcome)
    return str(known).lower() if known.is_known else str(outcome)


def record_columns() -> Columns:
    """Return every column of a record."""
    return {
        "stream_id": _field("stream_id"),
        "tenant": _field("tenant"),
        "key_prefix": _field("key_prefix"),
        "request_id": _field("request_id"),
        "labels": lambda record: dict(record.labels),
        "model_asked": _field("model_asked"),
        "provider": _field("provider"),
        "model": _field("model"),
        "provider_response_id": _field("provider_response_id"),
        "created_time": _time("created_time"),
        "end_time": _time("end_time"),
        "ttft_s": _span("ttft"),
        "duration_s": _span("duration"),
        **_usage_columns(),
        "server_tool_counts": lambda record: dict(record.usage.server_tool_counts),
        "service_tier": lambda record: record.usage.service_tier,
        "outcome": lambda record: outcome_text(record.outcome),
        "reason": _field("reason"),
        "partial": _field("partial"),
        "attempts": _field("attempts"),
        "failed_attempts": lambda record: list(map(_failed_attempt, record.failed_attempts)),
        "from_cache": _field("from_cache"),
        "own_key": _field("own_key"),
        "filters": lambda record: list(map(_filter_action, record.filters)),
    }


def summary_columns(group_by: Sequence[str], label_key: str) -> Columns:
    """Return every column of a summary."""
    groups: dict[str, tuple[str, Callable[[Any], CellValue]]] = {
        "day": ("day", _field("day")),
        "model": ("model", _field("model")),
        "label": (f"label.{label_key}", _field("label_value")),
        "key": ("key_prefix", _field("key_prefix")),
    }
    return {
        **dict(groups[group] for group in group_by),
        "record_count": _field("record_count"),
        **_usage_columns(),
        "unpriced_count": _field("unpriced_count"),
        "estimated_count": _field("estimated_count"),
        "open_count": _field("open_count"),
    }


def cells(columns: Columns, message: UsageRecord | UsageSummary) -> list[CellValue]:
    """Return the values of one message, in the order of the columns."""
    return [value_of(message) for value_of in columns.values()]


def _usage_columns() -> Columns:
    return {
        "input_tokens": lambda message: message.usage.input_tokens,
        "output_tokens": lambda message: message.usage.output_tokens,
        "reasoning_tokens": _optional("reasoning_tokens"),
        "cache_read_tokens": _optional("cache_read_tokens"),
        "cache_write_tokens": _optional("cache_write_tokens"),
        "long_cache_write_tokens": _optional("long_cache_write_tokens"),
        "cost_usd": _cost_usd,
        "cost_microusd": _optional("cost_microusd"),
        "estimated": lambda message: message.usage.estimated,
    }


def _field(name: str) -> Callable[[Any], CellValue]:
    return lambda message: getattr(message, name)


def _optional(name: _OptionalCount) -> Callable[[Any], CellValue]:
    return lambda message: getattr(message.usage, name) if message.usage.HasField(name) else None


def _cost_usd(message: UsageRecord | UsageSummary) -> CellValue:
    usage = message.usage
    return usd_decimal(usage.cost_microusd) if usage.HasField("cost_microusd") else None


def _time(name: str) -> Callable[[ProtoMessage], CellValue]:
    return lambda message: time_text(getattr(message, name)) if message.HasField(name) else None


def _failed_attempt(attempt: FailedAttempt) -> dict[str, object]:
    """Return a failed attempt as an object with the keys of a record's columns."""
    values: dict[str, object] = {
        "provider": attempt.provider,
        "model": attempt.model,
        "reason": attempt.reason,
        "duration_s": attempt.duration.ToMicroseconds() / 1e6,
    }
    if attempt.HasField("usage"):
        values |= {
            "input_tokens": attempt.usage.input_tokens,
            "output_tokens": attempt.usage.output_tokens,
            "cost_microusd": _optional("cost_microusd")(attempt),
        }
    return values


def _filter_action(acted: FilterAction) -> dict[str, object]:
    return {"name": acted.name, "action": acted.action, "count": acted.count}


def _span(name: str) -> Callable[[ProtoMessage], CellValue]:
    def cell(message: ProtoMessage) -> CellValue:
        if not message.HasField(name):
            return None
        span: Duration = getattr(message, name)
        return f"{span.seconds}.{span.nanos // 1000:06d}"

    return cell
