"""Token counts and usage records: requests from the clients' arguments, and responses as values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Literal, NamedTuple, TypedDict, TypeVar, Unpack

from google.protobuf.timestamp_pb2 import Timestamp

from tokenwire.v1.chat_pb2 import (
    TOKEN_COUNT_SOURCE_ESTIMATE,
    TOKEN_COUNT_SOURCE_PROVIDER,
    TOKEN_COUNT_SOURCE_TOKENIZER,
    TOKEN_COUNTING_PROVIDER,
    ChatRequest,
    CountTokensResponse,
)
from tokenwire.v1.usage_pb2 import (
    GetUsageSummaryRequest,
    ListUsageRecordsRequest,
    ListUsageRecordsResponse,
    Usage,
    UsageFilter,
    UsageGroup,
    UsageOutcome,
)

from .._checks import check_int, check_labels, check_list, check_type
from .spelling import USAGE_HINTS, refuse_unknown

_ValueT = TypeVar("_ValueT", bound=int)

PAGE_SIZE = 1000
"""Default number of records in a page: the most that a server sends."""

_OPTIONS = ("label_key", "page_size", "timeout")
"""Arguments of the clients' methods that are not filters, to suggest for misspelled names."""

CountSource = Literal["provider", "tokenizer", "estimate", ""]
UsageGroupName = Literal["day", "model", "label", "key"]
UsageOutcomeName = Literal[
    "open", "finished", "cancelled", "time_limit", "budget", "failed", "lost"
]

_SOURCES: Mapping[int, CountSource] = {
    TOKEN_COUNT_SOURCE_PROVIDER: "provider",
    TOKEN_COUNT_SOURCE_TOKENIZER: "tokenizer",
    TOKEN_COUNT_SOURCE_ESTIMATE: "estimate",
}

OUTCOMES: Mapping[str, UsageOutcome.ValueType] = {
    name.removeprefix("USAGE_OUTCOME_").lower(): value
    for name, value in UsageOutcome.items()
    if value
}

GROUPS: Mapping[str, UsageGroup.ValueType] = {
    name.removeprefix("USAGE_GROUP_").lower(): value for name, value in UsageGroup.items() if value
}


class TokenCount(NamedTuple):
    """Tokens and cost of a request. Costs are in millionths of a US dollar. None is unknown, never 0."""

    input_tokens: int
    source: CountSource
    """Source of the count: "provider" for the provider's count of this request, "tokenizer" for the
    server's count with the model's vocabulary, "estimate", or "" for a source that this version does not
    know."""
    input_cost_microusd: int | None
    """Cost of the input, if none of it is in the provider's prompt cache."""
    max_output_tokens: int | None
    """Largest number of tokens in the answer."""
    max_cost_microusd: int | None
    """Cost of the request with the longest answer."""
    exceeds_budget: bool
    """The budget of the request would refuse it."""
    provider: str
    model: str
    """The provider's name for the model."""


class UsageFields(TypedDict, total=False):
    """A filter for usage records. A field that is left out matches all records."""

    since: datetime | None
    """Streams opened at or after this time, which must have a time zone."""
    until: datetime | None
    """Streams opened before this time, which must have a time zone."""
    models: str | Iterable[str]
    """Any of these, as named in the request or as the `provider/model` that answered."""
    labels: Mapping[str, str]
    """All of these."""
    outcomes: UsageOutcomeName | Iterable[UsageOutcomeName]
    """Any of these."""
    key_prefix: str


def count_request(request: ChatRequest, *, ask_provider: bool) -> ChatRequest:
    """Return the request for CountTokens: unchanged, or a copy that requests the provider's count."""
    if not ask_provider:
        return request
    copy = ChatRequest()
    copy.CopyFrom(request)
    copy.token_counting = TOKEN_COUNTING_PROVIDER
    return copy


def token_count(response: CountTokensResponse) -> TokenCount:
    """Return the response of CountTokens as a value."""

    def known(
        name: Literal["input_cost_microusd", "max_output_tokens", "max_cost_microusd"],
    ) -> int | None:
        return getattr(response, name) if response.HasField(name) else None

    return TokenCount(
        input_tokens=response.input_tokens,
        source=_SOURCES.get(response.source, ""),
        input_cost_microusd=known("input_cost_microusd"),
        max_output_tokens=known("max_output_tokens"),
        max_cost_microusd=known("max_cost_microusd"),
        exceeds_budget=response.exceeds_budget,
        provider=response.provider,
        model=response.model,
    )


_KNOWN_COUNTS: tuple[Literal["input_tokens", "output_tokens"], ...] = (
    "input_tokens",
    "output_tokens",
)
_COUNTS: tuple[
    Literal[
        "reasoning_tokens",
        "cache_read_tokens",
        "cache_write_tokens",
        "long_cache_write_tokens",
        "cost_microusd",
    ],
    ...,
] = (
    "reasoning_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "long_cache_write_tokens",
    "cost_microusd",
)


def total_usage(usages: Sequence[Usage]) -> Usage:
    """Return the sum. A figure that is absent in one of the messages is unknown, and absent in the sum."""
    total = Usage(estimated=any(usage.estimated for usage in usages))
    for name in _KNOWN_COUNTS:
        setattr(total, name, sum(getattr(usage, name) for usage in usages))
    for count in _COUNTS:
        if all(usage.HasField(count) for usage in usages):
            setattr(total, count, sum(getattr(usage, count) for usage in usages))
    for usage in usages:
        for tool, calls in usage.server_tool_counts.items():
            total.server_tool_counts[tool] += calls
    return total


def first_page(page_size: int, **fields: Unpack[UsageFields]) -> ListUsageRecordsRequest:
    """Return the request for the first page of usage records.

    Raises:
        TypeError, ValueError: the arguments are not a valid filter.
    """
    if check_int(page_size, "page_size") < 1:
        raise ValueError(f"page_size must be at least 1, not {page_size}")
    return ListUsageRecordsRequest(page_size=page_size, filter=usage_filter(**fields))


def next_page(
    request: ListUsageRecordsRequest, page: ListUsageRecordsResponse
) -> ListUsageRecordsRequest | None:
    """Return the request for the next page, or None after the last page."""
    if not page.next_page_token:
        return None
    return ListUsageRecordsRequest(
        page_size=request.page_size, page_token=page.next_page_token, filter=request.filter
    )


def summary_request(
    group_by: UsageGroupName | Iterable[UsageGroupName],
    label_key: str,
    **fields: Unpack[UsageFields],
) -> GetUsageSummaryRequest:
    """Return the request for a usage summary.

    Raises:
        TypeError, ValueError: the arguments are not a valid filter or grouping.
    """
    return GetUsageSummaryRequest(
        filter=usage_filter(**fields),
        group_by=_values(group_by, GROUPS, "group_by"),
        label_key=check_type(label_key or "", str, "label_key"),
    )


def usage_filter(**fields: Unpack[UsageFields]) -> UsageFilter:
    """Return the filter for the keyword arguments.

    Raises:
        TypeError, ValueError: the arguments are not a valid filter. For an unknown name, the error suggests
            the right one.
    """
    refuse_unknown(fields, UsageFields.__optional_keys__, _OPTIONS, hints=USAGE_HINTS)
    return UsageFilter(
        start_time=_timestamp(fields.get("since"), "since"),
        end_time=_timestamp(fields.get("until"), "until"),
        models=_several(fields.get("models", ()), "models"),
        labels=check_labels(fields.get("labels") or {}),
        outcomes=_values(fields.get("outcomes", ()), OUTCOMES, "outcomes"),
        key_prefix=check_type(fields.get("key_prefix") or "", str, "key_prefix"),
    )


def _timestamp(time: datetime | None, name: str) -> Timestamp | None:
    if time is None:
        return None
    if check_type(time, datetime, name).utcoffset() is None:
        raise ValueError(f"{name} must have a time zone: {time.isoformat()}")
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp


def _several(values: str | Iterable[str], name: str) -> list[str]:
    if isinstance(values, str):
        return [values]
    return [check_type(each, str, name) for each in check_list(values, name)]


def _values(given: str | Iterable[str], known: Mapping[str, _ValueT], name: str) -> list[_ValueT]:
    found = []
    for each in _several(given, name):
        if each not in known:
            raise ValueError(f"{name} must be among {', '.join(known)}, not {each!r}")
        found.append(known[each])
    return found
