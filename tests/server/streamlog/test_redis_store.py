"""Stored logs, on a real Redis: what is stored, read and published, and what is refused."""

import asyncio
import secrets

import pytest
from redis.crc import key_slot

from tokenwire_server.config import RedisConfig
from tokenwire_server.errors import Failure, StoreUnavailable
from tokenwire_server.events import NO_USAGE, Finished, FinishReason, TextDelta, Timings
from tokenwire_server.streamlog.entries import StreamFacts, UnknownFormat
from tokenwire_server.streamlog.redis.connect import connected
from tokenwire_server.streamlog.redis.messages import (
    DeletedMessage,
    ReadersMessage,
    decode_message,
)
from tokenwire_server.streamlog.redis.store import (
    DELETED_S,
    Append,
    DamagedLog,
    LogId,
    LogStore,
    Outcome,
    Position,
    Result,
    channel,
    keys,
)

FINISHED = Finished(FinishReason.STOP, "m", "p", NO_USAGE, Timings(1.0))
FAILURE = Failure("UPSTREAM_BROKEN", "it broke", 2, NO_USAGE)
TTL_S = 60
FACTS = StreamFacts("tenant", 1.5, 30.0, request_id="r", body_hash=b"h")


def tokens(first, last):
    return [TextDelta(f"t{n} ", 0) for n in range(first, last + 1)]


class Log:
    """A log with a new id, as its owner writes it."""

    def __init__(self, store, client):
        self.store = store
        self.client = client
        self.id = LogId(secrets.token_hex(16), secrets.token_hex(8))
        # A cluster may deliver a message after the test that caused it. Each log has processes of its own.
        self.processes = [f"{name}-{self.id.epoch}" for name in ("a", "b")]

    def batch(self, first, entries, *, log=None, earliest=1, **fields):
        return Append(log or self.id, FACTS, first, entries, earliest, TTL_S, **fields)

    async def lease(self, process, lease_s):
        message = ReadersMessage(self.id.stream_id, process, 1)
        leases = [(self.id.stream_id, FACTS.tenant, message)]
        (position,) = await self.store.lease(leases, process, lease_s)
        return position

    async def append(self, first, entries, **fields):
        (result,) = await self.store.append([self.batch(first, entries, **fields)])
        return result

    async def read(self, after_sequence=0):
        """Return the stored entries after a sequence."""
        part = await self.store.read(self.id.stream_id, after_sequence)
        entries = [entry for batch in part.batches for entry in batch.entries]
        return entries[len(entries) - (part.last_sequence - after_sequence) :]


@pytest.fixture(params=["redis_server", "redis_cluster"])
async def client(request):
    url = request.getfixturevalue(request.param).url
    async with connected(RedisConfig(url=url)) as client:
        yield client


@pytest.fixture
def log(client):
    return Log(LogStore(client), client)


async def test_batches_are_read_back_after_any_sequence(log):
    assert await log.append(1, tokens(1, 3)) == (Outcome.STORED, 3)
    assert await log.append(4, [*tokens(4, 4), FINISHED]) == (Outcome.STORED, 5)
    for after in range(6):
        assert await log.read(after) == [*tokens(1, 4), FINISHED][after:]
    part = await log.store.read(log.id.stream_id, 0)
    assert part[:5] == (log.id.epoch, FACTS, 1, 5, True)


async def test_several_logs_are_stored_with_one_call(log, client):
    others = [Log(log.store, client) for _ in range(3)]
    appends = [each.batch(1, tokens(1, 2)) for each in others]
    assert await log.store.append([*appends, log.batch(7, tokens(7, 7))]) == [
        *[Result(Outcome.STORED, 2)] * 3,
        Result(Outcome.GAP, 0),
    ]


async def test_an_append_that_is_repeated_stores_its_entries_once(log):
    for _ in range(2):
        assert await log.append(1, tokens(1, 2)) == (Outcome.STORED, 2)
        assert await log.append(3, [], failure=FAILURE) == (Outcome.STORED, 2)
    for after, expected in ((0, [None, FAILURE]), (2, [FAILURE])):
        part = await log.store.read(log.id.stream_id, after)
        assert [batch.failure for batch in part.batches] == expected


@pytest.mark.parametrize("first", [1, 2, 4])
async def test_a_batch_that_does_not_follow_the_last_one_is_refused(log, first):
    await log.append(1, tokens(1, 2))
    assert await log.append(first, tokens(first, 4)) == (Outcome.GAP, 2)
    assert await log.read() == tokens(1, 2)


async def test_a_process_of_another_epoch_can_append_nothing(log):
    await log.append(1, tokens(1, 2))
    other = LogId(log.id.stream_id, secrets.token_hex(8))
    assert await log.append(3, tokens(3, 3), log=other) == (Outcome.DISPLACED, 2)
    assert await log.read() == tokens(1, 2)


async def test_old_batches_are_dropped_as_their_owner_drops_their_entries(log):
    await log.append(1, tokens(1, 2))
    await log.append(3, tokens(3, 4))
    await log.append(5, tokens(5, 5), earliest=3)
    part = await log.store.read(log.id.stream_id, 0)
    assert (part.earliest_sequence, part.batches[0].first_sequence) == (3, 3)


@pytest.mark.parametrize("kept", [[], ["state"], ["entries"]], ids=["nothing", "state", "entries"])
async def test_a_log_that_redis_has_lost_is_stored_again_from_its_owners_first_entry(log, kept):
    await log.append(1, tokens(1, 2))
    await log.append(3, tokens(3, 4), earliest=3)
    for key in keys(log.id.stream_id):
        if key.rpartition(":")[2] not in kept:
            await log.client.delete(key)
    assert await log.append(5, tokens(5, 5), earliest=3) == (Outcome.GAP, 2)
    assert await log.append(3, tokens(3, 4), earliest=3) == (Outcome.STORED, 4)
    assert await log.append(5, tokens(5, 5), earliest=3) == (Outcome.STORED, 5)
    assert await log.read(2) == tokens(3, 5)


async def test_each_key_of_a_stream_expires_and_all_are_on_one_server_of_a_cluster(log):
    await log.append(1, tokens(1, 1))
    await log.lease("a", 5)
    left_s = [await log.client.ttl(key) for key in keys(log.id.stream_id)]
    assert all(0 < left <= limit for left, limit in zip(left_s, (60, 60, 5), strict=True))
    assert len({key_slot(key.encode()) for key in keys(log.id.stream_id)}) == 1


async def test_the_processes_that_hold_a_lease_get_each_batch_after_it_is_stored(log):
    a, b = log.processes
    async with log.client.pubsub(ignore_subscribe_messages=True) as messages:
        await messages.subscribe(channel(a), channel(b))
        await messages.get_message(timeout=5)
        await messages.get_message(timeout=5)
        await log.append(1, tokens(1, 1))
        await log.lease(a, 30)
        await log.lease(b, 30)
        await log.client.zadd(keys(log.id.stream_id)[2], {"expired": 1})
        await log.append(2, tokens(2, 2))
        await log.lease(a, 0)
        await log.append(3, tokens(3, 3))
        found = [await messages.get_message(timeout=5) for _ in range(3)]
    assert [each["channel"].decode() for each in found] == [channel(a), channel(b), channel(b)]
    assert all(each["data"].startswith(log.id.header) for each in found)


async def test_a_lease_tells_its_position_to_the_reader_and_the_readers_to_the_owner(log):
    assert await log.lease("a", 5) is None
    await log.append(1, tokens(1, 2))
    async with log.client.pubsub(ignore_subscribe_messages=True) as messages:
        await messages.subscribe(channel(log.id.epoch))
        await messages.get_message(timeout=5)
        assert await log.lease("a", 5) == Position(log.id.epoch, 2, False)
        message = await messages.get_message(timeout=5)
        assert decode_message(message["data"]) == ReadersMessage(log.id.stream_id, "a", 1)
        await log.append(3, [FINISHED])
        assert await log.lease("a", 5) == Position(log.id.epoch, 3, True)
        assert await messages.get_message(timeout=0.01) is None


async def test_a_log_that_is_deleted_is_gone_and_its_processes_are_told(log):
    a = log.processes[0]
    await log.append(1, tokens(1, 2))
    async with log.client.pubsub(ignore_subscribe_messages=True) as messages:
        await messages.subscribe(channel(a), channel(log.id.epoch))
        await messages.get_message(timeout=5)
        await messages.get_message(timeout=5)
        # A node of a cluster may hand on this message later than the lease returns.
        await log.lease(a, 5)
        leased = await messages.get_message(timeout=5)
        assert isinstance(decode_message(leased["data"]), ReadersMessage)
        await log.store.delete(log.id.stream_id, FACTS.tenant)
        found = [await messages.get_message(timeout=5) for _ in range(2)]
    assert {each["channel"].decode() for each in found} == {channel(a), channel(log.id.epoch)}
    assert {decode_message(each["data"]) for each in found} == {DeletedMessage(log.id.stream_id)}
    entries, state, readers = keys(log.id.stream_id)
    assert not await log.client.exists(entries, readers)
    assert 0 < await log.client.ttl(state) <= DELETED_S
    await log.store.delete(log.id.stream_id, FACTS.tenant)
    assert (await log.append(1, tokens(1, 2))).outcome == Outcome.DELETED
    assert (await log.lease(a, 5)).is_deleted
    assert await log.store.read(log.id.stream_id, 0) is None


async def test_a_log_can_be_replaced_by_its_owner(log):
    await log.append(1, tokens(1, 2))
    await log.append(3, tokens(3, 4))
    await log.client.xdel(keys(log.id.stream_id)[0], "2-0")
    assert await log.append(1, tokens(1, 4)) == (Outcome.STORED, 4)
    with pytest.raises(DamagedLog):
        await log.read()
    assert await log.append(1, tokens(1, 4), replaces=True) == (Outcome.STORED, 4)
    assert await log.read() == tokens(1, 4)


async def test_a_lease_ends_by_itself(log):
    await log.append(1, tokens(1, 1))
    await log.lease("gone", 0.001)
    await log.client.persist(keys(log.id.stream_id)[2])
    await asyncio.sleep(0.002)
    await log.lease("here", 30)
    assert await log.client.zrange(keys(log.id.stream_id)[2], 0, -1) == [b"here"]


async def test_an_unknown_stream_has_no_log(log):
    assert await log.store.read(log.id.stream_id, 0) is None


async def test_a_log_with_missing_entries_is_an_error(log):
    for first in (1, 3, 5):
        await log.append(first, tokens(first, first + 1))
    entries = keys(log.id.stream_id)[0]
    await log.client.xdel(entries, "4-0")
    assert await log.read(4) == tokens(5, 6)
    with pytest.raises(DamagedLog, match="lacks sequence 3: it names 1 to 6"):
        await log.read(2)
    await log.client.xdel(entries, "6-0")
    with pytest.raises(DamagedLog, match="lacks sequence 5"):
        await log.read(4)


async def test_entries_of_a_later_version_are_an_error(log):
    await log.append(1, tokens(1, 1))
    await log.client.xadd(keys(log.id.stream_id)[0], {"b": b"\x02"}, id="2-0")
    with pytest.raises(UnknownFormat, match="expected entries in format 1, found format 2"):
        await log.read()


async def test_a_redis_that_is_down_is_a_named_error_and_serves_again_when_it_is_back(own_redis):
    async with connected(RedisConfig(url=own_redis.url)) as client:
        log = Log(LogStore(client), client)
        await log.append(1, tokens(1, 1))
        own_redis.stop()
        for call in (
            log.append(2, tokens(2, 2)),
            log.read(),
            log.lease("a", 5),
            log.store.delete(log.id.stream_id, FACTS.tenant),
            log.store.send([("a", DeletedMessage(log.id.stream_id))]),
        ):
            with pytest.raises(StoreUnavailable) as unavailable:
                await call
            assert "Redis" in unavailable.value.detail
        own_redis.start()
        assert await log.append(2, tokens(2, 2)) == (Outcome.GAP, 0)
        assert await log.append(1, tokens(1, 2)) == (Outcome.STORED, 2)
