"""Shared streams while a real Redis, or a server of a Redis Cluster, cannot be used."""

import asyncio
import secrets
import time

import pytest
from shared_support import (
    FINISHED,
    read,
    text_of,
    until,
)

from tokenwire_server.errors import (
    StoreUnavailable,
    StreamFailed,
)
from tokenwire_server.streamlog.redis.store import keys


async def test_while_redis_is_down_readers_elsewhere_get_an_error_and_local_ones_every_entry(
    start, own_redis
):
    owner, other = await start(), await start()
    owned = owner.open(linger_s=60)
    owned.append(3)
    await until(lambda: not owner.shared.due_count)
    local = asyncio.create_task(read(owned.handle))
    reading = asyncio.create_task(read(await other.find(owned.id, 0)))
    await until(lambda: owned.handle.reader_count == 2)
    own_redis.stop()
    owned.append(2)
    with pytest.raises(StreamFailed) as failed:
        await reading
    assert (failed.value.reason, failed.value.at.last_sequence) == ("STORE_UNAVAILABLE", 3)
    with pytest.raises(StoreUnavailable):
        await other.find(owned.id, 3)
    own_redis.start()
    await until(lambda: not owner.shared.due_count)
    await until(lambda: other.shared.is_subscribed)
    reading = asyncio.create_task(read(await other.find(owned.id, 3), 3))
    owned.append(2)
    owned.finish()
    assert await local == (text_of(1, 7), FINISHED)
    assert await reading == (text_of(4, 7), FINISHED)


async def test_while_redis_is_full_readers_elsewhere_get_an_error_and_local_ones_every_entry(
    start, client
):
    owner, other = await start(), await start()
    owned = owner.open(linger_s=60)
    owned.append(3)
    await until(lambda: not owner.shared.due_count)
    local = asyncio.create_task(read(owned.handle))
    reading = asyncio.create_task(read(await other.find(owned.id, 0)))
    await until(lambda: owned.handle.reader_count == 2)
    await client.config_set("maxmemory", 1)
    owned.append(2)
    with pytest.raises(StreamFailed) as failed:
        await reading
    assert (failed.value.reason, failed.value.at.last_sequence) == ("STORE_UNAVAILABLE", 3)
    assert owner.shared.is_failing
    await client.config_set("maxmemory", 0)
    await until(lambda: not owner.shared.due_count)
    reading = asyncio.create_task(read(await other.find(owned.id, 3), 3))
    owned.append(2)
    owned.finish()
    assert await local == (text_of(1, 7), FINISHED)
    assert await reading == (text_of(4, 7), FINISHED)


async def test_a_key_of_another_program_harms_only_the_stream_whose_key_it_is(start, client):
    owner, other = await start(), await start()
    bad, good = owner.open(linger_s=60), owner.open(linger_s=60)
    for owned in (bad, good):
        owned.append(3)
    await until(lambda: not owner.shared.due_count)
    reading = [asyncio.create_task(read(await other.find(owned.id, 0))) for owned in (bad, good)]
    local = asyncio.create_task(read(bad.handle))
    await until(lambda: bad.handle.reader_count == 2)
    await client.delete(keys(bad.id)[0])
    await client.set(keys(bad.id)[0], "of another program")
    for owned in (bad, good):
        owned.append(2)
    with pytest.raises(StreamFailed) as failed:
        await reading[0]
    assert failed.value.reason == "STORE_UNAVAILABLE"
    for owned in (bad, good):
        owned.finish()
    assert await reading[1] == await local == (text_of(1, 5), FINISHED)


@pytest.mark.parametrize("client", ["own_redis_cluster"], indirect=True)
@pytest.mark.parametrize("fault", ["killed", "hangs"])
async def test_a_dead_server_of_a_cluster_harms_no_stream_of_another_server(
    start, client, own_redis_cluster, fault
):
    owner, other = await start(), await start()
    dead = own_redis_cluster.primaries[2]  # the leases of processes are on another one
    served, unserved = [], []
    while min(len(served), len(unserved)) < 5:
        id = secrets.token_hex(16)
        owned = owner.open(linger_s=60, id=id)
        owned.append(3)
        (unserved if client.server_of(keys(id)[0]) == dead.address else served).append(owned)
    await until(lambda: not owner.shared.due_count)
    copies = {owned: await other.find(owned.id, 0) for owned in (*served, *unserved)}
    reading = {owned: asyncio.create_task(read(copy)) for owned, copy in copies.items()}
    await until(lambda: all(owned.handle.reader_count for owned in reading))
    sealed = unserved.pop()
    sealed.finish()
    assert await reading[sealed] == (text_of(1, 3), FINISHED)
    dead.stop() if fault == "killed" else dead.pause()
    for owned in (*served, *unserved):
        owned.append()
    for owned in unserved:
        with pytest.raises(StreamFailed) as failed:
            await reading[owned]
        assert failed.value.reason == "STORE_UNAVAILABLE"
    assert owner.shared.due_count >= len(unserved)
    assert owner.shared.is_failing
    began, longest_s = time.monotonic(), 0.0
    for _ in range(50):
        for owned in served:
            owned.append()
        appended = time.monotonic()
        await until(
            lambda: all(
                copies[owned].log.last_sequence == owned.log.last_sequence for owned in served
            )
        )
        longest_s = max(longest_s, time.monotonic() - appended)
    print(
        f"read elsewhere after {longest_s:.3f} s at most, {time.monotonic() - began:.1f} s in all"
    )
    assert longest_s < client.timeout_s, "a dead server costs the time limit of a command only once"
    late = owner.open(linger_s=60)
    late.append()
    for owned in served:
        owned.finish()
        assert await reading[owned] == (text_of(1, 54), FINISHED)
    dead.start() if fault == "killed" else dead.unpause()
    await until(lambda: not owner.shared.due_count)
    assert not owner.shared.is_failing
    for owned in unserved:
        owned.finish()
        assert await read(await other.find(owned.id, 0)) == (text_of(1, 4), FINISHED)
    third = await start()
    assert await read(await third.find(sealed.id, 0)) == (text_of(1, 3), FINISHED)
