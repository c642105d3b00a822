"""Shared streams when something else happens during a wait, on a real Redis."""

import asyncio

from shared_support import (
    FINISHED,
    Owned,
    read,
    text_of,
    until,
)

from tokenwire_server.streamlog.redis import copies as copies_module
from tokenwire_server.streamlog.redis.claims import RequestClaims


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
