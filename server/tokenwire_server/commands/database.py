"""Run one of the operator's commands on the database that the settings name."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from ..config import ConfigError, load
from ..descriptors import discard_output, print_error
from ..errors import StoreUnavailable, operator_text
from ..storage.database import Database
from ..tenants.keystore import KeyRefused
from .options import PROGRAM
from .usage import SummaryRefused


@dataclass(frozen=True, slots=True)
class DatabaseOptions:
    """The options that name the database."""

    database: str | None
    config: Path | None


def run_on_database(
    work: Callable[[Database], Awaitable[None]],
    options: DatabaseOptions,
    *,
    create: bool = False,
    migrate: bool = False,
    prints_key: bool = False,
    may_lose_reader: bool = False,
) -> int:
    """Open the database, do the work and return the exit code: 0, or 1 after an error line.

    `create`: create the file of a SQLite database. `migrate`: the work itself updates the schema.
    `prints_key`: the output is a key, and lost if it cannot be written. `may_lose_reader`:
    it is not an error if the reader of stdout leaves, as `head` does.
    """
    try:
        flags = {} if options.database is None else {"database": options.database}
        settings = load(options.config, flags)

        async def run() -> None:
            async with Database(settings.database, create=create) as database:
                if not migrate:
                    await database.prepare(migrate=settings.migrate)
                await work(database)

        asyncio.run(run())
        sys.stdout.flush()  # while an error can still be reported
    except OSError as error:  # stdout is full, or its reader left
        discard_output(1)
        if may_lose_reader and isinstance(error, BrokenPipeError):
            return 0
        lost = "; if a key was created, it is lost: revoke it" if prints_key else ""
        print_error(f"{PROGRAM}: cannot write: {error.strerror}{lost}")
        return 1
    except (ConfigError, StoreUnavailable, KeyRefused, SummaryRefused) as error:
        print_error(f"{PROGRAM}: {operator_text(error)}")
        return 1
    return 0


async def migrate_schema(database: Database) -> None:
    """Bring the schema up to date, and print whether that was necessary."""
    changed = await database.prepare(migrate=True)
    was = "is now" if changed else "was already"
    print(f"the schema of the database {database.name} {was} up to date")
