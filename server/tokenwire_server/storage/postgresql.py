"""PostgreSQL: a database server that replicas share."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit
from weakref import WeakSet

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from .. import install_hint
from ..config import ConfigError

WAIT_S = 5.0
"""Longest wait for a connection, a lock or a statement. Then StoreUnavailable."""
MIGRATION_LOCK_S = 1.0
"""Longest wait of a schema update for the lock of a table. The statements of servers wait behind it, and fail
after WAIT_S."""
MAX_CONNECTIONS = 4

SCHEMA_LOCK = 0x746F6B656E77  # "tokenw": a number that other programs do not use
_SERVER_SETTINGS = {
    "application_name": "tokenwire",
    # Not the database's default: a transaction that waited for a lock must see what was committed.
    "default_transaction_isolation": "read committed",
    "statement_timeout": f"{WAIT_S:g}s",
    "lock_timeout": f"{WAIT_S:g}s",
    # A process that hangs while it changes a key must not block the others.
    "idle_in_transaction_session_timeout": "30s",
}


class Postgresql:
    """A `storage.database.Backend`. The URL is libpq's, with its parameters (`sslmode`, `host`, ...)."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._name = _name(url)
        self._connections = WeakSet[Any]()

    @property
    def name(self) -> str:
        return self._name

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """SQLAlchemy 2.1 does not translate errors that occur while rows are fetched from a cursor."""
        import asyncpg

        return asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError

    def require(self, *, create: bool) -> None:
        """Do nothing: only an administrator creates a database, and connecting fails if there is none."""

    def engine(self) -> AsyncEngine:
        try:
            import asyncpg
        except ModuleNotFoundError:
            raise ConfigError(
                f"database: PostgreSQL needs the package asyncpg: {install_hint('postgres')}"
            ) from None

        async def connect() -> Any:
            try:
                connection = await asyncpg.connect(
                    self._url, timeout=WAIT_S, server_settings=_SERVER_SETTINGS
                )
            except ValueError as error:  # its text may contain part of a password
                raise ConfigError(
                    f"database: the port or a parameter of {self.name} is wrong"
                ) from error
            self._connections.add(connection)
            encoding = connection.get_settings().server_encoding
            if encoding != "UTF8":  # a record with another character could not be written
                connection.terminate()
                raise ConfigError(
                    f"database: the encoding of {self.name} is {encoding}, and must be UTF8"
                )
            return connection

        return create_async_engine(
            "postgresql+asyncpg://",
            async_creator=connect,
            hide_parameters=True,
            max_overflow=0,
            pool_pre_ping=True,  # the server may have been restarted
            pool_size=MAX_CONNECTIONS,
            pool_timeout=WAIT_S,
        )

    def writers(self, engine: AsyncEngine) -> AsyncEngine:
        return engine

    async def lock_schema(self, connection: AsyncConnection) -> None:
        for setting in ("statement_timeout", "lock_timeout"):
            await connection.execute(text(f"SET LOCAL {setting} = 0"))  # Database has its own bound
        await connection.execute(text(f"SELECT pg_advisory_xact_lock({SCHEMA_LOCK})"))
        await connection.execute(text(f"SET LOCAL lock_timeout = '{MIGRATION_LOCK_S:g}s'"))

    def is_lock_timeout(self, error: BaseException | None) -> bool:
        import asyncpg

        cause = error.driver_exception if isinstance(error, DBAPIError) else error
        return isinstance(cause, asyncpg.LockNotAvailableError)

    def abort(self) -> None:
        for connection in list(self._connections):
            connection.terminate()

    async def wait_closed(self) -> None:
        """Return at once: connections end when they are closed."""


def _name(url: str) -> str:
    """Return the URL without user, password and parameters. Raises ConfigError if it is ambiguous."""
    try:
        parts = urlsplit(url)
        parameters = parse_qs(parts.query, strict_parsing=bool(parts.query))
    except ValueError:
        parts, parameters = None, {}
    if (
        parts is None
        or parts.fragment
        or url.count("@") != parts.netloc.count("@")
        or url.count("@") > 1
    ):
        raise ConfigError(
            "database: must be postgresql://USER:PASSWORD@HOST:PORT/NAME for PostgreSQL, with every "
            "character of the password that is not a letter or a digit as %XX"
        )
    host = parts.netloc.rpartition("@")[2] or parameters.get("host", [""])[-1]
    return f"postgresql://{host}{parts.path}"
