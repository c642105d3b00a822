"""What a handler raises, seen by a real client of a real server."""

import asyncio

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2

from tokenwire_server.events import TextDelta
from tokenwire_server.rpc.authentication import Authentication, OpenCalls
from tokenwire_server.rpc.boundary import answering
from tokenwire_server.rpc.writer import Writer
from tokenwire_server.tenants.keyring import Keyring


class NoKeys:
    async def changes(self, since_revision):
        return 0, ()


@pytest.fixture
async def serving():
    """Serves one handler as `/test/Unary` and `/test/Stream`; returns a channel to it."""
    servers, channels = [], []

    async def start(handler):
        methods = {
            "Unary": grpc.unary_unary_rpc_method_handler(answering(handler)),
            "Stream": grpc.unary_stream_rpc_method_handler(answering(handler)),
        }
        keyring = Keyring(NoKeys(), mode="none", trusted_s=60)
        server = grpc.aio.server(interceptors=[Authentication(keyring, OpenCalls())])
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", methods),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        servers.append(server)
        channels.append(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
        return channels[-1]

    yield start
    for channel in channels:
        await channel.close()
    for server in servers:
        await server.stop(None)


async def test_a_bug_of_ours_is_told_by_id_only_and_stands_whole_in_the_log(serving, caplog):
    async def handler(data, context, caller):
        raise RuntimeError("CANARY")

    channel = await serving(handler)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary("/test/Unary")(b"")
    error = caught.value
    raw = dict(error.trailing_metadata())["grpc-status-details-bin"]
    info = error_details_pb2.ErrorInfo()
    assert status_pb2.Status.FromString(raw).details[0].Unpack(info)
    assert (error.code(), info.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "CANARY" not in error.details()
    assert b"CANARY" not in raw
    (record,) = [r for r in caplog.records if info.metadata["error_id"] in r.getMessage()]
    assert "CANARY" in str(record.exc_info[1])


async def test_a_caller_who_is_gone_while_a_write_is_blocked_is_nobodys_bug(serving, caplog):
    ended = asyncio.Event()
    sent = 0

    async def handler(data, context, caller):
        nonlocal sent
        try:
            with Writer(context, 30) as writer:
                while True:
                    await writer.send(sent + 1, TextDelta("x" * 100_000, 0))
                    sent += 1
        finally:
            ended.set()

    channel = await serving(handler)
    call = channel.unary_stream("/test/Stream")(b"")
    await call.read()
    before = 0
    while sent > before:
        before = sent
        await asyncio.sleep(0.2)
    call.cancel()
    await asyncio.wait_for(ended.wait(), 5)
    await asyncio.sleep(0.05)  # what follows the handler's end
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
