"""Running the operator's commands: settings, database, one thing done, an exit code."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from contextlib import suppress

from ..config import ConfigError, Settings, load
from ..descriptors import discard_output, print_error
from ..errors import StoreUnavailable, operator_text
from ..storage.database import Database
from ..tenants.keystore import KeyRefused, KeyStore
from .listing import json_line, moment, table
from .usage import TooMuch, tell_usage


def run_command(arguments: argparse.Namespace) -> int:
    """Do what was asked, and return 0; or 1, or 2 for wrong arguments, and stderr has one line why."""
    needs_one = arguments.command == "keys" and arguments.action in {"revoke", "rotate"}
    if needs_one and arguments.prefix is None and arguments.tenant is None:
        _print_lines(
            f"tokenwire-server keys {arguments.action}: say which: PREFIX or --tenant NAME"
        )
        return 2
    try:
        flags = {} if arguments.database is None else {"database": arguments.database}
        settings = load(arguments.config, flags)
        asyncio.run(_run(arguments, settings))
        sys.stdout.flush()  # while an error can still be reported
    except OSError as error:  # stdout is full, or nobody reads it
        discard_output(1)
        action = getattr(arguments, "action", arguments.command)
        if action in {"usage", "list"} and isinstance(error, BrokenPipeError):  # as with head
            return 0
        made = action in {"create", "rotate"}
        lost = "; a key that was made now is lost: revoke it" if made else ""
        _print_lines(f"tokenwire-server: cannot write: {error.strerror}{lost}")
        return 1
    except (ConfigError, StoreUnavailable, KeyRefused, TooMuch) as error:
        _print_lines(f"tokenwire-server: {operator_text(error)}")
        return 1
    return 0


async def _run(arguments: argparse.Namespace, settings: Settings) -> None:
    if arguments.command == "migrate":
        async with Database(settings.database) as database:
            changed = await database.prepare(migrate=True)
            was = "is now" if changed else "was"
            print(f"the schema of the database {database.name} {was} up to date")
        return
    if arguments.command == "usage":
        async with Database(settings.database, create=False) as database:
            await database.prepare(migrate=settings.migrate)
            await tell_usage(arguments, database)
        return
    # Only `create` makes a file. For the others it would be an empty one, in the wrong folder.
    async with Database(settings.database, create=arguments.action == "create") as database:
        await database.prepare(migrate=settings.migrate)
        await _ACTIONS[arguments.action](arguments, KeyStore(database), database.name)


async def _create(arguments: argparse.Namespace, store: KeyStore, database: str) -> None:
    key, text = await store.create(
        arguments.tenant,
        models=arguments.models,
        limits=arguments.limits,
        expire_time=arguments.expires,
    )
    print(text, flush=True)
    _print_lines(
        f"key {key.prefix} of tenant {key.tenant}, expires {moment(key.expire_time)}, in {database}",
        "It is shown this once.",
    )
    with suppress(StoreUnavailable):  # the key was created anyway
        if len(await store.list()) == 1:
            _print_lines(
                "It is the first key: from now on, servers with this database require a key."
            )


async def _list(arguments: argparse.Namespace, store: KeyStore, database: str) -> None:
    keys, now = await store.list(arguments.tenant), time.time()
    if arguments.json:
        lines = [json_line(key, now) for key in keys]
    elif keys:
        lines = table(keys, now)
    else:
        whose = f" of tenant {arguments.tenant}" if arguments.tenant else ""
        _print_lines(f"there are no keys{whose} in {database}")
        return
    sys.stdout.writelines(f"{line}\n" for line in lines)


async def _revoke(arguments: argparse.Namespace, store: KeyStore, _database: str) -> None:
    key = await store.revoke(await _which(arguments, store))
    print(f"key {key.prefix} of tenant {key.tenant} was revoked at {moment(key.revoke_time)}")
    with suppress(StoreUnavailable):  # the key was revoked anyway
        if not any(key.active(time.time()) for key in await store.list()):
            _print_lines(
                "No key is active now: servers with this database refuse every call, until you create "
                "a key or serve with --auth none."
            )


async def _rotate(arguments: argparse.Namespace, store: KeyStore, _database: str) -> None:
    prefix = await _which(arguments, store)
    old, new, text = await store.rotate(prefix, arguments.overlap.total_seconds())
    print(text, flush=True)
    _print_lines(
        f"key {new.prefix} of tenant {new.tenant}, expires {moment(new.expire_time)}, takes the place "
        f"of {old.prefix}, which expires {moment(old.expire_time)}",
        "It is shown this once.",
    )


async def _which(arguments: argparse.Namespace, store: KeyStore) -> str:
    """The prefix of the key that is meant. Raises KeyRefused."""
    if arguments.tenant is None:
        return str(arguments.prefix)
    keys = await store.list(arguments.tenant)
    if arguments.prefix is not None:
        if arguments.prefix not in {key.prefix for key in keys}:
            raise KeyRefused(f"tenant {arguments.tenant} has no key {arguments.prefix}")
        return str(arguments.prefix)
    active = [key.prefix for key in keys if key.active(time.time())]
    if not active:
        raise KeyRefused(f"tenant {arguments.tenant} has no active key")
    if len(active) > 1:
        raise KeyRefused(
            f"tenant {arguments.tenant} has {len(active)} active keys: say which: {', '.join(active)}"
        )
    return active[0]


def _print_lines(*lines: str) -> None:
    print_error("\n".join(lines))


_ACTIONS = {"create": _create, "list": _list, "revoke": _revoke, "rotate": _rotate}
