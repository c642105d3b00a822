"""The state of an open stream of a socket."""

import asyncio

import pytest

from tokenwire_edge.problems import Problem
from tokenwire_edge.websocket.stream import OpenStream


async def test_a_stream_that_is_abandoned_twice_ends_for_the_first_reason():
    stream = OpenStream("a")
    first, second = (Problem(499, "CANCELLED", detail) for detail in ("first", "second"))

    async def read():
        async with stream.scope():
            await asyncio.Event().wait()

    reading = asyncio.create_task(read())
    await asyncio.sleep(0)
    stream.abandon(first)
    await asyncio.sleep(0)  # it is ending now
    stream.abandon(second)
    with pytest.raises(Problem) as raised:
        await reading
    assert raised.value is first
