"""The modes of `--auth`, on a real server."""

import grpc
import grpc.aio
import pytest
from e2e_calls import reason
from tenants_support import bearer, keys

from tokenwire_server.tenants.key import make_key_text


@pytest.fixture
def database(tmp_path):
    return f"sqlite:///{tmp_path}/tokenwire.db"


async def refusal(call):
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return reason(refused.value)


async def test_auth_keys_refuses_all_callers_until_a_key_exists(start, api_on, database):
    arguments = ["serve", "--demo", "--listen", "127.0.0.1:0", "--database", database]
    with start(*arguments, "--auth", "keys") as (_, address):
        async with grpc.aio.insecure_channel(address) as channel:
            assert await refusal(api_on(channel).list_models(b"")) == "UNAUTHENTICATED"


async def test_auth_none_needs_no_key_but_checks_a_key_that_is_sent(start, api_on, database):
    key = keys("create", "--tenant", "acme", "--models", "openai/*", database=database)
    arguments = ["serve", "--demo", "--listen", "127.0.0.1:0", "--database", database]
    with start(*arguments, "--auth", "none") as (_, address):
        async with grpc.aio.insecure_channel(address) as channel:
            api = api_on(channel)
            assert len((await api.list_models(b"")).models) == 3
            of_acme = (await api.list_models(b"", metadata=bearer(key))).models
            assert [model.id for model in of_acme] == ["openai/demo"]
            other = bearer(make_key_text())
            assert await refusal(api.list_models(b"", metadata=other)) == "UNAUTHENTICATED"
