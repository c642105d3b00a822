"""Ends of a call that a proxy or the network causes: each is ConnectionLost, in both clients."""

import asyncio

import pytest

import tokenwire

from .conftest import LIMIT_S, STREAM_ID
from .h2 import (
    CANCEL,
    INTERNAL_ERROR,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    aborts,
    closes,
    closes_with_half_an_event,
    gateway_fails,
    goes_away,
    goes_away_and_closes,
    raw_server,
    resets,
)


async def read_async(target, was_read):
    async with tokenwire.AsyncClient(target) as client, client.chat_stream("m", "Hi") as stream:
        async for each in stream:
            if each.sequence == 2:
                was_read()


async def read_in_thread(target, was_read):
    loop = asyncio.get_running_loop()

    def read():
        with tokenwire.Client(target) as client, client.chat_stream("m", "Hi") as stream:
            for each in stream:
                if each.sequence == 2:
                    loop.call_soon_threadsafe(was_read)

    await asyncio.to_thread(read)


@pytest.mark.parametrize("read", [read_async, read_in_thread])
@pytest.mark.parametrize(
    "end",
    [
        pytest.param(resets(PROTOCOL_ERROR), id="reset: protocol error"),
        pytest.param(resets(INTERNAL_ERROR), id="reset: internal error"),
        pytest.param(resets(REFUSED_STREAM), id="reset: refused"),
        pytest.param(resets(CANCEL), id="reset: cancel"),
        goes_away,
        goes_away_and_closes,
        closes,
        closes_with_half_an_event,
        aborts,
        gateway_fails,
    ],
)
async def test_an_end_that_no_server_sends_is_connection_lost(end, read):
    async with asyncio.timeout(LIMIT_S), raw_server(end) as (target, may_end):
        with pytest.raises(tokenwire.ConnectionLost) as caught:
            await read(target, may_end.set)

    error = caught.value
    assert (error.reason, error.stream_id, error.last_sequence) == ("", STREAM_ID, 2)
