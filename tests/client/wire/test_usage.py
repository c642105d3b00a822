import asyncio
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenwire
from examples import scaled
from tokenwire.v1 import usage_pb2
from tokenwire.v1.chat_pb2 import (
    TOKEN_COUNTING_PROVIDER,
    TOKEN_COUNTING_UNSPECIFIED,
    ChatRequest,
    CountTokensResponse,
)

from ..conftest import Code, status

SINCE = datetime(2026, 7, 1, tzinfo=UTC)


def answers(**fields):
    async def script(_request, _context):
        return CountTokensResponse(**fields)

    return script


def ids(numbers):
    return [f"{number:032x}" for number in numbers]


async def test_a_token_count_distinguishes_unknown_from_zero(server, client):
    known = {"input_cost_microusd": 0, "max_output_tokens": 100, "max_cost_microusd": 2**53 + 1}
    named = {"provider": "openai", "model": "gpt"}
    server.count = answers(input_tokens=12, source=2, exceeds_budget=True, **known, **named)
    full = await client.count_tokens("openai/gpt", "Hi", max_cost_microusd=5)
    server.count = answers(input_tokens=12, source=99, **named)
    bare = await client.count_tokens("openai/gpt", "Hi")

    assert full == tokenwire.TokenCount(12, "tokenizer", 0, 100, 2**53 + 1, True, "openai", "gpt")
    assert bare == tokenwire.TokenCount(12, "", None, None, None, False, "openai", "gpt")


@pytest.mark.parametrize(("source", "name"), [(1, "provider"), (2, "tokenizer"), (3, "estimate")])
async def test_a_token_count_has_its_source(server, client, source, name):
    server.count = answers(source=source)

    assert (await client.count_tokens("m", "Hi")).source == name


async def test_count_tokens_sends_the_request_of_chat(server, client):
    server.count = answers()
    fields = {"labels": {"a": "b"}, "max_cost_microusd": 7, "generation": {"max_output_tokens": 3}}
    whole = ChatRequest(model="m")

    await client.count_tokens("m", "Hi", **fields)
    await client.count_tokens(whole, ask_provider=True)

    first, second = server.counted
    assert (first.labels["a"], first.budget.max_cost_microusd) == ("b", 7)
    assert (first.generation.max_output_tokens, first.token_counting) == (
        3,
        TOKEN_COUNTING_UNSPECIFIED,
    )
    assert second == ChatRequest(model="m", token_counting=TOKEN_COUNTING_PROVIDER)
    assert whole == ChatRequest(model="m")  # the caller's own message is unchanged


async def test_a_chat_that_exceeds_its_budget_is_refused_with_a_named_error(server, client):
    facts = {"limit": "max_cost_microusd", "allowed": "1", "estimated": "9"}

    async def refuse(_request, context):
        await context.abort_with_status(
            status(Code.FAILED_PRECONDITION, "BUDGET_EXCEEDED", metadata=facts)
        )

    server.script = refuse

    with pytest.raises(tokenwire.BudgetExceeded) as refused:
        await client.chat("m", "Hi", max_cost_microusd=1)

    assert refused.value.estimated == 9
    assert server.requests[0].budget.max_cost_microusd == 1


@settings(max_examples=scaled(25))
@given(
    count=st.integers(0, 40),
    page_size=st.integers(1, 20),
    largest_page=st.integers(1, 20),
    arriving=st.integers(0, 5),
)
def test_every_record_is_listed_once_newest_first_while_new_ones_are_added(
    loop_with_server, count, page_size, largest_page, arriving
):
    """For any number of records, in pages of any size."""
    run, server, client = loop_with_server
    server.usage.records.clear()
    server.usage.pages.clear()
    server.usage.hold(range(1, count + 1))
    server.usage.largest_page = largest_page

    async def more(page, _context):
        if page:
            newest = max(server.usage.records)
            server.usage.hold(range(newest + 1, newest + 1 + arriving))

    server.usage.before_page = more

    async def read():
        return [record.stream_id async for record in client.usage_records(page_size=page_size)]

    assert run(read()) == ids(range(count, 0, -1))


@pytest.fixture
def loop_with_server():
    """An event loop for a synchronous test, with a server and a client."""
    from ..conftest import ScriptedServer, serving

    with asyncio.Runner() as runner:
        scripted = ScriptedServer()
        context = serving(scripted)
        runner.run(context.__aenter__())

        async def connect():
            return tokenwire.AsyncClient(scripted.target)

        client = runner.run(connect())
        yield runner.run, scripted, client
        runner.run(client.close())
        runner.run(context.__aexit__(None, None, None))


async def test_a_page_is_requested_only_when_it_is_needed(server, client):
    server.usage.hold(range(1, 11))

    records = client.usage_records(page_size=4)
    assert server.usage.pages == []
    seen = [await anext(records) for _ in range(4)]

    assert [record.stream_id for record in seen] == ids(range(10, 6, -1))
    assert [page.page_size for page in server.usage.pages] == [4]


async def test_every_page_is_requested_with_the_filter(server, client):
    server.usage.hold(range(1, 4), labels={"team": "search"})
    since = SINCE.astimezone(timezone(timedelta(hours=2)))
    until = SINCE + timedelta(days=31, microseconds=1)

    records = client.usage_records(
        since=since,
        until=until,
        models=["openai/demo", "fast"],
        labels={"team": "search"},
        outcomes=["finished", "lost"],
        key_prefix="tw_1",
        page_size=2,
    )
    read = [record async for record in records]

    assert read == [server.usage.records[number] for number in (3, 2, 1)]
    asked = server.usage.pages[0].filter
    assert server.usage.pages[1].filter == asked
    assert asked.start_time.ToDatetime(UTC) == SINCE
    assert asked.end_time.ToDatetime(UTC) == until
    assert list(asked.models) == ["openai/demo", "fast"]
    assert dict(asked.labels) == {"team": "search"}
    assert list(asked.outcomes) == [2, 7]
    assert asked.key_prefix == "tw_1"


async def test_an_error_in_the_middle_is_raised_and_not_retried(server, client):
    server.usage.hold(range(1, 11))

    async def second_fails(page, context):
        if page == 1:
            await context.abort_with_status(status(Code.UNAVAILABLE, "STORE_UNAVAILABLE"))

    server.usage.before_page = second_fails
    seen = []

    with pytest.raises(tokenwire.StoreUnavailable):
        async for record in client.usage_records(page_size=4):
            seen.append(record.stream_id)  # noqa: PERF401  # what came before the error counts

    assert seen == ids(range(10, 6, -1))
    assert len(server.usage.pages) == 2


async def test_a_page_has_a_deadline(server, client):
    async def never(_page, _context):
        await asyncio.Event().wait()

    server.usage.before_page = never

    with pytest.raises(tokenwire.DeadlineExceeded):
        await anext(client.usage_records(timeout=0.1))


async def test_a_summary_is_requested_by_groups(server, client):
    server.usage.summaries = [usage_pb2.UsageSummary(day="2026-07-31", record_count=2)]

    assert await client.usage_summary() == server.usage.summaries
    await client.usage_summary(group_by="day", since=SINCE, models="fast", outcomes="budget")
    await client.usage_summary(group_by=("label", "model", "key"), label_key="team")

    all_of_them, by_day, by_label = server.usage.asked
    assert all_of_them == usage_pb2.GetUsageSummaryRequest(filter=usage_pb2.UsageFilter())
    assert list(by_day.group_by) == [usage_pb2.USAGE_GROUP_DAY]
    assert (list(by_day.filter.models), list(by_day.filter.outcomes)) == (["fast"], [5])
    assert list(by_label.group_by) == [3, 2, 4]
    assert by_label.label_key == "team"


async def test_usage_calls_are_the_same_in_a_thread(server):
    server.count = answers(input_tokens=12)
    server.usage.hold(range(1, 6))
    server.usage.summaries = [usage_pb2.UsageSummary(record_count=5)]

    def ask():
        with tokenwire.Client(server.target) as client:
            count = client.count_tokens("m", "Hi", ask_provider=True)
            records = [
                record.stream_id for record in client.usage_records(page_size=2, since=SINCE)
            ]
            return count.input_tokens, records, client.usage_summary(group_by=["day"])

    assert await asyncio.to_thread(ask) == (12, ids(range(5, 0, -1)), server.usage.summaries)
    assert server.counted[0].token_counting == TOKEN_COUNTING_PROVIDER
    assert all(page.filter.HasField("start_time") for page in server.usage.pages)


@pytest.mark.parametrize(
    ("fields", "kind", "says"),
    [
        ({"since": datetime(2026, 7, 1)}, ValueError, "time zone"),  # noqa: DTZ001
        ({"outcomes": ["done"]}, ValueError, "among open, finished"),
        ({"outcomes": "unspecified"}, ValueError, "among"),
        ({"modles": ["m"]}, TypeError, "'modles': did you mean models?"),
        ({"start_time": SINCE}, TypeError, "'start_time': use since"),
        ({"key": "tw_1"}, TypeError, "'key': use key_prefix"),
        ({"label_key": "team"}, TypeError, "this method does not have this argument"),
        ({"tenant": "a"}, TypeError, "the names are key_prefix, labels, models, outcomes, since"),
        ({"page_size": 0}, ValueError, "at least 1"),
        ({"page_size": 2**31}, ValueError, "range"),
    ],
)
async def test_an_invalid_filter_raises_before_anything_is_sent(client, fields, kind, says):
    with pytest.raises(kind, match=says):
        client.usage_records(**fields)


async def test_an_unknown_group_raises_before_anything_is_sent(client):
    with pytest.raises(ValueError, match="among day, model, label, key"):
        await client.usage_summary(group_by=["tenant"])


async def test_usage_calls_of_a_closed_client_raise(server):
    client = tokenwire.AsyncClient(server.target)
    await client.close()

    with pytest.raises(RuntimeError, match="closed"):
        await client.count_tokens("m", "Hi")
    with pytest.raises(RuntimeError, match="closed"):
        await anext(client.usage_records())
