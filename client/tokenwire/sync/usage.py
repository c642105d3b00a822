"""The same as `async_usage`, for threads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Unpack

from tokenwire.v1.chat_pb2 import ChatRequest
from tokenwire.v1.usage_pb2 import ListUsageRecordsRequest, UsageRecord, UsageSummary

from ..connect.channel import LOOKUP_TIMEOUT_S, SUMMARY_TIMEOUT_S
from ..messages import MessageLike
from ..wire.requests import RequestFields, build_request
from ..wire.usage import (
    PAGE_SIZE,
    TokenCount,
    UsageFields,
    UsageGroupName,
    counting,
    first_page,
    next_page,
    summary_request,
    token_count,
)
from .calls import Calls


class UsageCalls(Calls):
    """Counting, records and sums."""

    def count_tokens(
        self,
        model: str | ChatRequest,
        messages: MessageLike | Iterable[MessageLike] | None = None,
        *,
        ask_provider: bool = False,
        timeout: float | None = LOOKUP_TIMEOUT_S,
        **fields: Unpack[RequestFields],
    ) -> TokenCount:
        """What that very request would take, before it runs: see `AsyncClient.count_tokens`."""
        request = counting(build_request(model, messages, **fields), ask_provider=ask_provider)
        return token_count(self._response(self._chat.CountTokens, request, timeout))

    def usage_records(
        self,
        *,
        page_size: int = PAGE_SIZE,
        timeout: float | None = SUMMARY_TIMEOUT_S,
        **fields: Unpack[UsageFields],
    ) -> Iterator[UsageRecord]:
        """The tenant's usage records, newest first: see `AsyncClient.usage_records`."""
        return self._records(first_page(page_size, **fields), timeout)

    def usage_summary(
        self,
        *,
        group_by: UsageGroupName | Iterable[UsageGroupName] = (),
        label_key: str = "",
        timeout: float | None = SUMMARY_TIMEOUT_S,
        **fields: Unpack[UsageFields],
    ) -> list[UsageSummary]:
        """Usage records added up, in groups: see `AsyncClient.usage_summary`."""
        request = summary_request(group_by, label_key, **fields)
        return list(self._response(self._usage.GetUsageSummary, request, timeout).summaries)

    def _records(
        self, request: ListUsageRecordsRequest | None, timeout: float | None
    ) -> Iterator[UsageRecord]:
        while request is not None:
            page = self._response(self._usage.ListUsageRecords, request, timeout)
            yield from page.usage_records
            request = next_page(request, page)
