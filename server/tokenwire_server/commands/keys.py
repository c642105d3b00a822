"""`tokenwire-server keys`: create, list, revoke and rotate the keys of callers."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from datetime import timedelta

from ..config import CallerLimits
from ..descriptors import print_error
from ..errors import StoreUnavailable
from ..storage.database import Database
from ..tenants.keystore import KeyRefused, KeyStore
from .key_list import json_line, moment, table

SHOWN_ONCE = "It is shown only once."


async def create_key(
    database: Database,
    tenant: str,
    *,
    models: tuple[str, ...],
    limits: CallerLimits | None,
    expire_time: float | None,
) -> None:
    """Create a key. Print it on stdout, and everything else on stderr."""
    store = KeyStore(database)
    key, text = await store.create(tenant, models=models, limits=limits, expire_time=expire_time)
    print(text, flush=True)
    _print_lines(
        f"key {key.prefix} of tenant {key.tenant}, expires {moment(key.expire_time)}, in {database.name}",
        SHOWN_ONCE,
    )
    with suppress(StoreUnavailable):  # the key was created anyway
        if len(await store.list()) == 1:
            _print_lines(
                "It is the first key: from now on, servers with this database require a key."
            )


async def list_keys(database: Database, tenant: str | None, *, as_json: bool) -> None:
    """Print all keys, or those of one tenant, the oldest first."""
    keys, now = await KeyStore(database).list(tenant), time.time()
    if as_json:
        lines = [json_line(key, now) for key in keys]
    elif keys:
        lines = table(keys, now)
    else:
        of_tenant = f" of tenant {tenant}" if tenant else ""
        _print_lines(f"there are no keys{of_tenant} in {database.name}")
        return
    sys.stdout.writelines(f"{line}\n" for line in lines)


async def revoke_key(database: Database, prefix: str | None, tenant: str | None) -> None:
    """Revoke one key. Raises KeyRefused."""
    store = KeyStore(database)
    key = await store.revoke(await _one_prefix(store, prefix, tenant))
    print(f"key {key.prefix} of tenant {key.tenant} was revoked at {moment(key.revoke_time)}")
    with suppress(StoreUnavailable):  # the key was revoked anyway
        if not any(key.active(time.time()) for key in await store.list()):
            _print_lines(
                "No key is active now: servers with this database refuse every call, until you create "
                "a key or serve with --auth none."
            )


async def rotate_key(
    database: Database, prefix: str | None, tenant: str | None, overlap: timedelta
) -> None:
    """Create a key that replaces one, which expires after `overlap`. Raises KeyRefused."""
    store = KeyStore(database)
    replaced = await _one_prefix(store, prefix, tenant)
    old, new, text = await store.rotate(replaced, overlap.total_seconds())
    print(text, flush=True)
    _print_lines(
        f"key {new.prefix} of tenant {new.tenant}, expires {moment(new.expire_time)}, replaces "
        f"{old.prefix}, which expires {moment(old.expire_time)}",
        SHOWN_ONCE,
    )


async def _one_prefix(store: KeyStore, prefix: str | None, tenant: str | None) -> str:
    """Return the prefix of the one key that is meant. Raises KeyRefused."""
    if tenant is None:
        return str(prefix)
    keys = await store.list(tenant)
    if prefix is not None:
        if prefix not in {key.prefix for key in keys}:
            raise KeyRefused(f"tenant {tenant} has no key {prefix}")
        return prefix
    active = [key.prefix for key in keys if key.active(time.time())]
    if not active:
        raise KeyRefused(f"tenant {tenant} has no active key")
    if len(active) > 1:
        raise KeyRefused(
            f"tenant {tenant} has {len(active)} active keys: give the PREFIX of one: {', '.join(active)}"
        )
    return active[0]


def _print_lines(*lines: str) -> None:
    print_error("\n".join(lines))
