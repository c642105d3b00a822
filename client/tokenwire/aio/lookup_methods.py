"""The methods of the asyncio client that look something up, or end a stream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import TypeVar, Unpack

from tokenwire.v1.caller_pb2 import Caller, GetCallerRequest
from tokenwire.v1.chat_pb2 import (
    CancelStreamRequest,
    DeleteStreamRequest,
    GetStreamRequest,
    StreamInfo,
)
from tokenwire.v1.model_pb2 import GetModelRequest, ListModelsRequest, Model
from tokenwire.v1.usage_pb2 import ListUsageRecordsRequest, UsageRecord, UsageSummary

from .._checks import check_type
from ..connect.channel import (
    LOOKUP_TIMEOUT_S,
    SUMMARY_TIMEOUT_S,
)
from ..wire.usage import (
    PAGE_SIZE,
    UsageFields,
    UsageGroupName,
    first_page,
    next_page,
    summary_request,
)
from .transport import AsyncTransport

T = TypeVar("T")


class AsyncLookupMethods:
    """The methods of a client that look something up, or end a stream."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def cancel(
        self, stream_id: str, *, timeout: float | None = LOOKUP_TIMEOUT_S
    ) -> StreamInfo:
        """Stop a generation for all its readers, and return how it ended.

        A stream that has already ended is not changed.

        Raises:
            StreamNotFound: the stream is unknown or expired.
        """
        method, request = (
            self._transport.chat.CancelStream,
            CancelStreamRequest(stream_id=check_type(stream_id, str, "stream_id")),
        )
        return (await self._transport.unary(method, request, timeout, max_retries=0)).stream

    async def delete(self, stream_id: str, *, timeout: float | None = LOOKUP_TIMEOUT_S) -> None:
        """Cancel a stream and delete its content now.

        Raises:
            StreamNotFound: the stream is unknown or expired.
        """
        method, request = (
            self._transport.chat.DeleteStream,
            DeleteStreamRequest(stream_id=check_type(stream_id, str, "stream_id")),
        )
        await self._transport.unary(method, request, timeout, max_retries=0)

    async def get_stream(
        self, stream_id: str, *, timeout: float | None = LOOKUP_TIMEOUT_S
    ) -> StreamInfo:
        """Return the state of a stream. This does not count as a reader.

        Raises:
            StreamNotFound: the stream is unknown or expired.
        """
        request = GetStreamRequest(stream_id=check_type(stream_id, str, "stream_id"))
        return await self._transport.unary(self._transport.chat.GetStream, request, timeout)

    async def list_models(self, *, timeout: float | None = LOOKUP_TIMEOUT_S) -> list[Model]:
        """Return the models and aliases in the server's configuration, ordered by id."""
        request = ListModelsRequest()
        response = await self._transport.unary(self._transport.model.ListModels, request, timeout)
        return list(response.models)

    async def get_model(self, model: str, *, timeout: float | None = LOOKUP_TIMEOUT_S) -> Model:
        """Return one model: a listed one, an alias, or any `provider/model`.

        Raises:
            UnknownModel: the provider or alias is unknown.
        """
        request = GetModelRequest(id=check_type(model, str, "model"))
        return await self._transport.unary(self._transport.model.GetModel, request, timeout)

    async def get_caller(self, *, timeout: float | None = LOOKUP_TIMEOUT_S) -> Caller:
        """Return the caller's identity, permissions and limits. It counts against no limit."""
        request = GetCallerRequest()
        return await self._transport.unary(self._transport.caller.GetCaller, request, timeout)

    def usage_records(
        self,
        *,
        page_size: int = PAGE_SIZE,
        timeout: float | None = SUMMARY_TIMEOUT_S,
        **fields: Unpack[UsageFields],
    ) -> AsyncIterator[UsageRecord]:
        """Return the tenant's usage records that match, newest first. They are fetched page by page.

        One page is in memory. Each record is returned exactly once; records of streams that are opened
        meanwhile are not. `timeout` is the deadline of each page, in seconds. Nothing is retried: after an
        error the list is incomplete.

        Raises:
            InvalidRequest: the server refuses the filter.
            StoreUnavailable: the server cannot reach its database.
            TypeError, ValueError: the arguments are not a valid filter.
        """
        return self._usage_records(first_page(page_size, **fields), timeout)

    async def usage_summary(
        self,
        *,
        group_by: UsageGroupName | Iterable[UsageGroupName] = (),
        label_key: str = "",
        timeout: float | None = SUMMARY_TIMEOUT_S,
        **fields: Unpack[UsageFields],
    ) -> list[UsageSummary]:
        """Return sums of the usage records that match, by day (UTC), model, label or key.

        There is one summary for each group that has records, ordered by day, model, label value and key;
        without `group_by`, one for all records. `label_key` names the label for `group_by="label"`. A cost
        is the sum of the known costs; `unpriced_count` is the number of records without one.

        Raises:
            InvalidRequest: the server refuses the filter, or there are more than 10,000 groups.
            StoreUnavailable: the server cannot reach its database.
            TypeError, ValueError: the arguments are not a valid filter.
        """
        request = summary_request(group_by, label_key, **fields)
        method = self._transport.usage.GetUsageSummary
        response = await self._transport.unary(method, request, timeout)
        return list(response.summaries)

    async def _usage_records(
        self, request: ListUsageRecordsRequest | None, timeout_s: float | None
    ) -> AsyncIterator[UsageRecord]:
        while request is not None:
            method = self._transport.usage.ListUsageRecords
            page = await self._transport.unary(method, request, timeout_s, max_retries=0)
            for record in page.usage_records:
                yield record
            request = next_page(request, page)
