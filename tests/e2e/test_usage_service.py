"""UsageService: records and sums of the caller's tenant, complete and in order, or a refusal
with a reason.
"""

import asyncio
import random
from datetime import UTC, datetime

import grpc
import grpc.aio
import pytest
from e2e_calls import PROVIDERS, details, read
from google.protobuf.timestamp_pb2 import Timestamp
from records_support import ENDLESS, continuing, is_open, serving_ledger, span, usage_calls

from tokenwire.v1 import usage_pb2

COUNTS = ("input_tokens", "output_tokens", "cost_microusd")
OPTIONAL_COUNTS = (
    "reasoning_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "long_cache_write_tokens",
)
STREAMS = 60


async def refusal(call):
    """Return the paths of all violations of a refused call."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    found = details(caught.value)
    assert found["ErrorInfo"].reason == "INVALID_REQUEST"
    violations = found["BadRequest"].field_violations
    assert all(violation.description for violation in violations)
    return sorted(violation.field for violation in violations)


@pytest.fixture(scope="module")
def shared_ledger_server(start, api_on, simulator, new_database, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ledger")
    with serving_ledger(start, api_on, simulator, new_database(), folder) as ledger_server:
        yield ledger_server


@pytest.fixture
async def ledger_server(shared_ledger_server):
    """A server with streams of three models, with and without price and labels, of which one is open."""
    if not shared_ledger_server.filled_time.seconds:
        await have_streams(shared_ledger_server)
    return shared_ledger_server


async def have_streams(ledger_server):
    rng = random.Random(1)
    async with ledger_server.tenancy.api(ledger_server.tenancy.acme) as api:

        async def one(number):
            provider = rng.choice(PROVIDERS)
            unpriced = f"{provider}/sim?tokens=2"
            model = rng.choice([f"short-{provider}", f"cached-input-{provider}", unpriced])
            if number % 10 == 0:
                model = f"{unpriced}&usage=false"
            labels = {"team": rng.choice("abc")} if number % 4 else {}
            await read(api.chat_stream(api.request(model, labels=labels)))

        for first in range(0, STREAMS, 20):
            await asyncio.gather(*map(one, range(first, first + 20)))
        model = f"openai/sim?itl_ms=50&{ENDLESS}"
        request = api.request(model, retention=continuing(linger=span(600)))
        await anext(aiter(api.chat_stream(request)))

        def complete(found):
            return len(found) > STREAMS and sum(map(is_open, found)) == 1

        assert complete(
            await ledger_server.until(
                ledger_server.tenancy, ledger_server.tenancy.acme, complete, 5
            )
        )
        ledger_server.filled_time.GetCurrentTime()


@pytest.fixture
async def usage(ledger_server):
    """Return calls of UsageService with acme's key."""
    async with usage_calls(ledger_server.tenancy, ledger_server.tenancy.acme) as calls:
        yield calls


TOO_LATE = Timestamp(seconds=300_000_000_000)
ODD_NANOS = Timestamp(seconds=1, nanos=10**9)
BAD_FILTERS = [
    (
        {"start_time": Timestamp(seconds=10), "end_time": Timestamp(seconds=5)},
        ["filter.end_time"],
    ),
    ({"start_time": Timestamp(seconds=5), "end_time": Timestamp(seconds=5)}, ["filter.end_time"]),
    ({"start_time": TOO_LATE}, ["filter.start_time"]),
    ({"end_time": ODD_NANOS}, ["filter.end_time"]),
    ({"start_time": Timestamp(nanos=-1)}, ["filter.start_time"]),
    ({"outcomes": [2, 99]}, ["filter.outcomes[1]"]),
    ({"outcomes": [0]}, ["filter.outcomes[0]"]),
    ({"outcomes": [2] * 50}, ["filter.outcomes"]),
    ({"models": ["m"] * 33}, ["filter.models"]),
    ({"models": ["m", "", "x" * 600]}, ["filter.models[1]", "filter.models[2]"]),
    ({"labels": {f"k{n}": "" for n in range(33)}}, ["filter.labels"]),
    ({"labels": {"KEY": "v"}}, ["filter.labels"]),
    ({"labels": {"k": "v" * 257}}, ["filter.labels.k"]),
    ({"key_prefix": "k" * 65}, ["filter.key_prefix"]),
    (
        {"outcomes": [99], "models": [""], "labels": {"A": ""}, "end_time": TOO_LATE, "key_prefix": "k" * 65},
        ["filter.end_time", "filter.key_prefix", "filter.labels", "filter.models[0]", "filter.outcomes[0]"],
    ),
]  # fmt: skip


async def test_all_violations_of_a_request_are_reported_at_once(usage):
    for fields, paths in BAD_FILTERS:
        filter = usage_pb2.UsageFilter(**fields)
        assert await refusal(usage.list(filter=filter)) == paths
        assert await refusal(usage.sum(filter=filter)) == paths
        both = {"page_size": -1, "page_token": "?"}
        assert await refusal(usage.list(filter=filter, **both)) == sorted(
            [*paths, "page_size", "page_token"]
        )


async def test_invalid_groups_are_reported_by_name(usage):
    day, label = usage_pb2.USAGE_GROUP_DAY, usage_pb2.USAGE_GROUP_LABEL
    for fields, paths in [
        ({"group_by": [0]}, ["group_by[0]"]),
        ({"group_by": [day, 77]}, ["group_by[1]"]),
        ({"group_by": [day, day]}, ["group_by[1]"]),
        ({"group_by": [label]}, ["label_key"]),
        ({"group_by": [label], "label_key": "A B"}, ["label_key"]),
        ({"group_by": [day], "label_key": "team"}, ["label_key"]),
        ({"label_key": "team"}, ["label_key"]),
        ({"group_by": [day, label, label, 77]}, ["group_by[2]", "group_by[3]", "label_key"]),
    ]:
        assert await refusal(usage.sum(**fields)) == paths, fields


async def test_a_page_token_is_valid_only_for_its_list(ledger_server, usage):
    page = await usage.list(page_size=5)
    token = page.next_page_token
    assert token
    filter = usage_pb2.UsageFilter(models=["short-openai"])
    assert await refusal(usage.list(page_token=token, filter=filter)) == ["page_token"]
    for garbage in ("x", "ä" * 10, token[:-2], token[2:], "A" * 4000, "=", "\0", token + "AAAA"):
        assert await refusal(usage.list(page_token=garbage)) == ["page_token"], garbage
    # It shows nothing to another tenant, even if it belongs to a list of that tenant.
    async with usage_calls(ledger_server.tenancy, ledger_server.tenancy.globex) as others:
        assert await others.list(page_token=token) == usage_pb2.ListUsageRecordsResponse()


async def test_a_page_size_above_the_maximum_is_lowered_to_it(ledger_server, usage):
    before = usage_pb2.UsageFilter(end_time=ledger_server.filled_time)  # more may be added
    listed = [await usage.list(page_size=size, filter=before) for size in (1000, 5000)]
    # Not the figures: those of the open stream change.
    everything, same = ([record.stream_id for record in each.usage_records] for each in listed)
    assert len(everything) > STREAMS
    assert same == everything


async def test_the_records_of_another_tenant_are_not_found(ledger_server, usage):
    record = (await usage.list(page_size=1)).usage_records[0]
    async with usage_calls(ledger_server.tenancy, ledger_server.tenancy.globex) as others:
        for filter in (
            usage_pb2.UsageFilter(),
            usage_pb2.UsageFilter(key_prefix=record.key_prefix),
            usage_pb2.UsageFilter(models=[record.model_asked]),
        ):
            assert await others.list(filter=filter) == usage_pb2.ListUsageRecordsResponse()
            assert await others.sum(filter=filter) == usage_pb2.GetUsageSummaryResponse()
        groups = [usage_pb2.USAGE_GROUP_DAY, usage_pb2.USAGE_GROUP_KEY]
        assert await others.sum(group_by=groups) == usage_pb2.GetUsageSummaryResponse()


async def test_pages_contain_every_record_once_newest_first_while_new_ones_are_added(
    ledger_server, usage
):
    before = await ledger_server.records(ledger_server.tenancy, ledger_server.tenancy.acme)
    known = [record.stream_id for record in before]
    async with ledger_server.tenancy.api(ledger_server.tenancy.acme) as api:
        for size in (1, 2, 7, 20, 60, 61, 62):
            found, token = [], ""
            while not found or token:
                page = await usage.list(page_size=size, page_token=token)
                assert len(page.usage_records) <= size
                found += page.usage_records
                token = page.next_page_token
                await api.chat(api.request("short-openai"))
            ids = [record.stream_id for record in found]
            assert len(set(ids)) == len(ids)
            times = [record.created_time.ToNanoseconds() for record in found]
            assert times == sorted(times, reverse=True)
            assert ids[-len(known) :] == known
    assert len(found) > len(known)


def served(record):
    return f"{record.provider}/{record.model}"


def day(record):
    return datetime.fromtimestamp(record.created_time.seconds, UTC).date().isoformat()


GROUPS = {
    usage_pb2.USAGE_GROUP_DAY: ("day", day),
    usage_pb2.USAGE_GROUP_MODEL: ("model", served),
    usage_pb2.USAGE_GROUP_LABEL: ("label_value", lambda record: record.labels.get("team", "")),
    usage_pb2.USAGE_GROUP_KEY: ("key_prefix", lambda record: record.key_prefix),
}


def sums(records, groups):
    """Return the expected summaries of these records, in order."""
    ordered = [GROUPS[group] for group in sorted(groups)]
    found = {}
    for record in records:
        names = tuple(name(record) for _, name in ordered)
        found.setdefault(names, []).append(record)
    return [
        _sum(of_group, {field: name for (field, _), name in zip(ordered, names, strict=True)})
        for names, of_group in sorted(found.items())
    ]


def _sum(records, names):
    usages = [record.usage for record in records]
    total = usage_pb2.Usage(estimated=any(usage.estimated for usage in usages))
    for field in (*COUNTS, *OPTIONAL_COUNTS):
        values = [
            getattr(usage, field)
            for usage in usages
            if field in ("input_tokens", "output_tokens") or usage.HasField(field)
        ]
        if values:
            setattr(total, field, sum(values))
    return usage_pb2.UsageSummary(
        **names,
        record_count=len(records),
        usage=total,
        unpriced_count=sum(not usage.HasField("cost_microusd") for usage in usages),
        estimated_count=sum(usage.estimated for usage in usages),
        open_count=sum(map(is_open, records)),
    )


async def test_summaries_are_the_sums_of_the_records_for_every_grouping(ledger_server, usage):
    finished = usage_pb2.UsageFilter(
        outcomes=[usage_pb2.USAGE_OUTCOME_FINISHED], end_time=ledger_server.filled_time
    )
    for filter in (
        finished,
        usage_pb2.UsageFilter(labels={"team": "a"}),
        usage_pb2.UsageFilter(
            models=["short-openai", "anthropic/sim?tokens=2"], end_time=ledger_server.filled_time
        ),
        usage_pb2.UsageFilter(end_time=Timestamp(seconds=1)),
    ):
        records = (await usage.list(filter=filter, page_size=1000)).usage_records
        for groups in (
            [],
            *([group] for group in GROUPS),
            [usage_pb2.USAGE_GROUP_MODEL, usage_pb2.USAGE_GROUP_LABEL],
            list(reversed(GROUPS)),
        ):
            key = "team" if usage_pb2.USAGE_GROUP_LABEL in groups else ""
            answer = await usage.sum(filter=filter, group_by=groups, label_key=key)
            assert list(answer.summaries) == sums(records, groups), (filter, groups)
    (whole,) = (await usage.sum(filter=finished)).summaries
    assert whole.unpriced_count > 0
    assert whole.usage.cost_microusd > 0
    assert whole.estimated_count > 0


async def test_a_filter_finds_exactly_the_matching_records(ledger_server, usage):
    before = {"end_time": ledger_server.filled_time}  # streams of other tests may still be added
    listed = await usage.list(page_size=1000, filter=usage_pb2.UsageFilter(**before))
    records = listed.usage_records
    some = records[len(records) // 2]
    for filter, wanted in [
        ({"start_time": some.created_time}, lambda r: r.created_time.ToNanoseconds() >= some.created_time.ToNanoseconds()),
        ({"end_time": some.created_time}, lambda r: r.created_time.ToNanoseconds() < some.created_time.ToNanoseconds()),
        ({"models": [served(some)]}, lambda r: served(r) == served(some)),
        ({"models": [some.model_asked]}, lambda r: some.model_asked in (r.model_asked, served(r))),
        ({"labels": {"team": "b"}}, lambda r: r.labels.get("team") == "b"),
        ({"labels": {"team": "b", "no": "such"}}, lambda _: False),
        ({"outcomes": [usage_pb2.USAGE_OUTCOME_OPEN]}, is_open),
        ({"key_prefix": ledger_server.tenancy.acme[:15]}, lambda _: True),
        ({"key_prefix": ledger_server.tenancy.acme[:14]}, lambda _: False),
    ]:  # fmt: skip
        narrowed = usage_pb2.UsageFilter(**before | filter)
        found = (await usage.list(filter=narrowed, page_size=1000)).usage_records
        assert {r.stream_id for r in found} == {r.stream_id for r in records if wanted(r)}, filter


async def test_an_open_stream_has_a_record_within_two_seconds_and_its_figures_grow(
    ledger_server, usage
):
    only_open = usage_pb2.UsageFilter(
        outcomes=[usage_pb2.USAGE_OUTCOME_OPEN],
        end_time=ledger_server.filled_time,  # streams of other tests may still be open
    )

    async def tokens():
        (record,) = (await usage.list(filter=only_open)).usage_records
        assert not record.HasField("end_time")
        assert record.reason == ""
        return record.usage.output_tokens

    seen = {await tokens()}
    async with asyncio.timeout(10):
        while len(seen) < 4:
            seen.add(await tokens())
            await asyncio.sleep(0.1)
