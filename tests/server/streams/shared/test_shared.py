"""Streams that other processes read, resume, cancel and delete, through a real Redis."""

import asyncio
import secrets
import time

import pytest
from shared_support import (
    FINISHED,
    LIMIT_S,
    TENANT,
    USAGE,
    on_a_cluster_too,
    read,
    text_of,
    until,
)

from tokenwire_server.errors import (
    ResumePointAhead,
    StoreUnavailable,
    StreamFailed,
    StreamNotFound,
)
from tokenwire_server.events import (
    CaughtUp,
    DrainNotice,
    FinishReason,
    Usage,
)
from tokenwire_server.streamlog.redis import copies as copies_module
from tokenwire_server.streamlog.redis import lookups as lookups_module
from tokenwire_server.streamlog.redis.messages import ReadersMessage, decode_message
from tokenwire_server.streamlog.redis.store import channel, keys


@on_a_cluster_too
@pytest.mark.parametrize("end", ["finish", "fail"])
async def test_a_stream_is_read_elsewhere_from_any_sequence_to_its_end(start, end):
    owner, other = await start(), await start()
    owned = owner.open(linger_s=60)
    owned.append(5)
    await until(lambda: not owner.shared.due_count)
    readers = [
        asyncio.create_task(read(await other.find(owned.id, after), after)) for after in (0, 3, 5)
    ]
    for _ in range(20):
        owned.append()
        await asyncio.sleep(0.002)
    if end == "finish":
        owned.finish()
        for after, reader in zip((0, 3, 5), readers, strict=True):
            assert await reader == (text_of(after + 1, 25), FINISHED)
    else:
        owned.fail()
        for reader in readers:
            with pytest.raises(StreamFailed) as failed:
                await reader
            assert (failed.value.reason, failed.value.at.last_sequence) == ("UPSTREAM_BROKEN", 25)
            assert failed.value.at.usage == USAGE
    ended = await other.find(owned.id)
    assert (ended.end_time, ended.usage()) == (owned.handle.end_time, USAGE)
    assert (ended.created_time, ended.retention) == (
        owned.handle.created_time,
        owned.handle.retention,
    )
    third = await start()
    assert (await third.find(owned.id, 0)).log.read(0) == owned.log.read(0)


async def found_when_available(process, *arguments, **options):
    """Find a stream. On a busy machine, a short lease may expire: then nothing is found for a while."""
    async with asyncio.timeout(10):
        while True:
            try:
                return await process.find(*arguments, **options)
            except StoreUnavailable:
                await asyncio.sleep(0.1)


async def test_another_tenants_stream_and_an_unknown_one_are_not_found(start, client):
    owner, other = await start(), await start()
    owned = owner.open()
    owned.append()
    await until(lambda: not owner.shared.due_count)
    for stream_id, tenant in ((owned.id, "tenant-b"), (secrets.token_hex(16), TENANT)):
        for process in (owner, other):
            began = time.monotonic()
            with pytest.raises(StreamNotFound):
                await process.find(stream_id, tenant=tenant)
            assert time.monotonic() - began >= lookups_module.UNKNOWN_WAIT_S
    foreign, own = await asyncio.gather(
        other.find(owned.id, tenant="tenant-b"), other.find(owned.id), return_exceptions=True
    )
    assert isinstance(foreign, StreamNotFound)
    assert own.id == owned.id
    began = time.monotonic()
    with pytest.raises(StreamNotFound):
        await other.find(owned.id, tenant="tenant-b")
    assert time.monotonic() - began >= lookups_module.UNKNOWN_WAIT_S
    third = await start()
    for _ in range(2):
        with pytest.raises(StreamNotFound):
            await found_when_available(third, owned.id, 0, tenant="tenant-b")
    assert third.id.encode() not in await client.zrange(keys(owned.id)[2], 0, -1)


async def test_a_stream_that_is_not_stored_yet_is_found_when_it_is(start, monkeypatch):
    monkeypatch.setattr(lookups_module, "UNKNOWN_WAIT_S", LIMIT_S)
    owner, other = await start(), await start()
    owned = owner.open()
    finding = asyncio.create_task(other.find(owned.id))
    await asyncio.sleep(0.1)
    owned.append()
    assert (await finding).log.read(0) == owned.log.read(0)


async def test_a_reader_ahead_of_what_is_stored_waits_for_the_owner_for_a_lease(start):
    owner, other = await start(), await start()
    owned = owner.open(linger_s=60)
    owned.append(2)
    await until(lambda: not owner.shared.due_count)
    finding = asyncio.create_task(other.find(owned.id, 3))
    await asyncio.sleep(0.05)
    owned.append(2)
    stream = await finding
    assert stream.log.last_sequence >= 3
    with pytest.raises(ResumePointAhead) as ahead:
        (await other.find(owned.id, 9)).join(9)
    assert ahead.value.facts()["latest_sequence"] == "4"


async def test_a_stream_ends_when_its_last_reader_has_left_in_whatever_process(start):
    owner, other = await start(), await start()
    owned = owner.open()
    owned.append()
    local = owned.handle.join()
    await until(lambda: not owner.shared.due_count)
    remote = (await other.find(owned.id, 0)).join(deadline=time.monotonic() + 1000)
    await until(lambda: owned.handle.reader_count == 2)
    await until(lambda: (owned.handle.latest_deadline or 0) == 0)
    local.__exit__(None, None, None)
    assert not owned.log.sealed
    await until(lambda: owned.handle.latest_deadline is not None)
    assert 990 < owned.handle.latest_deadline - time.monotonic() < 1010
    remote.__exit__(None, None, None)
    await until(lambda: owned.log.sealed)
    assert owned.log.finished.reason == FinishReason.CANCELLED


async def test_the_readers_of_a_process_that_dies_are_gone_after_their_lease(start):
    owner, other = await start(), await start()
    owned = owner.open()
    owned.append()
    await until(lambda: not owner.shared.due_count)
    (await other.find(owned.id, 0)).join()
    await until(lambda: owned.handle.reader_count == 1)
    await other.kill()
    await until(lambda: owned.log.sealed)
    assert owned.log.finished.reason == FinishReason.CANCELLED


async def test_usage_and_readers_of_other_processes_are_reported(start):
    owner, other = await start(), await start()
    owned = owner.open(linger_s=60)
    owned.append(3)
    owned.handle.join()
    await until(lambda: not owner.shared.due_count)
    stream = await other.find(owned.id)
    assert (stream.usage(), stream.reader_count) == (Usage(1, 3), 1)
    stream = await other.find(owned.id, 0)
    stream.join()
    await until(lambda: stream.reader_count == 2)
    assert stream.usage() == Usage(1, 3)


async def test_the_owner_reports_to_a_process_the_readers_in_all_others(start, client):
    owner = await start()
    owned = owner.open(linger_s=60)
    owned.append(3)
    owned.handle.join()
    await until(lambda: not owner.shared.due_count)
    async with client.pubsub(ignore_subscribe_messages=True) as messages:
        await messages.subscribe(channel("a"))
        await messages.get_message(timeout=5)
        owner.shared.got_message(ReadersMessage(owned.id, "b", 2))
        owner.shared.got_message(ReadersMessage(owned.id, "a", 1))
        status = decode_message((await messages.get_message(timeout=5))["data"])
    assert owned.handle.reader_count == 4
    assert status.other_reader_count == 3


@on_a_cluster_too
async def test_a_stream_is_cancelled_from_another_process(start):
    owner, other = await start(), await start()
    owned = owner.open(linger_s=60)
    owned.append(2)
    await until(lambda: not owner.shared.due_count)
    stream = await other.find(owned.id)
    stream.cancel()
    async with asyncio.timeout(LIMIT_S):
        await stream.log.wait_sealed()
    assert stream.log.finished == owned.log.finished
    assert owned.log.finished.reason == FinishReason.CANCELLED


@on_a_cluster_too
@pytest.mark.parametrize("deleter", ["owner", "reader", "third"])
async def test_a_deleted_stream_is_gone_in_all_processes(start, deleter, client):
    processes = {name: await start() for name in ("owner", "reader", "third")}
    owner, other = processes["owner"], processes["reader"]
    owned = owner.open(linger_s=60)
    owned.append(2)
    await until(lambda: not owner.shared.due_count)
    with (await other.find(owned.id, 0)).join(0) as reader:
        owned.finish()
        await until(lambda: reader._stream.log.sealed)
        stream = await processes[deleter].find(owned.id)
        await processes[deleter].directory.delete_stored(stream)
        processes[deleter].delete(stream)
        await until(lambda: reader._stream.is_deleted)
        with pytest.raises(StreamNotFound):
            await reader.take()
    await until(lambda: owner.directory.find_local(owned.id) is None)
    for process in processes.values():
        with pytest.raises(StreamNotFound):
            await process.find(owned.id)
    assert await client.exists(*keys(owned.id)) == 1  # that it was deleted


@pytest.mark.parametrize(("deleter", "lost"), [("owner", "lease"), ("reader", "log")])
async def test_a_deleted_stream_is_gone_in_all_processes_also_if_redis_has_lost_it(
    start, client, deleter, lost
):
    processes = {name: await start() for name in ("owner", "reader")}
    owner, other = processes["owner"], processes["reader"]
    owned = owner.open(linger_s=60)
    owned.append(2)
    owned.finish()
    await until(lambda: not owner.shared.due_count)
    with (await other.find(owned.id, 0)).join(0) as reader:
        entries, state, readers = keys(owned.id)
        await client.delete(*([readers] if lost == "lease" else [entries, state, readers]))
        await asyncio.sleep(3 * copies_module.LEASE_EVERY_S)
        stream = await processes[deleter].find(owned.id)
        await processes[deleter].directory.delete_stored(stream)
        processes[deleter].delete(stream)
        await until(lambda: owner.directory.find_local(owned.id) is None)
        await until(lambda: other.shared.copy_count == 0)
        with pytest.raises(StreamNotFound):
            await reader.take()


async def test_a_copy_drops_the_entries_that_its_log_drops(start):
    owner, other = await start(max_log_bytes=4096), await start(max_log_bytes=4096)
    owned = owner.open(linger_s=60, max_bytes=4096)
    owned.append(100)
    await until(lambda: not owner.shared.due_count)
    stream = await other.find(owned.id, None)
    assert stream.log.earliest_sequence == owned.log.earliest_sequence
    owned.append(100)
    await until(lambda: stream.log.last_sequence == 200)
    assert stream.log.read(199) == owned.log.read(199)
    assert stream.log.earliest_sequence > 100


async def test_a_copy_without_readers_is_dropped_with_its_memory(start, monkeypatch):
    monkeypatch.setattr(copies_module, "IDLE_S", 0.05)
    owner, other = await start(), await start()
    owned = owner.open(linger_s=60)
    owned.append(100)
    await until(lambda: not owner.shared.due_count)
    with (await other.find(owned.id, 0)).join() as reader:
        await reader.take()
        await asyncio.sleep(0.1)
        assert other.shared.copy_count == 1
    await until(lambda: other.shared.copy_count == 0)
    assert other.space.used_bytes == 0
    owned.finish()
    assert await read(await other.find(owned.id, 0)) == (text_of(1, 100), FINISHED)
    await until(lambda: other.shared.copy_count == 0)
    assert other.space.used_bytes == 0


async def test_a_reader_elsewhere_is_told_when_it_has_caught_up(start):
    owner, other = await start(), await start()
    owned = owner.open(linger_s=60)
    owned.append(2)
    await until(lambda: not owner.shared.due_count)
    with (await other.find(owned.id, 0)).join(reports_caught_up=True) as reader:
        assert [sequence for sequence, _ in await reader.take()] == [2]
        assert [event for _, event in await reader.take()] == [CaughtUp()]


async def test_a_cursor_beyond_a_log_that_failed_is_ahead_of_it_everywhere(start):
    owner, other = await start(), await start()
    owned = owner.open()
    owned.append(2)
    owned.fail()
    await until(lambda: not owner.shared.due_count)
    for process in (owner, other):
        with pytest.raises(ResumePointAhead):
            (await process.find(owned.id, 7)).join(7)


@pytest.mark.parametrize("end", ["finish", "fail"])
async def test_readers_elsewhere_get_the_end_of_a_log_that_its_owner_drops_at_once(
    start, client, end
):
    owner, other = await start(), await start()
    owned = owner.open(linger_s=60, log_ttl_s=0.0)
    owned.append(3)
    reading = asyncio.create_task(read(await other.find(owned.id, 0)))
    await until(lambda: owned.handle.reader_count == 1)
    owned.append(2)
    if end == "finish":
        owned.finish()
    else:
        owned.fail()
    owner.delete(owned.handle)
    if end == "finish":
        assert await reading == (text_of(1, 5), FINISHED)
    else:
        with pytest.raises(StreamFailed) as failed:
            await reading
        assert (failed.value.reason, failed.value.at.last_sequence) == ("UPSTREAM_BROKEN", 5)
    assert not await client.exists(*keys(owned.id)[:2])
    assert not owner.shared.due_count


async def test_when_a_process_drains_readers_of_other_processes_streams_get_draining(start):
    owner, other = await start(), await start()
    owned = owner.open(linger_s=60)
    owned.append(3)
    await until(lambda: not owner.shared.due_count)
    with (await other.find(owned.id, 0)).join() as reader:
        other.shared.announce_drain(time.monotonic() + 60)
        kinds = [type(event) for _, event in await reader.take() + await reader.take()]
        assert DrainNotice in kinds
        other.shared.end_readers()
        with pytest.raises(StreamFailed) as failed:
            while await reader.take():
                pass
    assert (failed.value.reason, owned.log.sealed) == ("DRAINING", False)


async def test_a_copy_is_dropped_if_all_that_wanted_it_have_gone(start, monkeypatch):
    monkeypatch.setattr(copies_module, "IDLE_S", 0.05)
    owner, other = await start(), await start()
    owned = owner.open(linger_s=60)
    owned.append(3)
    await until(lambda: not owner.shared.due_count)
    finding = asyncio.create_task(other.find(owned.id, 0))
    while not other.shared._copies._opening._running:
        await asyncio.sleep(0)
    finding.cancel()
    await until(lambda: other.shared.copy_count == 1)
    await until(lambda: other.shared.copy_count == 0)
    assert other.space.used_bytes == 0
