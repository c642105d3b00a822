import asyncio

import pytest

from tokenwire_server.config import Limits
from tokenwire_server.errors import Overloaded
from tokenwire_server.streams.live import LiveStreams


async def test_a_drain_ends_the_moment_the_last_stream_goes():
    async with asyncio.TaskGroup() as tasks:
        streams = LiveStreams(Limits(), tasks)
        await asyncio.wait_for(streams.wait_until_none(), 1)
        first, second = streams.open().join(), streams.open().join()
        waiting = asyncio.create_task(streams.wait_until_none())
        with first:
            pass
        await asyncio.sleep(0)
        assert not waiting.done()
        with second:
            pass
        await asyncio.wait_for(waiting, 1)


async def test_a_slot_is_free_again_when_its_stream_is_gone():
    async with asyncio.TaskGroup() as tasks:
        streams = LiveStreams(Limits(max_streams=1), tasks)
        with streams.open().join():
            with pytest.raises(Overloaded) as caught:
                streams.open()
            assert caught.value.limit == 1
        streams.open()


async def test_an_id_holds_as_much_chance_as_a_key():
    async with asyncio.TaskGroup() as tasks:
        streams = LiveStreams(Limits(), tasks)
        ids = {streams.open().id for _ in range(1000)}
    assert len(ids) == 1000
    assert min(len(id) for id in ids) * 6 >= 128
