"""Records in both databases: writes, pages and summaries."""

import datetime
import time
from collections import defaultdict

import msgspec
import pytest
import sqlalchemy
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import scaled
from tokenwire_server.errors import StoreUnavailable
from tokenwire_server.events import Usage
from tokenwire_server.ledger import store as store_module
from tokenwire_server.ledger.query import Cursor, SummaryTooLarge, UsageQuery
from tokenwire_server.ledger.record import FilterAction, Outcome, UsageRecord
from tokenwire_server.ledger.rows import COUNTS as COUNTS_OF_USAGE
from tokenwire_server.ledger.rows import MAX_TOOLS

ALL = UsageQuery(tenant=None)
DAY = 86_400.0
MIDNIGHT = 20_833 * DAY  # 2027-01-15T00:00Z
CLOSED = [outcome for outcome in Outcome if outcome not in {Outcome.OPEN, Outcome.LOST}]

with_databases = settings(max_examples=scaled(30))

WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
NAMES = st.sampled_from(["a", "b", "A", "ä"])
COUNTS = st.integers(0, 10**12)
MAYBE_COUNTS = st.none() | COUNTS
TIMES = st.sampled_from([0.0, 1.0, DAY - 1e-6, DAY, 2.5 * DAY]).map(lambda s: MIDNIGHT + s)
USAGES = st.builds(
    Usage,
    COUNTS,
    COUNTS,
    MAYBE_COUNTS,
    MAYBE_COUNTS,
    MAYBE_COUNTS,
    MAYBE_COUNTS,
    st.dictionaries(WORDS, COUNTS, max_size=3).map(lambda tools: tuple(sorted(tools.items()))),
    WORDS,
    cost_microusd=MAYBE_COUNTS,
    estimated=st.booleans(),
)
RECORDS = st.builds(
    UsageRecord,
    stream_id=st.text("0123456789abcdef", min_size=4, max_size=4),
    instance_id=NAMES,
    tenant=NAMES,
    key_prefix=NAMES | st.just(""),
    request_id=WORDS,
    labels=st.dictionaries(NAMES | WORDS, NAMES | WORDS, max_size=3),
    model_asked=NAMES | WORDS,
    created_time=TIMES,
    provider=st.sampled_from(["", "a", "b"]),
    model=NAMES,
    provider_response_id=WORDS,
    end_time=st.none() | TIMES,
    ttft_s=st.none() | st.floats(0, 1e6),
    outcome=st.sampled_from(Outcome),
    reason=WORDS,
    usage=USAGES,
    partial=st.booleans(),
    attempts=st.integers(0, 100),
    from_cache=st.booleans(),
    own_key=st.booleans(),
    filters=st.lists(st.builds(FilterAction, NAMES, NAMES, COUNTS), max_size=2).map(tuple),
)
MANY = st.lists(RECORDS, max_size=12, unique_by=lambda record: record.stream_id)
QUERIES = st.builds(
    UsageQuery,
    tenant=st.none() | NAMES,
    since=st.none() | TIMES,
    until=st.none() | TIMES,
    models=st.lists(NAMES | st.just("a/b") | st.just("/a"), max_size=2).map(tuple),
    labels=st.dictionaries(NAMES, NAMES, max_size=1),
    outcomes=st.lists(st.sampled_from(Outcome), max_size=4).map(tuple),
    key_prefix=st.none() | NAMES | st.just(""),
)
GROUPS = st.lists(
    st.sampled_from(["day", "model", "tenant", "key", "label:a", "label:ä"]),
    unique=True,
    max_size=3,
)


def newest_first(records):
    return sorted(records, key=lambda r: (r.created_time, r.stream_id), reverse=True)


def model_served(record):
    return f"{record.provider}/{record.model}"


def matches(query, record):
    return (
        query.tenant in (None, record.tenant)
        and (query.since is None or record.created_time >= query.since)
        and (query.until is None or record.created_time < query.until)
        and (not query.models or {record.model_asked, model_served(record)} & {*query.models})
        and query.labels.items() <= record.labels.items()
        and (not query.outcomes or record.outcome in query.outcomes)
        and query.key_prefix in (None, record.key_prefix)
    )


def group_of(record, group):
    match group.partition(":"):
        case "day", _, _:
            when = datetime.datetime.fromtimestamp(record.created_time, datetime.UTC)
            return when.date().isoformat()
        case "model", _, _:
            return model_served(record) if record.provider else record.model_asked
        case "tenant", _, _:
            return record.tenant
        case "key", _, _:
            return record.key_prefix
        case _, _, key:
            return record.labels.get(key, "")


def added_up(values):
    said = [value for value in values if value is not None]
    return sum(said) if said else None


async def emptied(database):
    async with database.writing() as connection:
        await connection.execute(sqlalchemy.text("DELETE FROM tokenwire_usage_records"))


@with_databases
@given(records=MANY)
async def test_a_record_is_read_as_it_was_written(store, database, records):
    await emptied(database)
    await store.write(records)
    assert await store.page(ALL) == newest_first(records)


@with_databases
@given(records=MANY, query=QUERIES, size=st.integers(1, 5))
async def test_pages_contain_every_matching_record_once_and_newest_first(
    store, database, records, query, size
):
    await emptied(database)
    await store.write(records)
    found, after = [], None
    while page := await store.page(query, after, size):
        assert len(page) <= size
        found += page
        assert len(found) <= len(records)
        after = Cursor.of(page[-1])
    assert found == newest_first(record for record in records if matches(query, record))


@with_databases
@given(records=MANY, query=QUERIES, group_by=GROUPS)
async def test_summaries_are_the_sums_of_the_records_that_match(
    store, database, records, query, group_by
):
    await emptied(database)
    await store.write(records)
    groups = defaultdict(list)
    for record in records:
        if matches(query, record):
            groups[tuple(group_of(record, group) for group in group_by)].append(record)
    summaries = await store.summary(query, group_by)
    found = {tuple(s.group.get(group) for group in group_by): s for s in summaries}
    assert len(found) == len(summaries)
    assert found.keys() == groups.keys()
    for values, summary in found.items():
        those = groups[values]
        assert summary.record_count == len(those)
        assert summary.open_count == sum(r.outcome is Outcome.OPEN for r in those)
        assert summary.estimated_count == sum(r.usage.estimated for r in those)
        assert summary.unpriced_count == sum(r.usage.cost_microusd is None for r in those)
        assert summary.first_created_time == min(r.created_time for r in those)
        assert summary.last_created_time == max(r.created_time for r in those)
        assert summary.usage == Usage(
            **{name: added_up(getattr(r.usage, name) for r in those) for name in COUNTS_OF_USAGE},
            estimated=any(r.usage.estimated for r in those),
        )


@with_databases
@given(records=MANY, since=TIMES)
async def test_the_spend_of_tenants_is_the_sum_of_known_costs(store, database, records, since):
    await emptied(database)
    await store.write(records)
    spent, without_open = defaultdict(int), defaultdict(int)
    for record in records:
        ended = record.end_time is not None and record.end_time < since
        if record.own_key or ended or record.created_time < since - DAY:
            continue
        if record.usage.cost_microusd:
            spent[record.tenant] += record.usage.cost_microusd
            if record.end_time is not None:
                without_open[record.tenant] += record.usage.cost_microusd
    assert await store.spent_since(since, longest_stream_s=DAY) == spent
    assert await store.spent_since(since, DAY, has_open=False) == without_open
    instances = {record.instance_id for record in records}
    without = [
        await store.spent_since(since, DAY, except_instance=instance) for instance in instances
    ]
    for tenant, microusd in spent.items():
        left = sum(found.get(tenant, 0) for found in without)
        assert left == microusd * (len(instances) - 1)


async def test_summaries_are_sorted_by_group(store, record):
    await store.write(
        [
            record("1", created_time=MIDNIGHT + DAY, labels={"team": "b"}),
            record("2", created_time=MIDNIGHT, labels={"team": "b"}),
            record("3", created_time=MIDNIGHT, labels={"team": "a"}),
            record("4", created_time=MIDNIGHT),
        ]
    )
    summaries = await store.summary(ALL, ["day", "label:team"])
    assert [summary.group for summary in summaries] == [
        {"day": "2027-01-15", "label:team": ""},
        {"day": "2027-01-15", "label:team": "a"},
        {"day": "2027-01-15", "label:team": "b"},
        {"day": "2027-01-16", "label:team": "b"},
    ]


async def test_too_many_groups_are_an_error_and_not_a_truncated_answer(store, record, monkeypatch):
    monkeypatch.setattr(store_module, "MAX_SUMMARY_ROWS", 3)
    await store.write([record(str(n), tenant=f"tenant-{n}") for n in range(4)])
    assert len(await store.summary(ALL, ["day"])) == 1
    with pytest.raises(SummaryTooLarge, match="more than 3 rows"):
        await store.summary(ALL, ["tenant"])
    await store.delete_before(MIDNIGHT * 2)
    with pytest.raises(ValueError, match="'colour'"):
        await store.summary(ALL, ["colour"])


async def test_no_value_of_a_caller_or_provider_blocks_other_records(store, record):
    odd = record(
        "odd",
        request_id="\0",
        labels={"\0\ud800": "\udfff\0", '"': "\\"},
        model_asked="m" * 100_000,
        provider_response_id="\ud83d",
        attempts=10**30,
        usage=Usage(
            10**30,
            2**63,
            server_tools=(("\0\ud800", 10**40), *((f"tool {n}", 1) for n in range(1000))),
            service_tier="\ud800" * 10**5,
            cost_microusd=10**40,
        ),
    )
    await store.write([odd, record("good")])
    read, good = sorted(await store.page(ALL), key=lambda r: r.stream_id, reverse=True)
    assert good == record("good")
    assert read.usage == Usage(
        10**12,
        10**12,
        server_tools=(
            *sorted((f"tool {n}", 1) for n in range(MAX_TOOLS - 1)),
            ("\ufffd" * 2, 10**12),
        ),
        service_tier="\ufffd" * 1024,
        cost_microusd=10**12,
    )
    assert (read.request_id, read.provider_response_id) == ("\ufffd", "\ufffd")
    assert read.labels == {"\ufffd\ufffd": "\ufffd\ufffd", '"': "\\"}
    assert read.model_asked == "m" * 1024
    assert await store.page(UsageQuery(tenant=None, labels={'"': "\\"})) == [read]


@pytest.mark.parametrize(
    "key", ["", "1", "a.b", "a b", '"', "\\", "%22", "$", "[0]", "ä", "\n😀", "'"]
)
async def test_a_label_is_found_by_any_name(store, record, key):
    await store.write([record("1", labels={key: key}), record("2", labels={"other": key})])
    (found,) = await store.page(UsageQuery(tenant=None, labels={key: key}))
    assert found.labels == {key: key}
    summaries = await store.summary(ALL, [f"label:{key}"])
    assert [summary.record_count for summary in summaries] == ([1, 1] if key else [2])
    assert [summary.group[f"label:{key}"] for summary in summaries] == sorted({"", key})


STATES = [Outcome.OPEN, Outcome.LOST, Outcome.FINISHED, Outcome.FAILED]


@with_databases
@given(writes=st.lists(st.sampled_from(STATES), min_size=1, max_size=6))
async def test_a_closed_record_never_changes_but_lost_is_replaced_by_its_process(
    store, database, record, writes
):
    await emptied(database)
    kept = None
    for n, outcome in enumerate(writes):
        new = record("1", outcome=outcome, tokens=n)
        await store.write([new])
        if (
            kept is None
            or kept.outcome is Outcome.OPEN
            or (kept.outcome is Outcome.LOST and outcome is not Outcome.LOST)
        ):
            kept = new
        assert await store.page(ALL) == [kept]


@with_databases
@given(
    begun=st.lists(RECORDS, min_size=1, max_size=5, unique_by=lambda record: record.stream_id),
    later=st.lists(RECORDS, min_size=5, max_size=5),
)
async def test_writing_figures_has_the_effect_of_writing_the_record(store, database, begun, later):
    begun = [
        msgspec.structs.replace(r, outcome=Outcome.OPEN, reason="", end_time=None) for r in begun
    ]
    figures = [
        msgspec.structs.replace(
            first,
            provider=then.provider,
            model=then.model,
            provider_response_id=then.provider_response_id,
            ttft_s=then.ttft_s,
            partial=then.partial,
            attempts=then.attempts,
            usage=then.usage,
        )
        for first, then in zip(begun, later, strict=False)
    ]
    await emptied(database)
    await store.write(begun)
    await store.write([], figures)
    assert await store.page(ALL) == newest_first(figures)


async def test_figures_that_a_database_rejects_are_limited(store, record):
    odd = record(
        "odd", provider_response_id="\0\ud83d", attempts=10**30, usage=Usage(10**30, 2**63)
    )
    await store.write([odd])
    (whole,) = await store.page(ALL)
    await store.write([], [record("odd")])
    await store.write([], [odd])
    assert await store.page(ALL) == [whole]


async def test_figures_reopen_a_lost_record_but_no_closed_one(store, record):
    lost, done = (record(str(o), outcome=o) for o in (Outcome.LOST, Outcome.FINISHED))
    await store.write([lost, done])
    await store.write([], [record("lost", tokens=3), record("finished", tokens=3)])
    assert await store.page(ALL) == [record("lost", tokens=3), done]


async def test_figures_of_deleted_rows_restore_them(store, sql, record):
    figures = [record(f"{n:04}", tokens=n) for n in range(500)]
    await store.write([record(f"{n:04}") for n in range(500)])
    sql("DELETE FROM tokenwire_usage_records WHERE stream_id IN ('0007', '0499')")
    await store.write([record("new")], figures)
    assert await store.page(ALL, size=1000) == newest_first([*figures, record("new")])


async def test_figures_take_less_of_the_loop_than_records(store, record):
    open_records = [record(str(n)) for n in range(300)]
    await store.write(open_records)
    await store.write([], open_records)  # the statement is made
    whole_s, figures_s = [], []
    for _ in range(10):
        for took_s, batch in ((whole_s, (open_records,)), (figures_s, ([], open_records))):
            began = time.thread_time()
            await store.write(*batch)
            took_s.append(time.thread_time() - began)
    times = min(whole_s) / min(figures_s)
    print(
        f"{min(figures_s) * 1e3:.1f} ms of the loop for 300 streams' figures, 1/{times:.1f} of a record"
    )
    assert times > 1.2  # 2 on a busy machine


async def test_a_failed_batch_writes_nothing(store, record):
    records = [record(str(n)) for n in range(100)]
    bad = msgspec.structs.replace(records[-1], tenant=None)
    with pytest.raises(TypeError):
        await store.write([*records[:-1], bad])
    assert await store.page(ALL) == []
    await store.write(records)
    assert len(await store.page(ALL, size=1000)) == 100


async def test_old_records_are_deleted_oldest_first_and_open_ones_never(store, record, sql):
    old = [
        record(f"{n:03}", created_time=MIDNIGHT + n, outcome=Outcome.FINISHED) for n in range(10)
    ]
    await store.write([*old, record("open", created_time=MIDNIGHT)])
    sql(f"UPDATE tokenwire_usage_records SET update_time = {MIDNIGHT}")
    assert await store.delete_before(MIDNIGHT + 8, batch=5) == 5
    left = {r.stream_id for r in await store.page(ALL)}
    assert left == {"open", "005", "006", "007", "008", "009"}
    assert await store.delete_before(MIDNIGHT + 8, batch=5) == 3
    assert await store.delete_before(MIDNIGHT + 8, batch=5) == 0
    assert {r.stream_id for r in await store.page(ALL)} == {"open", "008", "009"}


async def test_without_its_tables_the_store_is_unavailable(store, record, sql):
    sql("DROP TABLE tokenwire_usage_records")
    sql("DROP TABLE tokenwire_instances")
    for call in (
        store.write([record("1")]),
        store.page(ALL),
        store.summary(ALL),
        store.spent_since(0.0, 0.0),
        store.delete_before(0.0),
        store.instances.renew("one"),
        store.instances.release("one"),
        store.instances.close_lost(),
    ):
        with pytest.raises(StoreUnavailable):
            await call
