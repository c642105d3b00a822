"""A real Redis Cluster: commands go to the primary that serves their key, also while that changes."""

import asyncio
import secrets

import pytest
import redis
from redis.crc import key_slot

from tokenwire_server.config import ConfigError, RedisConfig
from tokenwire_server.streamlog.redis.connect import connected
from tokenwire_server.streamlog.redis.start_checks import PERMISSIONS

SECRET = "s3cr3t"


def key_at(server, cluster):
    """Return a new key that a primary of a new cluster serves."""
    while True:
        key = f"tokenwire:{{{secrets.token_hex(4)}}}"
        if key_slot(key.encode()) * 3 // cluster.SLOTS == cluster.primaries.index(server):
            return key


def clients_of(cluster):
    """Return the connections of this server, by port."""
    found = {}
    for server in cluster.servers:
        with redis.Redis(port=server.port) as admin:
            found[server.port] = [
                each for each in admin.client_list() if each["name"].startswith("tokenwire-")
            ]
    return found


async def refusal(url):
    with pytest.raises(ConfigError) as caught:
        async with connected(RedisConfig(url=url)):
            pass
    return str(caught.value)


async def test_a_burst_waits_for_the_connections_that_the_primaries_share(own_redis_cluster):
    config = RedisConfig(url=own_redis_cluster.url, max_connections=9, timeout_s=20)
    names = [f"tokenwire:{n}" for n in range(300)]

    async with connected(config) as client:
        hurried = [asyncio.create_task(client.incr(name)) for name in names]
        pipelines = []
        for _ in range(20):
            pipeline = client.pipeline(transaction=False)
            for name in names:
                pipeline.incr(name)
            pipelines.append(asyncio.create_task(pipeline.execute()))
        await client.ping()
        for task in [*hurried[::2], *pipelines[::2]]:
            task.cancel()
        await asyncio.gather(*hurried, *pipelines, return_exceptions=True)
        results = await asyncio.gather(*(client.incr(name) for name in names))
        assert {type(result) for result in results} == {int}
        pipeline = client.pipeline(transaction=False)
        for name in names:
            pipeline.get(name)
        assert await pipeline.execute() == [str(result).encode() for result in results]
        assert {len(each) for each in clients_of(own_redis_cluster).values()} == {3}, (
            "none is lost to a command that was cancelled"
        )
    async with asyncio.timeout(20):
        while any(clients_of(own_redis_cluster).values()):
            await asyncio.sleep(0.01)


async def test_commands_follow_a_slot_that_is_moved_and_are_served_while_it_is(own_redis_cluster):
    cluster = own_redis_cluster
    source, target, _ = cluster.primaries
    key = key_at(source, cluster)
    slot, new = key_slot(key.encode()), f"{key}:new"
    async with connected(RedisConfig(url=cluster.url)) as client:

        async def count(name):
            pipeline = client.pipeline(transaction=True)
            pipeline.incr(name)
            pipeline.get(name)
            found, _ = await pipeline.execute()
            pipeline = client.pipeline(transaction=False)
            pipeline.incr(name)
            pipeline.incr(key_at(target, cluster))
            assert await pipeline.execute() == [found + 1, 1]
            return await client.incr(name)

        assert await count(key) == 3
        await asyncio.to_thread(cluster.move, slot, source, target, ends=False)
        assert await count(key) == 6
        assert await count(new) == 3
        await asyncio.to_thread(cluster.move, slot, source, target)
        assert await count(key) == 9
        assert await count(new) == 6
        with redis.Redis(port=target.port) as moved:
            assert moved.get(key) == b"9"


async def test_a_cluster_that_cannot_carry_streams_is_refused_with_what_to_change(
    own_redis_cluster,
):
    cluster = own_redis_cluster
    first, second, third = cluster.primaries
    replica = await asyncio.to_thread(cluster.add_replica, first)
    async with connected(RedisConfig(url=replica.url)) as client:
        assert {node.address[1] for node in client.nodes} == {
            server.port for server in cluster.primaries
        }
    assert "has only the database 0: change its number" in await refusal(cluster.url[:-1] + "1")
    with redis.Redis(port=second.port) as admin:
        admin.config_set("maxmemory", "1gb")
        admin.config_set("maxmemory-policy", "allkeys-lru")
        assert (
            f"whose primary 127.0.0.1:{second.port} drops streams when its memory is full"
            in await refusal(cluster.url)
        )
        admin.config_set("maxmemory-policy", "noeviction")
    for server in cluster.servers:
        with redis.Redis(port=server.port) as admin:
            admin.execute_command(*f"ACL SETUSER app on >{SECRET} {PERMISSIONS}".split())
    async with connected(RedisConfig(url=cluster.url.replace("//", f"//app:{SECRET}@"))) as client:
        assert await client.ping()
    with redis.Redis(port=third.port) as admin:
        admin.execute_command("CLUSTER", "DELSLOTS", 16000)
    assert "in which" in await refusal(third.url)
