"""A later release updates the schema of the database while servers of this release use it."""

import asyncio
import shutil
import time
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import asyncpg
import pytest
from e2e_calls import PROVIDERS, read
from records_support import LedgerServer, bill, is_open, outcome, serving_ledger, words_of
from tenants_support import keys

from server_process import completed
from tokenwire_server.storage import migrations
from tokenwire_server.storage.schema import REVISIONS, VERSION_TABLE

LATER_RELEASE = Path(__file__).parent / "later_release.py"
NEWEST = REVISIONS[-1]
LATER = f"{int(NEWEST) + 1:04}"
LATER_REVISION = f'''
import sqlalchemy as sa
from alembic import op

revision = "{LATER}"
down_revision = "{NEWEST}"


def upgrade():
    op.add_column("tokenwire_usage_records", sa.Column("region", sa.String))
    op.add_column("tokenwire_api_keys", sa.Column("note", sa.String))
    op.add_column(
        "tokenwire_instances", sa.Column("weight", sa.Integer, nullable=False, server_default="1")
    )
    op.create_table("tokenwire_regions", sa.Column("name", sa.String, primary_key=True))
'''
RECORDED_S = 20.0
PREFIX_LENGTH = 15
STREAMS = 9
"""Streams that run while the schema is updated."""
WRITTEN_S = 3.0
"""Time within which a record of an open stream is written, also while a dump runs."""


@pytest.fixture
def later(tmp_path):
    """Return the variables of a later release."""
    folder = tmp_path / "migrations"
    shutil.copytree(Path(migrations.__file__).parent, folder)
    (folder / "versions" / f"r{LATER}_region.py").write_text(LATER_REVISION)
    return {"LATER_MIGRATIONS": str(folder)}


@pytest.fixture
def database(postgresql):
    return postgresql.new_database()


@pytest.fixture
def served(start, api_on, simulator, database, tmp_path):
    with serving_ledger(start, api_on, simulator, database, tmp_path) as ledger_server:
        yield ledger_server


async def migrate(database, later):
    """Run `tokenwire-server migrate` of the later release."""
    result = await asyncio.to_thread(
        completed, "migrate", "--database", database, env=later, program=LATER_RELEASE
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


async def chat(api, number):
    """Read a short chat. Return the id of its stream, and its usage."""
    events = await read(api.chat_stream(api.request(f"paced-{PROVIDERS[number % 3]}")))
    assert events[-1].HasField("finished")
    assert events[-1].finished.usage.output_tokens == words_of(events)
    return events[0].started.stream_id, events[-1].finished.usage


@asynccontextmanager
async def chatting(tenancy, key):
    """Read streams all the time. Yield a dictionary with the usage of each, by its id."""
    finished, is_over, numbers = {}, asyncio.Event(), count()

    async def caller():
        while not is_over.is_set():
            stream_id, usage = await chat(api, next(numbers))
            finished[stream_id] = usage

    async with tenancy.api(key) as api, asyncio.TaskGroup() as callers:
        for _ in range(STREAMS):
            callers.create_task(caller())
        yield finished
        is_over.set()


async def check_records(tenancy, key, finished):
    """Check that each stream has one record, with the figures that its caller got."""
    records = await LedgerServer.until(
        tenancy,
        key,
        lambda found: len(found) == len(finished) and not any(map(is_open, found)),
        RECORDED_S,
    )
    assert len(records) == len(finished)
    for record in records:
        assert outcome(record) == "FINISHED"
        assert record.usage == finished[record.stream_id]
        assert record.usage.cost_microusd == bill(record.provider, record.usage)


async def more(finished, by=2 * STREAMS):
    """Wait until further streams have finished."""
    enough = len(finished) + by
    while len(finished) < enough:
        await asyncio.sleep(0.02)


def version_of(postgresql, database):
    name = database.rpartition("/")[2]
    return postgresql.sql(f"SELECT version_num FROM {VERSION_TABLE}", name).strip()


async def test_chats_continue_and_are_billed_while_a_later_release_updates_the_schema(
    served, database, later, postgresql
):
    tenancy = served.tenancy
    async with chatting(tenancy, tenancy.acme) as finished:
        await more(finished)
        key_before = await tenancy.new_key()
        assert version_of(postgresql, database) == NEWEST
        assert "is now up to date" in await migrate(database, later)
        assert version_of(postgresql, database) == LATER
        await more(finished)
        key_after = await tenancy.new_key()
        for key in (key_before, key_after):
            async with tenancy.api(key) as api:
                stream_id, usage = await chat(api, 0)
                finished[stream_id] = usage
        keys("revoke", key_before[:PREFIX_LENGTH], database=database)
        await more(finished)
    await check_records(tenancy, tenancy.acme, finished)


async def test_servers_of_both_releases_start_on_the_newer_schema_and_share_its_records(
    served, database, later, start, api_on, simulator
):
    await migrate(database, later)
    with served.again() as old, served.again(LATER_RELEASE, **later) as new:
        finished = {}
        for tenancy in (served.tenancy, old, new):
            key = await tenancy.new_key()
            async with tenancy.api(key) as api:
                stream_id, usage = await chat(api, 0)
                finished[stream_id] = usage
        for tenancy in (served.tenancy, old, new):
            await check_records(tenancy, tenancy.acme, finished)


async def test_the_commands_of_the_earlier_release_leave_the_newer_schema_unchanged(
    served, database, later, postgresql
):
    await migrate(database, later)
    assert "was already up to date" in await migrate(database, later)
    result = await asyncio.to_thread(completed, "migrate", "--database", database)
    assert "was already up to date" in result.stdout
    assert version_of(postgresql, database) == LATER


async def test_records_are_written_while_the_update_waits_for_a_dump(
    served, database, later, postgresql
):
    """A dump keeps a lock of each table. The update needs another one, which all statements wait behind."""
    tenancy = served.tenancy
    dump = await asyncpg.connect(database)
    try:
        async with chatting(tenancy, tenancy.acme) as finished:
            await more(finished)
            async with dump.transaction():
                await dump.execute("LOCK TABLE tokenwire_usage_records IN ACCESS SHARE MODE")
                began = time.monotonic()
                updating = asyncio.create_task(migrate(database, later))
                while time.monotonic() - began < 8.0:
                    (stream_id, _) = await chat_recorded(tenancy, finished)
                    assert stream_id in finished
                assert not updating.done()
                assert version_of(postgresql, database) == NEWEST
            assert "is now up to date" in await updating
            await more(finished)
        await check_records(tenancy, tenancy.acme, finished)
    finally:
        await dump.close()


async def chat_recorded(tenancy, finished):
    """Read a chat, and wait until its record is closed."""
    async with tenancy.api(tenancy.acme) as api:
        stream_id, usage = await chat(api, 0)
    finished[stream_id] = usage

    def is_closed(records):
        return any(r.stream_id == stream_id and not is_open(r) for r in records)

    assert is_closed(await LedgerServer.until(tenancy, tenancy.acme, is_closed, WRITTEN_S))
    return stream_id, usage
