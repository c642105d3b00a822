"""The checks of requests, with a moderation service that is played by hand."""

import asyncio
import logging
import time
from types import SimpleNamespace

import pytest

from tokenwire_server.chats.input_moderation import MAX_IN_FLIGHT
from tokenwire_server.chats.screening import Screening
from tokenwire_server.config import FilterConfig, ModerationConfig
from tokenwire_server.content.filter_set import FilterSet
from tokenwire_server.errors import InvalidRequest, ModerationUnavailable
from tokenwire_server.ledger.record import FilterAction
from tokenwire_server.moderation.moderator import ModerationSet, Moderator
from tokenwire_server.moderation.service import ModerationFailed, Verdict
from tokenwire_server.request import ChatRequest, Message, Text, ToolCall


class Service:
    """Flags texts that contain all of some words. Fails for texts that contain a word."""

    def __init__(self, *words, fails="no such text"):
        self.words, self.fails = words, fails
        self.texts = []
        self.open_count = self.most_open = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.error = ModerationFailed("down")

    async def check(self, text, source):
        assert source == "input"
        self.texts.append(text)
        self.open_count += 1
        self.most_open = max(self.most_open, self.open_count)
        try:
            await asyncio.sleep(0)
            await self.gate.wait()
        finally:
            self.open_count -= 1
        if self.fails in text:
            raise self.error
        return Verdict(bool(self.words) and all(word in text for word in self.words), ("c",))


def screening(*services, counted=None, filters=None, **fields):
    fields = {"window_chars": 20, "overlap_chars": 5, "input": True, "timeout_s": 5, **fields}
    config = ModerationConfig(service="openai", **fields)
    moderation = ModerationSet(
        [Moderator(f"m{i}", config, service) for i, service in enumerate(services)]
    )
    routing = SimpleNamespace(filters=FilterSet.of(filters or {}), moderation=moderation)
    return Screening(routing, None if counted is None else lambda *acted: counted.append(acted))


def a_request(*texts):
    return ChatRequest("fast", (Message("user", tuple(map(Text, texts))),))


async def violations_of(rules, *texts):
    with pytest.raises(InvalidRequest) as refused:
        await rules.screen(a_request(*texts), "acme")
    return [(each.field, each.description) for each in refused.value.violations]


async def test_a_clear_request_passes_and_all_of_it_was_checked():
    service = Service("bad")
    assert await screening(service).screen(a_request("a" * 30, "b"), "acme") == ()
    assert sorted(service.texts) == sorted(["a" * 20, "a" * 15 + "\nb"])


async def test_the_path_is_that_of_the_flagged_text():
    counted = []
    rules = screening(Service("bad"), counted=counted)
    expected = [("messages[0].parts[1].text", "is flagged by moderation.m0: c")]
    assert await violations_of(rules, "one", "bad", "two") == expected
    assert await violations_of(rules, "x" * 200, "y" * 18 + "bad" + "z" * 50) == expected
    assert counted == [("m0", "block", 1)] * 2


async def test_texts_that_are_flagged_only_together_have_the_path_of_the_last():
    rules = screening(Service("ba", "d"))
    description = "is flagged by moderation.m0: c (together with the texts before it)"
    assert await violations_of(rules, "one", "ba", "d") == [
        ("messages[0].parts[2].text", description)
    ]


async def test_each_moderation_has_a_violation_and_filters_come_first():
    rules = screening(Service("bad"), Service(), Service("bad"))
    assert await violations_of(rules, "bad") == [
        ("messages[0].parts[0].text", f"is flagged by moderation.m{i}: c") for i in (0, 2)
    ]
    service = Service("bad")
    blocks = {"f": FilterConfig(action="block", words=["bad"], applies_to=["input"])}
    rules = screening(service, filters=blocks)
    assert await violations_of(rules, "bad") == [
        ("messages[0].parts[0].text", "is blocked by filters.f.words")
    ]
    assert service.texts == []


async def test_a_check_that_fails_refuses_the_request_or_is_recorded():
    with pytest.raises(ModerationUnavailable) as refused:
        await screening(Service(fails="a")).screen(a_request("a"), "acme")
    assert refused.value.facts() == {"moderation": "m0"}
    rules = screening(Service("bad", fails="x"), on_failure="open")
    assert await rules.screen(a_request("x" * 60), "acme") == (FilterAction("m0", "unchecked", 3),)
    assert await violations_of(rules, "x" * 60, "bad") == [
        ("messages[0].parts[1].text", "is flagged by moderation.m0: c")
    ]


async def test_a_fault_of_an_adapter_is_a_check_that_failed(caplog):
    service = Service(fails="a")
    service.error = ZeroDivisionError("a bug")
    with caplog.at_level(logging.ERROR), pytest.raises(ModerationUnavailable):
        await screening(service).screen(a_request("a"), "acme")
    assert "internal error" in caplog.text


async def test_checks_at_the_same_time_are_bounded_and_end_early():
    service = Service("bad")
    rules = screening(service)
    await rules.screen(a_request("a" * 1000), "acme")
    assert service.most_open == MAX_IN_FLIGHT
    service.texts.clear()
    await violations_of(rules, "bad", "a" * 2000)
    assert len(service.texts) < 50, "the rest need not be checked"


async def test_other_tasks_run_while_long_texts_are_read():
    """Nearly all of the time is that of the escapes."""
    service = Service()
    rules = screening(service, window_chars=20_000, input_timeout_s=60)
    call = ToolCall("id", "f", '{"a": "' + r"\u0041" * 160_000 + '"}')
    request = ChatRequest("fast", (Message("assistant", (call,)),))
    task = asyncio.create_task(rules.screen(request, "acme"))
    await asyncio.sleep(0)
    rounds, began = 0, time.process_time()
    while service.open_count == 0 and not service.texts:
        await asyncio.sleep(0)
        rounds += 1
    assert rounds > 3, f"the first window took {time.process_time() - began:.3f} s"
    assert await task == ()
    assert len(service.texts) == 9


@pytest.mark.parametrize("on_failure", ["open", "closed"])
async def test_the_time_of_all_checks_of_a_request_is_bounded(on_failure):
    service = Service()
    service.gate.clear()
    rules = screening(service, on_failure=on_failure, input_timeout_s=0.1)
    if on_failure == "open":
        passed = await rules.screen(a_request("a" * 1000), "acme")
        assert passed == (FilterAction("m0", "unchecked", 1),)
    else:
        with pytest.raises(ModerationUnavailable):
            await rules.screen(a_request("a" * 1000), "acme")
    assert service.open_count == 0


async def test_cancellation_ends_all_checks():
    services = Service(), Service()
    for service in services:
        service.gate.clear()
    task = asyncio.create_task(screening(*services).screen(a_request("a" * 1000), "acme"))
    while services[1].open_count < MAX_IN_FLIGHT:
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert [service.open_count for service in services] == [0, 0]
