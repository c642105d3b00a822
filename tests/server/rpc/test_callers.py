"""The response of GetCaller."""

import grpc
import grpc.aio
import pytest
from e2e_calls import details
from tenants_support import bearer

from tokenwire.v1 import caller_pb2
from tokenwire_server.config import CallerLimits
from tokenwire_server.tenants.key import make_key_text

KEY = make_key_text()


async def test_after_a_rotation_get_caller_returns_the_key_of_the_call(serve):
    api = await serve({KEY: {"family": "tw_000000000000"}})
    caller = await api.get_caller(caller_pb2.GetCallerRequest(), metadata=bearer(KEY))
    assert caller.key_prefix == KEY[:15]


async def test_a_key_that_never_expires_has_no_expire_time(serve):
    api = await serve({KEY: {}})
    caller = await api.get_caller(caller_pb2.GetCallerRequest(), metadata=bearer(KEY))
    assert not caller.HasField("key_expire_time")


async def test_limits_have_their_scope_and_the_keys_limits_come_first(serve):
    api = await serve(
        {KEY: {"limits": CallerLimits(requests_per_minute=9, messages_per_request=5)}},
        tenants={"*": CallerLimits(requests_per_minute=20)},
    )
    await api.chat(api.request("openai/sim?tokens=1"), metadata=bearer(KEY))
    caller = await api.get_caller(caller_pb2.GetCallerRequest(), metadata=bearer(KEY))
    key, tenant = caller_pb2.LIMIT_SCOPE_KEY, caller_pb2.LIMIT_SCOPE_TENANT
    requests, messages = caller_pb2.LIMIT_REQUESTS_PER_MINUTE, caller_pb2.LIMIT_MESSAGES_PER_REQUEST
    assert list(caller.allowances) == [
        caller_pb2.Allowance(limit=requests, scope=key, allowed=9, remaining=8),
        caller_pb2.Allowance(limit=messages, scope=key, allowed=5),
        caller_pb2.Allowance(limit=requests, scope=tenant, allowed=20, remaining=19),
    ]


async def test_a_malformed_request_is_refused_like_in_other_rpcs(serve):
    api = await serve({KEY: {}})
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await api.get_caller_raw(b"\xff", metadata=bearer(KEY))
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert details(refused.value)["ErrorInfo"].reason == "INVALID_REQUEST"
