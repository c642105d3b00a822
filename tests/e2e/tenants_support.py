"""A server with keys, and helpers to call it."""

import asyncio
import os
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from typing import NamedTuple

import grpc
import grpc.aio
from e2e_calls import reason

from server_process import completed
from tokenwire.v1 import caller_pb2, model_pb2

UNKNOWN_STREAM = "0123456789abcdef0123456789abcdef"
TAKEN_WITHIN_S = 10.0
POLL_S = 0.02


def bearer(key):
    """Return the metadata of a call with a key."""
    return (("authorization", f"Bearer {key}"),)


def keys(*arguments, database):
    """What `tokenwire-server keys` prints: for create and rotate, a key."""
    result = completed("keys", *arguments, "--database", database)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def provider_keys(*arguments, database, master_keys, text=None, code=0):
    """What `tokenwire-server provider-keys` prints. `text`: the standard input of `set`, a key."""
    arguments = ("provider-keys", *arguments, "--database", database)
    environ = {"TOKENWIRE_ENCRYPTION_KEYS": master_keys}
    if text is None:
        result = completed(*arguments, env=environ)
    else:
        command = [sys.executable, "-m", "tokenwire_server", *arguments]
        result = subprocess.run(
            command,
            env=os.environ | environ,
            input=text,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert not text or text not in result.stdout + result.stderr
    assert result.returncode == code, result.stderr
    return (result.stderr if code else result.stdout).strip()


class Tenancy:
    """A server on a database with a key for each of two tenants: `acme` and `globex`."""

    def __init__(self, api_on, address, database, acme, globex, simulator, process):
        self._api_on = api_on
        self.address = address
        self.database = database
        self.acme = acme
        self.globex = globex
        self.simulator = simulator
        self.process = process

    def channel(self, *interceptors):
        options = [("grpc.use_local_subchannel_pool", 1)]
        return grpc.aio.insecure_channel(self.address, options=options, interceptors=interceptors)

    @asynccontextmanager
    async def api(self, key):
        """Yield the RPCs, which send that key."""
        interceptors = (_UnaryKey(bearer(key)), _StreamKey(bearer(key)))
        async with self.channel(*interceptors) as channel:
            yield self._api_on(channel)

    async def new_key(self, *arguments):
        """Create a key of acme. Return it when the server accepts it."""
        key = keys("create", "--tenant", "acme", *arguments, database=self.database)
        await self.taken(key)
        return key

    async def taken(self, key):
        """Wait until the server accepts a key."""
        began = time.monotonic()
        async with self.channel() as channel:
            call = channel.unary_unary(
                "/tokenwire.v1.CallerService/GetCaller",
                request_serializer=caller_pb2.GetCallerRequest.SerializeToString,
                response_deserializer=caller_pb2.Caller.FromString,
            )
            while True:
                try:
                    return await call(caller_pb2.GetCallerRequest(), metadata=bearer(key))
                except grpc.aio.AioRpcError as error:
                    assert error.code() == grpc.StatusCode.UNAUTHENTICATED
                    assert time.monotonic() - began < TAKEN_WITHIN_S
                await asyncio.sleep(POLL_S)

    @staticmethod
    def get_model(id):
        return model_pb2.GetModelRequest(id=id)


class _UnaryKey(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, metadata):
        self._metadata = metadata

    async def intercept_unary_unary(self, continuation, details, request):
        return await continuation(_with(details, self._metadata), request)


class _StreamKey(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, metadata):
        self._metadata = metadata

    async def intercept_unary_stream(self, continuation, details, request):
        return await continuation(_with(details, self._metadata), request)


def _with(details, metadata):
    return grpc.aio.ClientCallDetails(
        details.method,
        details.timeout,
        (*(details.metadata or ()), *metadata),
        details.credentials,
        details.wait_for_ready,
    )


class Refusal(NamedTuple):
    """The refusal of a call without a key."""

    code: grpc.StatusCode
    reason: str

    @classmethod
    async def of(cls, channel, service, method):
        """Call a method without a key. Return None if it answered."""
        kind = f"{'stream' if method.client_streaming else 'unary'}_" + (
            "stream" if method.server_streaming else "unary"
        )
        call = getattr(channel, kind)(f"/{service}/{method.name}")
        rpc = call() if method.client_streaming else call(b"")
        try:
            await (rpc.read() if method.server_streaming else rpc)
        except grpc.aio.AioRpcError as error:
            has_details = dict(error.trailing_metadata()).get("grpc-status-details-bin")
            return cls(error.code(), reason(error) if has_details else "")
        finally:
            rpc.cancel()
        return None
