"""Usage records as rows of their table, and back.

Every value of a caller or a provider can be written, because a record that the database rejects would make
its whole batch fail. So text is cut at MAX_TEXT_CHARS, invalid characters become U+FFFD, and counts are
cut at MAX_COUNT.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote

import msgspec

from ..events import Usage
from ..storage.schema import usage_records
from .record import FailedAttempt, FilterAction, Outcome, UsageRecord

MAX_TEXT_CHARS = 1024
MAX_COUNT = 10**12
"""Maximum number of tokens, and of microusd. The sum of 9 million such records fits in 64 bits."""
MAX_ATTEMPTS = 10**6
MAX_FAILED_ATTEMPTS = 32
"""Maximum number of failed attempts in one record."""
MAX_FILTERS = 100
"""Maximum number of filters in one record."""
MAX_TOOLS = 32
"""Maximum number of tools of the provider in one record."""

DAY_S = 86_400
_REJECTED = re.compile("[\0\ud800-\udfff]")
_encode = msgspec.json.Encoder().encode
_TEXTS = (
    "stream_id", "instance_id", "tenant", "key_prefix", "request_id", "model_asked", "provider",
    "model", "provider_response_id", "reason",
)  # fmt: skip
_PLAIN = ("created_time", "end_time", "ttft_s", "partial", "from_cache")
_FIELDS = (*_TEXTS, *_PLAIN, "attempts")
COUNTS = (
    "input_tokens", "output_tokens", "reasoning_tokens", "cache_read_tokens", "cache_write_tokens",
    "long_cache_write_tokens", "cost_microusd",
)  # fmt: skip
"""The counts of `Usage`."""
_USAGE_FACTS = ("server_tool_counts", "service_tier", "estimated")
FIGURES = (
    "stream_id", "provider", "model", "provider_response_id", "ttft_s", "partial", "attempts",
    "own_key", *COUNTS, *_USAGE_FACTS,
)  # fmt: skip
"""The key of a row, and the columns that change while the stream is open."""

RECORD_COLUMNS = tuple(
    usage_records.c[name]
    for name in (
        *_FIELDS,
        *COUNTS,
        *_USAGE_FACTS,
        "outcome",
        "labels",
        "failed_attempts",
        "own_key",
        "filters",
    )
)


def row_of(record: UsageRecord) -> dict[str, Any]:
    """Return the row of a record, without `update_time`. Values of JSON columns are encoded."""
    usage = record.usage
    row: dict[str, Any] = {name: text_of(getattr(record, name)) for name in _TEXTS}
    for name in _PLAIN:
        row[name] = getattr(record, name)
    for name in COUNTS:
        row[name] = _count(getattr(usage, name))
    row["server_tool_counts"] = _json(_tool_counts(usage))
    row["service_tier"] = text_of(usage.service_tier) or None
    row["estimated"] = usage.estimated
    row["own_key"] = record.own_key
    row["attempts"] = min(record.attempts, MAX_ATTEMPTS)
    row["outcome"] = record.outcome.value
    row["labels"] = _json({label_name(key): text_of(text) for key, text in record.labels.items()})
    row["failed_attempts"] = _json(_failed_attempts(record))
    row["filters"] = _json(_filter_actions(record))
    row["created_day"] = int(record.created_time // DAY_S)
    return row


def figures_of(record: UsageRecord) -> tuple[Any, ...]:
    """Return the FIGURES of a record."""
    usage = record.usage
    return (
        text_of(record.stream_id),
        text_of(record.provider),
        text_of(record.model),
        text_of(record.provider_response_id),
        record.ttft_s,
        record.partial,
        min(record.attempts, MAX_ATTEMPTS),
        record.own_key,
        *(_count(getattr(usage, name)) for name in COUNTS),
        _tool_counts(usage),
        text_of(usage.service_tier) or None,
        usage.estimated,
    )


def record_of(row: Mapping[str, Any]) -> UsageRecord:
    """Return the record of a row of RECORD_COLUMNS."""
    return UsageRecord(
        **{name: row[name] for name in _FIELDS},
        labels={unquote(name): value for name, value in row["labels"].items()},
        outcome=Outcome(row["outcome"]),
        own_key=bool(row["own_key"]),
        failed_attempts=tuple(
            msgspec.convert(attempt, FailedAttempt) for attempt in row["failed_attempts"] or ()
        ),
        filters=tuple(msgspec.convert(acted, FilterAction) for acted in row["filters"] or ()),
        usage=Usage(
            **{name: row[name] for name in COUNTS},
            server_tools=tuple(sorted((row["server_tool_counts"] or {}).items())),
            service_tier=row["service_tier"] or "",
            estimated=row["estimated"],
        ),
    )


def label_name(key: str) -> str:
    """Return the name under which a label is stored.

    It is percent-encoded, because a JSON path cannot quote every character, and SQLite compares keys without
    decoding their escapes.
    """
    return quote(text_of(key), safe="")


def text_of(text: str) -> str:
    """Return a text that can be stored: PostgreSQL accepts neither NUL nor lone surrogates."""
    if len(text) > MAX_TEXT_CHARS:
        text = text[:MAX_TEXT_CHARS]
    if text.isascii():
        return text.replace("\0", "\ufffd") if "\0" in text else text
    return _REJECTED.sub("\ufffd", text)


def _json(value: object) -> str | None:
    return None if value is None else _encode(value).decode()


def _failed_attempts(record: UsageRecord) -> list[FailedAttempt] | None:
    if not record.failed_attempts:
        return None
    return [
        msgspec.structs.replace(
            attempt,
            provider=text_of(attempt.provider),
            model=text_of(attempt.model),
            input_tokens=min(attempt.input_tokens, MAX_COUNT),
            output_tokens=min(attempt.output_tokens, MAX_COUNT),
            cost_microusd=_count(attempt.cost_microusd),
        )
        for attempt in record.failed_attempts[:MAX_FAILED_ATTEMPTS]
    ]


def _filter_actions(record: UsageRecord) -> list[dict[str, Any]] | None:
    if not record.filters:
        return None
    return [
        {
            "name": text_of(acted.name),
            "action": text_of(acted.action),
            "count": min(acted.count, MAX_COUNT),
        }
        for acted in record.filters[:MAX_FILTERS]
    ]


def _tool_counts(usage: Usage) -> dict[str, int] | None:
    if not usage.server_tools:
        return None
    return {text_of(tool): min(count, MAX_COUNT) for tool, count in usage.server_tools[:MAX_TOOLS]}


def _count(count: int | None) -> int | None:
    return count if count is None or count < MAX_COUNT else MAX_COUNT
