"""The RPCs that return a tenant's usage records."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import TypeVar

import msgspec
from google.protobuf.timestamp_pb2 import Timestamp

from tokenwire.v1 import usage_pb2

from ..chats.violations import Violations
from ..config import Limits
from ..errors import InvalidRequest, StoreUnavailable
from ..ledger.query import LABEL_GROUP, Cursor, SummaryTooLarge, UsageQuery, UsageSummary
from ..ledger.record import FailedAttempt, Outcome, UsageRecord
from ..ledger.store import UsageStore
from ..request import Violation
from ..tenants.caller import Caller
from .codec import duration, timestamp, usage_message
from .options import LABEL_KEY, OptionsParser
from .parse import MAX_MODEL_CHARS
from .wire import parse_message
from .writer import Context

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000
MAX_MODELS = 32
MAX_KEY_PREFIX_CHARS = 64
ITEMS_AT_ONCE = 50
"""Records or sums that are encoded at once: 1 to 2 ms of the event loop."""

_OUTCOMES = {usage_pb2.UsageOutcome.Value(f"USAGE_OUTCOME_{o.name}"): o for o in Outcome}
_OUTCOME_VALUES = {outcome: value for value, outcome in _OUTCOMES.items()}
_GROUPS = {
    usage_pb2.USAGE_GROUP_DAY: "day",
    usage_pb2.USAGE_GROUP_MODEL: "model",
    usage_pb2.USAGE_GROUP_LABEL: "label",
    usage_pb2.USAGE_GROUP_KEY: "key",
}
_FIRST_TIME, _LAST_TIME = -62135596800, 253402300799  # the range of Timestamp


logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


class UsageService:
    """tokenwire.v1.UsageService. A caller sees its own tenant's records."""

    def __init__(self, store: UsageStore, limits: Limits) -> None:
        self._store = store
        self._limits = limits
        self._is_failing = False

    async def ListUsageRecords(self, data: bytes, context: Context, caller: Caller) -> bytes:  # noqa: ARG002, N802
        """Return a page of records, and the token of the next page.

        Raises InvalidRequest, RateLimited, Overloaded, StoreUnavailable.
        """
        request = parse_message(usage_pb2.ListUsageRecordsRequest, data)
        violations = Violations()
        query = self._query(request.filter, caller, violations)
        of_filter = _digest(request.filter)
        after = None
        if request.page_size < 0:
            violations.add("page_size", "is negative")
        if request.page_token:
            token = _PageToken.read(request.page_token)
            if token is None:
                violations.add("page_token", "is not a token of this server")
            elif token.of_filter != of_filter:
                violations.add("page_token", "belongs to a list with another filter")
            else:
                after = Cursor(token.created_time, token.stream_id)
        violations.raise_if_any()
        size = min(request.page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
        records = await self._read(self._store.page(query, after, size))
        parts = [
            usage_pb2.ListUsageRecordsResponse(
                usage_records=map(_record_message, some)
            ).SerializeToString()
            async for some in _in_slices(records)
        ]
        if len(records) == size:
            last = records[-1]
            next_token = _PageToken(last.created_time, last.stream_id, of_filter).write()
            parts.append(
                usage_pb2.ListUsageRecordsResponse(next_page_token=next_token).SerializeToString()
            )
        return b"".join(parts)

    async def GetUsageSummary(self, data: bytes, context: Context, caller: Caller) -> bytes:  # noqa: ARG002, N802
        """Return sums. Raises InvalidRequest, RateLimited, Overloaded, StoreUnavailable."""
        request = parse_message(usage_pb2.GetUsageSummaryRequest, data)
        violations = Violations()
        query = self._query(request.filter, caller, violations)
        groups = _groups(request, violations)
        violations.raise_if_any()
        try:
            found = await self._read(self._store.summary(query, groups))
        except SummaryTooLarge as error:
            raise InvalidRequest([Violation("group_by", str(error))]) from None
        parts = [
            usage_pb2.GetUsageSummaryResponse(
                summaries=[_summary_message(summary, request.label_key) for summary in some]
            ).SerializeToString()
            async for some in _in_slices(found)
        ]
        return b"".join(parts)

    async def _read(self, query: Awaitable[Result]) -> Result:
        """Await a query. Log the first failure of the database, and the first success after it."""
        try:
            found = await query
        except StoreUnavailable as error:
            if not self._is_failing:
                logger.error("usage records cannot be read: %s", error.detail)  # noqa: TRY400
            self._is_failing = True
            raise
        if self._is_failing:
            logger.warning("usage records can be read again")
            self._is_failing = False
        return found

    def _query(
        self, proto: usage_pb2.UsageFilter, caller: Caller, violations: Violations
    ) -> UsageQuery:
        def report(field: str, description: str) -> None:
            violations.add(f"filter.{field}", description)

        since, until = (
            _seconds(getattr(proto, name), f"filter.{name}", violations)
            if proto.HasField(name)
            else None
            for name in ("start_time", "end_time")
        )
        if since is not None and until is not None and until <= since:
            report("end_time", "is not after start_time")
        if len(proto.models) > MAX_MODELS:
            report("models", f"has {len(proto.models)}; at most {MAX_MODELS} are allowed")
        for position, model in enumerate(proto.models[:MAX_MODELS]):
            if not 0 < len(model) <= MAX_MODEL_CHARS:
                report(f"models[{position}]", f"must have 1 to {MAX_MODEL_CHARS} characters")
        outcomes = []
        for position, value in enumerate(proto.outcomes[: len(_OUTCOMES) + 1]):
            if value in _OUTCOMES:
                outcomes.append(_OUTCOMES[value])
            else:
                report(f"outcomes[{position}]", f"{value} is not an outcome")
        if len(proto.outcomes) > len(_OUTCOMES):
            report("outcomes", f"has {len(proto.outcomes)}; there are {len(_OUTCOMES)}")
        if len(proto.key_prefix) > MAX_KEY_PREFIX_CHARS:
            report("key_prefix", f"is longer than {MAX_KEY_PREFIX_CHARS} characters")
        options = OptionsParser(self._limits, violations.add)
        return UsageQuery(
            tenant=caller.tenant,
            since=since,
            until=until,
            models=tuple(proto.models),
            labels=options.labels(proto.labels, "filter.labels"),
            outcomes=tuple(outcomes),
            key_prefix=proto.key_prefix or None,
        )


class _PageToken(msgspec.Struct, frozen=True, array_like=True):
    """Where a page begins. A token that a caller forges still gives only records of the caller's tenant."""

    created_time: float
    stream_id: str
    of_filter: bytes

    def write(self) -> str:
        return base64.urlsafe_b64encode(msgspec.msgpack.encode(self)).decode().rstrip("=")

    @classmethod
    def read(cls, text: str) -> _PageToken | None:
        """Return None if the token is malformed."""
        try:
            data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
            return msgspec.msgpack.decode(data, type=cls)
        except (binascii.Error, ValueError, msgspec.DecodeError):
            return None


def _digest(filter: usage_pb2.UsageFilter) -> bytes:
    return hashlib.sha256(filter.SerializeToString(deterministic=True)).digest()[:8]


def _seconds(time: Timestamp, field: str, violations: Violations) -> float:
    if not _FIRST_TIME <= time.seconds <= _LAST_TIME or not 0 <= time.nanos < 10**9:
        violations.add(field, "is not a time in the years 1 to 9999")
    return time.seconds + time.nanos / 1e9


def _groups(request: usage_pb2.GetUsageSummaryRequest, violations: Violations) -> tuple[str, ...]:
    groups: list[str] = []
    for position, value in enumerate(request.group_by[: len(_GROUPS) + 1]):
        group = _GROUPS.get(value)
        if group is None:
            violations.add(f"group_by[{position}]", f"{value} is not a group")
        elif group in groups:
            violations.add(f"group_by[{position}]", "is given twice")
        else:
            groups.append(group)
    by_label = "label" in groups
    if by_label and not LABEL_KEY.fullmatch(request.label_key):
        violations.add("label_key", "must be the key of a label: 1 to 64 of a-z 0-9 _ . -")
    if request.label_key and not by_label:
        violations.add("label_key", "is only allowed with USAGE_GROUP_LABEL")
    order = ("day", "model", "label", "key")
    return tuple(
        f"{LABEL_GROUP}{request.label_key}" if group == "label" else group
        for group in order
        if group in groups
    )


async def _in_slices(items: Sequence[Item]) -> AsyncIterator[Sequence[Item]]:
    """Yield the items in slices; other tasks run between two slices.

    The serialized slices of a response can be concatenated: protobuf specifies this for repeated fields.
    """
    for first in range(0, len(items), ITEMS_AT_ONCE):
        yield items[first : first + ITEMS_AT_ONCE]
        await asyncio.sleep(0)


def _record_message(record: UsageRecord) -> usage_pb2.UsageRecord:
    return usage_pb2.UsageRecord(
        stream_id=record.stream_id,
        tenant=record.tenant,
        key_prefix=record.key_prefix,
        request_id=record.request_id,
        labels=record.labels,
        model_asked=record.model_asked,
        provider=record.provider,
        model=record.model,
        provider_response_id=record.provider_response_id,
        created_time=timestamp(record.created_time),
        end_time=None if record.end_time is None else timestamp(record.end_time),
        ttft=duration(record.ttft_s),
        duration=duration(record.duration_s),
        usage=usage_message(record.usage),
        outcome=_OUTCOME_VALUES[record.outcome],
        reason=record.reason,
        partial=record.partial,
        attempts=record.attempts,
        from_cache=record.from_cache,
        own_key=record.own_key,
        failed_attempts=map(_failed_attempt, record.failed_attempts),
        filters=[
            usage_pb2.FilterAction(name=acted.name, action=acted.action, count=acted.count)
            for acted in record.filters
        ],
    )


def _failed_attempt(attempt: FailedAttempt) -> usage_pb2.FailedAttempt:
    message = usage_pb2.FailedAttempt(
        provider=attempt.provider,
        model=attempt.model,
        reason=attempt.reason,
        duration=duration(attempt.duration_s),
    )
    if attempt.input_tokens or attempt.output_tokens:
        message.usage.input_tokens = attempt.input_tokens
        message.usage.output_tokens = attempt.output_tokens
        if attempt.cost_microusd is not None:
            message.usage.cost_microusd = attempt.cost_microusd
    return message


def _summary_message(summary: UsageSummary, label_key: str) -> usage_pb2.UsageSummary:
    group = summary.group
    return usage_pb2.UsageSummary(
        day=group.get("day", ""),
        model=group.get("model", ""),
        label_value=group.get(f"{LABEL_GROUP}{label_key}", ""),
        key_prefix=group.get("key", ""),
        record_count=summary.record_count,
        usage=usage_message(summary.usage),
        unpriced_count=summary.unpriced_count,
        estimated_count=summary.estimated_count,
        open_count=summary.open_count,
    )
