"""Request ids, each of which belongs to one stream of all processes, through a real Redis."""

import asyncio
from contextlib import suppress

import pytest
from shared_support import (
    FINISHED,
    LIMIT_S,
    TENANT,
    Owned,
    on_a_cluster_too,
    read,
    text_of,
    until,
)

from tokenwire_server.errors import (
    RequestIdReused,
    StoreUnavailable,
)
from tokenwire_server.streamlog.redis import presence as presence_module


@on_a_cluster_too
async def test_a_request_id_is_given_to_one_stream_of_all_processes(start):
    processes = [await start() for _ in range(3)]
    found = await asyncio.gather(*(process.chat("r") for process in processes * 5))
    assert len({stream.id for stream in found}) == 1
    (owned,) = {id(each): each for each in found if isinstance(each, Owned)}.values()
    owned.append(3)
    owned.finish()
    for process in processes:
        assert await read(await process.chat("r")) == (text_of(2, 4), FINISHED)
        with pytest.raises(RequestIdReused):
            await process.chat("r", b"another")
    assert (await processes[0].chat("s")).id != owned.id


async def test_a_request_id_is_free_after_its_request_was_refused_or_failed_without_content(start):
    one, two = await start(), await start()
    with pytest.raises(ConnectionError):
        await one.chat("r", opens=False)
    owned = await two.chat("r")
    assert isinstance(owned, Owned)
    owned.fail()
    await until(lambda: not two.shared.due_count)
    again = await one.chat("r")
    assert isinstance(again, Owned)
    again.append()
    again.fail()
    await until(lambda: not one.shared.due_count)
    assert (await two.chat("r")).id == again.id


async def test_a_request_id_of_a_process_that_is_lost_while_it_opens_the_stream_is_free(start):
    one, two = await start(), await start()
    claiming = one.directory.claim("r", b"h", TENANT)
    await claiming.__aenter__()
    waiting = asyncio.create_task(two.chat("r"))
    await asyncio.sleep(presence_module.LEASE_S)
    assert not waiting.done()
    await one.kill()
    assert isinstance(await waiting, Owned)


async def test_request_ids_outlast_the_data_of_redis_and_are_refused_without_it(
    start, client, own_redis
):
    one, two = await start(), await start()
    owned = await one.chat("r")
    owned.append()
    await asyncio.sleep(0.2)  # the leases are stored
    await client.flushall()
    for find in (lambda: two.find(owned.id, 0), lambda: two.chat("r")):
        async with asyncio.timeout(LIMIT_S):
            while True:  # until it is stored again
                with suppress(StoreUnavailable):
                    assert (await find()).id == owned.id
                    break
    async with asyncio.timeout(LIMIT_S):
        while not await client.keys("*request*"):
            await asyncio.sleep(0.02)
    assert (await two.chat("r")).id == owned.id
    own_redis.stop()
    assert (await one.chat("r")).id == owned.id  # it is known here
    for process in (one, two):
        with pytest.raises(StoreUnavailable):
            await process.chat("s")
        assert isinstance(await process.chat(""), Owned)
