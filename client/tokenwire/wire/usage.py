"""What a request would take, and what streams took: questions and answers, for both clients. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypedDict, TypeVar, Unpack

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
    UsageFilter,
    UsageGroup,
    UsageOutcome,
)

_ValueT = TypeVar("_ValueT", bound=int)

PAGE_SIZE = 1000
"""Records in a page, unless the caller says otherwise: the most that a server sends."""

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


@dataclass(frozen=True, slots=True)
class TokenCount:
    """What a request would take. Money is in millionths of a US dollar; None is unknown, never 0."""

    input_tokens: int
    source: CountSource
    """Who counted: the "provider" this very request; this server with the model's own vocabulary,
    "tokenizer"; or it is an "estimate". "": a newer server's."""
    input_cost_microusd: int | None
    """What the input costs, if none of it is read from the provider's prompt cache."""
    max_output_tokens: int | None
    """Most tokens that the answer may have."""
    max_cost_microusd: int | None
    """What the request costs if the answer takes all of them."""
    exceeds_budget: bool
    """The request's own budget would refuse it."""
    provider: str
    model: str
    """The provider's name of the model."""


class UsageFields(TypedDict, total=False):
    """Which records are meant. What is left out does not narrow."""

    since: datetime | None
    """Streams opened at or after this time, which bears its zone."""
    until: datetime | None
    """Streams opened before this time."""
    models: str | Iterable[str]
    """Any of these, as the request named them or as `provider/model` that served."""
    labels: Mapping[str, str]
    """All of these."""
    outcomes: UsageOutcomeName | Iterable[UsageOutcomeName]
    """Any of these."""
    key_prefix: str


def count_request(request: ChatRequest, *, ask_provider: bool) -> ChatRequest:
    """The request to be counted: as it is, or a copy that asks for the provider's own count."""
    if not ask_provider:
        return request
    copy = ChatRequest()
    copy.CopyFrom(request)
    copy.token_counting = TOKEN_COUNTING_PROVIDER
    return copy


def token_count(response: CountTokensResponse) -> TokenCount:
    """What the server counted."""

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


def first_page(page_size: int, **fields: Unpack[UsageFields]) -> ListUsageRecordsRequest:
    """The request for the first page.

    Raises:
        TypeError, ValueError: the arguments do not make one.
    """
    if page_size < 1:
        raise ValueError(f"page_size must be at least 1, not {page_size}")
    return ListUsageRecordsRequest(page_size=page_size, filter=usage_filter(**fields))


def next_page(
    request: ListUsageRecordsRequest, page: ListUsageRecordsResponse
) -> ListUsageRecordsRequest | None:
    """The request for the page after this one. None: there is none."""
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
    """The request for sums.

    Raises:
        TypeError, ValueError: the arguments do not make one.
    """
    return GetUsageSummaryRequest(
        filter=usage_filter(**fields),
        group_by=_values(group_by, GROUPS, "group_by"),
        label_key=label_key,
    )


def usage_filter(**fields: Unpack[UsageFields]) -> UsageFilter:
    """The filter that the keywords stand for.

    Raises:
        TypeError, ValueError: they do not make one.
    """
    unknown = fields.keys() - UsageFields.__annotations__.keys()
    if unknown:
        raise TypeError(f"usage is not filtered by {', '.join(sorted(unknown))}")
    return UsageFilter(
        start_time=_timestamp(fields.get("since"), "since"),
        end_time=_timestamp(fields.get("until"), "until"),
        models=_several(fields.get("models", ())),
        labels=fields.get("labels"),
        outcomes=_values(fields.get("outcomes", ()), OUTCOMES, "outcomes"),
        key_prefix=fields.get("key_prefix", ""),
    )


def _timestamp(time: datetime | None, name: str) -> Timestamp | None:
    if time is None:
        return None
    if time.utcoffset() is None:
        raise ValueError(f"{name} must bear its time zone: {time.isoformat()}")
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp


def _several(values: str | Iterable[str]) -> list[str]:
    return [values] if isinstance(values, str) else list(values)


def _values(given: str | Iterable[str], known: Mapping[str, _ValueT], name: str) -> list[_ValueT]:
    found = []
    for each in _several(given):
        if each not in known:
            raise ValueError(f"{name} are among {', '.join(known)}, not {each!r}")
        found.append(known[each])
    return found
