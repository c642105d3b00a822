"""Tenants' own provider keys: which key each request of each tenant carries."""

import asyncio
import base64
import json
import os
import time
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest
from e2e_calls import info, reason
from tenants_support import TAKEN_WITHIN_S, bearer, keys

from tokenwire.v1 import caller_pb2, caller_pb2_grpc, chat_pb2, model_pb2, usage_pb2, usage_pb2_grpc
from tokenwire_server.ledger.store import UsageStore
from tokenwire_server.storage.database import Database
from tokenwire_server.tenants.master_keys import MasterKeys
from tokenwire_server.tenants.provider_keystore import ProviderKeyStore

MASTER_KEY = base64.b64encode(os.urandom(32)).decode()
MASTER_KEYS = MasterKeys.of({"TOKENWIRE_ENCRYPTION_KEYS": MASTER_KEY})
FOREIGN_KEYS = MasterKeys([os.urandom(32)])
SERVER_KEYS = {
    "openai": "key-of-openai",
    "openai-responses": "key-of-openai",
    "anthropic": "key-of-anthropic",
}
SECRET = "canary-0a1b2c3d4e5f"
"""In every tenant's key."""


def own_key(provider):
    return f"{SECRET}-{provider}"


@asynccontextmanager
async def stored(tenancy):
    async with Database(tenancy.database) as database:
        yield ProviderKeyStore(database)


async def key_of(tenancy, tenant_key, model):
    """Send a request. Return the provider's key that it carried, or the reason of its error."""
    tag = os.urandom(8).hex()
    async with tenancy.api(tenant_key) as api:
        try:
            await api.events(f"{model}?tokens=1&key={tag}")
        except grpc.aio.AioRpcError as error:
            return reason(error)
    headers = tenancy.simulator.request(tag)["headers"]
    sent = headers.pop("authorization").removeprefix("Bearer ")
    others = json.dumps(headers)
    assert not any(known in others for known in (SECRET, *SERVER_KEYS.values()))
    return sent


async def until_key_is(expected, tenancy, tenant_key, model):
    """Wait until requests carry a key: servers read the keys again every second."""
    began = time.monotonic()
    while (found := await key_of(tenancy, tenant_key, model)) != expected:
        assert time.monotonic() - began < TAKEN_WITHIN_S, found
        await asyncio.sleep(0.1)


async def store_keys(tenancy):
    async with stored(tenancy) as store:
        await store.set("globex", "anthropic", SECRET, FOREIGN_KEYS)
        for provider in (*SERVER_KEYS, "byok"):
            await store.set("acme", provider, own_key(provider), MASTER_KEYS)
    await until_key_is(own_key("byok"), tenancy, tenancy.acme, "byok/sim")


@pytest.fixture(scope="module")
def tenancy(serving, simulator):
    """A server on which acme has a key for each format, and for `byok`, for which the server has none.

    initech has none. globex may only use its own keys, and has one that cannot be decrypted, for `anthropic`.
    """
    byok = {"kind": "openai-chat", "base_url": f"{simulator.url}/v1", "api_key_env": "NOT_SET"}
    resold = byok | {"api_key_env": "OPENAI_API_KEY"}
    env = {
        "TOKENWIRE_ENCRYPTION_KEYS": MASTER_KEY,
        "TOKENWIRE_PROVIDERS": json.dumps({"byok": byok, "resold": resold}),
        "TOKENWIRE_TENANTS": json.dumps(
            {"globex": {"own_keys_only": True}, "acme": {"spend_usd_per_day": "0.5"}}
        ),
        "TOKENWIRE_MODELS": json.dumps(
            {
                "here": {"target": "byok/sim"},
                "priced": {"target": "openai/sim?tokens=3", "prices": {"input": 1, "output": 1000}},
                "resold": {"target": "resold/sim?tokens=3", "prices": {"input": 1, "output": 1000}},
            }
        ),
        "TOKENWIRE_LOG_LEVEL": "DEBUG",
    }
    with serving(simulator, **env) as tenancy:
        tenancy.initech = keys("create", "--tenant", "initech", database=tenancy.database)
        asyncio.run(tenancy.taken(tenancy.initech))
        asyncio.run(store_keys(tenancy))
        yield tenancy


async def refused(api, model, **fields):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await api.events(model, **fields)
    return caught.value


@pytest.mark.parametrize("provider", SERVER_KEYS)
async def test_a_tenants_requests_carry_its_own_key_and_no_other(tenancy, provider):
    assert await key_of(tenancy, tenancy.acme, f"{provider}/sim") == own_key(provider)
    assert await key_of(tenancy, tenancy.initech, f"{provider}/sim") == SERVER_KEYS[provider]


async def test_a_fallback_carries_the_key_for_its_own_provider(tenancy, simulator):
    async with tenancy.api(tenancy.acme) as api:
        fallback = "anthropic/sim?tokens=1&key=own-fallback"
        await api.events("openai/sim?status=503", fallback_models=[fallback])
    headers = simulator.request("own-fallback")["headers"]
    assert headers["authorization"] == f"Bearer {own_key('anthropic')}"


async def test_a_provider_without_a_key_of_the_server_is_only_for_tenants_with_one(tenancy):
    assert await key_of(tenancy, tenancy.initech, "byok/sim") == "UNKNOWN_MODEL"
    for key, models in (
        (tenancy.acme, ["here", "priced", "resold"]),
        (tenancy.initech, ["priced", "resold"]),
        (tenancy.globex, []),
    ):
        async with tenancy.api(key) as api:
            listed = await api.list_models(model_pb2.ListModelsRequest())
        assert [model.id for model in listed.models] == models


async def test_nothing_is_sent_for_a_tenant_that_needs_its_own_key_and_has_none(tenancy):
    before = tenancy.simulator.stats()["requests_total"]
    async with tenancy.api(tenancy.globex) as api:
        error = await refused(api, "openai/sim")
        assert error.code() == grpc.StatusCode.PERMISSION_DENIED
        assert "needs its own key for provider 'openai', and none is stored" in error.details()
        error = await refused(api, "anthropic/sim")  # its key cannot be decrypted
        assert error.code() == grpc.StatusCode.FAILED_PRECONDITION
        assert info(error).metadata["key_owner"] == "tenant"
        assert "the operator must fix this" in error.details()
    assert tenancy.simulator.stats()["requests_total"] == before


async def test_a_refused_key_is_reported_as_the_tenants_and_the_servers_is_not_tried(tenancy):
    before = tenancy.simulator.stats()["requests_total"]
    async with tenancy.api(tenancy.acme) as api:
        for provider in SERVER_KEYS:
            error = await refused(api, f"{provider}/sim?status=401")
            assert (reason(error), info(error).metadata["key_owner"]) == ("UPSTREAM_AUTH", "tenant")
            assert "refuses the tenant's own key or account" in error.details()
    assert tenancy.simulator.stats()["requests_total"] == before + len(SERVER_KEYS)
    async with tenancy.api(tenancy.initech) as api:
        error = await refused(api, "openai/sim?status=401")
    assert "key_owner" not in info(error).metadata


async def test_failures_with_a_tenants_key_leave_the_retries_of_others(tenancy):
    sent = []
    for key, count in ((tenancy.acme, 6), (tenancy.initech, 1)):
        before = tenancy.simulator.stats()["requests_total"]
        async with tenancy.api(key) as api:
            for _ in range(count):
                await refused(api, "openai-responses/sim?status=503")
        sent.append(tenancy.simulator.stats()["requests_total"] - before)
    assert sent[0] < 6 * 3  # acme has used its budget for retries
    assert sent[1] == 3


async def test_only_streams_with_the_servers_key_count_for_the_limit_on_spend(tenancy):
    metadata = bearer(tenancy.acme)
    async with tenancy.channel() as channel, tenancy.api(tenancy.acme) as api:
        left = caller_pb2_grpc.CallerServiceStub(channel).GetCaller
        records = usage_pb2_grpc.UsageServiceStub(channel).ListUsageRecords

        async def spend_left():
            caller = await left(caller_pb2.GetCallerRequest(), metadata=metadata)
            (allowance,) = caller.allowances
            return allowance.remaining

        found = [await spend_left()]
        for model in ("priced", "resold"):
            await api.events(model, generation=chat_pb2.GenerationConfig(max_output_tokens=3))
            found.append(await spend_left())
        assert found[0] == found[1] == 500_000
        assert found[2] == 500_000 - 3 * 1000 - 8

        async def both_are_recorded():
            page = await records(
                usage_pb2.ListUsageRecordsRequest(page_size=100), metadata=metadata
            )
            return {
                record.model_asked: record
                for record in page.usage_records
                if "/" not in record.model_asked and record.outcome != usage_pb2.USAGE_OUTCOME_OPEN
            }

        began = time.monotonic()
        while len(by_model := await both_are_recorded()) < 2:
            assert time.monotonic() - began < TAKEN_WITHIN_S
            await asyncio.sleep(0.05)
        assert {name: record.own_key for name, record in by_model.items()} == {"priced": True, "resold": False}  # fmt: skip
        assert by_model["priced"].usage.cost_microusd == 3 * 1000 + 8
    async with Database(tenancy.database) as database:
        assert (await UsageStore(database).spent_since(0.0, 0.0))["acme"] == 500_000 - found[2]


async def test_a_replaced_key_and_a_deleted_key_take_effect_within_seconds(tenancy):
    for change, expected in (
        (lambda store: store.set("initech", "openai", own_key(1), MASTER_KEYS), own_key(1)),
        (lambda store: store.set("initech", "openai", own_key(2), MASTER_KEYS), own_key(2)),
        (lambda store: store.delete("initech", "openai"), SERVER_KEYS["openai"]),
    ):
        async with stored(tenancy) as store:
            await change(store)
        await until_key_is(expected, tenancy, tenancy.initech, "openai/sim")


async def test_no_own_key_is_in_the_log_the_database_or_an_error(tenancy):
    said = ""
    async with tenancy.api(tenancy.acme) as api:
        for model in (
            "openai/sim?status=401",
            "openai/sim?instead=error",
            "openai/sim?drop_after=0",
        ):
            error = await refused(api, model)
            said += repr(error) + repr(error.trailing_metadata())
    tenancy.process.log.seek(0)
    log = tenancy.process.log.read()
    assert "upstream failed" in log
    assert "the key of tenant globex for provider anthropic cannot be decrypted" in log
    folder = Path(tenancy.database.removeprefix("sqlite:///")).parent
    database = b"".join(file.read_bytes() for file in folder.iterdir())
    assert b"byok" in database
    assert SECRET not in said + log
    assert SECRET.encode() not in database
