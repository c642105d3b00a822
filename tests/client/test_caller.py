import asyncio

import pytest

import tokenwire
from tokenwire.v1 import caller_pb2

from .conftest import Code, status

CALLER = tokenwire.Caller(
    tenant="acme",
    key_prefix="tw_0123456789ab",
    models=["openai/*"],
    allowances=[caller_pb2.Allowance(limit=1, scope=1, allowed=60, remaining=57)],
    server_version="1.2.3",
)


async def known(_context):
    return CALLER


async def unknown(context):
    await context.abort_with_status(status(Code.UNAUTHENTICATED, "UNAUTHENTICATED"))


async def test_get_caller_returns_the_caller(server, client):
    server.caller = known

    assert await client.get_caller() == CALLER


async def test_get_caller_returns_the_caller_to_a_thread(server):
    server.caller = known

    def get_caller():
        with tokenwire.Client(server.target) as client:
            return client.get_caller()

    assert await asyncio.to_thread(get_caller) == CALLER


async def test_get_caller_refuses_an_unknown_key(server, client):
    server.caller = unknown

    with pytest.raises(tokenwire.Unauthenticated):
        await client.get_caller()


async def test_an_older_server_answers_get_caller_with_unimplemented(server, client):
    with pytest.raises(tokenwire.TokenwireError) as caught:
        await client.get_caller()

    assert (caught.value.code, caught.value.reason) == (Code.UNIMPLEMENTED, "")


async def test_a_lookup_has_a_deadline(server, client):
    async def silent(context):
        await asyncio.Event().wait()

    server.caller = silent

    with pytest.raises(tokenwire.DeadlineExceeded):
        await client.get_caller(timeout=0.1)
