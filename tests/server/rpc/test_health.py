"""Health, which callers without a key may use."""

import asyncio
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest
from e2e_calls import details
from grpc_health.v1 import health_pb2, health_pb2_grpc
from raw_call import connected, send_call

from tokenwire.v1 import caller_pb2, chat_pb2, model_pb2
from tokenwire_server.rpc.health import MAX_WATCHES_PER_CONNECTION, Health
from tokenwire_server.rpc.intake import MAX_OPEN_REQUEST_BYTES, OpenRequests
from tokenwire_server.tenants.key import make_key_text

SERVICES = [
    service.full_name
    for file in (caller_pb2, chat_pb2, model_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
]
WATCH = b"/grpc.health.v1.Health/Watch"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def request(service=""):
    return health_pb2.HealthCheckRequest(service=service)


@pytest.fixture
async def channel(serve):
    return (await serve({make_key_text(): {}})).channel


@asynccontextmanager
async def serving(health):
    """Yield the address of a server that has only the health service."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((health.handlers(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


@pytest.mark.parametrize("service", ["", *SERVICES])
async def test_every_service_is_serving(channel, service):
    answer = await health_pb2_grpc.HealthStub(channel).Check(request(service))
    assert answer.status == SERVING


async def test_an_unknown_service_is_not_logged(channel, caplog):
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await channel.unary_unary("/grpc.health.v1.Health/List")(b"")  # older clients know no List
    assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert not caplog.records


async def test_an_unknown_service_is_reported_as_the_protocol_requires(channel):
    stub = health_pb2_grpc.HealthStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.Check(request("nobody"))
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND
    watch = stub.Watch(request("nobody"))
    assert (await watch.read()).status == SERVICE_UNKNOWN
    assert not watch.done()
    watch.cancel()


@pytest.mark.parametrize("compression", list(grpc.Compression))
@pytest.mark.parametrize("method", ["Check", "Watch"])
async def test_a_request_is_bounded_by_its_size_after_decompression(channel, method, compression):
    def call(byte_count):
        n = byte_count - 3  # in an unknown field
        message = b"\x12" + bytes([n % 128 + 128, n // 128]) + b"x" * n
        return channel.unary_stream(f"/grpc.health.v1.Health/{method}")(
            message, compression=compression
        )

    fits = call(MAX_OPEN_REQUEST_BYTES)
    assert health_pb2.HealthCheckResponse.FromString(await fits.read()).status == SERVING
    fits.cancel()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call(MAX_OPEN_REQUEST_BYTES + 1).read()
    assert details(refused.value)["ErrorInfo"].reason == "INVALID_REQUEST"


async def test_slow_requests_are_bounded_in_number_and_time():
    health = Health(OpenRequests(max_late=1, late_s=0.5))
    health.serve(SERVICES)
    async with serving(health) as address, grpc.aio.insecure_channel(address) as channel:
        with connected(address) as connection:
            send_call(connection, 1, WATCH, b"\x0a\x01x", ends=False)
            await asyncio.sleep(0.2)
            late = channel.stream_stream("/grpc.health.v1.Health/Watch")()
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await late.read()
            assert details(refused.value).keys() == {"ErrorInfo", "RetryInfo"}
            assert details(refused.value)["ErrorInfo"].reason == "OVERLOADED"
            got = b""
            while b"grpc-status\x013" not in got:  # INVALID_ARGUMENT
                await asyncio.sleep(0.01)
                got += await asyncio.to_thread(connection.recv, 65536)
        assert (await health_pb2_grpc.HealthStub(channel).Check(request())).status == SERVING


async def test_watches_are_bounded_on_each_connection(channel):
    stub = health_pb2_grpc.HealthStub(channel)
    watches = [stub.Watch(request()) for _ in range(MAX_WATCHES_PER_CONNECTION)]
    for watch in watches:
        assert (await watch.read()).status == SERVING
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.Watch(request()).read()
    assert details(refused.value)["ErrorInfo"].reason == "OVERLOADED"
    assert "RetryInfo" in details(refused.value)
    watches.pop().cancel()
    async with asyncio.timeout(10):
        while True:
            last = stub.Watch(request())
            try:
                assert (await last.read()).status == SERVING
                break
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.01)
    for watch in (*watches, last):
        watch.cancel()


async def test_a_watcher_that_accepts_nothing_delays_no_other():
    health = Health()
    async with serving(health) as address, grpc.aio.insecure_channel(address) as channel:
        with connected(address, stream_window=0) as connection:
            for stream in (1, 3, 5):
                send_call(connection, stream, WATCH)
            watch = health_pb2_grpc.HealthStub(channel).Watch(request())
            async with asyncio.timeout(10):
                assert (await watch.read()).status == SERVICE_UNKNOWN
                watch.cancel()
                health.serve(SERVICES)
                watch = health_pb2_grpc.HealthStub(channel).Watch(request(SERVICES[0]))
                assert (await watch.read()).status == SERVING
                health.not_serving()
                health.stop()
                assert (await watch.read()).status == NOT_SERVING
                with pytest.raises(grpc.aio.AioRpcError) as ended:
                    await watch.read()
    assert details(ended.value)["ErrorInfo"].reason == "SERVER_STOPPED"


async def test_a_watcher_that_accepts_nothing_loses_its_slot(monkeypatch):
    monkeypatch.setattr("tokenwire_server.rpc.health.MAX_WATCHES", 1)
    monkeypatch.setattr("tokenwire_server.rpc.health.MAX_STALL_S", 0.5)
    async with serving(Health()) as address, grpc.aio.insecure_channel(address) as channel:
        stub, refusals = health_pb2_grpc.HealthStub(channel), []
        with connected(address, stream_window=0) as connection:
            send_call(connection, 1, WATCH)
            await asyncio.sleep(0.2)
            async with asyncio.timeout(10):
                while True:
                    watch = stub.Watch(request())
                    try:
                        assert (await watch.read()).status == SERVICE_UNKNOWN
                        break
                    except grpc.aio.AioRpcError as error:
                        refusals.append(details(error)["ErrorInfo"].reason)
                        await asyncio.sleep(0.05)
            watch.cancel()
    assert set(refusals) == {"OVERLOADED"}
