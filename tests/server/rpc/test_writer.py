"""A caller who is gone while the head of an answer is sent to it."""

import asyncio
import gc

import pytest
from grpc._cython.cygrpc import ExecuteBatchError

from tokenwire_server.rpc.writer import PeerGone, begin


class GonePeer:
    """gRPC's side of a call whose caller goes while something is sent."""

    async def send_initial_metadata(self, metadata):
        await asyncio.sleep(0)
        raise ExecuteBatchError("the call is over")


async def test_a_caller_who_is_gone_when_the_head_is_sent_is_gone_and_no_bug():
    with pytest.raises(PeerGone):
        await begin(GonePeer(), "0" * 32)


async def test_who_is_cancelled_as_its_caller_goes_leaves_nothing_in_the_log(caplog):
    beginning = asyncio.create_task(begin(GonePeer(), "0" * 32))
    await asyncio.sleep(0)
    beginning.cancel()
    await asyncio.wait((beginning,))
    assert beginning.cancelled()
    del beginning
    gc.collect()
    assert not caplog.records
