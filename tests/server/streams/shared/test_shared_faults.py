"""Shared streams while processes die, and while a real Redis is slow, loses data or goes away."""

import asyncio
import secrets

import msgspec
import pytest
from shared_support import (
    FINISHED,
    LIMIT_S,
    TENANT,
    on_a_cluster_too,
    read,
    text_of,
    until,
)

from tokenwire_server.errors import (
    StoreUnavailable,
    StreamFailed,
    StreamNotFound,
)
from tokenwire_server.events import (
    Usage,
)
from tokenwire_server.streamlog.redis import copies as copies_module
from tokenwire_server.streamlog.redis import presence as presence_module
from tokenwire_server.streamlog.redis.messages import DeletedMessage
from tokenwire_server.streamlog.redis.store import LogStore, channel, keys


@on_a_cluster_too
async def test_readers_of_a_lost_process_get_producer_lost_after_all_that_is_stored(start):
    owner, other = await start(), await start()
    owned = owner.open()
    owned.append(3)
    await until(lambda: not owner.shared.due_count)
    reading = asyncio.create_task(read(await other.find(owned.id, 0)))
    await until(lambda: owned.handle.reader_count == 1)
    await owner.kill()
    with pytest.raises(StreamFailed) as failed:
        await reading
    assert (failed.value.reason, failed.value.at.last_sequence) == ("PRODUCER_LOST", 3)
    with pytest.raises(StreamFailed) as failed:  # also who comes later, and with a cursor beyond it
        await read(await other.find(owned.id, 4), 4)
    assert failed.value.reason == "PRODUCER_LOST"


async def test_reading_that_takes_long_does_not_delay_the_lease_of_the_process(start, monkeypatch):
    owner, other = await start(), await start()
    owned, theirs = owner.open(linger_s=60), other.open(linger_s=60)
    for each in (owned, theirs):
        each.append(3)
    await until(lambda: not owner.shared.due_count + other.shared.due_count)
    reading = asyncio.create_task(read(await owner.find(theirs.id, 0)))
    await other.find(owned.id)
    read_stored = LogStore.read

    async def read_slowly(store, stream_id, after_sequence):
        if stream_id == owned.id:
            await asyncio.sleep(3 * presence_module.LEASE_S)
        return await read_stored(store, stream_id, after_sequence)

    monkeypatch.setattr(LogStore, "read", read_slowly)
    other.shared.subscribed()  # its copy is read
    await asyncio.sleep(3 * presence_module.LEASE_S)
    theirs.finish()
    assert await reading == (text_of(1, 3), FINISHED)


async def test_lookups_of_one_tenant_delay_neither_other_tenants_nor_the_stored_logs(start, client):
    owner, other = await start(), await start()
    owned = owner.open(linger_s=60)
    owned.append(3)
    await until(lambda: not owner.shared.due_count)
    pool = client.connection_pool
    flood = [
        asyncio.create_task(other.find(secrets.token_hex(16), tenant="tenant-b"))
        for _ in range(2000)
    ]
    await asyncio.sleep(0)
    assert (await other.find(owned.id)).id == owned.id
    assert pool.can_get_connection()
    assert sum(not each.done() for each in flood) > 1000
    found = await asyncio.gather(*flood, return_exceptions=True)
    assert {type(each) for each in found} <= {StreamNotFound, StoreUnavailable}


async def test_after_redis_is_flushed_no_process_is_lost_and_readers_get_every_entry(start, client):
    owner, other = await start(), await start()
    owned = owner.open(linger_s=60)
    owned.append(3)
    await until(lambda: not owner.shared.due_count)
    await asyncio.sleep(presence_module.LEASE_S)
    reading = asyncio.create_task(read(await other.find(owned.id, 0)))
    await until(lambda: owned.handle.reader_count == 1)
    for number in range(10):
        if number % 3 == 0:
            await client.flushall()
        owned.append()
        await asyncio.sleep(0.1)
    await client.flushall()
    owned.finish()
    assert await reading == (text_of(1, 13), FINISHED)


async def test_a_failure_that_is_stored_again_with_the_last_entries_reaches_the_readers(
    start, client
):
    owner, other = await start(), await start()
    owned = owner.open(linger_s=60)
    owned.append(3)
    await until(lambda: not owner.shared.due_count)
    with (await other.find(owned.id, 0)).join() as reader:
        assert [sequence for sequence, _ in await reader.take()] == [3]
        await client.flushall()
        owned.fail()
        with pytest.raises(StreamFailed) as failed:
            async with asyncio.timeout(LIMIT_S):
                await reader.take()
    assert failed.value.reason == "UPSTREAM_BROKEN"


@pytest.mark.parametrize("reason", ["PRODUCER_LOST", "STREAM_NOT_FOUND"])
async def test_a_copy_that_ends_while_it_is_read_from_the_store_is_not_read_on(
    start, monkeypatch, reason
):
    owner, other = await start(), await start()
    owned = owner.open(linger_s=60)
    owned.append(3)
    await until(lambda: not owner.shared.due_count)
    copies = other.shared._copies
    read_stored, read_count = LogStore.read, 0

    async def read_and_end(store, stream_id, after_sequence):
        nonlocal read_count
        read_count += 1
        if read_count == 2:  # of the copy that is being opened
            owned.append(3)
            await owner.shared._writer.store_due()
            if reason == "PRODUCER_LOST":
                copies._lose(copies.get(owned.id))
            else:
                other.shared.got_message(DeletedMessage(owned.id))
        return await read_stored(store, stream_id, after_sequence)

    monkeypatch.setattr(LogStore, "read", read_and_end)
    async with asyncio.timeout(LIMIT_S):
        with pytest.raises(StreamFailed) as failed:
            await read(await other.find(owned.id, 0))
    assert failed.value.reason == reason
    assert read_count == 2


async def test_what_cannot_be_stored_or_read_harms_no_other_stream(start, client, caplog):
    owner, other = await start(), await start()
    bad, good = owner.open(linger_s=60), owner.open(linger_s=60)
    for owned in (bad, good):
        owned.append(2)
    await until(lambda: not owner.shared.due_count)
    reading = [asyncio.create_task(read(await other.find(owned.id, 0), 0)) for owned in (bad, good)]
    await client.publish(channel(other.id), b"C1\x92\xa6cancel\xa2\xff\xfe")  # no UTF-8
    good.append()
    bad.finish(msgspec.structs.replace(FINISHED, usage=Usage(10**30, 1)))
    with pytest.raises(StreamFailed) as failed:
        await reading[0]
    assert failed.value.reason == "PRODUCER_LOST"
    damaged = owner.open(linger_s=60)
    damaged.append()
    await until(lambda: not owner.shared.due_count)
    await client.hdel(keys(damaged.id)[1], "facts")
    assert (await other.find(damaged.id)).log.read(0) == damaged.log.read(0)
    good.finish()
    assert await reading[1] == (text_of(1, 3), FINISHED)
    assert "have no stored form" in caplog.text


@pytest.mark.parametrize("lost", ["entries", "state", "message", "lease"])
async def test_what_redis_loses_of_a_stream_is_repaired(start, client, lost):
    owner, other = await start(), await start()
    owned = owner.open(linger_s=60)
    owned.append(3)
    await until(lambda: not owner.shared.due_count)
    reading = asyncio.create_task(read(await other.find(owned.id, 0)))
    await until(lambda: owned.handle.reader_count == 1)
    if lost == "message":  # the connection for messages is silent: another one has its subscription
        await client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    elif lost == "lease":
        await client.delete(keys(owned.id)[2])
    else:
        await client.delete(*[key for key in keys(owned.id) if key.endswith(lost)])
    owned.append(5)
    await until(lambda: not owner.shared.due_count)
    await asyncio.sleep(0.3)
    owned.finish()
    assert await reading == (text_of(1, 8), FINISHED)
    third = await start()
    assert await read(await third.find(owned.id, 0)) == (text_of(1, 8), FINISHED)


@pytest.mark.parametrize("lost", ["a part", "entries", "state"])
async def test_a_log_that_redis_lost_a_part_of_is_found_while_its_owner_lives(start, client, lost):
    owner, other = await start(), await start()
    owned = owner.open(linger_s=60)
    for _ in range(3):
        owned.append(2)
        await until(lambda: not owner.shared.due_count)
    if lost == "a part":
        await client.xdel(keys(owned.id)[0], "4-0")
    else:
        await client.delete(*[key for key in keys(owned.id) if key.endswith(lost)])
    if lost == "state":  # nothing names the owner
        with pytest.raises(StreamNotFound):
            await other.find(owned.id, 0)
        owned.append()
        await until(lambda: not owner.shared.due_count)
    assert (await other.find(owned.id, 0)).log.read(0) == owned.log.read(0)
    await owner.kill()
    await client.delete(keys(owned.id)[0])
    third = await start()
    with pytest.raises(StreamNotFound):
        await third.find(owned.id, 0)


async def test_after_redis_lost_everything_readers_wait_until_owners_have_stored_it_again(
    start, client, monkeypatch
):
    owner, other = await start(), await start()
    owned = owner.open(linger_s=60)
    owned.append(3)
    owned.finish()
    await until(lambda: not owner.shared.due_count)
    await client.flushall()
    monkeypatch.setattr(copies_module, "UNKNOWN_WAIT_S", 0.0)
    assert await read(await other.find(owned.id, 0)) == (text_of(1, 3), FINISHED)


async def test_no_process_is_lost_because_redis_did_not_answer_for_a_while(client):
    one, other = (presence_module.Presence(client, name) for name in ("one", "other"))
    await one.lost_of(())
    await other.lost_of(())
    await asyncio.sleep(0.6 * presence_module.LEASE_S)
    await other.lost_of(())
    await asyncio.sleep(0.6 * presence_module.LEASE_S)  # the lease of the other one is still valid
    assert await other.lost_of({"one"}) == set()
    async with asyncio.timeout(LIMIT_S):
        while not await other.lost_of({"one"}):
            await asyncio.sleep(0.05)


async def test_a_stream_that_was_deleted_while_its_owner_was_out_of_reach_is_deleted_later(
    start, client
):
    owner, other = await start(), await start()
    running, ended = owner.open(linger_s=60), owner.open(linger_s=60)
    for owned in (running, ended):
        owned.append(3)
    ended.finish()
    await until(lambda: not owner.shared.due_count)
    owner.shared._bus._receiver = other.shared  # it gets no messages
    for owned in (running, ended):
        await other.shared._store.delete(owned.id, TENANT)
    owner.shared.subscribed()
    for owned in (running, ended):
        await until(lambda owned=owned: owner.directory.find_local(owned.id) is None)
        assert owned.log.sealed
        with pytest.raises(StreamNotFound):
            await other.find(owned.id)


async def test_readers_that_missed_the_end_of_an_expired_stream_get_not_found_at_once(
    start, monkeypatch
):
    monkeypatch.setattr(copies_module, "READER_LEASE_S", 15.0)
    owner, other = await start(), await start()
    owned = owner.open(linger_s=60, log_ttl_s=0.0)
    owned.append(3)
    reading = asyncio.create_task(read(await other.find(owned.id, 0)))
    await until(lambda: owned.handle.reader_count == 1)
    other.shared._copies.got_batch = lambda *_: None
    owned.finish()
    owner.delete(owned.handle)
    async with asyncio.timeout(10):
        with pytest.raises(StreamFailed) as failed:
            await reading
    assert failed.value.reason == "STREAM_NOT_FOUND"


async def test_a_failed_stream_that_expires_while_it_is_looked_for_is_not_found(start):
    owner, other = await start(), await start()
    owned = owner.open()
    owned.append(3)
    owned.fail()
    await until(lambda: not owner.shared.due_count)
    copies, found = other.shared._copies, other.shared._copies.open

    async def open_and_drop(*arguments, **options):
        copy = await found(*arguments, **options)
        copies.drop(copy)
        return copy

    copies.open = open_and_drop
    with pytest.raises(StreamNotFound):
        await other.find(owned.id)
