"""SQLite: a file, shared by the processes of one machine."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from contextlib import suppress
from pathlib import Path
from threading import Thread
from urllib.parse import quote
from weakref import WeakSet

import aiosqlite
from sqlalchemy import Connection, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry

from ..config import ConfigError
from ..errors import StoreUnavailable

LOCK_WAIT_S = 5.0
"""How long a transaction waits for another process's lock. Then StoreUnavailable."""
MAX_CONNECTIONS = 4

_WRITES = "tokenwire_writes"
_FILE = "tokenwire_file"
_SETTINGS = (
    # A power cut must not bring a revoked key back, as NORMAL could. Keys are written rarely.
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
)


class _Connection(sqlite3.Connection):
    """When one is closed in the midst of a transaction, SQLite keeps its lock for as long as a cursor of
    it lives, which may be until garbage is collected: what was cancelled would lock out all others.
    """

    def close(self) -> None:
        with suppress(sqlite3.Error):
            self.rollback()
        super().close()

    def __del__(self) -> None:
        """When the opening was cancelled aiosqlite lets go of it; from Python 3.13 on that is a warning."""
        with suppress(
            sqlite3.Error
        ):  # it may be another thread that closes it; then its memory does
            self.close()


class Sqlite:
    """A `storage.database.Backend`."""

    def __init__(self, url: str) -> None:
        path = url.removeprefix("sqlite:///")
        if path in {url, "", ":memory:"} or "?" in path:
            raise ConfigError(
                "database: of SQLite it must be sqlite:///FILE or sqlite:////ABSOLUTE/FILE"
            )
        self._path = Path(path).absolute()
        self._threads = WeakSet[Thread]()

    @property
    def name(self) -> str:
        return str(self._path)

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        return (sqlite3.Error,)

    def require(self, *, create: bool) -> None:
        """Make the file if it is missing, for its owner only: it holds digests of keys."""
        if not self._path.parent.is_dir():
            raise StoreUnavailable(
                f"the database {self.name} cannot be used: there is no folder {self._path.parent}"
            )
        if self._path.exists():
            return
        if not create:
            raise StoreUnavailable(
                f"the database {self.name} cannot be used: there is no such file"
            )
        try:
            os.close(os.open(self._path, os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            pass  # another process was faster
        except OSError as error:
            raise StoreUnavailable(
                f"the database {self.name} cannot be made: {error.strerror}"
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
        """A transaction that writes holds the only lock there is."""

    async def wait_closed(self) -> None:
        """A thread that outlives the event loop would end in a traceback on stderr."""
        while any(thread.is_alive() for thread in self._threads):  # noqa: ASYNC110  # threads tell nobody
            await asyncio.sleep(0.001)

    async def _connect(self) -> aiosqlite.Connection:
        # Mode rw: a file that vanished is an error, and not an empty database where no key was revoked.
        connection = aiosqlite.connect(
            f"file:{quote(str(self._path))}?mode=rw",
            uri=True,
            timeout=LOCK_WAIT_S,
            isolation_level=None,
            factory=_Connection,
        )
        connection._thread.daemon = True  # as SQLAlchemy does, had it made the connection
        self._threads.add(connection._thread)
        await connection
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


def _on_begin(connection: Connection) -> None:
    """Python's sqlite3 begins a transaction late, and for DDL never: here every one is begun.

    One that writes takes the lock at once. If it began by reading, it would be refused without a wait
    when another wrote in between.
    """
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


async def _configure(connection: aiosqlite.Connection) -> None:
    """WAL, so that readers and the writer do not wait for each other, and the settings."""
    loop = asyncio.get_running_loop()
    give_up = loop.time() + LOCK_WAIT_S
    while True:
        try:
            await connection.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError as error:
            # Of processes that open a new file at once some are told "busy" without a wait: 2 of 100.
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or loop.time() > give_up:
                raise
            await asyncio.sleep(0.01)
    for setting in _SETTINGS:
        await connection.execute(setting)
