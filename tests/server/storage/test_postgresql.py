"""PostgreSQL: restarts, timeouts and errors, none of which contains a password."""

import asyncio
import signal
import socket
import time
from urllib.parse import quote

import asyncpg
import pytest
from sqlalchemy import select, text, update

from databases import PASSWORD, detail
from tokenwire_server.config import ConfigError
from tokenwire_server.errors import StoreUnavailable
from tokenwire_server.storage import database as database_module
from tokenwire_server.storage import postgresql as postgresql_module
from tokenwire_server.storage import schema
from tokenwire_server.storage.database import Database
from tokenwire_server.storage.schema import key_revision

ENCODED = quote(PASSWORD, safe="")


async def read(database):
    async with database.reading() as connection:
        return (await connection.execute(select(key_revision.c.revision))).scalar_one()


async def refused(url):
    with pytest.raises(StoreUnavailable) as failure:
        async with Database(url) as database:
            await database.prepare(migrate=True)
    message = failure.value.detail
    assert PASSWORD not in message
    assert ENCODED not in message
    assert "\n" not in message
    return message


async def test_a_server_that_was_restarted_is_used_again(own_postgresql):
    async with Database(own_postgresql.new_database()) as database:
        await database.prepare(migrate=True)
        await asyncio.gather(*(read(database) for _ in range(8)))  # every connection is in the pool
        own_postgresql.stop()
        for _ in range(6):
            with pytest.raises(StoreUnavailable):
                await read(database)
        own_postgresql.start()
        for _ in range(6):
            assert await read(database) == 0


async def test_a_restart_between_two_transactions_has_no_effect(own_postgresql):
    async with Database(own_postgresql.new_database()) as database:
        await database.prepare(migrate=True)
        await asyncio.gather(*(read(database) for _ in range(8)))
        own_postgresql.stop()
        own_postgresql.start()
        await asyncio.gather(*(read(database) for _ in range(8)))


async def test_a_server_that_does_not_answer_times_out_and_is_used_again(
    own_postgresql, monkeypatch
):
    monkeypatch.setattr(database_module, "TRANSACTION_S", 0.5)
    monkeypatch.setattr(database_module, "CLOSE_S", 0.5)
    async with Database(own_postgresql.new_database()) as database:
        await database.prepare(migrate=True)
        own_postgresql.signal_backends(signal.SIGSTOP)
        try:
            began = time.monotonic()
            for _ in range(2):  # on a connection that was open, and on a new one
                with pytest.raises(StoreUnavailable, check=detail("no answer")):
                    await read(database)
            assert time.monotonic() - began < 8
        finally:
            own_postgresql.signal_backends(signal.SIGCONT)
        assert await read(database) == 0
        own_postgresql.signal_backends(signal.SIGSTOP)
        began = time.monotonic()
    assert time.monotonic() - began < 5  # nor does closing wait for ever
    own_postgresql.signal_backends(signal.SIGCONT)


async def test_the_wait_for_a_lock_is_bounded(postgresql, monkeypatch):
    waits = {**postgresql_module._SERVER_SETTINGS, "lock_timeout": "300ms"}
    monkeypatch.setattr(postgresql_module, "_SERVER_SETTINGS", waits)
    url = postgresql.new_database()
    async with Database(url) as database, Database(url) as another:
        await database.prepare(migrate=True)
        async with another.writing() as connection:
            await connection.execute(update(key_revision).values(revision=1))
            with pytest.raises(StoreUnavailable, check=detail("lock timeout")):
                async with database.writing() as waiting:
                    await waiting.execute(update(key_revision).values(revision=2))
        assert await read(database) == 1


async def test_every_wait_of_a_session_is_bounded(postgresql):
    async with Database(postgresql.new_database()) as database, database.reading() as connection:
        found = [
            (await connection.execute(text(f"SHOW {name}"))).scalar_one()
            for name in (
                "statement_timeout",
                "lock_timeout",
                "idle_in_transaction_session_timeout",
                "application_name",
            )
        ]
    assert found == ["5s", "5s", "30s", "tokenwire"]


async def test_a_unix_socket_works(postgresql):
    name = postgresql.new_database().rpartition("/")[2]
    url = f"postgresql://tokenwire@/{name}?host={postgresql.folder}&port={postgresql.port}"
    async with Database(url) as database:
        await database.prepare(migrate=True)
        assert await read(database) == 0


async def test_an_address_without_a_server_is_an_error():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    said = await refused(f"postgresql://u:{ENCODED}@127.0.0.1:{port}/x")
    assert f"postgresql://127.0.0.1:{port}/x" in said


async def test_a_server_that_never_answers_is_an_error(monkeypatch):
    monkeypatch.setattr(postgresql_module, "WAIT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        await refused(f"postgresql://u:{ENCODED}@127.0.0.1:{silent.getsockname()[1]}/x")
    assert time.monotonic() - began < 5


async def test_the_error_names_a_wrong_password(postgresql):
    url = postgresql.new_database().replace(ENCODED, f"{ENCODED}x")
    assert "password authentication failed" in await refused(url)


async def test_the_error_names_a_missing_database(postgresql):
    assert '"nowhere" does not exist' in await refused(
        f"{postgresql.new_database().rpartition('/')[0]}/nowhere"
    )


async def test_the_error_names_an_unknown_parameter(postgresql):
    assert "favourite_colour" in await refused(f"{postgresql.new_database()}?favourite_colour=red")


@pytest.mark.parametrize("rest", ["localhost:port/x", "localhost/x?sslmode=perhaps"])
async def test_the_error_for_a_url_that_the_driver_rejects_is_one_line(rest):
    with pytest.raises(ConfigError, match="port or a parameter") as failure:
        async with Database(f"postgresql://u:{ENCODED}@{rest}") as database:
            await database.prepare(migrate=True)
    assert ENCODED not in str(failure.value)


@pytest.mark.parametrize("usual", ["repeatable read", "serializable"])
async def test_concurrent_starts_create_the_schema_once_at_any_default_isolation(postgresql, usual):
    url = postgresql.new_database()
    postgresql.sql(
        f"ALTER DATABASE {url.rpartition('/')[2]} SET default_transaction_isolation = '{usual}'"
    )

    async def start():
        async with Database(url) as database:
            return await database.prepare(migrate=True)

    holder = await asyncpg.connect(url)
    lock = postgresql_module.SCHEMA_LOCK
    waiting = f"SELECT count(*) FROM pg_locks WHERE NOT granted AND objid = {lock & 0xFFFFFFFF}"
    try:
        await holder.execute(f"SELECT pg_advisory_lock({lock})")
        starting = [asyncio.create_task(start()) for _ in range(3)]
        began = time.monotonic()
        while await holder.fetchval(waiting) < len(starting):
            assert time.monotonic() - began < 20
            await asyncio.sleep(0.02)
        await holder.execute(f"SELECT pg_advisory_unlock({lock})")
        assert sorted(await asyncio.gather(*starting)) == [False, False, True]
    finally:
        await holder.close()


@pytest.fixture
async def locked(postgresql, monkeypatch):
    """Return a database of the first revision, and a connection that keeps a lock of its keys."""
    monkeypatch.setattr(postgresql_module, "MIGRATION_LOCK_S", 0.2)
    monkeypatch.setattr(database_module, "MIGRATION_PAUSE_S", 0.3)
    url = postgresql.new_database()
    async with Database(url) as database:
        with monkeypatch.context() as earlier:
            earlier.setattr(schema, "REVISIONS", schema.REVISIONS[:2])
            await database.prepare(migrate=True)
        holder = await asyncpg.connect(url)
        try:
            await holder.execute("BEGIN; LOCK TABLE tokenwire_usage_records IN ACCESS SHARE MODE")
            yield database, holder
        finally:
            await holder.close()


async def test_an_update_does_not_block_others_while_it_waits_for_the_lock_of_a_table(locked):
    database, holder = locked
    updating = asyncio.create_task(database.prepare(migrate=True))
    longest_s = 0.0
    for _ in range(100):
        began = time.monotonic()
        async with database.writing() as connection:
            await connection.execute(text("UPDATE tokenwire_usage_records SET attempts = 1"))
        longest_s = max(longest_s, time.monotonic() - began)
        await asyncio.sleep(0.02)
    assert 0.1 < longest_s < 1.0
    assert not updating.done()
    await holder.execute("COMMIT")
    assert await updating
    assert not await database.prepare(migrate=False)


async def test_an_update_that_does_not_get_the_lock_of_a_table_gives_up(locked, monkeypatch):
    monkeypatch.setattr(database_module, "MIGRATION_S", 1.0)
    database, _ = locked
    with pytest.raises(StoreUnavailable, check=detail("lock timeout")):
        await database.prepare(migrate=True)
    with pytest.raises(ConfigError, match="run tokenwire-server migrate"):
        await database.prepare(migrate=False)


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
async def test_a_database_without_utf8_is_refused_at_the_start(postgresql, encoding):
    """Otherwise such a record would be retried for ever, and such a label would break every summary."""
    name = f"in_{encoding.lower()}"
    postgresql.sql(f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0")
    url = postgresql.new_database().rpartition("/")[0] + f"/{name}"
    async with Database(url) as database:
        with pytest.raises(ConfigError, match=rf"{name} is {encoding}, and must be UTF8$"):
            await database.prepare(migrate=True)


async def test_an_error_while_rows_are_fetched_is_store_unavailable(postgresql):
    """For example `statement_timeout`, or a lost connection, while rows are read."""
    rows = text("SELECT 1 / (n - 500) FROM generate_series(1, 1000) AS n")
    async with Database(postgresql.new_database()) as database:
        for _ in range(2 * postgresql_module.MAX_CONNECTIONS):
            with pytest.raises(StoreUnavailable, check=detail(r"division by zero$")):
                async with database.reading() as connection:
                    async for _ in await connection.stream(rows):
                        pass
        await database.prepare(migrate=True)
        assert await read(database) == 0
