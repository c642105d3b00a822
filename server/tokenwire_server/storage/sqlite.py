"""SQLite: a database file that processes of one machine share."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any, cast
from urllib.parse import quote
from weakref import WeakSet

import aiosqlite
from sqlalchemy import Connection, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry
from sqlalchemy.util import await_only

from ..config import ConfigError
from ..errors import StoreUnavailable

LOCK_WAIT_S = 5.0
"""How long a transaction waits for another process's lock. Then StoreUnavailable."""
LOCK_WAIT_SLICE_S = 0.1
"""How long that wait may continue after it was cancelled."""
MAX_CONNECTIONS = 4

_WRITES = "tokenwire_writes"
_FILE = "tokenwire_file"
_SETTINGS = (
    # A power cut must not bring a revoked key back, as NORMAL could. Keys are written rarely.
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
)


@contextmanager
def temporary_database() -> Iterator[str]:
    """Yield the URL of a database in a temporary folder, which is removed with it at the end.

    `:memory:` cannot be used: each connection of the pool would have its own database.

    Raises ConfigError if no temporary folder can be created. If the process is killed, the folder remains.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix="tokenwire-", ignore_cleanup_errors=True)
    except OSError as error:
        raise ConfigError(
            f"database: cannot create a temporary folder ({error.strerror}): set a database with --database"
        ) from error
    with folder as path:
        yield f"sqlite:///{path}/tokenwire.db"


class _Connection(sqlite3.Connection):
    """A connection, used in the thread of its `_AsyncConnection`.

    `close` rolls back first. Otherwise SQLite keeps the lock of an open transaction while a cursor of the
    connection exists, perhaps until a garbage collection: a cancelled transaction would block all others.
    """

    gives_up = False
    """Set from another thread to end the wait for the lock."""
    _control: sqlite3.Cursor | None = None

    def begin(self) -> None:
        """Begin a transaction that reads."""
        self._run("BEGIN")

    def begin_writing(self) -> None:
        """Begin a transaction that has the lock. SQLite's own wait cannot be interrupted, so it is split."""
        give_up_at = time.monotonic() + LOCK_WAIT_S
        self._set_busy_timeout(min(LOCK_WAIT_SLICE_S, LOCK_WAIT_S))
        try:
            while True:
                try:
                    self._run("BEGIN IMMEDIATE")
                except sqlite3.OperationalError as error:
                    busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY  # and its variants
                    if not busy or self.gives_up or time.monotonic() >= give_up_at:
                        raise
                else:
                    return
        finally:
            self._set_busy_timeout(LOCK_WAIT_S)

    def _set_busy_timeout(self, timeout_s: float) -> None:
        self._run(f"PRAGMA busy_timeout={timeout_s * 1000:.0f}")

    def _run(self, statement: str) -> None:
        """Execute a statement whose result is not needed.

        One cursor serves for all: a connection keeps a weak reference to each, up to 200 that are gone.
        """
        if self._control is None:
            self._control = self.cursor()
        self._control.execute(statement).fetchall()

    def close(self) -> None:
        with suppress(sqlite3.Error):
            self.rollback()
        super().close()

    def __del__(self) -> None:
        """Close. aiosqlite drops a connection whose opening is cancelled; Python 3.13 warns about an open
        one.
        """
        with suppress(sqlite3.Error):  # raised in another thread; freeing the memory closes it then
            self.close()


class _AsyncConnection(aiosqlite.Connection):
    """A connection whose thread stops waiting for a lock, or reading, when the waiting task is cancelled."""

    _reads = False

    async def begin(self, *, writes: bool) -> None:
        """Begin a transaction. If it writes, take the lock at once: a transaction that began by reading
        would be refused without a wait if another one had written in between.
        """
        connection = cast("_Connection | None", self._connection)
        if connection is None:
            raise sqlite3.OperationalError("the connection is closed")
        self._reads = not writes
        connection.gives_up = False
        await self._execute(connection.begin_writing if writes else connection.begin)

    def give_up(self) -> None:
        """End a wait for the lock, or a query. A write continues."""
        connection = cast("_Connection | None", self._connection)
        if connection is not None:
            connection.gives_up = True
            if self._reads:
                with suppress(sqlite3.Error):  # its thread may be closing it
                    connection.interrupt()

    async def _execute(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return await super()._execute(fn, *args, **kwargs)  # type: ignore[no-untyped-call]
        except asyncio.CancelledError:
            self.give_up()
            raise


class Sqlite:
    """A `storage.database.Backend`."""

    def __init__(self, url: str) -> None:
        path = url.removeprefix("sqlite:///")
        if path in {url, "", ":memory:"} or "?" in path:
            raise ConfigError(
                "database: must be sqlite:///FILE or sqlite:////ABSOLUTE/FILE for SQLite"
            )
        self._path = Path(path).absolute()
        self._threads = WeakSet[Thread]()
        self._connections = WeakSet[_AsyncConnection]()

    @property
    def name(self) -> str:
        return str(self._path)

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        return (sqlite3.Error,)

    def require(self, *, create: bool) -> None:
        """Create the file if it is missing, readable only by its owner because it contains digests of
        keys.
        """
        if not self._path.parent.is_dir():
            raise StoreUnavailable(
                f"the database {self.name} cannot be used: there is no folder {self._path.parent}"
            )
        if self._path.exists():
            return
        if not create:
            raise StoreUnavailable(
                f"the database {self.name} cannot be used: no such file; "
                "set another one with --database"
            )
        try:
            os.close(os.open(self._path, os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            pass  # another process was faster
        except OSError as error:
            raise StoreUnavailable(
                f"the database {self.name} cannot be created: {error.strerror}"
            ) from error

    def engine(self) -> AsyncEngine:
        engine = create_async_engine(
            "sqlite+aiosqlite://",
            async_creator=self._connect,
            hide_parameters=True,
            max_overflow=0,
            pool_size=MAX_CONNECTIONS,
            pool_timeout=LOCK_WAIT_S,
            poolclass=AsyncAdaptedQueuePool,
        )
        event.listen(engine.sync_engine, "connect", self._on_connect)
        event.listen(engine.sync_engine, "checkout", self._on_checkout)
        event.listen(engine.sync_engine, "begin", _on_begin)
        return engine

    def writers(self, engine: AsyncEngine) -> AsyncEngine:
        return engine.execution_options(**{_WRITES: True})

    async def lock_schema(self, connection: AsyncConnection) -> None:
        """Do nothing: a transaction that writes has the only lock."""

    def is_lock_timeout(self, error: BaseException | None) -> bool:
        """Return False: there are no locks of tables."""
        del error
        return False

    def abort(self) -> None:
        for connection in list(self._connections):
            connection.give_up()

    async def wait_closed(self) -> None:
        """Wait for the threads. One that outlives the event loop would print a traceback."""
        while any(thread.is_alive() for thread in self._threads):  # noqa: ASYNC110  # threads signal no event
            await asyncio.sleep(0.001)

    async def _connect(self) -> aiosqlite.Connection:
        # Mode rw: a file that vanished is an error, and not an empty database where no key was revoked.
        connection = _AsyncConnection(
            lambda: sqlite3.connect(
                f"file:{quote(str(self._path))}?mode=rw",
                uri=True,
                timeout=LOCK_WAIT_S,
                isolation_level=None,
                factory=_Connection,
            ),
            iter_chunk_size=64,
        )
        connection._thread.daemon = True  # as SQLAlchemy does for connections that it creates
        self._threads.add(connection._thread)
        self._connections.add(connection)
        await connection
        connection.text_factory = _text
        try:
            await _configure(connection)
        except BaseException:
            connection.stop()
            raise
        return connection

    def _on_connect(self, connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
        del connection
        record.info[_FILE] = self._file()

    def _on_checkout(
        self, connection: DBAPIConnection, record: ConnectionPoolEntry, proxy: object
    ) -> None:
        del connection, proxy
        if record.info[_FILE] != self._file():
            raise DisconnectionError("the file was replaced, and this connection reads the old one")

    def _file(self) -> tuple[int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino


def _text(data: bytes) -> str:
    """Decode text. Invalid bytes become U+FFFD, because an error would hide all other rows of a result."""
    return data.decode("utf-8", "replace")


def _on_begin(connection: Connection) -> None:
    """Begin each transaction explicitly: Python's sqlite3 begins it late, and for DDL not at all."""
    writes = connection.get_execution_options().get(_WRITES, False)
    driver_connection: _AsyncConnection = connection.connection.driver_connection  # type: ignore[assignment]
    await_only(driver_connection.begin(writes=writes))


async def _configure(connection: aiosqlite.Connection) -> None:
    """Set WAL, so that readers and the writer do not wait for each other, and the other settings."""
    loop = asyncio.get_running_loop()
    give_up = loop.time() + LOCK_WAIT_S
    while True:
        try:
            await connection.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError as error:
            # Of 100 processes that open a new file at once, 2 get "busy" without a wait.
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or loop.time() > give_up:
                raise
            await asyncio.sleep(0.01)
    for setting in _SETTINGS:
        await connection.execute(setting)
