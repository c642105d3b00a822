"""Two servers that replay each other's answers, through Redis."""

import asyncio
import os
import signal
import time
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import NamedTuple

import pytest
import redis
from tenants_support import Tenancy, keys

from redis_servers import new_redis
from tokenwire.v1 import chat_pb2 as pb
from tokenwire.v1 import usage_pb2, usage_pb2_grpc

KEEP = pb.CacheOptions(mode=pb.CACHE_MODE_READ_WRITE)
NOTHING = usage_pb2.Usage(input_tokens=0, output_tokens=0, cost_microusd=0)
LIMIT_S = 20
ATTEMPTS = 10
"""A lookup that takes more than 50 ms is a miss, which can happen on a busy machine."""
CONFIGURATION = '[models.alias]\ntarget = "openai/sim?tokens=5&key={key}"\n'


RELOADED, NOT_FOUND = "the configuration was reloaded", "cached answers are not found"


def logged(server):
    return os.pread(server.process.log.fileno(), 2**20, 0).decode()


class Pair(NamedTuple):
    one: Tenancy
    two: Tenancy
    redis: object
    configuration: object
    """The configuration file of server two."""

    async def reload(self, key):
        """Change the alias at server two."""
        count = logged(self.two).count(RELOADED)
        self.configuration.write_text(CONFIGURATION.format(key=key))
        self.two.process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(LIMIT_S):
            while logged(self.two).count(RELOADED) == count:
                await asyncio.sleep(0.02)

    @asynccontextmanager
    async def apis(self):
        """Yield the RPCs of both servers, with a key of acme."""
        async with self.one.api(self.one.acme) as at_one, self.two.api(self.two.acme) as at_two:
            yield at_one, at_two

    async def cached(self, api, model):
        """Return the events of an answer that Redis has."""
        events = await api.events(model, cache=KEEP)
        assert not events[0].started.from_cache
        stored = f"tokenwire:cache:*:answer:{events[0].started.stream_id}"
        with redis.Redis(port=self.redis.port) as client:
            async with asyncio.timeout(LIMIT_S):
                while not list(client.scan_iter(stored, count=1000)):
                    await asyncio.sleep(0.01)
        return events

    async def shared(self, name, api, other):
        """Cache an answer at one server. Return it, and its replay at the other."""
        for attempt in range(ATTEMPTS):
            model = f"openai/sim?tokens=5&key={name}-{attempt}"
            first = await self.cached(api, model)
            again = await other.events(model, cache=KEEP)
            if again[0].started.from_cache:
                return model, first, again
        raise AssertionError("no answer was replayed")


@pytest.fixture(scope="module")
def pair(start, api_on, new_database, simulator, tmp_path_factory):
    database = new_database()
    acme, globex = [
        keys("create", "--tenant", name, database=database) for name in ("acme", "globex")
    ]
    folder = tmp_path_factory.mktemp("configurations")
    with ExitStack() as stack:
        server = stack.enter_context(contextmanager(new_redis)())
        env = simulator.environ() | {
            "TOKENWIRE_DATABASE": database,
            "TOKENWIRE_REDIS__URL": server.url,
        }
        servers = []
        for name in ("one", "two"):
            configuration = folder / f"{name}.toml"
            configuration.write_text(CONFIGURATION.format(key="before"))
            command = ("serve", "--listen", "127.0.0.1:0", "--config", str(configuration))
            process, address = stack.enter_context(start(*command, env=env))
            servers.append(Tenancy(api_on, address, database, acme, globex, simulator, process))
        yield Pair(*servers, server, configuration)


async def test_an_answer_of_another_server_is_replayed_to_its_tenant_at_no_cost(pair, simulator):
    async with pair.apis() as (api, other), pair.two.api(pair.two.globex) as stranger:
        model, first, again = await pair.shared("hit", api, other)
        assert simulator.request(model.rpartition("=")[2])["attempt"] == 1
        assert again[0].started.stream_id != first[0].started.stream_id
        texts = ["".join(event.text.text for event in events) for events in (first, again)]
        assert texts[0] == texts[1] != ""
        assert again[-1].finished.usage == NOTHING
        assert not (await stranger.events(model, cache=KEEP))[0].started.from_cache
    interceptor = pair.two.channel()
    async with interceptor as channel:
        list_records = usage_pb2_grpc.UsageServiceStub(channel).ListUsageRecords
        metadata = (("authorization", f"Bearer {pair.two.acme}"),)
        async with asyncio.timeout(LIMIT_S):
            while True:
                page = await list_records(usage_pb2.ListUsageRecordsRequest(), metadata=metadata)
                found = {record.stream_id: record for record in page.usage_records}
                if again[0].started.stream_id in found:
                    break
                await asyncio.sleep(0.05)
    record = found[again[0].started.stream_id]
    assert record.from_cache
    assert record.usage == NOTHING


async def test_an_answer_that_was_deleted_at_one_server_is_replayed_by_none(pair):
    async with pair.apis() as (api, other):
        model, first, _ = await pair.shared("deleted", api, other)
        await other.delete_stream(pb.DeleteStreamRequest(stream_id=first[0].started.stream_id))
        events = await other.events(model, cache=KEEP)
        assert not events[0].started.from_cache
        await other.delete_stream(pb.DeleteStreamRequest(stream_id=events[0].started.stream_id))
        async with asyncio.timeout(LIMIT_S):  # a message reaches the owner
            while (events := await api.events(model, cache=KEEP))[0].started.from_cache:
                await asyncio.sleep(0.01)


async def test_a_reloaded_server_replays_no_answers_of_servers_that_are_not_reloaded_yet(
    pair, simulator
):
    async with pair.apis() as (api, other):
        await pair.cached(api, "alias")
        await pair.reload("after")
        assert not (await other.events("alias", cache=KEEP))[0].started.from_cache
        assert simulator.request("after")["attempt"] == 1
        await pair.reload("before")


async def test_while_redis_does_not_answer_no_request_waits_for_it_or_fails(pair):
    async with pair.apis() as (api, _):
        local = "openai/sim?tokens=5&key=local"
        await pair.cached(api, local)
        count = logged(pair.one).count(NOT_FOUND)
        pair.redis.pause()
        try:
            began = time.monotonic()
            asked = 0
            while asked < 40 or NOT_FOUND not in logged(pair.one):
                events = await api.events(f"openai/sim?tokens=1&key=paused-{asked}", cache=KEEP)
                assert not events[0].started.from_cache
                asked += 1
            assert (await api.events(local, cache=KEEP))[0].started.from_cache
            # Half of what it would take if each waited for `timeout_s`.
            assert time.monotonic() - began < asked
        finally:
            pair.redis.unpause()
    assert logged(pair.one).count(NOT_FOUND) <= count + 1
