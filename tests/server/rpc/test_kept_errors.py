"""An error that outlives its call."""

import grpc
import grpc.aio
import pytest

from tokenwire_server.errors import UpstreamBroken
from tokenwire_server.rpc.authentication import Authentication, OpenCalls
from tokenwire_server.rpc.boundary import answering
from tokenwire_server.tenants.keyring import Keyring


class NoKeys:
    async def changes(self, since_revision):
        return 0, ()


async def test_the_error_that_a_failed_stream_keeps_holds_nothing_of_the_calls_it_ended():
    kept = UpstreamBroken("gone")

    async def handler(data, context, caller):
        raise kept

    keyring = Keyring(NoKeys(), mode="none", trusted_s=60.0)
    server = grpc.aio.server(interceptors=[Authentication(keyring, OpenCalls())])
    methods = {"Get": grpc.unary_unary_rpc_method_handler(answering(handler))}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await channel.unary_unary("/test/Get")(b"")
    await server.stop(0)
    assert ended.value.code() == grpc.StatusCode.ABORTED
    assert (kept.__traceback__, kept.__context__, kept.__cause__) == (None, None, None)
