"""Usage records and sums as CSV (RFC 4180), for spreadsheets and for whoever reconciles an invoice."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message as ProtoMessage
from google.protobuf.timestamp_pb2 import Timestamp

from tokenwire.v1.usage_pb2 import UsageOutcome, UsageRecord, UsageSummary

from ..money import usd_decimal
from ..render import json_text

_OptionalCount = Literal[
    "reasoning_tokens", "cache_read_tokens", "cache_write_tokens", "cost_microusd"
]

# What spreadsheets take for the beginning of a formula, or skip in front of one (OWASP, "CSV Injection"),
# and the mark itself, so that it can be taken off again.
_STARTS_FORMULA = (*"=+-@\t\r\n", *"\uff1d\uff0b\uff0d\uff20", "'")

Cell = Callable[[Any], str]


def safe_text(text: str) -> str:
    """Text that no spreadsheet runs: with a ' in front, where it begins like a formula or with a '."""
    return f"'{text}" if text.startswith(_STARTS_FORMULA) else text


def time_text(time: Timestamp) -> str:
    """ISO 8601, UTC, to the microsecond."""
    seconds = datetime.fromtimestamp(time.seconds, UTC)
    return f"{seconds:%Y-%m-%dT%H:%M:%S}.{time.nanos // 1000:06d}Z"


def outcome_text(outcome: UsageOutcome.ValueType) -> str:
    """Its name, such as `time_limit`."""
    try:
        return UsageOutcome.Name(outcome).removeprefix("USAGE_OUTCOME_").lower()
    except ValueError:
        return str(outcome)  # a newer server's


def record_columns() -> dict[str, Cell]:
    """Every column of a record, by its heading."""
    return {
        "stream_id": _text("stream_id"),
        "tenant": _text("tenant"),
        "key_prefix": _text("key_prefix"),
        "request_id": _text("request_id"),
        "labels": _labels,
        "model_asked": _text("model_asked"),
        "provider": _text("provider"),
        "model": _text("model"),
        "provider_response_id": _text("provider_response_id"),
        "created_time": _time("created_time"),
        "end_time": _time("end_time"),
        "ttft_s": _span("ttft"),
        "duration_s": _span("duration"),
        **_usage_columns(),
        "outcome": lambda record: outcome_text(record.outcome),
        "reason": _text("reason"),
        "partial": _flag("partial"),
        "attempts": _number("attempts"),
        "from_cache": _flag("from_cache"),
    }


def summary_columns(group_by: Sequence[str], label_key: str) -> dict[str, Cell]:
    """Every column of a sum, by its heading."""
    groups = {
        "day": ("day", _text("day")),
        "model": ("model", _text("model")),
        "label": (f"label.{label_key}", _text("label_value")),
        "key": ("key_prefix", _text("key_prefix")),
    }
    return {
        **dict(groups[group] for group in group_by),
        "record_count": _number("record_count"),
        **_usage_columns(),
        "unpriced_count": _number("unpriced_count"),
        "estimated_count": _number("estimated_count"),
        "open_count": _number("open_count"),
    }


class Out(Protocol):
    """Where text goes."""

    def write(self, text: str, /) -> object: ...


class CsvWriter:
    """A heading, then a line for each message; what is unknown is empty."""

    def __init__(self, out: Out, columns: dict[str, Cell]) -> None:
        self._headings = tuple(columns)
        self._cells = tuple(columns.values())
        self._rows = csv.writer(out, lineterminator="\r\n")
        self._begun = False

    def write(self, messages: Iterable[UsageRecord | UsageSummary]) -> None:
        """Write the next lines; the heading first, even where there are none."""
        if not self._begun:
            self._begun = True
            self._rows.writerow(self._headings)
        self._rows.writerows([cell(message) for cell in self._cells] for message in messages)


def _usage_columns() -> dict[str, Cell]:
    return {
        "input_tokens": lambda message: str(message.usage.input_tokens),
        "output_tokens": lambda message: str(message.usage.output_tokens),
        "reasoning_tokens": _known("reasoning_tokens"),
        "cache_read_tokens": _known("cache_read_tokens"),
        "cache_write_tokens": _known("cache_write_tokens"),
        "cost_usd": _known("cost_microusd", usd_decimal),
        "cost_microusd": _known("cost_microusd"),
        "estimated": lambda message: _flag("estimated")(message.usage),
    }


def _text(name: str) -> Cell:
    return lambda message: safe_text(getattr(message, name))


def _number(name: str) -> Cell:
    return lambda message: str(getattr(message, name))


def _flag(name: str) -> Cell:
    return lambda message: "true" if getattr(message, name) else "false"


def _labels(record: UsageRecord) -> str:
    return json_text(dict(sorted(record.labels.items())))


def _known(name: _OptionalCount, text_of: Callable[[int], str] = str) -> Cell:
    def cell(message: UsageRecord | UsageSummary) -> str:
        usage = message.usage
        return text_of(getattr(usage, name)) if usage.HasField(name) else ""

    return cell


def _time(name: str) -> Cell:
    def cell(message: ProtoMessage) -> str:
        return time_text(getattr(message, name)) if message.HasField(name) else ""

    return cell


def _span(name: str) -> Cell:
    def cell(message: ProtoMessage) -> str:
        if not message.HasField(name):
            return ""
        span: Duration = getattr(message, name)
        return f"{span.seconds}.{span.nanos // 1000:06d}"

    return cell
