"""Callers that leave while the initial metadata is sent."""

import asyncio
import gc

import grpc.aio
import pytest

from tokenwire_server.rpc.writer import PeerGone, begin


class GonePeer:
    """A context whose caller leaves while something is sent."""

    async def send_initial_metadata(self, metadata):
        await asyncio.sleep(0)
        raise grpc.aio.InternalError("the call is over")


async def test_a_caller_that_leaves_while_the_initial_metadata_is_sent_is_not_a_bug():
    with pytest.raises(PeerGone):
        await begin(GonePeer(), "0" * 32)


async def test_a_handler_that_is_cancelled_as_its_caller_leaves_logs_nothing(caplog):
    beginning = asyncio.create_task(begin(GonePeer(), "0" * 32))
    await asyncio.sleep(0)
    beginning.cancel()
    await asyncio.wait((beginning,))
    assert beginning.cancelled()
    del beginning
    gc.collect()
    assert not caplog.records


async def test_the_metadata_is_sent_completely_if_the_generation_cannot_be_started():
    sent = []

    class Peer:
        async def send_initial_metadata(self, metadata):
            await asyncio.sleep(0)
            sent.append(metadata)

    def start():
        raise RuntimeError("the server is stopping")

    with pytest.raises(RuntimeError, match="stopping"):
        await begin(Peer(), "0" * 32, start=start)
    assert len(sent) == 1
