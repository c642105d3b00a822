"""The rules for input: refusals, turns and cancellation."""

import asyncio
from types import SimpleNamespace

import pytest
from streams_support import Played, Streams, route_to
from streams_support import a_request as a_chat

from tokenwire_server.chats.screening import MAX_WAITING_REQUESTS, Screening
from tokenwire_server.chats.violations import MAX_OF_ONE_LIST
from tokenwire_server.config import FilterConfig, Limits
from tokenwire_server.content.filter_set import FilterSet
from tokenwire_server.errors import InvalidRequest, Overloaded
from tokenwire_server.events import FinishReason
from tokenwire_server.ledger.record import FilterAction
from tokenwire_server.moderation.moderator import NO_MODERATION
from tokenwire_server.providers.decode.base import Complete
from tokenwire_server.request import CacheUse, ChatRequest, Message, Retention, Text

SECRET = {"f": FilterConfig(action="block", words=["hi"], applies_to=["input"])}
"""Blocks the text of `a_request` of streams_support."""
SAME = {"request_id": "r", "body_hash": b"h"}
LONG = "漢字かな " * 100_000
"""Takes many steps."""


def a_request(*texts, model="fast"):
    return ChatRequest(model, (Message("user", tuple(map(Text, texts))),))


def screening(count_refused=None, **filters):
    fields = {"action": "block", "applies_to": ["input"]}
    configs = {name: FilterConfig(**fields | each) for name, each in filters.items()}
    routing = SimpleNamespace(filters=FilterSet.of(configs), moderation=NO_MODERATION)
    return Screening(routing, count_refused)


async def test_what_filters_report_is_returned_and_not_counted():
    counted = []
    rules = screening(lambda *acted: counted.append(acted), f={"action": "report", "words": ["a"]})
    assert await rules.screen(a_request("a a"), "acme") == (FilterAction("f", "report", 2),)
    assert await rules.screen(a_request("b"), "acme") == ()
    assert not counted


async def test_a_refusal_has_a_violation_for_each_blocked_text_and_not_the_text():
    counted = []
    rules = screening(
        lambda *acted: counted.append(acted),
        seen={"action": "report", "words": ["b"]},
        secrets={"patterns": ["x", "sec.et"]},
    )
    with pytest.raises(InvalidRequest) as refused:
        await rules.screen(a_request("b", "a secret", "b", "secret", "x"), "acme")
    assert [(each.field, each.description) for each in refused.value.violations] == [
        (f"messages[0].parts[{i}].text", f"is blocked by filters.secrets.patterns[{pattern}]")
        for i, pattern in ((1, 1), (3, 1), (4, 0))
    ]
    assert refused.value.all_found
    assert counted == [("seen", "report", 2), ("secrets", "block", 3)]


async def test_the_search_ends_after_as_many_violations_as_are_listed():
    counted = []
    rules = screening(lambda *acted: counted.append(acted), f={"words": ["a"]})
    with pytest.raises(InvalidRequest) as refused:
        await rules.screen(a_request(*["a"] * 1000), "acme")
    assert len(refused.value.violations) == MAX_OF_ONE_LIST
    assert not refused.value.all_found
    assert counted == [("f", "block", MAX_OF_ONE_LIST)]


async def test_filters_are_those_of_the_tenant_and_the_model():
    rules = screening(f={"words": ["a"], "tenants": ["acme"], "models": ["fast"]})
    assert await rules.screen(a_request("a"), "globex") == ()
    assert await rules.screen(a_request("a", model="slow"), "acme") == ()
    with pytest.raises(InvalidRequest):
        await rules.screen(a_request("a"), "acme")


async def test_other_tasks_run_during_the_search_of_a_long_text():
    rules = screening(f={"words": ["a"]})
    searching = asyncio.create_task(rules.screen(a_request(LONG), "acme"))
    rounds = 0
    while not searching.done():
        await asyncio.sleep(0)
        rounds += 1
    assert rounds > 5


async def test_a_cancelled_search_gives_its_turn_to_the_next():
    rules = screening(f={"words": ["a"]})
    first, second, third = [
        asyncio.create_task(rules.screen(a_request(LONG + "a"), "acme")) for _ in range(3)
    ]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first.cancel()
    second.cancel()
    async with asyncio.timeout(30):
        with pytest.raises(InvalidRequest):
            await third
    assert first.cancelled()
    assert second.cancelled()


async def test_only_so_many_long_requests_wait_while_short_ones_do_not():
    rules = screening(f={"words": ["a"]})
    calls = [
        asyncio.create_task(rules.screen(a_request(LONG), "acme"))
        for _ in range(MAX_WAITING_REQUESTS + 1)
    ]
    for _ in range(3):
        await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await rules.screen(a_request(LONG), "acme")
    assert await rules.screen(a_request("short"), "acme") == ()
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)


@pytest.fixture
async def streams():
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        yield Streams(Limits(), tasks)


async def finished(streams, provider, **fields):
    """Open the stream of a request. Return it when it has ended."""
    stream = await streams.opened(a_chat(**fields), route_to(provider))
    streams.start(stream)
    await stream.log.wait_sealed()
    return stream


async def test_a_cached_answer_is_refused_like_a_new_one(streams):
    provider = Played("text", Complete(FinishReason.STOP))
    use = CacheUse(b"k", 60.0, read=True)
    await finished(streams, provider, cache=use)
    assert streams.cache._find("default", b"k") is not None
    streams.routing.filters = FilterSet.of(SECRET)
    with pytest.raises(InvalidRequest):
        await finished(streams, provider, cache=use)


async def test_a_repeated_request_joins_its_stream_without_a_search(streams):
    provider = Played("text", Complete(FinishReason.STOP))
    kept = {**SAME, "retention": Retention(log_ttl_s=60.0)}
    first = await finished(streams, provider, **kept)
    streams.routing.filters = FilterSet.of(SECRET)
    assert await finished(streams, provider, **kept) is first
    with pytest.raises(InvalidRequest):
        await finished(streams, provider, **kept | {"request_id": "another"})
    assert provider.opened == 1


async def test_a_refused_request_gives_up_its_id(streams):
    provider = Played("text", Complete(FinishReason.STOP))
    streams.routing.filters = FilterSet.of(SECRET)
    with pytest.raises(InvalidRequest):
        await finished(streams, provider, **SAME)
    streams.routing.filters = FilterSet.of({})
    await finished(streams, provider, **SAME | {"body_hash": b"corrected"})
    assert provider.opened == 1
