"""`tokenwire-server provider-keys`: set, list, delete and encrypt again the tenants' own provider keys."""

from __future__ import annotations

import getpass
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tokenwire.cli.table import Column, table_lines

from ..config import known_providers, load
from ..descriptors import print_error
from ..storage.database import Database
from ..tenants.keystore import KeyRefused
from ..tenants.master_keys import MasterKeys, Undecryptable
from ..tenants.provider_keystore import (
    MAX_KEY_CHARS,
    ProviderKeyStore,
    StoredProviderKey,
    check_key_text,
)
from .key_list import moment

HEADINGS = ("TENANT", "PROVIDER", "KEY", "STATE", "CREATED")
SHOWN_CHARS = 4
MIN_CHARS = 20
"""Nothing of a shorter key is shown."""


class ListedKey(msgspec.Struct, frozen=True):
    """What `list` shows of a key."""

    tenant: str
    provider: str
    last_characters: str
    """Empty if the key is too short, or unreadable."""
    state: str
    """"current": the first master key decrypts it. "old": another one does. "unreadable": none does."""
    master_key_id: str
    create_time: str


async def set_key(database: Database, tenant: str, provider: str, config: Path | None) -> None:
    """Store the key on standard input. Raises ConfigError, KeyRefused."""
    master_keys = MasterKeys.of(os.environ)
    first_id = master_keys.first_id
    known = {**known_providers(os.environ), **load(config, {}).providers}
    if provider not in known:  # such a key would never be used
        raise KeyRefused(
            f"there is no provider {provider!r} in the settings, only {', '.join(sorted(known))}; give "
            "the server's settings with --config"
        )
    text = check_key_text(_read_key(tenant, provider))
    await ProviderKeyStore(database).set(tenant, provider, text, master_keys)
    print(
        f"the key of tenant {tenant} for provider {provider} was stored, encrypted with the master key "
        f"{first_id}"
    )


async def list_keys(database: Database, tenant: str | None, *, as_json: bool) -> None:
    """Print all keys, or those of one tenant. Raises ConfigError."""
    master_keys = MasterKeys.of(os.environ)
    keys = [_listed(key, master_keys) for key in await ProviderKeyStore(database).list(tenant)]
    if not keys and not as_json:
        of_tenant = f" of tenant {tenant}" if tenant else ""
        print_error(f"there are no provider keys{of_tenant} in {database.name}")
        return
    lines = [json.dumps(msgspec.structs.asdict(key)) for key in keys] if as_json else _table(keys)
    sys.stdout.writelines(f"{line}\n" for line in lines)


async def delete_key(database: Database, tenant: str, provider: str) -> None:
    """Delete a key. Raises KeyRefused."""
    await ProviderKeyStore(database).delete(tenant, provider)
    print(f"the key of tenant {tenant} for provider {provider} was deleted")


async def rotate_keys(database: Database) -> None:
    """Encrypt all keys with the first master key. Raises ConfigError, KeyRefused."""
    master_keys = MasterKeys.of(os.environ)
    count = await ProviderKeyStore(database).rotate(master_keys)
    print(f"keys encrypted again with the master key {master_keys.first_id}: {count}")


def _read_key(tenant: str, provider: str) -> str:
    if sys.stdin is None:
        return ""
    if sys.stdin.isatty():
        try:
            return getpass.getpass(f"Key of tenant {tenant} for provider {provider}: ")
        except EOFError:
            return ""
    # More than the longest key, so that a longer text is refused and not cut off.
    data = sys.stdin.buffer.read(MAX_KEY_CHARS + 1024)
    return data.decode("ascii", errors="replace")


def _listed(key: StoredProviderKey, master_keys: MasterKeys) -> ListedKey:
    text, state = "", "unreadable"
    key_id = key.encrypted.master_key_id if key.encrypted else ""
    try:
        text = key.text(master_keys)
        state = "current" if key_id == master_keys.first_id else "old"
    except Undecryptable:
        pass
    shown = text[-SHOWN_CHARS:] if len(text) >= MIN_CHARS else ""
    return ListedKey(key.tenant, key.provider, shown, state, key_id, moment(key.create_time))


def _table(keys: Sequence[ListedKey]) -> list[str]:
    rows = [
        (
            key.tenant,
            key.provider,
            f"...{key.last_characters}" if key.last_characters else "-",
            key.state,
            key.create_time,
        )
        for key in keys
    ]
    return table_lines(list(map(Column, HEADINGS)), rows)
