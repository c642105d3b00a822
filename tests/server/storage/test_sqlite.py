"""SQLite: the file, its locks and other processes."""

import asyncio
import sqlite3
import stat
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from sqlalchemy import select, update

from databases import detail
from tokenwire_server.errors import StoreUnavailable
from tokenwire_server.storage import sqlite as sqlite_module
from tokenwire_server.storage.database import Database
from tokenwire_server.storage.schema import key_revision

HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
for statement in sys.argv[2:]:
    connection.execute(statement).fetchall()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tokenwire.db"


@pytest.fixture
async def database(path):
    async with Database(f"sqlite:///{path}") as database:
        await database.prepare(migrate=True)
        yield database


@contextmanager
def held(path, *statements):
    """Start another process that has the lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, path, *statements],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "held\n"
        yield
    finally:
        process.communicate()


async def write(database, revision):
    async with database.writing() as connection:
        await connection.execute(update(key_revision).values(revision=revision))


async def read(database):
    async with database.reading() as connection:
        return (await connection.execute(select(key_revision.c.revision))).scalar_one()


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


async def test_only_the_owner_can_read_a_new_file(database, path):
    await write(database, 1)
    files = sorted(path.parent.iterdir())
    assert [file.name for file in files] == ["tokenwire.db", "tokenwire.db-shm", "tokenwire.db-wal"]
    assert {mode(file) for file in files} == {0o600}


async def test_an_existing_file_keeps_its_mode(path):
    path.touch(mode=0o640)
    async with Database(f"sqlite:///{path}") as database:
        await database.prepare(migrate=True)
    assert mode(path) == 0o640


async def test_commits_are_synchronized_against_power_loss(database):
    async with database.reading() as connection:
        found = [
            (await connection.exec_driver_sql(f"PRAGMA {name}")).scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        ]
    assert found == ["wal", 2, 1, 5000]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("missing/x.db", "there is no folder"),
        (".", "unable to open"),
        ("text.db", "not a database"),
    ],
)
async def test_a_path_that_cannot_be_a_file_is_named(tmp_path, name, said):
    (tmp_path / "text.db").write_text("no database, just text" * 100)
    with pytest.raises(StoreUnavailable, check=detail(said)) as failure:
        async with Database(f"sqlite:///{tmp_path}/{name}") as database:
            await database.prepare(migrate=True)
    assert str(tmp_path / name) in failure.value.detail


async def test_a_path_may_contain_characters_that_are_special_in_urls(tmp_path):
    path = tmp_path / "a b%41#ü.db"
    async with Database(f"sqlite:///{path}") as database:
        await database.prepare(migrate=True)
    assert path.stat().st_size > 0


async def test_a_relative_path_does_not_change_with_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    database = Database("sqlite:///here.db")
    monkeypatch.chdir("/")
    async with database:
        await database.prepare(migrate=True)
    assert (tmp_path / "here.db").exists()


async def test_without_create_no_file_is_created(path):
    with pytest.raises(StoreUnavailable, check=detail("no such file")):
        async with Database(f"sqlite:///{path}", create=False):
            pass
    assert not path.exists()


@pytest.mark.process
@pytest.mark.parametrize(
    "statements",
    [
        ["BEGIN IMMEDIATE"],
        ["PRAGMA locking_mode=EXCLUSIVE", "BEGIN IMMEDIATE", "DELETE FROM tokenwire_api_keys"],
    ],
)
async def test_the_wait_for_another_processs_lock_is_bounded(path, statements, monkeypatch):
    monkeypatch.setattr(sqlite_module, "LOCK_WAIT_S", 0.5)
    async with Database(f"sqlite:///{path}") as database:
        await database.prepare(migrate=True)
    async with Database(f"sqlite:///{path}") as database:
        with held(path, *statements):
            began = time.monotonic()
            with pytest.raises(StoreUnavailable, check=detail("locked")):
                await write(database, 1)
            assert 0.4 < time.monotonic() - began < 5
        await write(database, 2)
        assert await read(database) == 2


@pytest.mark.process
async def test_a_wait_for_another_processs_lock_ends_when_its_task_is_cancelled(
    database, path, monkeypatch
):
    monkeypatch.setattr(sqlite_module, "LOCK_WAIT_S", 60.0)
    with held(path, "BEGIN IMMEDIATE"):
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await write(database, 1)
        assert time.monotonic() - began < 10  # 0.3 measured; 60 where SQLite itself waits
    await write(database, 2)


async def test_a_deleted_file_is_an_error_and_not_an_empty_database(database, path):
    await write(database, 5)
    kept = path.with_name("kept")
    path.rename(kept)
    for _ in range(6):  # more than there are connections
        with pytest.raises(StoreUnavailable, check=detail("unable to open")):
            await read(database)
    assert not path.exists()
    kept.rename(path)
    assert await read(database) == 5


async def test_a_replaced_file_is_read_from_then_on(database, path):
    await write(database, 5)
    other = path.with_name("other.db")
    async with Database(f"sqlite:///{other}") as copy:
        await copy.prepare(migrate=True)
        await write(copy, 9)
    for name in ("tokenwire.db-wal", "tokenwire.db-shm"):
        path.with_name(name).unlink()
    other.rename(path)
    assert await read(database) == 9


async def test_commits_of_other_processes_are_visible_at_once(database, path):
    connection = sqlite3.connect(path)
    try:
        for revision in range(5):
            with connection:
                connection.execute("UPDATE tokenwire_key_revision SET revision = ?", [revision])
            assert await read(database) == revision
    finally:
        connection.close()


@pytest.mark.process
async def test_a_cancelled_wait_for_a_lock_writes_nothing_later(path, monkeypatch):
    monkeypatch.setattr(sqlite_module, "LOCK_WAIT_S", 0.3)
    async with Database(f"sqlite:///{path}") as database:
        await database.prepare(migrate=True)
        with held(path, "BEGIN IMMEDIATE"):
            for _ in range(6):  # more than there are connections
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.02):
                        await write(database, 7)
        await write(database, 1)
    async with Database(f"sqlite:///{path}") as database:
        assert await read(database) == 1


SLOW = """
WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 300000)
SELECT count(*) FROM numbers
"""


async def test_a_transaction_that_is_cancelled_in_a_statement_releases_its_lock(database):
    async def write_slowly(began):
        async with database.writing() as connection:
            began.set()
            await connection.exec_driver_sql(SLOW)

    gone = []  # whose traceback holds the cursor
    for revision in range(3):
        began = asyncio.Event()
        task = asyncio.create_task(write_slowly(began))
        await began.wait()
        await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.wait([task])
        gone.append(task)
        async with asyncio.timeout(2):  # it would be waited for 5 s
            await write(database, revision)


@pytest.mark.process
def test_a_failure_at_exit_is_one_line(tmp_path):
    program = """
import asyncio, os, sys
from tokenwire_server.errors import StoreUnavailable
from tokenwire_server.storage.database import Database

async def fail():
    async with Database(sys.argv[1]) as database:
        try:
            await database.prepare(migrate=True)
        except StoreUnavailable as error:
            print(error.detail)

for _ in range(5):
    if os.fork() == 0:
        break
    os.wait()
else:
    sys.exit()
asyncio.run(fail())
"""
    command = [sys.executable, "-W", "error", "-c", program, f"sqlite:///{tmp_path}"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.stdout.count("\n"), result.stderr) == (5, "")
