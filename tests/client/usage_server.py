"""A UsageService with its records in a list, and with the paging of the real one."""

# ruff: noqa: N802 - the servicer's methods and their arguments are named by gRPC

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tokenwire.v1 import usage_pb2, usage_pb2_grpc


def record(number: int, **fields: Any) -> usage_pb2.UsageRecord:
    """Return the record of stream `number`: opened at that second, with that many tokens."""
    usage = fields.pop("usage", None)
    if usage is None:
        usage = usage_pb2.Usage(
            input_tokens=number, output_tokens=2 * number, cost_microusd=3 * number
        )
    fields.setdefault("outcome", usage_pb2.USAGE_OUTCOME_FINISHED)
    found = usage_pb2.UsageRecord(
        stream_id=f"{number:032x}", tenant="acme", provider="openai", model="demo", **fields
    )
    found.usage.CopyFrom(usage)
    found.created_time.FromMilliseconds(1_785_500_000_000 + 1000 * number)
    return found


@dataclass
class UsageServer(usage_pb2_grpc.UsageServiceServicer):
    """Newest first. A page begins after the last record of the page before, even if records were added."""

    records: dict[int, usage_pb2.UsageRecord] = field(default_factory=dict)
    summaries: list[usage_pb2.UsageSummary] = field(default_factory=list)
    pages: list[usage_pb2.ListUsageRecordsRequest] = field(default_factory=list)
    asked: list[usage_pb2.GetUsageSummaryRequest] = field(default_factory=list)
    largest_page: int = 1000
    before_page: Callable[[int, Any], Any] | None = None
    """Awaited before a page is answered, with its number, from 0, and the context of the call."""

    def hold(self, numbers: Iterator[int] | range, **fields: Any) -> None:
        for number in numbers:
            self.records[number] = record(number, **fields)

    async def ListUsageRecords(
        self, request: usage_pb2.ListUsageRecordsRequest, context: Any
    ) -> usage_pb2.ListUsageRecordsResponse:
        self.pages.append(request)
        if self.before_page is not None:
            await self.before_page(len(self.pages) - 1, context)
        size = min(request.page_size or 100, self.largest_page)
        after = int(request.page_token) if request.page_token else max(self.records, default=0) + 1
        numbers = sorted((number for number in self.records if number < after), reverse=True)
        page = numbers[:size]
        return usage_pb2.ListUsageRecordsResponse(
            usage_records=[self.records[number] for number in page],
            next_page_token=str(page[-1]) if len(page) == size else "",
        )

    async def GetUsageSummary(
        self, request: usage_pb2.GetUsageSummaryRequest, context: Any
    ) -> usage_pb2.GetUsageSummaryResponse:
        self.asked.append(request)
        return usage_pb2.GetUsageSummaryResponse(summaries=self.summaries)
