"""What a request would cost, and what the tenant's streams did: the asyncio client's calls for that."""

# ruff: noqa: ASYNC109 - `timeout` is a gRPC deadline

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
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
from .calls import AsyncCalls


class AsyncUsageCalls(AsyncCalls):
    """Counting, records and sums."""

    async def count_tokens(
        self,
        model: str | ChatRequest,
        messages: MessageLike | Iterable[MessageLike] | None = None,
        *,
        ask_provider: bool = False,
        timeout: float | None = LOOKUP_TIMEOUT_S,
        **fields: Unpack[RequestFields],
    ) -> TokenCount:
        """What that very request would take, before it runs; the arguments are those of `chat`.

        It starts nothing, costs nothing and counts against no limit. With `ask_provider` the provider
        counts, where it has an endpoint for that; otherwise the server counts by itself.

        Raises:
            InvalidRequest, UnknownModel, PermissionDenied: so would the chat.
            UpstreamError: the provider was to be asked, and cannot.
            TypeError, ValueError: the arguments do not make a ChatRequest.
        """
        request = counting(build_request(model, messages, **fields), ask_provider=ask_provider)
        return token_count(await self._response(self._chat.CountTokens, request, timeout))

    def usage_records(
        self,
        *,
        page_size: int = PAGE_SIZE,
        timeout: float | None = SUMMARY_TIMEOUT_S,
        **fields: Unpack[UsageFields],
    ) -> AsyncIterator[UsageRecord]:
        """The tenant's usage records, newest first: all that match, asked for a page at a time.

        One page is held in memory. Each record comes exactly once, and those of streams that are opened
        meanwhile do not come. `timeout` is the deadline of each page, in seconds. Nothing is retried: an
        error in the middle leaves the list incomplete.

        Raises:
            InvalidRequest: the server refuses the filter.
            StoreUnavailable: the server cannot reach its database.
            TypeError, ValueError: the arguments do not make a filter.
        """
        return self._records(first_page(page_size, **fields), timeout)

    async def usage_summary(
        self,
        *,
        group_by: UsageGroupName | Iterable[UsageGroupName] = (),
        label_key: str = "",
        timeout: float | None = SUMMARY_TIMEOUT_S,
        **fields: Unpack[UsageFields],
    ) -> list[UsageSummary]:
        """Usage records added up, by day (UTC), model, label and key; without `group_by`, all of them.

        There is a summary for each group that has records, ordered by day, model, label value and key.
        `label_key` names the label to group by, and goes with "label" only. A cost is the sum of those
        that are known: `unpriced_count` tells how many are missing in it.

        Raises:
            InvalidRequest: the server refuses the filter, or there are more than 10,000 groups.
            StoreUnavailable: the server cannot reach its database.
            TypeError, ValueError: the arguments do not make a filter.
        """
        request = summary_request(group_by, label_key, **fields)
        return list((await self._response(self._usage.GetUsageSummary, request, timeout)).summaries)

    async def _records(
        self, request: ListUsageRecordsRequest | None, timeout_s: float | None
    ) -> AsyncIterator[UsageRecord]:
        while request is not None:
            page = await self._response(self._usage.ListUsageRecords, request, timeout_s)
            for record in page.usage_records:
                yield record
            request = next_page(request, page)
