"""Behaviour of both databases."""

import asyncio
import subprocess
import sys

import pytest
from sqlalchemy import insert, select, text, update

from databases import PASSWORD, detail
from tokenwire_server.config import ConfigError
from tokenwire_server.errors import StoreUnavailable
from tokenwire_server.storage import database as database_module
from tokenwire_server.storage.database import Database
from tokenwire_server.storage.schema import key_revision


@pytest.fixture
async def database(database_url):
    async with Database(database_url) as database:
        await database.prepare(migrate=True)
        yield database


async def revision(database):
    async with database.reading() as connection:
        return (await connection.execute(select(key_revision.c.revision))).scalar_one()


async def add_one(database):
    async with database.writing() as connection:
        found = (
            await connection.execute(select(key_revision.c.revision).with_for_update())
        ).scalar_one()
        await asyncio.sleep(0)
        await connection.execute(update(key_revision).values(revision=found + 1))


async def test_a_committed_write_can_be_read(database, database_url):
    await add_one(database)
    async with Database(database_url) as another:
        assert await revision(another) == 1


async def test_a_block_that_raises_leaves_nothing_and_no_table(database):
    with pytest.raises(ZeroDivisionError):
        async with database.writing() as connection:
            await connection.execute(text("CREATE TABLE left_over (x INTEGER)"))
            await connection.execute(update(key_revision).values(revision=7))
            raise ZeroDivisionError
    assert await revision(database) == 0
    with pytest.raises(StoreUnavailable, check=detail("left_over")):
        async with database.reading() as connection:
            await connection.execute(text("SELECT * FROM left_over"))


async def test_a_cancelled_write_leaves_nothing_and_the_database_usable(database):
    written = asyncio.Event()

    async def write():
        async with database.writing() as connection:
            await connection.execute(update(key_revision).values(revision=7))
            written.set()
            await asyncio.Event().wait()

    for _ in range(6):  # more than there are connections
        task = asyncio.create_task(write())
        await written.wait()
        written.clear()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await add_one(database)
    assert await revision(database) == 1


async def test_writers_that_read_first_wait_for_each_other(database, database_url):
    async with Database(database_url) as another:
        await asyncio.gather(*(add_one(found) for found in (database, another) * 20))
    assert await revision(database) == 40


async def test_readers_do_not_wait_for_a_writer(database):
    async with database.writing() as connection:
        await connection.execute(update(key_revision).values(revision=7))
        assert await revision(database) == 0
    assert await revision(database) == 7


async def test_a_transaction_that_takes_too_long_is_ended(database, monkeypatch):
    monkeypatch.setattr(database_module, "TRANSACTION_S", 0.2)
    with pytest.raises(StoreUnavailable, check=detail(r"no answer in 0\.2 s")):
        async with database.writing() as connection:
            await connection.execute(update(key_revision).values(revision=7))
            await asyncio.Event().wait()
    assert await revision(database) == 0


async def test_an_error_contains_no_statement_no_values_and_no_password(database):
    with pytest.raises(StoreUnavailable) as failure:
        async with database.writing() as connection:
            await connection.execute(insert(key_revision).values(id=1, revision=987654))
    message = failure.value.detail
    assert message.startswith(f"the database {database.name} cannot be used: ")
    for secret in ("987654", "INSERT", PASSWORD, "\n"):
        assert secret not in message


@pytest.mark.parametrize(
    "url",
    [
        "",
        "tokenwire.db",
        "mysql://hidden@localhost/x",
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite://hidden",
        "sqlite:///x.db?mode=ro",
        "postgresql+asyncpg://u:hidden@localhost/x",
        "postgresql://u:hid/den@localhost/x",
        "postgresql://u:hid@den@localhost/x",
        "postgresql://u:hid#den@localhost/x",
        "postgresql://u:hid?den@localhost/x",
        "postgresql://u:hidden@[localhost/x",
        "postgresql://u:p@localhost/x?hidden",
    ],
)
def test_an_invalid_url_is_refused_and_not_repeated(url):
    with pytest.raises(ConfigError) as refusal:
        Database(url)
    assert str(refusal.value).startswith("database: ")
    assert "hid" not in str(refusal.value)
    assert "den" not in str(refusal.value)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("postgresql://u:hidden@db.example:5433/keys", "postgresql://db.example:5433/keys"),
        (
            "postgres://db.example/keys?password=hidden&sslmode=require",
            "postgresql://db.example/keys",
        ),
        ("postgresql://u:hidden@/keys?host=/run/postgresql", "postgresql:///run/postgresql/keys"),
        ("sqlite:////data/keys.db", "/data/keys.db"),
    ],
)
def test_its_name_is_its_location_without_the_password(url, name):
    assert Database(url).name == name


@pytest.mark.process
def test_without_the_driver_the_error_says_what_to_install():
    program = (
        "import sys; sys.modules['asyncpg'] = None; "
        "from tokenwire_server.__main__ import main; "
        "sys.exit(main(['keys', 'list', '--database', 'postgresql://u:p@localhost/x']))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "PostgreSQL needs the package asyncpg" in result.stderr
    assert 'pip install "tokenwire-server[postgres]"' in result.stderr
