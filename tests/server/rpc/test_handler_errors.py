"""What a client gets when a handler raises, and what is logged and kept of the error."""

import asyncio

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2

from tokenwire_server.errors import UpstreamBroken
from tokenwire_server.events import TextDelta
from tokenwire_server.rpc.authentication import Authentication, OpenCalls
from tokenwire_server.rpc.writer import Writer
from tokenwire_server.tenants.keyring import Keyring


class NoKeys:
    async def changes(self, since_revision):
        return 0, ()


@pytest.fixture
async def serving():
    """Return a function that serves a handler as `/test/Unary` and `/test/Stream` and returns a channel."""
    servers, channels = [], []

    async def start(handler):
        keyring = Keyring(NoKeys(), mode="none", trusted_s=60)
        authentication = Authentication(keyring, OpenCalls())
        methods = {
            "Unary": authentication.unary(handler),
            "Stream": authentication.streaming(handler),
        }
        server = grpc.aio.server()
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


async def test_the_caller_gets_only_the_id_of_an_internal_error_and_the_log_has_all_of_it(
    serving, caplog
):
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


class EndlessReader:
    """A reader that always has another event."""

    delivered = 0

    async def take(self):
        return [(self.delivered + 1, TextDelta("x" * 100_000, 0))]


async def test_a_caller_that_leaves_during_a_blocked_write_is_not_logged_as_an_error(
    serving, caplog
):
    ended = asyncio.Event()
    reader = EndlessReader()

    async def handler(data, context, caller):
        try:
            with Writer(context, 30) as writer:
                await writer.deliver(reader)
        finally:
            ended.set()

    channel = await serving(handler)
    call = channel.unary_stream("/test/Stream")(b"")
    await call.read()
    before = 0
    while reader.delivered > before:
        before = reader.delivered
        await asyncio.sleep(0.2)
    call.cancel()
    await asyncio.wait_for(ended.wait(), 5)
    await asyncio.sleep(0.05)  # what follows the handler's end
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_an_error_that_a_failed_stream_keeps_refers_to_nothing_of_the_calls_it_ended(serving):
    kept = UpstreamBroken("gone")

    async def handler(data, context, caller):
        raise kept

    channel = await serving(handler)
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await channel.unary_unary("/test/Unary")(b"")
    assert ended.value.code() == grpc.StatusCode.ABORTED
    assert (kept.__traceback__, kept.__context__, kept.__cause__) == (None, None, None)
