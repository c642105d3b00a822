"""Requests and responses of UsageService, field by field."""

import asyncio
import gc
import time

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from msgspec import structs

import usage_records
from tokenwire.v1 import usage_pb2
from tokenwire_server.config import Limits
from tokenwire_server.errors import InvalidRequest
from tokenwire_server.events import Usage
from tokenwire_server.ledger import store as store_module
from tokenwire_server.ledger.record import Outcome
from tokenwire_server.ledger.store import UsageStore
from tokenwire_server.rpc.usage import UsageService
from tokenwire_server.storage.database import Database
from tokenwire_server.tenants.caller import Caller
from usage_records import NOON, OPEN

WHOLE = structs.replace(
    usage_records.WHOLE,
    labels={"team": "search", "empty": ""},
    outcome=Outcome.TIME_LIMIT,
    reason="TIME_LIMIT",
    usage=structs.replace(usage_records.WHOLE.usage, cost_microusd=7),
)


class Calls:
    """The methods of the service for one caller, and the store behind it."""

    def __init__(self, store, tenant="acme"):
        self.store = store
        self.service = UsageService(store, Limits())
        self.caller = Caller(tenant)

    async def list(self, **fields):
        data = usage_pb2.ListUsageRecordsRequest(**fields).SerializeToString()
        answer = await self.service.ListUsageRecords(data, None, self.caller)
        return usage_pb2.ListUsageRecordsResponse.FromString(answer)

    async def sum(self, **fields):
        data = usage_pb2.GetUsageSummaryRequest(**fields).SerializeToString()
        answer = await self.service.GetUsageSummary(data, None, self.caller)
        return usage_pb2.GetUsageSummaryResponse.FromString(answer)


@pytest.fixture
async def usage(tmp_path):
    async with Database(f"sqlite:///{tmp_path}/t.db") as database:
        await database.prepare(migrate=True)
        yield Calls(UsageStore(database))


def at(seconds):
    return Timestamp(seconds=int(seconds), nanos=int(seconds % 1 * 10**9))


def span(seconds):
    return Duration(seconds=int(seconds), nanos=int(seconds % 1 * 10**9))


async def test_each_value_of_a_record_is_in_its_own_field_and_missing_values_are_absent(usage):
    await usage.store.write([WHOLE, OPEN])
    closed, still_open = (await usage.list()).usage_records
    assert closed == usage_pb2.UsageRecord(
        stream_id=WHOLE.stream_id,
        tenant="acme",
        key_prefix="tw_0123456789ab",
        request_id="invoice-7",
        labels={"team": "search", "empty": ""},
        model_asked="fast",
        provider="local",
        model="llama",
        provider_response_id="answer-9",
        created_time=at(NOON + 0.25),
        end_time=at(NOON + 4.0),
        ttft=span(0.5),
        duration=span(3.75),
        usage=usage_pb2.Usage(
            input_tokens=70,
            output_tokens=60,
            reasoning_tokens=50,
            cache_read_tokens=40,
            cache_write_tokens=30,
            long_cache_write_tokens=20,
            cost_microusd=7,
            estimated=True,
            server_tool_counts={"file_search": 1, "web_search": 2},
            service_tier="priority",
        ),
        outcome=usage_pb2.USAGE_OUTCOME_TIME_LIMIT,
        reason="TIME_LIMIT",
        partial=True,
        attempts=2,
        own_key=True,
        failed_attempts=[
            usage_pb2.FailedAttempt(
                provider="openai", model="gpt-5", reason="UPSTREAM_UNAVAILABLE", duration=span(0.25)
            ),
            usage_pb2.FailedAttempt(
                provider="local",
                model="llama",
                reason="UPSTREAM_BROKEN",
                duration=span(1.5),
                usage=usage_pb2.Usage(input_tokens=70, output_tokens=60, cost_microusd=20_000_001),
            ),
        ],
        filters=[
            usage_pb2.FilterAction(name="emails", action="redact", count=3),
            usage_pb2.FilterAction(name="keys", action="block", count=1),
        ],
    )
    assert still_open == usage_pb2.UsageRecord(
        stream_id=OPEN.stream_id,
        tenant="acme",
        model_asked="fast",
        created_time=at(NOON),
        usage=usage_pb2.Usage(input_tokens=5, estimated=True),
        outcome=usage_pb2.USAGE_OUTCOME_OPEN,
        from_cache=True,
    )


def opened_at_once(count, **fields):
    """Records of streams that were all created at the same time."""
    return [
        structs.replace(OPEN, stream_id=f"{n:032x}", labels={"number": str(n)}, **fields)
        for n in range(count)
    ]


async def test_a_page_has_100_records_by_default_and_1000_at_most(usage):
    await usage.store.write(opened_at_once(1001))
    assert len((await usage.list()).usage_records) == 100
    largest = await usage.list(page_size=2**31 - 1)
    assert len(largest.usage_records) == 1000
    last = await usage.list(page_size=2**31 - 1, page_token=largest.next_page_token)
    ids = [record.stream_id for record in [*largest.usage_records, *last.usage_records]]
    assert ids == [f"{n:032x}" for n in reversed(range(1001))]
    assert last.next_page_token == ""


async def test_a_page_token_is_valid_for_its_filter_in_any_order_of_labels(usage):
    labels = {f"k{n}": "v" for n in range(32)}
    await usage.store.write(
        [structs.replace(record, labels=labels) for record in opened_at_once(2)]
    )
    first = await usage.list(page_size=1, filter=usage_pb2.UsageFilter(labels=labels))
    again = usage_pb2.UsageFilter(labels=dict(reversed(labels.items())))
    second = await usage.list(page_size=1, page_token=first.next_page_token, filter=again)
    assert [record.stream_id for record in second.usage_records] == [f"{0:032x}"]


async def test_each_value_of_a_summary_is_in_its_own_field(usage):
    await usage.store.write(
        [
            WHOLE,
            structs.replace(
                WHOLE,
                stream_id=f"{3:032x}",
                usage=Usage(700, 600, 500, 400, 300, 200, cost_microusd=70),
            ),
            structs.replace(WHOLE, stream_id=f"{4:032x}", usage=Usage(1, 1, estimated=True)),
            structs.replace(WHOLE, stream_id=f"{5:032x}", usage=Usage(1, 1)),
            structs.replace(WHOLE, stream_id=f"{6:032x}", outcome=Outcome.OPEN, usage=Usage(0, 0)),
            structs.replace(WHOLE, stream_id=f"{7:032x}", tenant="globex"),
        ]
    )
    groups = [group for group in usage_pb2.UsageGroup.values() if group]
    answer = await usage.sum(group_by=groups, label_key="team")
    assert answer == usage_pb2.GetUsageSummaryResponse(
        summaries=[
            usage_pb2.UsageSummary(
                day="2027-01-15",
                model="local/llama",
                label_value="search",
                key_prefix="tw_0123456789ab",
                record_count=5,
                usage=usage_pb2.Usage(
                    input_tokens=772,
                    output_tokens=662,
                    reasoning_tokens=550,
                    cache_read_tokens=440,
                    cache_write_tokens=330,
                    long_cache_write_tokens=220,
                    cost_microusd=77,
                    estimated=True,
                ),
                unpriced_count=3,
                estimated_count=2,
                open_count=1,
            )
        ]
    )


async def test_too_many_groups_are_refused_and_the_field_is_named(usage, monkeypatch):
    monkeypatch.setattr(store_module, "MAX_SUMMARY_ROWS", 3)
    await usage.store.write(opened_at_once(4))
    with pytest.raises(InvalidRequest) as refused:
        await usage.sum(group_by=[usage_pb2.USAGE_GROUP_LABEL], label_key="number")
    (violation,) = refused.value.violations
    assert violation.field == "group_by"
    assert "more than 3 rows" in violation.description


@pytest.fixture
def longest_step_s(monkeypatch):
    """Returns the CPU time of the longest step of the event loop since the last call. Other processes on a
    busy machine do not change it, and neither do the objects of other tests: the server freezes what it has
    created before it starts, too.
    """
    steps, run = [], asyncio.Handle._run

    def timed(handle):
        began = time.thread_time()
        run(handle)
        steps.append(time.thread_time() - began)

    monkeypatch.setattr(asyncio.Handle, "_run", timed)

    def longest():
        found = max(steps)
        steps.clear()
        return found

    gc.collect()
    gc.freeze()  # permanently: `unfreeze` would make each collection of later tests take 0.4 s
    return longest


async def test_the_largest_page_and_the_largest_sum_never_block_the_loop_for_20_ms(
    usage, longest_step_s
):
    for first in range(0, 9000, 1000):
        await usage.store.write(
            [
                structs.replace(WHOLE, stream_id=f"{n:032x}", key_prefix=f"tw_{n}")
                for n in range(first, first + 1000)
            ]
        )
    assert len((await usage.list(page_size=1)).usage_records) == 1  # statements are compiled once
    await usage.sum(group_by=[usage_pb2.USAGE_GROUP_DAY])
    longest_step_s()  # what is done only once does not count
    data = usage_pb2.ListUsageRecordsRequest(page_size=1000).SerializeToString()
    page = await usage.service.ListUsageRecords(data, None, usage.caller)
    data = usage_pb2.GetUsageSummaryRequest(group_by=[usage_pb2.USAGE_GROUP_KEY])
    sums = await usage.service.GetUsageSummary(data.SerializeToString(), None, usage.caller)
    await asyncio.sleep(0)  # the step that ended the last call is over
    longest_ms = longest_step_s() * 1000
    assert len(usage_pb2.ListUsageRecordsResponse.FromString(page).usage_records) == 1000
    assert len(usage_pb2.GetUsageSummaryResponse.FromString(sums).summaries) == 9000
    print(f"the longest step of the loop took {longest_ms:.1f} ms of CPU")
    assert longest_ms < 20
