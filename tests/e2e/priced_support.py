"""Servers whose models have prices, and helpers of the tests of budgets, spend and counts."""

import asyncio
import time
from contextlib import asynccontextmanager, contextmanager
from decimal import Decimal

import grpc.aio
import pytest
from e2e_calls import read
from tenants_support import Tenancy, bearer

from tokenwire.v1 import (
    caller_pb2,
    caller_pb2_grpc,
    chat_pb2,
    usage_pb2,
    usage_pb2_grpc,
)
from tokenwire_server.storage.database import Database
from tokenwire_server.tenants.keystore import KeyStore

INPUT_PRICE, OUTPUT_PRICE = 1, 5
"""Price in microusd per token."""
ARRIVAL = 20 * OUTPUT_PRICE
"""Maximum cost of one arrival: one token, or several that arrived while the machine was busy."""
PRICED = f"{{ input = {INPUT_PRICE}, output = {OUTPUT_PRICE} }}"


def text_of(count):
    """Return a text for a scenario that has `count` tokens in every vocabulary, each a delta of the
    simulator.
    """
    return "text=" + "%20".join(["word"] * count)


def model(alias, target, prices=PRICED):
    """Return a table of the settings."""
    return f'[models."{alias}"]\ntarget = "{target}"\n' + (f"prices = {prices}\n" if prices else "")


def cap(tenant, day=None, month=None):
    """Return a table of the settings for a tenant's spend limits, in microusd."""
    lines = [f'[tenants."{tenant}"]']
    for name, microusd in (("day", day), ("month", month)):
        if microusd is not None:
            lines.append(f'spend_usd_per_{name} = "{Decimal(microusd) / 10**6}"')
    return "\n".join(lines) + "\n"


@contextmanager
def priced(start, simulator, folder, *tables, database=None, **env):
    """Start a server with these tables in its settings. Yields its process and address."""
    path = folder / "tokenwire.toml"
    path.write_text("\n".join(tables))
    env = simulator.environ() | {"TOKENWIRE_DATABASE": database or f"sqlite:///{folder}/t.db"} | env
    arguments = ("serve", "--listen", "127.0.0.1:0", "--config", str(path))
    with start(*arguments, env=env) as (process, address):
        yield process, address


class PricedApi:
    """The RPCs of a server, for callers with or without a key."""

    def __init__(self, api, channel, key=None):
        self.request = api.request
        self.chat = api.chat
        self.chat_stream = api.chat_stream
        self.resume_stream = api.resume_stream
        self.get_stream = api.get_stream
        self.channel = channel
        self._metadata = bearer(key) if key else None
        self._count_tokens = channel.unary_unary(
            "/tokenwire.v1.ChatService/CountTokens",
            response_deserializer=chat_pb2.CountTokensResponse.FromString,
        )

    def count_tokens(self, request, **options):
        """Return the call that counts a request's tokens. `request` may be invalid bytes."""
        data = request if isinstance(request, bytes) else request.SerializeToString()
        return self._count_tokens(data, metadata=self._metadata, **options)

    async def left(self):
        """Return what is left of each limit, by name."""
        stub = caller_pb2_grpc.CallerServiceStub(self.channel)
        caller = await stub.GetCaller(caller_pb2.GetCallerRequest(), metadata=self._metadata)
        return {
            caller_pb2.Limit.Name(found.limit).removeprefix("LIMIT_").lower(): found.remaining
            for found in caller.allowances
        }

    async def records(self):
        """Return all usage records."""
        stub = usage_pb2_grpc.UsageServiceStub(self.channel)
        request = usage_pb2.ListUsageRecordsRequest(page_size=1000)
        return (await stub.ListUsageRecords(request, metadata=self._metadata)).usage_records

    async def events(self, alias, **fields):
        """Return all events of a stream."""
        return await read(self.chat_stream(self.request(alias, **fields)))


@asynccontextmanager
async def calling(api_on, address, key=None):
    """Yield the RPCs, without or with a key."""
    tenancy = Tenancy(api_on, address, None, None, None, None, None)
    async with tenancy.channel() as channel:
        if key is None:
            yield PricedApi(api_on(channel), channel)
        else:
            async with tenancy.api(key) as api:
                yield PricedApi(api, channel, key)


def new_keys(database, tenants):
    """Return a key for each tenant, by name."""

    async def make():
        async with Database(database) as found:
            await found.prepare(migrate=True)
            store = KeyStore(found)
            return {tenant: (await store.create(tenant))[1] for tenant in tenants}

    return asyncio.run(make())


async def record_of(api, stream_id):
    """Return the usage record of a stream when it is closed."""
    give_up = time.monotonic() + 5
    while True:
        for record in await api.records():
            if record.stream_id == stream_id and record.outcome != usage_pb2.USAGE_OUTCOME_OPEN:
                return record
        assert time.monotonic() < give_up, "no record of its end"
        await asyncio.sleep(0.05)


async def refused(call):
    """Return the error of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value


def at_most(tokens):
    """Return a generation limited to these output tokens."""
    return chat_pb2.GenerationConfig(max_output_tokens=tokens)


def budget(cost=None, input_tokens=None):
    return chat_pb2.Budget(max_cost_microusd=cost, max_input_tokens=input_tokens)
