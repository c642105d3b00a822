"""A server whose database is locked, missing, or of another version."""

import asyncio
import contextlib
import os
import signal
import sqlite3
import time

import asyncpg
import grpc
import grpc.aio
import pytest
from e2e_calls import details, reason
from tenants_support import Tenancy, bearer, keys

from databases import UNAVAILABLE
from server_process import Forked, completed
from tokenwire.v1 import caller_pb2, caller_pb2_grpc, usage_pb2, usage_pb2_grpc
from tokenwire_server.storage.postgresql import SCHEMA_LOCK

TRUSTED_S = 2.0


@contextlib.contextmanager
def served(start, api_on, simulator, database, trusted_s=TRUSTED_S):
    acme, globex = [
        keys("create", "--tenant", name, database=database) for name in ("acme", "globex")
    ]
    env = simulator.environ() | {
        "TOKENWIRE_DATABASE": database,
        "TOKENWIRE_KEYS_TRUSTED_S": str(trusted_s),
    }
    with start("serve", "--listen", "127.0.0.1:0", env=env) as (process, address):
        yield Tenancy(api_on, address, database, acme, globex, simulator, process)


async def who(tenancy, key):
    """Return the tenant of a key, or the reason of the refusal."""
    async with tenancy.channel() as channel:
        stub = caller_pb2_grpc.CallerServiceStub(channel)
        try:
            return (
                await stub.GetCaller(caller_pb2.GetCallerRequest(), metadata=bearer(key))
            ).tenant
        except grpc.aio.AioRpcError as error:
            if reason(error) == "STORE_UNAVAILABLE":
                assert error.code() == grpc.StatusCode.UNAVAILABLE
                assert "RetryInfo" in details(error)
            return reason(error)


async def until(tenancy, key, wanted, within_s):
    began = time.monotonic()
    while (found := await who(tenancy, key)) != wanted:
        assert time.monotonic() - began < within_s, found
        await asyncio.sleep(0.05)
    return time.monotonic() - began


async def test_streams_continue_without_the_database_and_new_calls_fail_when_cached_keys_expire(
    start, api_on, simulator, own_postgresql
):
    database = own_postgresql.new_database()
    with served(start, api_on, simulator, database) as tenancy:
        async with tenancy.api(tenancy.acme) as api:
            call = api.chat_stream(api.request("openai/sim?repeat=forever&itl_ms=20"))
            events = aiter(call)
            await anext(events)
            own_postgresql.stop()
            assert await who(tenancy, tenancy.acme) == "acme"
            await until(tenancy, tenancy.acme, "STORE_UNAVAILABLE", within_s=TRUSTED_S + 5)
            for _ in range(50):
                await anext(events)
            own_postgresql.start()
            await until(tenancy, tenancy.acme, "acme", within_s=15)
            for _ in range(50):
                await anext(events)
            call.cancel()
        tenancy.process.log.seek(0)
        logged = tenancy.process.log.read()
        assert logged.count(": keys cannot be read") == 1
        assert logged.count(": keys can be read again") == 1


def change_the_password(server, database):
    name = database.rpartition("/")[2]
    server.sql("ALTER ROLE tokenwire PASSWORD 'another'")
    server.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")


@pytest.fixture(params=["wrong password", "stopped", "no file"])
def lost(request, tmp_path):
    """Return a database's URL, a function that makes it unavailable, texts that only the operator may get,
    and a text that the operator must get.
    """
    if request.param == "no file":
        path = tmp_path / "tokenwire.db"

        def remove():
            for file in tmp_path.iterdir():
                file.unlink()

        return (
            f"sqlite:///{path}",
            remove,
            [str(tmp_path)],
            f"{path} cannot be used: unable to open",
        )
    server = request.getfixturevalue("own_postgresql")
    database = server.new_database()
    private = ["127.0.0.1", str(server.port), "postgres", database.rpartition("/")[2]]
    if request.param == "stopped":
        return database, server.stop, private, f":{server.port}"
    return (
        database,
        lambda: change_the_password(server, database),
        private,
        "password authentication failed for user",
    )


async def test_callers_get_no_details_of_a_lost_database_and_the_operator_gets_them_once(
    start, api_on, simulator, lost
):
    database, lose, private, for_operator = lost
    with served(start, api_on, simulator, database, trusted_s=300) as tenancy:
        lose()
        async with tenancy.channel() as channel:
            usage = usage_pb2_grpc.UsageServiceStub(channel)
            for call, request in (
                (usage.ListUsageRecords, usage_pb2.ListUsageRecordsRequest()),
                (usage.GetUsageSummary, usage_pb2.GetUsageSummaryRequest()),
                (usage.ListUsageRecords, usage_pb2.ListUsageRecordsRequest()),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as failure:
                    await call(request, metadata=bearer(tenancy.acme))
                error = failure.value
                assert (error.code(), reason(error), error.details()) == (
                    grpc.StatusCode.UNAVAILABLE,
                    "STORE_UNAVAILABLE",
                    UNAVAILABLE,
                )
                assert "RetryInfo" in details(error)
                received = repr(
                    (error.details(), *error.initial_metadata(), *error.trailing_metadata())
                )
                for word in (*private, "password", "authentication", "sql", "driver", "connect"):
                    assert word not in received.lower()
        tenancy.process.log.seek(0)
        logged = tenancy.process.log.read()
        (line,) = [line for line in logged.splitlines() if "usage records cannot be read" in line]
        assert for_operator in line
        summary = completed("usage", "--database", database)
        assert summary.returncode == 1
        assert for_operator.partition(" cannot")[0] in summary.stderr


async def test_a_key_is_revoked_once_a_lost_database_is_back(
    start, api_on, simulator, own_postgresql
):
    database = own_postgresql.new_database()
    with served(start, api_on, simulator, database) as tenancy:
        own_postgresql.stop()
        await until(tenancy, tenancy.acme, "STORE_UNAVAILABLE", within_s=TRUSTED_S + 5)
        own_postgresql.start()
        keys("revoke", tenancy.acme[:15], database=database)
        await until(tenancy, tenancy.globex, "globex", within_s=15)
        await until(tenancy, tenancy.acme, "UNAUTHENTICATED", within_s=15)


async def test_a_locked_database_does_not_block_callers(start, api_on, simulator, tmp_path):
    database = f"sqlite:///{tmp_path}/tokenwire.db"
    with served(start, api_on, simulator, database) as tenancy:
        holder = sqlite3.connect(tmp_path / "tokenwire.db", isolation_level=None)
        with contextlib.closing(holder):
            holder.execute("BEGIN EXCLUSIVE")
            began = time.monotonic()
            while time.monotonic() - began < TRUSTED_S + 1.5:
                assert await who(tenancy, tenancy.acme) == "acme"
                await asyncio.sleep(0.2)
            locked = completed("keys", "revoke", tenancy.acme[:15], "--database", database)
            assert locked.returncode == 1
            assert "locked" in locked.stderr
            assert locked.stderr.count("\n") == 1


async def test_a_removed_database_file_is_not_treated_as_an_empty_database(
    start, api_on, simulator, tmp_path
):
    """Otherwise, deleting the file would give everybody access."""
    database = f"sqlite:///{tmp_path}/tokenwire.db"
    with served(start, api_on, simulator, database) as tenancy:
        for file in tmp_path.iterdir():
            file.unlink()
        await until(tenancy, tenancy.acme, "STORE_UNAVAILABLE", within_s=TRUSTED_S + 5)
        async with tenancy.channel() as channel:
            stub = caller_pb2_grpc.CallerServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.GetCaller(caller_pb2.GetCallerRequest())


def test_a_database_with_a_newer_schema_is_refused_at_startup(simulator, database_url, sql):
    keys("create", "--tenant", "acme", database=database_url)
    sql("UPDATE tokenwire_version SET version_num = '9999'")
    refused = completed("serve", "--demo", "--listen", "127.0.0.1:0", "--database", database_url)
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "9999" in refused.stderr
    assert "newer" in refused.stderr


def test_a_database_without_the_schema_is_refused_if_migration_is_off(database_url):
    listen = ("--listen", "127.0.0.1:0")
    refused = completed("serve", "--demo", *listen, "--no-migrate", "--database", database_url)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "tokenwire-server migrate" in refused.stderr


async def test_a_server_that_waits_for_the_schema_stops_on_sigterm(postgresql, tmp_path):
    database = postgresql.new_database()
    holder = await asyncpg.connect(database)
    await holder.execute(f"SELECT pg_advisory_lock({SCHEMA_LOCK})")
    serve = ("serve", "--demo", "--listen", "127.0.0.1:0", "--database", database)
    log = (tmp_path / "log").open("w+")
    waiting = Forked(serve, dict(os.environ), log)
    try:
        began = time.monotonic()
        while not await holder.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            assert time.monotonic() - began < 30
            await asyncio.sleep(0.05)
        waiting.send_signal(signal.SIGTERM)
        assert waiting.wait(10) == 0
    finally:
        waiting.kill()
        waiting.wait(10)
        waiting.stdout.close()
        log.close()
        await holder.close()
