"""The checks beside a stream, with a provider and a service that are played by hand."""

import asyncio
import logging

import pytest
from streams_support import Played, a_request, raises_failed, read_all

from tokenwire_server.config import FilterConfig, ModerationConfig
from tokenwire_server.content.filter_set import FilterSet
from tokenwire_server.content.moderation_stage import (
    ENTRY_CHARS,
    MAX_IN_FLIGHT,
    MIN_MAX_WAITING_CHARS,
)
from tokenwire_server.errors import AnswerUnchecked, StreamFailed
from tokenwire_server.events import FinishReason, TextDelta
from tokenwire_server.moderation.moderator import ModerationSet, Moderator
from tokenwire_server.moderation.service import ModerationFailed, Verdict
from tokenwire_server.providers.base import Route
from tokenwire_server.providers.decode.base import Complete
from tokenwire_server.routing.answer_steps import STEP_CHARS

STOP = Complete(FinishReason.STOP)


class Service:
    """A moderation service that answers when its gate is open."""

    def __init__(self, flagged="bad"):
        self.gate = asyncio.Event()
        self.gate.set()
        self.flagged = flagged
        self.texts = []
        self.open_count = 0
        self.error = None
        self.closing_s = 0.0
        """How long the end of a request takes."""

    async def check(self, text, source):
        assert source == "output"
        self.texts.append(text)
        self.open_count += 1
        try:
            await self.gate.wait()
        finally:
            await asyncio.sleep(self.closing_s)
            self.open_count -= 1
        if self.error is not None:
            raise self.error
        return Verdict(flagged=self.flagged in text)


def moderator(service, name="m", **fields):
    fields = {
        "window_chars": 20,
        "overlap_chars": 0,
        "output": "hold",
        "timeout_s": 60,
        "max_wait_s": 60,
        **fields,
    }
    return Moderator(name, ModerationConfig(service="openai", **fields), service)


def begin(streams, provider, *moderators, idle_s=30, filters=None):
    """Start a stream with moderations. Return it and its reader."""
    streams.host._routing.moderation = ModerationSet(moderators)
    if filters:
        streams.host._routing.filters = FilterSet.of(filters)
    stream = streams.open(a_request(), Route(provider, "m", None, idle_s=idle_s))
    reader = stream.join()
    streams.start(stream)
    return stream, reader


def text_of(events):
    return "".join(event.text for event in events if isinstance(event, TextDelta))


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def checks_running():
    return [task for task in asyncio.all_tasks() if task.get_name().startswith("moderation ")]


class Counted(Played):
    """Counts its reads."""

    def __init__(self, *steps, **options):
        super().__init__(*steps, **options)
        self.read_count = 0

    async def read(self):
        self.read_count += 1
        return await super().read()


@pytest.mark.parametrize("output", ["hold", "follow"])
async def test_a_provider_is_not_read_and_not_silent_while_too_much_text_waits(streams, output):
    service = Service()
    service.gate.clear()
    provider = Counted(*["x" * 1000] * 100, STOP)
    moderation = moderator(service, window_chars=1000, output=output)
    stream, reader = begin(streams, provider, moderation, idle_s=0.2)
    await until(lambda: service.open_count == MAX_IN_FLIGHT)
    await asyncio.sleep(0.5)
    assert provider.read_count in (8, 9), "the bound is 8 KiB"
    assert not stream.log.sealed, "longer than the idle limit"
    service.gate.set()
    events = await read_all(reader)
    assert text_of(events) == "x" * 100_000
    assert events[-1].reason == FinishReason.STOP
    assert provider.read_count == 101


async def test_a_long_text_that_arrives_at_once_waits_in_parts(streams):
    service = Service()
    service.gate.clear()
    provider = Played("x" * 100_000, STOP)
    stream, reader = begin(streams, provider, moderator(service, window_chars=1000), idle_s=0.2)
    await until(lambda: service.open_count == MAX_IN_FLIGHT)
    await asyncio.sleep(0.4)
    (stage,) = streams.host._live[stream.id]._stages._acting
    waiting_chars = stage._undecided_chars + stage._fresh_chars + stage._waiting_chars
    most = MIN_MAX_WAITING_CHARS + STEP_CHARS + ENTRY_CHARS
    assert MIN_MAX_WAITING_CHARS <= waiting_chars <= most
    service.gate.set()
    assert text_of(await read_all(reader)) == "x" * 100_000


async def test_the_silence_limit_begins_anew_after_the_wait_for_room(streams):
    service = Service()
    service.gate.clear()
    more = asyncio.Event()
    provider = Played("x" * 9000, more, "y", more, asyncio.Event(), STOP)
    moderation = moderator(service, window_chars=1000, output="follow")
    stream, reader = begin(streams, provider, moderation, idle_s=1.0)
    await until(lambda: service.open_count == MAX_IN_FLIGHT)
    await asyncio.sleep(1.5)
    service.gate.set()
    await asyncio.sleep(0.6)
    more.set()
    with pytest.raises(StreamFailed, match="sent nothing for 1 s"):
        await read_all(reader)
    assert text_of(stream.log.read(0)).endswith("y"), "0.6 s of silence are not too long"


async def test_text_that_a_filter_releases_in_a_pause_is_checked_and_shown(streams):
    service = Service()
    more = asyncio.Event()
    provider = Played("sec", more, STOP)
    filters = {"f": FilterConfig(action="redact", words=("secret",), hold_s=0.05)}
    moderation = moderator(service, window_chars=1000, max_wait_s=0.05)
    stream, reader = begin(streams, provider, moderation, filters=filters)
    await until(lambda: text_of(stream.log.read(0)) == "sec")
    assert service.texts == ["sec"]
    more.set()
    assert text_of(await read_all(reader)) == "sec"


async def test_a_wait_for_room_is_no_pause_of_the_answer(streams):
    """Otherwise a filter would release the beginning of a match."""
    service = Service()
    service.gate.clear()
    provider = Played("x" * 8000, "x" * 200 + " sec", "ret", STOP)
    filters = {"f": FilterConfig(action="redact", words=("secret",), hold_s=0.05)}
    moderation = moderator(service, window_chars=1000, output="follow")
    _, reader = begin(streams, provider, moderation, filters=filters)
    await until(lambda: service.open_count == MAX_IN_FLIGHT)
    await asyncio.sleep(0.3)
    service.gate.set()
    assert text_of(await read_all(reader)) == "x" * 8200 + " [redacted]"


@pytest.mark.parametrize("end", [". ", ""], ids=["at once", "in a pause"])
async def test_text_before_the_text_that_a_filter_blocks_is_shown_when_it_is_checked(streams, end):
    service = Service()
    service.gate.clear()
    filters = {"f": FilterConfig(action="block", words=("secret",), hold_s=0.05)}
    provider = Played("x" * 40 + " a secret" + end, asyncio.Event())
    _, reader = begin(streams, provider, moderator(service), filters=filters)
    await until(lambda: service.open_count == 3)
    service.gate.set()
    events = await read_all(reader)
    assert text_of(events) == "x" * 40 + " a "
    assert events[-1].reason == FinishReason.CONTENT_FILTER
    await asyncio.wait_for(provider.closed.wait(), 5)
    await until(lambda: not checks_running())


async def test_the_silence_limit_does_not_matter_after_a_filter_has_ended_the_answer(streams):
    service = Service()
    service.gate.clear()
    filters = {"f": FilterConfig(action="block", words=("secret",), hold_s=0.05)}
    provider = Played("x" * 40 + " a secret", asyncio.Event())
    stream, reader = begin(streams, provider, moderator(service), filters=filters, idle_s=0.2)
    await asyncio.wait_for(provider.closed.wait(), 5)
    assert not stream.log.sealed
    service.gate.set()
    events = await read_all(reader)
    assert text_of(events) == "x" * 40 + " a "
    assert events[-1].reason == FinishReason.CONTENT_FILTER


async def test_text_before_a_flagged_window_is_shown_when_the_next_moderation_has_checked_it(
    streams,
):
    first, second = Service(), Service(flagged="none")
    second.gate.clear()
    provider = Played("x" * 40 + "bad" + "y" * 17, asyncio.Event())
    both = moderator(first, name="first"), moderator(second, name="second")
    stream, reader = begin(streams, provider, *both)
    await until(lambda: second.open_count == 2)
    await asyncio.sleep(0.05)
    assert not stream.log.sealed
    second.gate.set()
    events = await read_all(reader)
    assert text_of(events) == "x" * 40
    assert events[-1].reason == FinishReason.CONTENT_FILTER
    await asyncio.wait_for(provider.closed.wait(), 5)
    await until(lambda: not checks_running())


async def test_text_passes_each_moderation_and_the_filters_come_first(streams):
    services = Service(flagged="one"), Service(flagged="two")
    both = [moderator(service, name=str(n)) for n, service in enumerate(services)]
    filters = {"f": FilterConfig(action="redact", words=("secret",), replacement="***")}
    _, reader = begin(streams, Played("a secret", STOP), *both, filters=filters)
    assert text_of(await read_all(reader)) == "a ***"
    assert [service.texts for service in services] == [["a ***"]] * 2
    for word in "one", "two":
        services[1].texts.clear()
        _, reader = begin(streams, Played(word, STOP), *both)
        events = await read_all(reader)
        assert text_of(events) == ""
        assert events[-1].reason == FinishReason.CONTENT_FILTER
        assert services[1].texts == ([] if word == "one" else ["two"])


async def test_a_fault_of_an_adapter_is_a_check_that_failed(streams, caplog):
    service = Service()
    service.error = ZeroDivisionError("a bug")
    _, reader = begin(streams, Played("text", STOP), moderator(service))
    with caplog.at_level(logging.ERROR), raises_failed(AnswerUnchecked):
        await read_all(reader)
    assert "internal error" in caplog.text


@pytest.mark.parametrize("output", ["hold", "follow"])
async def test_the_checks_of_a_stream_end_with_it(streams, output):
    service = Service()
    service.gate.clear()
    provider = Played("x" * 100, asyncio.Event())
    stream, reader = begin(streams, provider, moderator(service, output=output))
    generation = streams.host._live[stream.id]
    await until(lambda: service.open_count == MAX_IN_FLIGHT)
    service.closing_s = 0.05
    stream.cancel()
    events = await read_all(reader)
    assert events[-1].reason == FinishReason.CANCELLED
    assert text_of(events) == ("" if output == "hold" else "x" * 100)
    await until(lambda: generation._task is None)
    assert not checks_running()
    assert service.open_count == 0


async def test_a_flagged_window_closes_the_upstream_while_it_is_read(streams):
    service = Service()
    service.gate.clear()
    provider = Played("x" * 20 + "bad" + "y" * 17, asyncio.Event())
    _, reader = begin(streams, provider, moderator(service))
    await until(lambda: service.open_count == 2)
    service.gate.set()
    events = await read_all(reader)
    assert text_of(events) == "x" * 20
    assert events[-1].reason == FinishReason.CONTENT_FILTER
    await asyncio.wait_for(provider.closed.wait(), 5)
    await until(lambda: not checks_running())


@pytest.mark.parametrize("output", ["hold", "follow"])
async def test_finished_waits_for_the_last_verdict(streams, output):
    service = Service()
    service.gate.clear()
    stream, reader = begin(streams, Played("text", STOP), moderator(service, output=output))
    await until(lambda: service.open_count == 1)
    await asyncio.sleep(0.05)
    assert not stream.log.sealed
    service.flagged = "text"
    service.gate.set()
    events = await read_all(reader)
    assert events[-1].reason == FinishReason.CONTENT_FILTER


async def test_a_failure_while_a_stream_closes_changes_nothing(streams):
    """The upstream takes time to close after a cancel. In the meantime a check fails."""
    service, closing = Service(), asyncio.Event()
    service.gate.clear()
    service.error = ModerationFailed("down")
    provider = Played("x" * 20, asyncio.Event(), closing=closing)
    stream, reader = begin(streams, provider, moderator(service))
    await until(lambda: service.open_count == 1)
    stream.cancel()
    await asyncio.sleep(0.01)
    service.gate.set()
    await asyncio.sleep(0.05)
    assert not provider.closed.is_set(), "the closing was not interrupted"
    closing.set()
    events = await read_all(reader)
    assert events[-1].reason == FinishReason.CANCELLED
