"""Objects that an RPC leaves in memory after its end if the garbage collector does not run."""

import asyncio
import gc
from collections import Counter

import grpc
import grpc.aio
import pytest
from tenants_support import bearer

from tokenwire.v1 import chat_pb2
from tokenwire_server.rpc import accepting
from tokenwire_server.tenants.key import make_key_text, parse_key_text

KEY = make_key_text()
CALLS = 10
SERVER_TYPES = {"RPCState", "_ServicerContext", "AbortError", "HttpUpstream", "frame"}
LASTING = "openai/sim?tokens=500&itl_ms=10"
INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOTHING_KEPT = {"log_ttl": {}}


class Caller:
    """Makes the calls of the tests. The name of each method says how its call ends."""

    def __init__(self, api):
        self._api = api

    def _stream(self, model, **options):
        request = self._api.request(model, retention=chat_pb2.RetentionOptions(**NOTHING_KEPT))
        return self._api.chat_stream(request, **({"metadata": bearer(KEY)} | options))

    async def finished(self):
        assert [event async for event in self._stream("openai/sim?tokens=2&itl_ms=1")]

    async def refused_before_it_is_parsed(self):
        await _refused(self._api.chat(b"\xff" * 100, metadata=bearer(KEY)), INVALID)

    async def refused_after_it_is_parsed(self):
        await _refused(self._stream("").read(), INVALID)

    async def refused_as_unary_call(self):
        await _refused(self._api.chat(self._api.request(""), metadata=bearer(KEY)), INVALID)

    async def unknown_model(self):
        await _refused(self._stream("nobody/m").read(), grpc.StatusCode.NOT_FOUND)

    async def unauthenticated(self):
        call = self._stream("openai/sim", metadata=bearer(make_key_text()))
        await _refused(call.read(), grpc.StatusCode.UNAUTHENTICATED)

    async def failed_after_a_token(self):
        call = self._stream("openai/sim?tokens=5&itl_ms=1&drop_after=2")
        await _refused(_read(call), grpc.StatusCode.ABORTED)

    async def failed_before_a_token(self):
        call = self._stream("openai/sim?status=500")
        await _refused(_read(call), grpc.StatusCode.UNAVAILABLE)

    async def cancelled_by_its_caller(self):
        call = self._stream(LASTING)
        await call.read()
        call.cancel()

    async def cancelled_while_unary(self):
        call = self._api.chat(self._api.request(LASTING), metadata=bearer(KEY))
        await asyncio.sleep(0.05)  # it may be anywhere by then
        call.cancel()

    async def past_its_deadline(self):
        call = self._stream(LASTING, timeout=0.05)
        await _refused(_read(call), grpc.StatusCode.DEADLINE_EXCEEDED)

    async def revoked_key(self):
        call = self._stream(LASTING)
        await call.initial_metadata()
        self._api.calls.end(parse_key_text(KEY).prefix)
        await _refused(_read(call), grpc.StatusCode.UNAUTHENTICATED)


async def _read(call):
    async for _ in call:
        pass


async def _refused(awaitable, code):
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await awaitable
    assert refused.value.code() is code


def _living():
    """Count objects of the server. Frames of the client, which its errors refer to, do not count."""
    found = Counter()
    for each in gc.get_objects():
        name = type(each).__name__
        if name == "frame" and "tokenwire_server" not in each.f_code.co_filename:
            continue
        if name in SERVER_TYPES:
            found[name] += 1
    return found


@pytest.mark.parametrize("way", [name for name in vars(Caller) if not name.startswith("_")])
async def test_a_call_that_has_ended_leaves_nothing_for_the_garbage_collector(
    serve, way, monkeypatch
):
    monkeypatch.setattr(accepting, "MAX_ACCEPTED", 2)  # the server has an RPCState for each
    end_a_call = getattr(Caller(await serve({KEY: {}})), way)
    await end_a_call()  # creates what is created only once: connections, caches
    gc.collect()
    gc.freeze()  # objects that exist by now do not count
    gc.disable()
    try:
        for _ in range(CALLS):
            await end_a_call()
        for _ in range(50):  # until the server has ended them too
            left = {name: count for name, count in _living().items() if count >= CALLS}
            if not left:  # fewer belong to the server, which waits for the next call
                break
            await asyncio.sleep(0.1)
        assert not left
    finally:
        gc.enable()
