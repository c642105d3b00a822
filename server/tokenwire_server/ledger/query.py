"""Queries of usage records, and summaries. Pure values."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from ..events import Usage
from .record import Outcome, UsageRecord

LABEL_GROUP = "label:"
"""Prefix of a group by a label. The label's key follows."""


class UsageQuery(msgspec.Struct, frozen=True, kw_only=True):
    """A filter: records match all fields that are set. Times are creation times, in seconds since the
    epoch.
    """

    tenant: str | None
    """None: all tenants, for the operator."""
    since: float | None = None
    until: float | None = None
    """Exclusive."""
    models: tuple[str, ...] = ()
    """Models, as requested or as the `provider/model` that served the stream. Empty: any model."""
    labels: Mapping[str, str] = {}
    """A record has all of these labels."""
    outcomes: tuple[Outcome, ...] = ()
    """Empty: any outcome."""
    key_prefix: str | None = None


class Cursor(msgspec.Struct, frozen=True):
    """The last record of a page."""

    created_time: float
    stream_id: str

    @classmethod
    def of(cls, record: UsageRecord) -> Cursor:
        return cls(record.created_time, record.stream_id)


class UsageSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The sums of the records of one group."""

    group: dict[str, str]
    """The value of each requested group. A day is YYYY-MM-DD. The value of a label that the records do not
    have is empty."""
    record_count: int
    open_count: int
    """Records of streams that have not ended. Their figures will grow."""
    estimated_count: int
    """Records with estimated figures."""
    unpriced_count: int
    """Records without a known price. The sum of the costs does not include them."""
    usage: Usage
    """The sums. An optional figure is the sum over the records that have it, and None if none has it.
    `estimated` is true if any record is estimated. `server_tools` and `service_tier` are empty."""
    first_created_time: float
    last_created_time: float


class SummaryTooLarge(Exception):
    """The records have more groups than one response may contain."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        super().__init__(
            f"the summary has more than {limit} rows: request a shorter time or fewer groups"
        )
