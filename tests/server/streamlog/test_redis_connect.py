"""Connections to real Redis servers: what is refused at the start, and how the pool behaves later."""

import asyncio
import os
import re
import socket

import pytest
import redis
import trustme

from tokenwire_server.config import ConfigError, RedisConfig
from tokenwire_server.errors import StoreUnavailable
from tokenwire_server.streamlog.redis.connect import connected
from tokenwire_server.streamlog.redis.start_checks import PERMISSIONS, fault_of
from tokenwire_server.streamlog.redis.store import LogStore

SECRET = "s3cr3t"
NO_PERMISSION = (
    "refuses a command to the user in redis.url, who needs these permissions: ~tokenwire:"
)


def user(rules):
    return f"ACL SETUSER app on >{SECRET} {rules}"


async def refusal(url, **options):
    """Return why a Redis is refused at the start."""
    with pytest.raises(ConfigError) as caught:
        async with connected(RedisConfig(url=url, **options)):
            pass
    text = str(caught.value)
    assert text.startswith(f"redis: {re.sub('//.*@', '//', url)}")
    assert SECRET not in text
    return text


@pytest.mark.process
@pytest.mark.parametrize(
    ("commands", "login", "database", "reason"),
    [
        ([], "", 99, "has no such database: change its number in redis.url"),
        ([], f":{SECRET}@", 0, "has no password: remove that in redis.url"),
        ([f"CONFIG SET requirepass {SECRET}"], "", 0, "needs a password: set redis.url to"),
        (
            ["CONFIG SET requirepass x"],
            f":{SECRET}@",
            0,
            "does not accept the user or the password",
        ),
        ([user("~* &* +@all -client")], f"app:{SECRET}@", 0, NO_PERMISSION),
        ([user("~* &* +@all -info")], f"app:{SECRET}@", 0, NO_PERMISSION),
        ([user("~* &* +@all -xadd")], f"app:{SECRET}@", 0, NO_PERMISSION),
        ([user("~other:* &* +@all")], f"app:{SECRET}@", 0, NO_PERMISSION),
        ([user("~* resetchannels +@all")], f"app:{SECRET}@", 0, NO_PERMISSION),
        (["REPLICAOF 127.0.0.1 1"], "", 0, "is a read-only replica: set redis.url to its primary"),
        (
            ["CONFIG SET maxmemory 1gb", "CONFIG SET maxmemory-policy volatile-lru"],
            *("", 0, "change its setting maxmemory-policy from volatile-lru to noeviction"),
        ),
        (["CONFIG SET maxmemory 1"], "", 0, "is full: raise its setting maxmemory"),
        (
            ["CONFIG SET min-replicas-to-write 1"],
            *("", 0, "refuses a command: NOREPLICAS Not enough good replicas to write"),
        ),
        (["CONFIG SET maxclients 1"], "", 0, "raise its setting maxclients"),
    ],
)
async def test_a_redis_that_cannot_carry_streams_is_refused_with_what_to_change(
    own_redis, commands, login, database, reason
):
    with redis.Redis(port=own_redis.port) as admin:
        for command in commands:
            admin.execute_command(*command.split())
        text = await refusal(f"redis://{login}127.0.0.1:{own_redis.port}/{database}")
    assert reason in text


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        ({"redis_version": "6.0.16"}, "is Redis 6.0.16: 6.2 or later is needed"),
        ({}, "is Redis of an unknown version: 6.2 or later"),
        ({"redis_version": "7.2.4", "redis_mode": "sentinel"}, "is a Sentinel"),
    ],
)
def test_servers_that_are_not_installed_here_are_refused_by_their_reply_to_info(info, reason):
    assert reason in fault_of(info)


def test_a_cache_that_never_fills_up_and_a_full_server_that_refuses_writes_are_accepted():
    info = {"redis_version": "6.2.0", "role": "master", "cluster_enabled": 0}
    assert fault_of(info | {"maxmemory": 0, "maxmemory_policy": "allkeys-lru"}) is None
    assert fault_of(info | {"maxmemory": 9, "maxmemory_policy": "noeviction"}) is None


@pytest.mark.parametrize(
    ("reply", "login", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "", "does not answer like Redis: another program"),
        (b"", "", "closed the connection: it may need TLS (rediss://)"),
        (None, "", "did not answer in 0.2 s: check redis.url, or raise redis.timeout_s"),
        (
            f"-ERR unknown command 'AUTH', with args beginning with: '{SECRET}'\r\n".encode(),
            *(f":{SECRET}@", "refuses a command: its text contains the password"),
        ),
        (b"-LOADING Redis is loading the dataset in memory\r\n", "", "is still reading its data"),
        (b"-DENIED Redis is running in protected mode because\r\n", "", "set a password there"),
    ],
)
async def test_another_program_and_a_server_that_is_not_ready_are_named(reply, login, reason):
    async def answer(reader, writer):
        await reader.read(100)
        if reply is None:
            await reader.read()
        writer.write(reply or b"")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        timeout_s = 0.2 if reply is None else 5.0
        assert reason in await refusal(f"redis://{login}127.0.0.1:{port}/0", timeout_s=timeout_s)


async def test_a_redis_that_cannot_be_reached_is_named_with_the_cause():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        refused = await refusal(f"redis://app:{SECRET}@127.0.0.1:{unused.getsockname()[1]}/0")
    assert refused.endswith("cannot be reached: Connection refused")
    unknown = await refusal("redis://no-such-host.invalid:6379/0")
    assert "does not resolve" in unknown or "did not answer in" in unknown


@pytest.mark.process
async def test_over_tls_the_certificate_is_verified_and_a_mismatch_is_named(
    own_redis, tmp_path, monkeypatch
):
    authority, issued = trustme.CA(), str(tmp_path / "issued.pem")
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(issued)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with redis.Redis(port=own_redis.port) as admin:
        admin.config_set(
            *("tls-cert-file", issued, "tls-key-file", issued, "tls-ca-cert-file", issued),
            *("tls-auth-clients", "no", "tls-port", port),
        )
    url = f"rediss://127.0.0.1:{port}/0"
    assert "has a certificate that is not trusted: unable to get" in await refusal(url)
    assert "it may need TLS" in await refusal(url.replace("rediss", "redis"))
    no_tls = await refusal(own_redis.url.replace("redis", "rediss"), timeout_s=0.2)
    assert "(rediss:// only if it uses TLS)" in no_tls
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    async with connected(RedisConfig(url=url)) as client:
        assert await client.ping()


@pytest.mark.process
async def test_a_user_with_the_documented_permissions_can_do_all_that_is_checked(own_redis):
    with redis.Redis(port=own_redis.port) as admin:
        admin.execute_command(*user(PERMISSIONS).split())
        url = f"redis://app:{SECRET}@127.0.0.1:{own_redis.port}/1"
        async with connected(RedisConfig(url=url)):
            names = {client["name"] for client in admin.client_list() if client["user"] == "app"}
            assert names == {f"tokenwire-{os.getpid()}"}
        async with asyncio.timeout(20):  # until Redis has noticed that all others are closed
            while len(admin.client_list()) > 1:
                await asyncio.sleep(0.01)


@pytest.mark.process
async def test_a_burst_waits_for_a_connection_and_after_a_restart_commands_work_at_once(own_redis):
    config = RedisConfig(url=own_redis.url, max_connections=3, timeout_s=20)

    async def burst(client):
        return await asyncio.gather(
            *(client.incr("commands") for _ in range(300)), return_exceptions=True
        )

    async with connected(config) as client:
        hurried = [asyncio.create_task(client.incr("commands")) for _ in range(300)]
        await client.ping()
        for task in hurried[::2]:
            task.cancel()
        await asyncio.gather(*hurried, return_exceptions=True)
        assert {type(result) for result in await burst(client)} == {int}
        named = [each["name"] for each in await client.client_list()]
        assert len(named) == config.max_connections, "none is lost to a command that was cancelled"

        with redis.Redis(port=own_redis.port) as admin:
            waiting = asyncio.create_task(client.blpop(["nothing"], 10))
            while "blpop" not in {each["cmd"] for each in admin.client_list()}:
                await asyncio.sleep(0.01)
            admin.client_kill_filter(skipme=True, _type="normal")
        with pytest.raises(redis.ConnectionError):  # it is not sent again
            await waiting

        own_redis.stop()
        with pytest.raises(StoreUnavailable) as caught:
            await LogStore(client).read("0" * 32, 0)
        assert str(caught.value) == "the log of streams that servers share is not available"
        assert str(own_redis.port) in caught.value.detail
        assert {type(result) for result in await burst(client)} == {redis.ConnectionError}
        own_redis.start()
        assert sorted(await burst(client)) == list(range(1, 301))
