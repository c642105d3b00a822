"""Serving, stopping, and a failure of gRPC."""

import asyncio

from tokenwire_server.config import GrpcConfig, Limits
from tokenwire_server.rpc.authentication import Authentication, OpenCalls
from tokenwire_server.rpc.callers import CallerService
from tokenwire_server.rpc.models import ModelService
from tokenwire_server.rpc.server import GrpcServer
from tokenwire_server.rpc.service import ChatService
from tokenwire_server.rpc.usage import UsageService
from tokenwire_server.tenants.keyring import Keyring
from tokenwire_server.tenants.memory_limiter import MemoryLimiter
from tokenwire_server.tenants.spend import SpendLimiter


class NoKeys:
    async def changes(self, since_revision):
        return 0, ()


async def started():
    limits = Limits()
    keyring = Keyring(NoKeys(), mode="none", trusted_s=60)
    server = GrpcServer(limits, GrpcConfig(), Authentication(keyring, OpenCalls()))
    server.bind("127.0.0.1:0")
    await server.start(
        ChatService(None, limits),
        ModelService(None, None, limits, None, None),
        CallerService(MemoryLimiter({}), SpendLimiter({}), limits),
        UsageService(None, limits),
        reflects=True,
    )
    return server


async def test_it_serves_until_it_is_stopped():
    server, stop = await started(), asyncio.Event()
    serving = asyncio.create_task(server.serve(stop))
    await asyncio.sleep(0)
    assert not serving.done()
    stop.set()
    async with asyncio.timeout(5):
        assert await serving
        await server.stop(0)


async def test_a_failure_of_grpc_is_returned_and_logged_as_critical(caplog):
    server = await started()
    serving = asyncio.create_task(server.serve(asyncio.Event()))
    await asyncio.sleep(0)
    await server._server.stop(0)
    async with asyncio.timeout(5):
        assert not await serving
        await server.stop(0)
    assert [record.levelname for record in caplog.records] == ["CRITICAL"]
