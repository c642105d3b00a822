"""The provider keys of tenants in the database, encrypted."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import msgspec
from sqlalchemy import Row, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ..storage.database import Database
from ..storage.schema import provider_keys
from ..storage.sql import upsert
from .keystore import KeyRefused, newest_revision, next_revision
from .master_keys import Encrypted, MasterKeys, Undecryptable

MAX_KEY_CHARS = 4096


class StoredProviderKey(msgspec.Struct, frozen=True):
    """A tenant's own key for a provider. Times are seconds since the epoch."""

    tenant: str
    provider: str
    encrypted: Encrypted | None
    """None: the key was deleted."""
    create_time: float

    def text(self, master_keys: MasterKeys) -> str:
        """Decrypt the key. Raises Undecryptable."""
        if self.encrypted is None:
            raise Undecryptable("it was deleted")
        return master_keys.decrypt(self.encrypted, _context(self.tenant, self.provider))


def check_key_text(text: str) -> str:
    """Return a provider's key without the spaces around it. Raises KeyRefused, without the text."""
    text = text.strip()
    if not text:
        raise KeyRefused("the provider's key is empty: write it to standard input")
    if not (text.isascii() and text.isprintable()) or " " in text:
        raise KeyRefused(
            "the provider's key must be one line of printable ASCII characters without spaces"
        )
    if len(text) > MAX_KEY_CHARS:
        raise KeyRefused(f"the provider's key is longer than {MAX_KEY_CHARS} characters")
    return text


class ProviderKeyStore:
    """The provider keys in the database.

    Every method raises StoreUnavailable. A method that changes keys changes all of them or none, also if it
    fails or is cancelled.
    """

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    async def changes(self, since_revision: int) -> tuple[int, Sequence[StoredProviderKey]]:
        """Return the newest revision, and every key that was set or deleted after `since_revision`.

        See `KeyStore.changes`, with which the revisions are shared.
        """
        async with self._database.reading() as connection:
            newest = await newest_revision(connection)
            if newest <= since_revision:
                return newest, ()
            rows = await connection.execute(
                select(provider_keys).where(provider_keys.c.revision > since_revision)
            )
            changed = rows.all()
        # A change may have been committed between the two reads. Then its row is here already.
        return max(newest, *(row.revision for row in changed), 0), [_key(row) for row in changed]

    async def list(self, tenant: str | None = None) -> Sequence[StoredProviderKey]:
        """Return all keys, or those of a tenant, by tenant and provider. Deleted keys are left out."""
        keys = (
            select(provider_keys)
            .where(provider_keys.c.ciphertext.is_not(None))
            .order_by(provider_keys.c.tenant, provider_keys.c.provider)
        )
        if tenant is not None:
            keys = keys.where(provider_keys.c.tenant == tenant)
        async with self._database.reading() as connection:
            return [_key(row) for row in (await connection.execute(keys)).all()]

    async def set(self, tenant: str, provider: str, text: str, master_keys: MasterKeys) -> None:
        """Store a key, in place of an earlier one. Raises ConfigError if there is no master key."""
        encrypted = master_keys.encrypt(text, _context(tenant, provider))
        values = {
            "ciphertext": encrypted.ciphertext,
            "master_key_id": encrypted.master_key_id,
            "create_time": self._clock(),
        }
        async with self._database.writing() as connection:
            values["revision"] = await next_revision(connection)
            await connection.execute(
                upsert(connection, provider_keys)
                .values(tenant=tenant, provider=provider, **values)
                .on_conflict_do_update(index_elements=["tenant", "provider"], set_=values)
            )

    async def delete(self, tenant: str, provider: str) -> None:
        """Delete a key. Raises KeyRefused if there is none."""
        async with self._database.writing() as connection:
            revision = await next_revision(connection)
            deleted = await connection.execute(
                update(provider_keys)
                .where(
                    provider_keys.c.tenant == tenant,
                    provider_keys.c.provider == provider,
                    provider_keys.c.ciphertext.is_not(None),
                )
                .values(ciphertext=None, revision=revision)
            )
            if not deleted.rowcount:
                raise KeyRefused(f"tenant {tenant} has no key of its own for provider {provider}")

    async def rotate(self, master_keys: MasterKeys) -> int:
        """Encrypt with the first master key all keys that another one encrypts. Return their number.

        Raises ConfigError if there is no master key; KeyRefused if a key cannot be decrypted, and then
        nothing is changed.
        """
        first_id = master_keys.first_id
        async with self._database.writing() as connection:
            revision = await next_revision(connection)  # first, so that other changes wait
            rows = await connection.execute(
                select(provider_keys).where(
                    provider_keys.c.ciphertext.is_not(None),
                    provider_keys.c.master_key_id != first_id,
                )
            )
            keys = [_key(row) for row in rows.all()]
            for key in keys:
                await _encrypt_again(connection, key, master_keys, revision)
        return len(keys)


async def _encrypt_again(
    connection: AsyncConnection, key: StoredProviderKey, master_keys: MasterKeys, revision: int
) -> None:
    try:
        text = key.text(master_keys)
    except Undecryptable as error:
        raise KeyRefused(
            f"the key of tenant {key.tenant} for provider {key.provider} cannot be decrypted: {error}"
        ) from None
    encrypted = master_keys.encrypt(text, _context(key.tenant, key.provider))
    await connection.execute(
        update(provider_keys)
        .where(provider_keys.c.tenant == key.tenant, provider_keys.c.provider == key.provider)
        .values(
            ciphertext=encrypted.ciphertext,
            master_key_id=encrypted.master_key_id,
            revision=revision,
        )
    )


def _context(tenant: str, provider: str) -> str:
    """Return what a ciphertext is bound to, so that it cannot be moved to another row.

    No tenant's name contains a NUL.
    """
    return f"{tenant}\0{provider}"


def _key(row: Row[tuple[str, str, bytes | None, str, float, int]]) -> StoredProviderKey:
    is_deleted = row.ciphertext is None
    encrypted = None if is_deleted else Encrypted(row.master_key_id, row.ciphertext)
    return StoredProviderKey(row.tenant, row.provider, encrypted, row.create_time)
