"""Real databases: an SQLite file, or a PostgreSQL of the tests' own. `database_url` is each of them."""

import atexit
import os
import pwd
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
import time
from contextlib import suppress
from itertools import count
from pathlib import Path
from urllib.parse import quote

import pytest

from programs import missing
from server_process import completed, copy_migrated

UNAVAILABLE = "this server's database is not available"
"""The text of StoreUnavailable that callers get, whatever its cause."""
PASSWORD = "p:a/s@s#w%o?rd"  # whatever a URL could be read wrongly at
READY_S = 30
STOP_S = 15

_initialized = []
"""The data folder of the first PostgreSQL of this process, as it was before the start."""


def detail(pattern):
    """Return a `check` for pytest.raises: the error's detail matches, and its text is UNAVAILABLE."""
    return lambda error: str(error) == UNAVAILABLE and re.search(pattern, error.detail) is not None


def postgresql_programs():
    """The folder of `postgres` and `initdb`, or None."""
    found = shutil.which("postgres")
    if found:
        return Path(found).resolve().parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    return versions[-1].parent if versions else None


def memory_folder():
    """Return a folder in memory with room for many databases, or None."""
    folder = Path("/dev/shm")
    is_usable = folder.is_dir() and os.access(folder, os.W_OK)
    return folder if is_usable and shutil.disk_usage(folder).free > 4 * 2**30 else None


class PostgresqlServer:
    """A PostgreSQL on a free port and a Unix socket, in a folder of its own. It can be stopped,
    started again, and frozen."""

    def __init__(self, programs, folder):
        self.programs = programs
        self._names = count(1)
        self._migrated = None
        self.folder = Path(folder)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        # It refuses to run as root. With a program in between, because `user` of subprocess makes it
        # fork, which a process that runs gRPC may not survive.
        self._as_owner = []
        if os.geteuid() == 0:
            owner = pwd.getpwnam("postgres")
            os.chown(folder, owner.pw_uid, owner.pw_gid)
            ids = [f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}"]
            self._as_owner = ["setpriv", *ids, "--clear-groups"]
        self._initialize()
        self._process = None

    def _initialize(self):
        """Create the data folder: a copy of the first one of this process, since initdb takes 0.5 s of CPU."""
        data = self.folder / "data"
        if not _initialized:
            password = self.folder / "password"
            password.write_text(PASSWORD)
            password.chmod(0o644)
            self._run(
                "initdb", "-D", str(data), "-U", "tokenwire", "--no-sync", "-E", "UTF8",
                "--locale=C", "--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={password}",
            )  # fmt: skip
            kept = tempfile.TemporaryDirectory(prefix="tw-initdb-", dir=memory_folder())
            atexit.register(kept.cleanup)
            _copy(data, Path(kept.name) / "data")
            _initialized.append(Path(kept.name) / "data")
        else:
            _copy(_initialized[0], data)

    def _run(self, program, *arguments):
        result = subprocess.run(
            [*self._as_owner, self.programs / program, *arguments],
            capture_output=True,
            text=True,
            cwd="/",
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    def start(self):
        with (self.folder / "log").open("a") as log:
            self._process = subprocess.Popen(
                [
                    *self._as_owner, self.programs / "postgres", "-D", self.folder / "data", "-p", str(self.port),
                    "-k", self.folder, "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off",
                    "-c", "full_page_writes=off", "-c", "max_connections=60", "-c", "shared_buffers=16MB",
                    "-c", "autovacuum=off", "-c", "wal_level=minimal", "-c", "max_wal_senders=0",
                ],
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
            )  # fmt: skip
        give_up = time.monotonic() + READY_S
        while not self._answers():
            assert self._process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < give_up, (self.folder / "log").read_text()
            time.sleep(0.02)

    def _answers(self):
        asked = [self.programs / "pg_isready", "-q", "-h", self.folder, "-p", str(self.port)]
        return subprocess.run(asked, cwd="/").returncode == 0

    def stop(self):
        """At once, as a machine that goes down; nothing that was committed is lost."""
        if self._process is None or self._process.poll() is not None:
            return
        self.signal_backends(signal.SIGCONT)  # a test that failed may have left it frozen
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGQUIT)  # it kills its children
            self._process.wait(STOP_S)
            raise

    def signal_backends(self, number):
        """Freeze (SIGSTOP) or thaw (SIGCONT) every process of it: no connection ends, none answers."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        for pid in (self._process.pid, *map(int, children.read_text().split())):
            with suppress(ProcessLookupError):  # it ended meanwhile
                os.kill(pid, number)

    def sql(self, statement, database="postgres"):
        return self._run(
            "psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-h", str(self.folder), "-p", str(self.port),
            "-U", "tokenwire", "-d", database, "-c", statement,
        )  # fmt: skip

    def dump(self, url):
        """All of a database, as text."""
        return self._run("pg_dump", "-d", url)

    def new_database(self, template="template1"):
        """The URL of an empty one, or of a copy of another one."""
        name = f"t{next(self._names)}"
        # The other strategy writes each block to the log: twice the CPU time. PostgreSQL 14 has only this one.
        version = int((self.folder / "data" / "PG_VERSION").read_text())
        strategy = "STRATEGY FILE_COPY" if version >= 15 else ""
        self.sql(f"CREATE DATABASE {name} TEMPLATE {template} {strategy}")
        return f"postgresql://tokenwire:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}/{name}"

    def new_migrated_database(self):
        """The URL of one with the current schema and no rows."""
        if self._migrated is None:
            url = self.new_database()
            result = completed("migrate", "--database", url)
            assert result.returncode == 0, result.stderr
            self._migrated = url.rpartition("/")[2]
        return self.new_database(self._migrated)


def _copy(folder, path):
    """Copy a folder with its owner and modes."""
    subprocess.run(["cp", "-a", folder, path], check=True)


def new_postgresql():
    """Yield a PostgresqlServer that runs. Without its programs, see `programs.missing`."""
    programs = postgresql_programs()
    if programs is None:
        missing("PostgreSQL")
    with tempfile.TemporaryDirectory(prefix="tw-pg-", dir=memory_folder()) as folder:
        server = PostgresqlServer(programs, folder)
        try:
            server.start()
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def postgresql():
    """Shared by the tests of a worker: not to be stopped."""
    yield from new_postgresql()


@pytest.fixture
def own_postgresql():
    """One that a test may stop and freeze."""
    yield from new_postgresql()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request, tmp_path):
    """The URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/tokenwire.db"
    return request.getfixturevalue("postgresql").new_database()


@pytest.fixture(params=["sqlite", "postgresql"])
def migrated_database_url(request, tmp_path):
    """The URL of a database with the current schema and no rows. `prepare` has nothing to do then."""
    if request.param == "sqlite":
        return copy_migrated(tmp_path / "tokenwire.db")
    return request.getfixturevalue("postgresql").new_migrated_database()


@pytest.fixture
def sql(database_url, request):
    """Runs statements in that database, behind the server's back."""
    if database_url.startswith("postgresql"):
        name = database_url.rpartition("/")[2]
        return lambda statement: request.getfixturevalue("postgresql").sql(statement, name)

    def run(statement):
        connection = sqlite3.connect(database_url.removeprefix("sqlite:///"), timeout=10)
        try:
            with connection:
                rows = connection.execute(statement).fetchall()
        finally:
            connection.close()
        return "".join("|".join(map(str, row)) + "\n" for row in rows)

    return run
