"""Cached answers in Redis: what may be replayed elsewhere, and what happens when Redis does not answer."""

import asyncio
import logging
import secrets
import time

import pytest
from replica_support import Replica, until
from streams_support import Played, a_request, read_all, route_to

from tokenwire_server.config import (
    FilterConfig,
    Limits,
    ModelConfig,
    ModerationConfig,
    ProviderConfig,
    RedisConfig,
)
from tokenwire_server.errors import StoreUnavailable
from tokenwire_server.events import FinishReason
from tokenwire_server.providers.decode.base import Complete
from tokenwire_server.request import CacheUse, Retention
from tokenwire_server.streamlog.redis.answers import AnswerStore
from tokenwire_server.streamlog.redis.connect import connected
from tokenwire_server.streams import shared_answers
from tokenwire_server.streams.shared_answers import SharedAnswers
from tokenwire_server.tenants.caller import Caller

KiB = 1024
STOP = Complete(FinishReason.STOP)
NOT_CACHED = Complete(FinishReason.REFUSAL)
CONFIGURATION = secrets.token_bytes(32)


@pytest.fixture
async def start(own_redis):
    """Start a server."""
    async with (
        asyncio.TaskGroup() as tasks,
        connected(RedisConfig(url=own_redis.url, timeout_s=0.5)) as client,
    ):
        replicas = []

        async def start(configuration=CONFIGURATION, **options):
            replica = Replica(client, tasks, configuration, **options)
            replicas.append(replica)
            await until(lambda: replica.shared.is_subscribed)
            return replica

        start.client = client
        yield start
        for replica in replicas:
            replica.close()


USE = CacheUse(key=b"k" * 32, ttl_s=60.0, read=True)


async def answer(replica, *steps, tenant="default", settles=True):
    """Return the events of an answer; `steps` play the provider if it is asked."""
    request = a_request(cache=USE)
    stream = await replica.opened(request, route_to(Played(*steps)), caller=Caller(tenant))
    reader = stream.join()
    replica.start(stream)
    events = await read_all(reader)
    if settles:
        await replica.settle()
    return events


async def is_hit(replica, **options):
    return (await answer(replica, NOT_CACHED, **options))[0].from_cache


async def test_only_servers_with_the_same_configuration_share_answers(start):
    one, same, other = await start(), await start(), await start(b"another")
    await answer(one, "an ", "answer", STOP)
    assert await is_hit(same)
    assert not await is_hit(other)
    other.answers.configuration = CONFIGURATION  # as after a reload
    assert await is_hit(other)


def test_the_configuration_is_the_same_for_equal_settings_only():
    config = RedisConfig(url="redis://localhost")
    provider = ProviderConfig(kind="anthropic", base_url="http://one")
    moved = ProviderConfig(kind="anthropic", base_url="http://two")
    model, changed = ModelConfig(target="p/m"), ModelConfig(target="p/n")

    one, two = [FilterConfig(action="redact", words=(word,)) for word in ("one", "two")]

    def of(providers, models, filters, moderation=()):
        made = SharedAnswers(None, config, providers, models, filters, dict(moderation))
        return made.configuration

    filters = {"one": one, "two": two}
    reference = of({"p": provider, "q": moved}, {"a": model, "b": changed}, filters)
    assert reference == of({"q": moved, "p": provider}, {"b": changed, "a": model}, filters)
    assert reference != of({"p": moved, "q": moved}, {"a": model, "b": changed}, filters)
    assert reference != of({"p": provider, "q": moved}, {"a": changed, "b": changed}, filters)
    for others in ({}, {"one": one}, {"one": one, "two": one}, {"two": two, "one": one}):
        assert reference != of({"p": provider, "q": moved}, {"a": model, "b": changed}, others)
    held, followed = [ModerationConfig(service="openai", output=o) for o in ("hold", "follow")]
    moderated = [
        of({"p": provider, "q": moved}, {"a": model, "b": changed}, filters, moderation.items())
        for moderation in ({}, {"m": held}, {"m": followed}, {"m": held, "n": held})
    ]
    assert moderated[0] == reference
    assert len(set(moderated)) == 4


async def test_a_reload_during_the_lookup_lets_the_provider_answer(start, monkeypatch):
    one, other = await start(), await start()
    await answer(one, "an answer", STOP)
    find = AnswerStore.find

    async def slow(self, key):
        found = await find(self, key)
        other.cache.clear()
        return found

    monkeypatch.setattr(AnswerStore, "find", slow)
    assert not await is_hit(other)


async def test_an_answer_is_stored_only_within_its_bounds(start):
    small, other = await start(max_cached_answer_bytes=4 * KiB), await start()
    await answer(small, "x" * 5 * KiB, STOP)
    assert not await is_hit(other)
    assert await is_hit(small)
    await answer(small, "x" * 3 * KiB, STOP, tenant="smaller")
    assert await is_hit(other, tenant="smaller")


async def test_an_answer_larger_than_the_log_of_a_replay_is_not_replayed(start):
    one, other = await start(), await start(limits=Limits(max_cached_answer_bytes=4 * KiB))
    await answer(one, "x" * 5 * KiB, STOP)
    assert not await is_hit(other)


async def test_an_answer_that_is_stored_late_is_not_stored_after_its_deletion(start, monkeypatch):
    one, other = await start(), await start()
    goes_on = asyncio.Event()
    put = AnswerStore.put

    async def late(self, *arguments, **options):
        await goes_on.wait()
        return await put(self, *arguments, **options)

    monkeypatch.setattr(AnswerStore, "put", late)
    request = a_request(cache=USE, retention=Retention(log_ttl_s=60.0))
    stream = await one.opened(request, route_to(Played("an answer", STOP)))
    reader = stream.join()
    one.start(stream)
    await read_all(reader)
    await until(lambda: not one.shared.due_count)
    await other.delete_by_id(stream)
    await asyncio.sleep(0.01)
    goes_on.set()
    await one.settle()
    assert not await is_hit(other)


async def test_answers_of_this_server_are_dropped_when_messages_may_be_lost(start, own_redis):
    one = await start()
    await answer(one, "an answer", STOP)
    own_redis.stop()
    await until(lambda: not one.shared.is_subscribed)
    own_redis.start()
    await until(lambda: one.shared.is_subscribed)
    assert not await is_hit(one)


async def test_an_answer_is_found_and_stored_again_after_an_outage_that_delays_one_request(
    start, own_redis, caplog, monkeypatch
):
    def set_pause(seconds):
        for name in ("FIRST_PAUSE_S", "LONGEST_PAUSE_S"):
            monkeypatch.setattr(shared_answers, name, seconds)

    caplog.set_level(logging.INFO, shared_answers.__name__)
    set_pause(0.0)
    one, other = await start(), await start()
    one.answers.lookup_s = other.answers.lookup_s = shared_answers.LOOKUP_S
    own_redis.pause()
    began = time.monotonic()
    for _ in range(5):
        assert await other.answers.find("t", USE) is None
    assert time.monotonic() - began >= 5 * shared_answers.LOOKUP_S
    set_pause(60.0)
    for _ in range(2000):
        assert await other.answers.find("t", USE) is None
    assert time.monotonic() - began < 20  # 100 s if each of them waited
    with pytest.raises(StoreUnavailable):
        await other.cache.delete("t", "1" * 32)
    assert not await is_hit(one, settles=False)
    own_redis.unpause()
    one.answers.lookup_s = other.answers.lookup_s = 20.0
    set_pause(0.0)
    for each in (one, other):
        each.answers._finding.pause()
        each.answers._storing.pause()
    await answer(one, "an answer", STOP)
    for _ in range(3):
        assert await is_hit(other)
    logged = [record.levelname for record in caplog.records if "not found" in record.message]
    assert logged == ["WARNING"]
    assert caplog.text.count("cached answers are found again") == 1


async def test_no_answer_is_stored_while_streams_need_the_memory_of_redis(start, own_redis, caplog):
    one, other = await start(), await start()
    await start.client.config_set("maxmemory-policy", "noeviction")
    await start.client.config_set("maxmemory", (await start.client.info())["used_memory"] * 3 // 2)
    await answer(one, "an answer", STOP)
    assert not await is_hit(other)
    assert "of its maxmemory" in caplog.text


@pytest.mark.parametrize(("timeout_s", "lookup_s"), [(2.0, 0.05), (0.02, 0.02)])
def test_a_lookup_takes_no_longer_than_its_bound_and_that_of_any_command(timeout_s, lookup_s):
    config = RedisConfig(url="redis://localhost", timeout_s=timeout_s)
    assert SharedAnswers(None, config, {}, {}, {}, {}).lookup_s == lookup_s


async def test_lookups_that_fail_together_count_as_one_failure(start, own_redis, caplog):
    replica = await start()
    replica.answers.lookup_s = 0.05
    own_redis.pause()
    await asyncio.gather(*(replica.answers.find("t", USE) for _ in range(20)))
    assert "not found" not in caplog.text
    own_redis.unpause()
