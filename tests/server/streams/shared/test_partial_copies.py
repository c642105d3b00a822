"""Copies for calls that need only the state of a stream, on a real Redis."""

import asyncio

import pytest
from shared_support import FINISHED, LIMIT_S, USAGE, on_a_cluster_too, read, text_of, until

from tokenwire_server.errors import StreamFailed
from tokenwire_server.streamlog.redis import writer as writer_module
from tokenwire_server.streamlog.redis import written as written_module
from tokenwire_server.streamlog.redis.store import LogStore, keys


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(written_module, "MAX_ENTRIES", 50)
    monkeypatch.setattr(writer_module, "WRITE_EVERY_S", 0.005)
    monkeypatch.setattr("tokenwire_server.streamlog.redis.store.MAX_READ_BATCHES", 3)


async def opened(owner, count, **options):
    owned = owner.open(linger_s=60, **options)
    owned.append(count)
    await until(lambda: not owner.shared.due_count)
    return owned


async def sent_bytes(client):
    """Return how much Redis has sent."""
    return (await client.info("stats"))["total_net_output_bytes"]


async def test_the_state_of_a_long_stream_is_found_without_its_entries(start, client):
    owner, other = await start(), await start()
    owned = await opened(owner, 5000)
    before = await sent_bytes(client)
    stream = await other.find(owned.id)
    assert (stream.log.earliest_sequence, stream.log.last_sequence) == (1, 5000)
    assert stream.usage() == owned.usage()
    part_bytes = await sent_bytes(client) - before
    await read_all(other, owned)
    all_bytes = await sent_bytes(client) - before - part_bytes
    print(f"{part_bytes} bytes for the state, {all_bytes} for the entries")
    assert part_bytes < all_bytes / 10


async def read_all(other, owned):
    reading = asyncio.create_task(read(await other.find(owned.id, 0)))
    owned.append(10)
    owned.finish()
    assert await reading == (text_of(1, owned.log.last_sequence - 1), FINISHED)


@on_a_cluster_too
@pytest.mark.parametrize("end", ["finish", "fail"])
async def test_the_state_of_a_long_stream_that_has_ended_is_found(start, end):
    owner, other = await start(), await start()
    owned = await opened(owner, 1000)
    if end == "finish":
        owned.finish()
    else:
        owned.fail()
    await until(lambda: not owner.shared.due_count)
    stream = await other.find(owned.id)
    log = stream.log
    assert log.is_partial
    assert (log.finished, log.failure) == (owned.log.finished, owned.log.failure)
    assert (log.earliest_sequence, log.last_sequence) == (1, owned.log.last_sequence)
    assert (stream.end_time, stream.usage()) == (owned.handle.end_time, USAGE)
    again = await other.find(owned.id, 0)
    if end == "finish":
        assert await read(again) == (text_of(1, 1000), FINISHED)
    else:
        with pytest.raises(StreamFailed) as failed:
            await read(again)
        assert (failed.value.reason, failed.value.at.last_sequence) == ("UPSTREAM_BROKEN", 1000)
    await until(lambda: other.shared.copy_count == 0)
    assert other.space.used_bytes == 0


async def test_a_reader_joins_a_stream_whose_state_a_call_waits_for(start):
    owner, other = await start(), await start()
    owned = await opened(owner, 1000)
    stream = await other.find(owned.id)
    ending = asyncio.create_task(stream.log.wait_sealed())
    owned.append(200)
    readings = [
        asyncio.create_task(read(await other.find(owned.id, after), after))
        for after in (0, 700, 1100)
    ]
    owned.append(200)
    owned.finish()
    for after, reading in zip((0, 700, 1100), readings, strict=True):
        assert await reading == (text_of(after + 1, 1400), FINISHED)
    async with asyncio.timeout(LIMIT_S):
        await ending
    assert stream.log.finished == FINISHED


async def test_calls_for_the_state_and_for_the_entries_come_together(start):
    owner, other = await start(), await start()
    owned = await opened(owner, 1000)
    found = await asyncio.gather(
        *(other.find(owned.id, after) for after in (None, 0, None, 500, 0))
    )
    assert len({id(stream.log) for stream in found}) == 1
    assert found[0].log.read(0) == owned.log.read(0)


async def test_the_state_names_what_the_owner_has_dropped(start):
    limits = {"max_log_bytes": 4096}
    owner, other = await start(**limits), await start(**limits)
    owned = await opened(owner, 100, max_bytes=4096)
    stream = await other.find(owned.id)
    assert stream.log.earliest_sequence == owned.log.earliest_sequence > 1
    owned.append(100)
    await until(lambda: stream.log.last_sequence == 200)
    await until(lambda: stream.log.earliest_sequence == owned.log.earliest_sequence > 100)
    after = owned.log.earliest_sequence - 1
    again = await other.find(owned.id, after)
    assert again.log.read(199) == owned.log.read(199)
    assert again.log.earliest_sequence >= owned.log.earliest_sequence
    assert other.space.used_bytes < 20_000


async def test_a_log_that_redis_loses_is_stored_again_for_a_reader(start, client):
    owner, other = await start(), await start()
    owned = await opened(owner, 1000)
    assert (await other.find(owned.id)).log.is_partial
    await client.delete(keys(owned.id)[0])
    log = (await other.find(owned.id, 0)).log
    await until(lambda: log.last_sequence == 1000)
    assert log.read(0) == owned.log.read(0)


async def test_a_copy_is_kept_while_its_beginning_is_read(start, monkeypatch):
    owner, other = await start(), await start()
    owned = await opened(owner, 300)
    owned.finish()
    await until(lambda: not owner.shared.due_count)
    await other.find(owned.id)
    read_stored = LogStore.read

    async def read_slowly(*arguments):
        await asyncio.sleep(0.7)
        return await read_stored(*arguments)

    monkeypatch.setattr(LogStore, "read", read_slowly)
    assert await read(await other.find(owned.id, 0)) == (text_of(1, 300), FINISHED)
