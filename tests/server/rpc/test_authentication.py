"""Authentication of calls to a real gRPC server, and the end of calls whose key is revoked."""

import asyncio
import time

import grpc
import grpc.aio
import pytest
from e2e_calls import info, reason
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tokenwire_server.errors import Overloaded
from tokenwire_server.rpc.authentication import Authentication, OpenCalls
from tokenwire_server.rpc.health import Health
from tokenwire_server.rpc.reflection import REFLECTION_SERVICES, Reflection
from tokenwire_server.rpc.writer import begin
from tokenwire_server.tenants.key import ApiKey, make_key_text, parse_key_text
from tokenwire_server.tenants.keyring import Keyring

KEY = make_key_text()
WITH_KEY = (("authorization", f"Bearer {KEY}"),)


class OneKey:
    async def changes(self, since_revision):
        secret = parse_key_text(KEY)
        key = ApiKey(secret.prefix, secret.prefix, "acme", secret.digest, 0.0)
        return 1, [] if since_revision else [key]


class Guarded:
    """The methods of a test server."""

    def __init__(self):
        self.begun = asyncio.Event()
        self.left = asyncio.Event()

    async def who(self, request, context, caller):
        return caller.tenant.encode()

    async def forever(self, request, context, caller):
        try:
            await context.write(b"first")
            self.begun.set()
            await asyncio.Event().wait()
        finally:
            self.left.set()

    async def flood(self, request, context, caller):
        try:
            await context.write(b"first")
            while True:
                self.written = time.monotonic()
                await context.write(b"x" * 100_000)
                await asyncio.sleep(0)
        finally:
            self.left.set()

    async def stubborn(self, request, context, caller):
        """Ends with an error of its own when it is cancelled."""
        self.begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise Overloaded("its own end", limit=1) from None

    async def upper(self, requests, context):
        async for request in requests:
            await context.write(request.upper())


@pytest.fixture
async def guarded():
    return Guarded()


@pytest.fixture
def calls():
    return OpenCalls()


@pytest.fixture
async def channel(guarded, calls):
    keyring = Keyring(OneKey(), mode="auto", trusted_s=60)
    await keyring.refresh()
    async with serving(guarded, Authentication(keyring, calls)) as channel:
        yield channel


class serving:  # noqa: N801  # used as a function
    def __init__(self, guarded, authentication):
        self.server = grpc.aio.server()
        kinds = {
            "Who": authentication.unary(guarded.who),
            "Forever": authentication.streaming(guarded.forever),
            "Flood": authentication.streaming(guarded.flood),
            "Stubborn": authentication.streaming(guarded.stubborn),
            "Upper": authentication.reading("test.Guarded", guarded.upper),
        }
        handlers = grpc.method_handlers_generic_handler("test.Guarded", kinds)
        self.server.add_generic_rpc_handlers((handlers,))
        health = Health()
        health.serve(())
        reflection = Reflection(REFLECTION_SERVICES)
        self.server.add_generic_rpc_handlers(
            (health.handlers(), *reflection.handlers(authentication.reading))
        )

    async def __aenter__(self):
        port = self.server.add_insecure_port("127.0.0.1:0")
        await self.server.start()
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        return self.channel

    async def __aexit__(self, *_):
        await self.channel.close()
        await self.server.stop(0)


async def several(*items):
    for item in items:
        yield item


async def nothing():
    """A request stream that sends nothing: grpc.aio's client fails if the status arrives during a send."""
    await asyncio.Event().wait()
    yield


def call(channel, method, metadata=WITH_KEY):
    requests = several(b"a", b"b") if metadata else nothing()
    match method:
        case "Who":
            return channel.unary_unary("/test.Guarded/Who")(b"", metadata=metadata)
        case "Forever" | "Flood" | "Stubborn":
            return channel.unary_stream(f"/test.Guarded/{method}")(b"", metadata=metadata)
        case "Upper":
            return channel.stream_stream("/test.Guarded/Upper")(requests, metadata=metadata)


async def ended(rpc):
    with pytest.raises(grpc.aio.AioRpcError) as end:
        async with asyncio.timeout(5):
            if hasattr(rpc, "read"):
                while await rpc.read() is not grpc.aio.EOF:
                    pass
            else:
                await rpc
    return end.value


@pytest.mark.parametrize("method", ["Who", "Forever", "Upper"])
async def test_every_kind_of_rpc_needs_a_key(channel, method):
    error = await ended(call(channel, method, metadata=()))
    assert error.code() == grpc.StatusCode.UNAUTHENTICATED
    assert reason(error) == "UNAUTHENTICATED"


async def test_with_a_key_every_kind_of_rpc_works_and_gets_the_caller(channel):
    assert await call(channel, "Who") == b"acme"
    assert [answer async for answer in call(channel, "Upper")] == [b"A", b"B"]
    rpc = call(channel, "Forever")
    assert await rpc.read() == b"first"
    rpc.cancel()


async def test_two_keys_on_one_call_are_refused(channel):
    error = await ended(call(channel, "Who", WITH_KEY * 2))
    assert error.code() == grpc.StatusCode.UNAUTHENTICATED
    assert "more than once" in error.details()


async def test_health_needs_no_key(channel):
    stub = health_pb2_grpc.HealthStub(channel)
    assert (await stub.Check(health_pb2.HealthCheckRequest())).status == 1
    watch = stub.Watch(health_pb2.HealthCheckRequest())
    assert (await watch.read()).status == 1
    watch.cancel()


@pytest.mark.parametrize("path", ["/test.Guarded/Nothing", "/test.Nothing/Who", "/x", "/"])
async def test_a_method_that_does_not_exist_is_unimplemented_and_not_unauthenticated(channel, path):
    error = await ended(channel.unary_unary(path)(b""))
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_reflection_needs_a_key_unless_it_is_open(guarded, calls, channel):
    request = reflection_pb2.ServerReflectionRequest(list_services="")

    def listing(channel, metadata=()):
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        return stub.ServerReflectionInfo(several(request), metadata=metadata)

    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    error = await ended(stub.ServerReflectionInfo(nothing()))
    assert error.code() == grpc.StatusCode.UNAUTHENTICATED
    assert (await listing(channel, WITH_KEY).read()).list_services_response.service
    keyring = Keyring(OneKey(), mode="auto", trusted_s=60)
    await keyring.refresh()
    async with serving(guarded, Authentication(keyring, calls, REFLECTION_SERVICES)) as opened:
        assert (await listing(opened).read()).list_services_response.service
        assert (await ended(call(opened, "Who", ()))).code() == grpc.StatusCode.UNAUTHENTICATED


async def test_a_revoked_key_ends_its_open_calls_with_a_reason(channel, guarded, calls):
    waiting = call(channel, "Forever")
    assert await waiting.read() == b"first"
    await guarded.begun.wait()
    calls.end(KEY[:15])
    error = await ended(waiting)
    assert error.code() == grpc.StatusCode.UNAUTHENTICATED
    assert error.details() == f"the key {KEY[:15]} was revoked"
    assert guarded.left.is_set()


async def test_a_revoked_key_ends_a_call_inside_a_blocked_write(channel, guarded, calls, caplog):
    rpc = call(channel, "Flood")
    assert await rpc.read() == b"first"
    async with asyncio.timeout(5):
        while time.monotonic() - getattr(guarded, "written", time.monotonic()) < 0.2:
            await asyncio.sleep(0.05)  # until a write has been blocked for a while
    calls.end(KEY[:15])
    async with asyncio.timeout(5):
        await guarded.left.wait()
    error = await ended(rpc)
    assert error.code() == grpc.StatusCode.UNAUTHENTICATED
    assert not caplog.records


async def test_a_revoked_key_does_not_end_calls_of_other_keys(channel, guarded, calls):
    waiting = call(channel, "Forever")
    await waiting.read()
    calls.end("tw_000000000000")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(guarded.left.wait(), 0.05)
    waiting.cancel()


async def test_a_call_that_ends_with_an_error_of_its_own_keeps_it(channel, guarded, calls, caplog):
    rpc = call(channel, "Stubborn")
    async with asyncio.timeout(5):
        await guarded.begun.wait()
    calls.end(KEY[:15])
    calls.end(KEY[:15])
    assert (await ended(rpc)).details() == "this server is full: its own end (limit 1)"
    assert not caplog.records


async def test_the_call_of_a_caller_that_leaves_is_removed(channel, guarded, calls):
    rpc = call(channel, "Forever")
    await rpc.read()
    rpc.cancel()
    async with asyncio.timeout(5):
        await guarded.left.wait()
        await asyncio.sleep(0)
    assert calls._tasks == {}


async def test_the_caller_gets_only_the_id_of_an_internal_error_in_authentication(
    guarded, calls, caplog
):
    class BadKey:
        async def changes(self, since_revision):
            secret = parse_key_text(KEY)
            return 1, [ApiKey(secret.prefix, secret.prefix, "acme", "no digest", 0.0)]

    keyring = Keyring(BadKey(), mode="auto", trusted_s=60)
    await keyring.refresh()
    async with serving(guarded, Authentication(keyring, calls)) as channel:
        error = await ended(call(channel, "Who"))
    assert (error.code(), reason(error)) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "TypeError" not in error.details()
    (record,) = caplog.records
    assert info(error).metadata["error_id"] in record.getMessage()
    assert isinstance(record.exc_info[1], TypeError)


@pytest.mark.parametrize(
    "steps", [1, 2, 3]
)  # of the event loop, while the initial metadata is sent
@pytest.mark.parametrize("method", ["Who", "Forever"])
async def test_a_key_that_is_revoked_while_initial_metadata_is_sent_ends_the_call_with_a_reason(
    guarded, calls, caplog, method, steps
):
    def revoke_after(steps, key_prefix):
        after = (revoke_after, steps - 1) if steps > 1 else (calls.end,)
        asyncio.get_running_loop().call_soon(*after, key_prefix)

    async def revoked_at_once(data, context, caller):
        revoke_after(steps, caller.key_prefix)
        await begin(context, "0" * 32)
        await asyncio.Event().wait()

    guarded.who = guarded.forever = revoked_at_once
    keyring = Keyring(OneKey(), mode="auto", trusted_s=60)
    await keyring.refresh()
    async with serving(guarded, Authentication(keyring, calls)) as channel:
        for _ in range(20):
            error = await ended(call(channel, method))
            assert error.code() == grpc.StatusCode.UNAUTHENTICATED
    assert not caplog.records
