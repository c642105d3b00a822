"""Which records are asked for, and what is said of many at once. Pure values."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from ..events import Usage
from .record import Outcome, UsageRecord

LABEL_GROUP = "label:"
"""Begins a group by a label; its key follows."""


class UsageQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Records that match all that is set. Times are seconds since the epoch, of a stream's creation."""

    tenant: str | None
    """None: of all tenants, for the operator."""
    since: float | None = None
    until: float | None = None
    """The first moment that is too late."""
    models: tuple[str, ...] = ()
    """Any of them, as the caller asked or as `provider/model` that served. Empty: any."""
    labels: Mapping[str, str] = {}
    """All of them."""
    outcomes: tuple[Outcome, ...] = ()
    """Any of them. Empty: any."""
    key_prefix: str | None = None


class Cursor(msgspec.Struct, frozen=True):
    """The last record of a page."""

    created_time: float
    stream_id: str

    @classmethod
    def of(cls, record: UsageRecord) -> Cursor:
        return cls(record.created_time, record.stream_id)


class UsageSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Records that have something in common, and their sums."""

    group: dict[str, str]
    """By each group that was asked for, what they have in common: a day as YYYY-MM-DD; empty under a
    label that they do not have."""
    record_count: int
    open_count: int
    """Of streams that have not ended: their figures will grow."""
    estimated_count: int
    """Whose figures are not the provider's."""
    unpriced_count: int
    """Whose price is not known: the sum of the costs is without them."""
    usage: Usage
    """The sums. What may be None is summed over the records that say it, and None where none does.
    `estimated`: any is."""
    first_created_time: float
    last_created_time: float


class SummaryTooLarge(Exception):
    """The records fall into more groups than one answer may hold: ask for less time, or fewer groups."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        super().__init__(
            f"the summary has more than {limit} rows: ask for less time or fewer groups"
        )
