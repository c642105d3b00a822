"""Creation and update of the schema, also by concurrent processes."""

import subprocess
import sys

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from msgspec import structs

import database_processes
from database_processes import started_together
from databases import detail
from tokenwire_server.config import ConfigError
from tokenwire_server.errors import StoreUnavailable
from tokenwire_server.events import Usage
from tokenwire_server.ledger.query import UsageQuery
from tokenwire_server.ledger.store import UsageStore
from tokenwire_server.storage.database import Database
from tokenwire_server.storage.schema import REVISIONS, VERSION_TABLE, metadata
from usage_records import WHOLE, fill

IMPORTED = """
import asyncio, sys
from tokenwire_server.storage.database import Database

async def prepare():
    async with Database(sys.argv[1]) as database:
        print(await database.prepare(migrate=True), "alembic" in sys.modules)

asyncio.run(prepare())
"""


async def prepare(url, *, migrate=True):
    async with Database(url) as database:
        return await database.prepare(migrate=migrate)


async def test_an_empty_database_gets_the_schema_once(database_url):
    assert await prepare(database_url)
    assert not await prepare(database_url)
    assert not await prepare(database_url, migrate=False)


async def test_the_revisions_create_the_declared_tables(database_url):
    def differences(connection):
        options = {"version_table": VERSION_TABLE, "compare_type": True}
        return compare_metadata(MigrationContext.configure(connection, opts=options), metadata)

    async with Database(database_url) as database:
        await database.prepare(migrate=True)
        async with database.reading() as connection:
            assert await connection.run_sync(differences) == []


def test_the_listed_revisions_are_those_of_the_folder():
    config = Config()
    config.set_main_option("script_location", "tokenwire_server.storage:migrations")
    there = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
    assert tuple(reversed(there)) == REVISIONS


@pytest.mark.process
async def test_ten_concurrent_processes_create_the_schema_once(database_url, sql):
    with started_together(database_processes.prepare, database_url, 10) as (_, results):
        made = [results.get() for _ in range(10)]
    assert sorted(made) == [False] * 9 + [True]
    assert sql(f"SELECT version_num FROM {VERSION_TABLE}") == f"{REVISIONS[-1]}\n"
    assert sql("SELECT id, revision FROM tokenwire_key_revision") == "1|0\n"


@pytest.mark.process
async def test_alembic_is_not_imported_if_the_schema_is_current(database_url):
    await prepare(database_url)
    command = [sys.executable, "-W", "error", "-c", IMPORTED, database_url]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "False False\n"


async def test_records_of_an_older_schema_have_none_of_the_newer_facts(database_url, sql):
    def upgrade(connection):
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", "tokenwire_server.storage:migrations")
        command.upgrade(config, "0002")

    async with Database(database_url) as database:
        async with database.writing() as connection:
            await connection.run_sync(upgrade)
        fill(sql, database_url, "acme", 2)
        assert await database.prepare(migrate=True)
        records = await UsageStore(database).page(UsageQuery(tenant=None))
        assert [record.usage for record in records] == [
            Usage(100, n, cost_microusd=n) for n in (1, 2)
        ]
        newer = structs.replace(WHOLE, tenant="acme")
        await UsageStore(database).write([newer])
        assert newer in await UsageStore(database).page(UsageQuery(tenant="acme"))


async def test_without_migration_the_error_says_what_to_run(database_url, sql):
    with pytest.raises(ConfigError, match=r"run tokenwire-server migrate$"):
        await prepare(database_url, migrate=False)
    with pytest.raises(Exception, match="tokenwire_api_keys"):
        sql("SELECT * FROM tokenwire_api_keys")


@pytest.mark.parametrize("migrate", [True, False])
@pytest.mark.parametrize("found", ["9999", "1000", "0001x", "00999", "999"])
async def test_the_schema_of_another_generation_is_refused_and_not_changed(
    database_url, sql, migrate, found
):
    await prepare(database_url)
    sql(f"UPDATE {VERSION_TABLE} SET version_num = '{found}'")
    with pytest.raises(
        ConfigError, match=rf"the schema '{found}', which is unknown to this version"
    ):
        await prepare(database_url, migrate=migrate)
    assert sql(f"SELECT version_num FROM {VERSION_TABLE}") == f"{found}\n"


@pytest.mark.parametrize("migrate", [True, False])
@pytest.mark.parametrize("later", [1, 2, 500])
async def test_the_schema_of_a_later_release_is_used_and_not_changed(
    database_url, sql, migrate, later
):
    await prepare(database_url)
    found = f"{int(REVISIONS[-1]) + later:04}"
    sql(f"UPDATE {VERSION_TABLE} SET version_num = '{found}'")
    assert not await prepare(database_url, migrate=migrate)
    assert sql(f"SELECT version_num FROM {VERSION_TABLE}") == f"{found}\n"


async def test_two_revisions_at_once_are_refused(database_url, sql):
    await prepare(database_url)
    sql(f"INSERT INTO {VERSION_TABLE} VALUES ('0000')")
    with pytest.raises(ConfigError, match="is unknown to this version"):
        await prepare(database_url)


async def test_a_migration_that_fails_leaves_nothing(database_url, sql):
    sql("CREATE TABLE tokenwire_key_revision (somebody_elses INTEGER)")  # the last one it makes
    with pytest.raises(StoreUnavailable, check=detail("already exists")):
        await prepare(database_url)
    for table in ("tokenwire_api_keys", VERSION_TABLE):
        with pytest.raises(Exception, match=table):
            sql(f"SELECT * FROM {table}")
    sql("DROP TABLE tokenwire_key_revision")
    assert await prepare(database_url)


async def test_tables_of_other_programs_are_not_changed(database_url, sql):
    sql("CREATE TABLE alembic_version (version_num VARCHAR(32))")
    sql("INSERT INTO alembic_version VALUES ('theirs')")
    sql("CREATE TABLE api_keys (x INTEGER)")
    assert await prepare(database_url)
    assert sql("SELECT * FROM alembic_version") == "theirs\n"
    assert sql("SELECT * FROM api_keys") == ""
