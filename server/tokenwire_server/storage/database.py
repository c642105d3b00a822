"""Connections to the database: SQLite or PostgreSQL, depending on the URL."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Protocol, Self

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from ..config import ConfigError
from ..errors import StoreUnavailable
from . import schema
from .postgresql import Postgresql
from .sqlite import Sqlite

logger = logging.getLogger(__name__)

TRANSACTION_S = 10.0
"""Longest duration of a transaction, from the wait for a connection to the commit."""
MIGRATION_S = 600.0
"""Longest duration of a schema update."""
MIGRATION_PAUSE_S = 2.0
"""Pause before a schema update that did not get a lock in time is repeated."""
CLOSE_S = 6.0
"""Longest duration of closing: more than a wait for a lock."""


class Backend(Protocol):
    """What differs between SQLite and PostgreSQL."""

    @property
    def name(self) -> str:
        """Location of the database for messages, without the password."""
        ...

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """Errors of the driver, once there is an engine. SQLAlchemy does not translate all of them."""
        ...

    def require(self, *, create: bool) -> None:
        """Check that there is a database to connect to. Raises StoreUnavailable."""
        ...

    def engine(self) -> AsyncEngine: ...

    def writers(self, engine: AsyncEngine) -> AsyncEngine:
        """Return the engine for transactions that write."""
        ...

    async def lock_schema(self, connection: AsyncConnection) -> None:
        """Lock the schema until the transaction ends.

        The transaction may then wait only briefly for the lock of a table: the statements of other
        connections that need the table wait behind it.
        """
        ...

    def is_lock_timeout(self, error: BaseException | None) -> bool:
        """Return whether a transaction failed because it did not get the lock of a table in time."""
        ...

    def abort(self) -> None:
        """End all current waits for the database. Returns at once."""
        ...

    async def wait_closed(self) -> None:
        """Wait until nothing of the engine runs, after it was disposed of."""
        ...


class Database:
    """Connections to the database, as an async context manager. `url` is `Settings.database`.

    Its methods raise only two errors of the database: StoreUnavailable if it cannot be reached or does not
    answer in time, and ConfigError if the URL or the schema is wrong. The `detail` of StoreUnavailable and
    the text of ConfigError are one line for the operator, without the password.
    """

    def __init__(self, url: str, *, create: bool = True) -> None:
        """`create`: create an SQLite file that is missing. Nothing is connected yet."""
        self._backend = _backend(url)
        self._create = create
        self._abort_timer: asyncio.TimerHandle | None = None
        self._is_aborted = False

    @property
    def name(self) -> str:
        """Location of the database for messages, without the password."""
        return self._backend.name

    async def __aenter__(self) -> Self:
        self._backend.require(create=self._create)
        self._engine = self._backend.engine()
        self._writers = self._backend.writers(self._engine)
        self._errors: tuple[type[Exception], ...] = (
            SQLAlchemyError,
            OSError,
            *self._backend.errors,
        )
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await self._engine.dispose()
                    await self._backend.wait_closed()
        finally:
            if self._abort_timer is not None:
                self._abort_timer.cancel()

    def abort_after(self, delay_s: float) -> None:
        """After `delay_s`, let all waits for the database and all later transactions fail with
        StoreUnavailable.

        So a database that does not answer delays closing by at most `delay_s`.
        """
        self._abort_timer = asyncio.get_running_loop().call_later(delay_s, self._abort)

    def _abort(self) -> None:
        self._is_aborted = True
        self._backend.abort()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """Begin a transaction that reads. Raises StoreUnavailable."""
        async with self._transaction(self._engine, TRANSACTION_S) as connection:
            yield connection

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """Begin a transaction that may write. It is committed unless the block raises.

        On SQLite only one runs at a time. Raises StoreUnavailable. The transaction was then committed
        completely or not at all, and also when it is cancelled.
        """
        async with self._transaction(self._writers, TRANSACTION_S) as connection:
            yield connection

    async def prepare(self, *, migrate: bool) -> bool:
        """Check that the schema is this version's, and update it if `migrate`. Return whether it was
        updated.

        A newer schema of the same generation is used as it is, see `schema`. Several processes may do this
        at once: one updates the schema and the others wait. The update runs beside servers that use the
        database. If another program keeps the lock of a table, such as a dump, the update is repeated until
        it gets the lock. Raises ConfigError if this version cannot use the schema, or if it must be updated
        and `migrate` is false.
        """
        async with self.reading() as connection:
            if await self._is_usable(connection):
                return False
        if not migrate:
            raise ConfigError(
                f"the schema of the database {self.name} is not this version's: run "
                "tokenwire-server migrate"
            )
        upgrade = schema.upgrader()  # before the lock: it imports Alembic
        give_up = time.monotonic() + MIGRATION_S
        while True:
            try:
                return await self._migrate(upgrade)
            except StoreUnavailable as error:
                is_in_time = time.monotonic() + MIGRATION_PAUSE_S < give_up
                if not is_in_time or not self._backend.is_lock_timeout(error.__cause__):
                    raise
                logger.warning("%s; the schema is not updated yet", error.detail)
            await asyncio.sleep(MIGRATION_PAUSE_S)

    async def _migrate(self, upgrade: Callable[[Connection], None]) -> bool:
        async with self._transaction(self._writers, MIGRATION_S) as connection:
            await self._backend.lock_schema(connection)
            if await self._is_usable(connection):
                return False
            await connection.run_sync(upgrade)
        return True

    async def _is_usable(self, connection: AsyncConnection) -> bool:
        """Return whether the schema needs no update. Raises ConfigError if this version cannot use it."""
        found = await connection.run_sync(schema.revision_of)
        if found is not None and schema.is_newer(found):
            logger.info("the database %s has the schema %s of a later release", self.name, found)
            return True
        if found is not None and found not in schema.REVISIONS:
            raise ConfigError(
                f"the database {self.name} has the schema {found!r}, which is unknown to this version: "
                "use a newer version"
            )
        return found == schema.REVISIONS[-1]

    @asynccontextmanager
    async def _transaction(
        self, engine: AsyncEngine, longest_s: float
    ) -> AsyncIterator[AsyncConnection]:
        if self._is_aborted:
            raise StoreUnavailable(f"the database {self.name} is closed")
        try:
            async with asyncio.timeout(longest_s), engine.begin() as connection:
                yield connection
        except TimeoutError:
            raise StoreUnavailable(
                f"the database {self.name} cannot be used: no answer in {longest_s:g} s"
            ) from None
        except self._errors as error:
            raise StoreUnavailable(
                f"the database {self.name} cannot be used: {_message(error)}"
            ) from error


def _backend(url: str) -> Backend:
    scheme = url.partition(":")[0]
    if scheme == "sqlite":
        return Sqlite(url)
    if scheme in {"postgresql", "postgres"}:
        return Postgresql(url)
    raise ConfigError("database: must begin with sqlite:/// or postgresql://")


def _message(error: Exception) -> str:
    """Return the first line of the driver's error. SQLAlchemy's text contains the statement and a link."""
    cause: object = error.driver_exception if isinstance(error, DBAPIError) else error
    if isinstance(cause, SQLAlchemyError):
        cause = cause.args[0]
    return str(cause).partition("\n")[0] or type(cause).__name__
