"""Shared streams when something else happens during a wait, on a real Redis."""

import asyncio

import pytest
from shared_support import (
    FINISHED,
    LIMIT_S,
    Owned,
    read,
    text_of,
    until,
)

from tokenwire_server.errors import StoreUnavailable, StreamFailed
from tokenwire_server.request import Retention
from tokenwire_server.streamlog.redis import copies as copies_module
from tokenwire_server.streamlog.redis.claims import RequestClaims
from tokenwire_server.streamlog.redis.messages import CancelMessage, ReadersMessage
from tokenwire_server.streamlog.redis.store import LogStore, keys


async def test_a_request_id_gives_a_stream_that_can_be_read_although_redis_is_slow(
    start, monkeypatch
):
    monkeypatch.setattr(copies_module, "SEALED_IDLE_S", 0.05)
    owner, other = await start(), await start()
    owned = await owner.chat("r")
    owned.append(2)
    owned.finish()
    await until(lambda: not owner.shared.due_count)
    is_lost = RequestClaims.is_lost

    async def is_lost_slowly(claims, claim):
        await asyncio.sleep(0.2)
        return await is_lost(claims, claim)

    monkeypatch.setattr(RequestClaims, "is_lost", is_lost_slowly)
    stream = await other.chat("r")
    assert await read(stream) == (text_of(2, 3), FINISHED)


async def test_a_request_id_is_not_freed_because_its_reader_is_cut_off(start, monkeypatch):
    owner, other = await start(), await start()
    owned = await owner.chat("r")
    await until(lambda: not owner.shared.due_count)
    reader = (await other.find(owned.id, 0)).join()
    is_lost = RequestClaims.is_lost

    async def end_readers(claims, claim):
        found = await is_lost(claims, claim)
        other.shared.end_readers()
        monkeypatch.setattr(RequestClaims, "is_lost", is_lost)
        return found

    monkeypatch.setattr(RequestClaims, "is_lost", end_readers)
    stream = await other.chat("r")
    assert not isinstance(stream, Owned), "no second generation"
    assert stream.id == owned.id
    reader.__exit__(None, None, None)


async def test_request_ids_are_claimed_again_although_redis_fails_at_first(
    start, client, monkeypatch
):
    owner, other = await start(), await start()
    owned = await owner.chat("r")
    owned.append()
    await asyncio.sleep(0.2)  # the leases are stored
    take_again, calls = RequestClaims.take_again, []

    async def fail_once(claims, taken):
        calls.append(taken)
        if len(calls) == 1:
            raise StoreUnavailable("Redis: busy", store="shared log")
        await take_again(claims, taken)

    monkeypatch.setattr(RequestClaims, "take_again", fail_once)
    await client.flushall()
    async with asyncio.timeout(LIMIT_S):
        while not await client.keys("*request*"):
            await asyncio.sleep(0.02)
    assert (await other.chat("r")).id == owned.id


async def test_a_request_id_of_a_stream_that_has_expired_is_free_at_once_in_all_processes(start):
    owner, other = await start(), await start()
    owned = await owner.chat("r")
    owned.append()
    owned.finish()
    await until(lambda: not owner.shared.due_count)
    stream = await other.find(owned.id)
    await other.directory.delete_stored(stream)
    await until(lambda: owner.directory.find_local(owned.id) is None)
    async with asyncio.timeout(3):
        assert isinstance(await other.chat("r"), Owned)


async def test_a_request_id_is_kept_while_other_processes_can_find_its_stream(start, client):
    owner, other = await start(), await start()
    dropped, extended = await owner.chat("r"), await owner.chat("s")
    for owned in (dropped, extended):
        owned.append()
        owned.finish()
    await until(lambda: not owner.shared.due_count)
    owner.directory.remove(dropped.handle)  # for want of memory
    extended.handle.retention = Retention(linger_s=60, log_ttl_s=0.0)
    owner.directory.remove(extended.handle)
    async with asyncio.timeout(LIMIT_S):
        while len(await client.keys("*request*")) > 1:
            await asyncio.sleep(0.02)
    extended.handle.retention = dropped.handle.retention
    owner.directory.add(extended.handle)
    async with asyncio.timeout(LIMIT_S):
        while len(await client.keys("*request*")) < 2:
            await asyncio.sleep(0.02)
    for request_id, owned in (("r", dropped), ("s", extended)):
        assert (await other.chat(request_id)).id == owned.id
    lefts = sorted([await client.ttl(key) for key in await client.keys("*request*")])
    assert 0 < lefts[0] <= 60 < lefts[1]


async def test_a_call_gets_all_that_is_stored_while_another_one_reads_it(start, monkeypatch):
    owner, other = await start(), await start()
    owned = owner.open(linger_s=60)
    for _ in range(3):
        owned.append(2)
        await until(lambda: not owner.shared.due_count)
    read_stored = LogStore.read
    monkeypatch.setattr("tokenwire_server.streamlog.redis.store.MAX_READ_BATCHES", 1)

    async def read_slowly(store, stream_id, after_sequence):
        await asyncio.sleep(0.1)
        return await read_stored(store, stream_id, after_sequence)

    monkeypatch.setattr(LogStore, "read", read_slowly)
    finding = asyncio.create_task(other.find(owned.id, 0))
    await until(lambda: other.shared.copy_count)
    assert (await other.find(owned.id, 0)).log.last_sequence == 6
    await finding


async def test_a_call_that_looks_for_a_stream_while_the_process_ends_gets_an_error(start):
    owner, other = await start(), await start()
    owned = owner.open(linger_s=60)
    owned.append(2)
    await until(lambda: not owner.shared.due_count)
    finding = asyncio.create_task(other.find(owned.id, 0))
    while not other.shared._copies._opening._running:
        await asyncio.sleep(0)
    await other.kill()
    with pytest.raises(StoreUnavailable):
        await finding


async def test_an_end_that_is_stored_reaches_the_readers_before_that_its_owner_dropped_it(start):
    # In a cluster, messages of two servers have no order.
    owner, other = await start(), await start()
    owned = owner.open(linger_s=60)
    owned.append(3)
    reading = asyncio.create_task(read(await other.find(owned.id, 0)))
    await until(lambda: owned.handle.reader_count == 1)
    got_batch, late = other.shared._copies.got_batch, []
    other.shared._copies.got_batch = lambda *batch: late.append(batch)
    message = ReadersMessage(owned.id, other.id, 1)
    owned.finish()
    await until(lambda: not owner.shared.due_count)
    owner.directory.remove(owned.handle)
    owner.shared.got_message(message)
    await asyncio.sleep(0.1)
    for batch in late:
        got_batch(*batch)
    assert await reading == (text_of(1, 3), FINISHED)


async def test_readers_get_an_error_if_only_their_leases_are_refused(start, client, monkeypatch):
    monkeypatch.setattr(copies_module, "LEASE_EVERY_S", 0.6)
    owner, other = await start(), await start()
    owned = owner.open(linger_s=60)
    owned.append(3)
    await until(lambda: not owner.shared.due_count)
    reading = asyncio.create_task(read(await other.find(owned.id, 0)))
    await until(lambda: owned.handle.reader_count == 1)
    lease = LogStore.lease

    async def refuse(store, leases, *arguments):
        raise StoreUnavailable("Redis: no answer within 2 s", store="shared log")

    monkeypatch.setattr(LogStore, "lease", refuse)
    async with asyncio.timeout(5 * copies_module.READER_LEASE_S):
        with pytest.raises(StreamFailed) as failed:
            await reading
    assert failed.value.reason == "STORE_UNAVAILABLE"
    monkeypatch.setattr(LogStore, "lease", lease)


async def test_leases_are_renewed_while_many_copies_are_read(start, client, monkeypatch):
    owner, other = await start(), await start()
    streams = [owner.open(linger_s=60) for _ in range(30)]
    for owned in streams:
        owned.append(3)
    await until(lambda: not owner.shared.due_count)
    readings = [asyncio.create_task(read(await other.find(each.id, 0))) for each in streams]
    await until(lambda: all(each.handle.reader_count for each in streams))
    read_stored = LogStore.read

    async def read_slowly(store, stream_id, after_sequence):
        await asyncio.sleep(0.1)
        return await read_stored(store, stream_id, after_sequence)

    monkeypatch.setattr(LogStore, "read", read_slowly)
    other.shared.subscribed()
    for _ in range(25):
        await asyncio.sleep(0.1)
        assert await client.exists(keys(streams[-1].id)[2])
    for owned in streams:
        owned.append()
        owned.finish()
    for reading in readings:
        assert await reading == (text_of(1, 4), FINISHED)


async def test_leases_and_cancellations_of_many_copies_take_few_round_trips_of_bounded_size(
    start, monkeypatch
):
    monkeypatch.setattr(copies_module, "MAX_LEASES", 8, raising=False)
    owner, other = await start(), await start()
    streams = [owner.open(linger_s=60) for _ in range(20)]
    for owned in streams:
        owned.append()
    await until(lambda: not owner.shared.due_count)
    copies = [await other.find(owned.id) for owned in streams]
    lease_sizes, cancel_sizes = [], []
    lease, send = LogStore.lease, LogStore.send

    async def lease_some(store, leases, *arguments):
        lease_sizes.append(len(leases))
        return await lease(store, leases, *arguments)

    async def send_some(store, messages):
        if messages and isinstance(messages[0][1], CancelMessage):
            cancel_sizes.append(len(messages))
        await send(store, messages)

    monkeypatch.setattr(LogStore, "lease", lease_some)
    monkeypatch.setattr(LogStore, "send", send_some)
    for copy in copies:
        copy.cancel()
    await until(lambda: all(owned.log.sealed for owned in streams))
    assert max(lease_sizes) == 8
    assert sorted(cancel_sizes[:3]) == [4, 8, 8]  # they may be sent in any order
