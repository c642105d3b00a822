"""The keys in the database, and their changes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import msgspec
from sqlalchemy import JSON, Row, Text, cast, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ..config import CallerLimits
from ..storage.database import Database
from ..storage.schema import api_keys, key_revision
from .key import (
    MAX_LIFETIME_S,
    MAX_TIME_S,
    ApiKey,
    UnreadableKey,
    make_key_text,
    parse_key_text,
)

logger = logging.getLogger(__name__)

MAX_ACTIVE_IN_FAMILY = 2
"""The key that callers use, and its replacement."""

# JSON as text: a row with invalid JSON must not hide other rows.
_KEY_COLUMNS = tuple(
    cast(column, Text).label(column.name) if isinstance(column.type, JSON) else column
    for column in (api_keys.c[name] for name in ApiKey.__struct_fields__)
)


class KeyRefused(Exception):
    """A key cannot be changed as requested. The text is one line with the reason. Nothing was changed."""


class KeyStore:
    """The keys in the database. Keys are never deleted, and their texts are never stored.

    Every method raises StoreUnavailable. A method that changes keys has then changed all or nothing, and also
    when it is cancelled. If it created a key, the key's text is lost and the key cannot be used.
    """

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    async def changes(self, since_revision: int) -> tuple[int, Sequence[ApiKey]]:
        """Return the newest revision, and every key that was created or changed after `since_revision`.

        A caller that passes the revision it got last misses no change, however many processes make changes.
        The newest revision is lower than `since_revision` only if the database is a different one.
        """
        async with self._database.reading() as connection:
            newest = await newest_revision(connection)
            if newest <= since_revision:
                return newest, ()
            rows = await connection.execute(
                select(*_KEY_COLUMNS, api_keys.c.revision).where(
                    api_keys.c.revision > since_revision
                )
            )
            changed = rows.all()
        # A change may have been committed between the two reads. Then its row is here already.
        revisions = (row.revision for row in changed if isinstance(row.revision, int))
        return max(newest, *revisions, 0), _keys(changed)

    async def list(self, tenant: str | None = None) -> Sequence[ApiKey]:
        """Return all keys, or the keys of a tenant, oldest first."""
        keys = select(*_KEY_COLUMNS).order_by(api_keys.c.create_time, api_keys.c.prefix)
        if tenant is not None:
            keys = keys.where(api_keys.c.tenant == tenant)
        async with self._database.reading() as connection:
            return _keys((await connection.execute(keys)).all())

    async def create(
        self,
        tenant: str,
        *,
        models: tuple[str, ...] = (),
        limits: CallerLimits | None = None,
        expire_time: float | None = None,
    ) -> tuple[ApiKey, str]:
        """Create a key with a family of its own. Return it and its text, which is not stored."""
        key, text = _new_key(
            tenant=tenant,
            models=models,
            limits=limits or CallerLimits(),
            create_time=self._clock(),
            expire_time=expire_time,
        )
        async with self._database.writing() as connection:
            await _insert(connection, key, await next_revision(connection))
        return key, text

    async def revoke(self, prefix: str) -> ApiKey:
        """Revoke a key. A key that is revoked already stays unchanged.

        Raises KeyRefused if there is no such key.
        """
        async with self._database.writing() as connection:
            revision = await next_revision(connection)
            await connection.execute(
                update(api_keys)
                .where(api_keys.c.prefix == prefix, api_keys.c.revoke_time.is_(None))
                .values(revoke_time=self._clock(), revision=revision)
            )
            return await _key(connection, prefix)

    async def rotate(self, prefix: str, overlap_s: float) -> tuple[ApiKey, ApiKey, str]:
        """Replace a key, which is accepted for `overlap_s` more. Return the old key, the new key and its
        text.

        The new key has the old one's family, tenant, models and limits, and the lifetime that keys of its
        family have, beginning now. The old key's expiry is never extended.

        Raises KeyRefused if there is no such key, if it is not active, or if its replacement is active.
        """
        now = self._clock()
        async with self._database.writing() as connection:
            revision = await next_revision(
                connection
            )  # first, so that another rotation of it waits
            old = await _key(connection, prefix)
            if not old.active(now):
                state = "revoked" if old.revoke_time is not None else "expired"
                if isinstance(old, UnreadableKey):
                    state = "unreadable"
                raise KeyRefused(f"the key {prefix} is {state}: create a new one")
            family = await connection.execute(
                select(*_KEY_COLUMNS).where(
                    api_keys.c.tenant == old.tenant, api_keys.c.family == old.family
                )
            )
            keys = _keys(family.all())
            active = sorted(key.prefix for key in keys if key.active(now))
            if len(active) >= MAX_ACTIVE_IN_FAMILY:
                raise KeyRefused(
                    f"{' and '.join(active)} replace each other and are both active: "
                    "revoke one first, or wait until it expires"
                )
            old_until, new_until = now + overlap_s, None
            if old.expire_time is not None:
                old_until = min(old_until, old.expire_time)
            # A rotation may have shortened the lifetime of the old key, but not of the newest one.
            others = [
                key for key in keys if key.prefix != prefix and not isinstance(key, UnreadableKey)
            ]
            newest = max(others or [old], key=attrgetter("create_time"))
            if newest.expire_time is not None:
                lifetime_s = newest.expire_time - newest.create_time
                new_until = now + min(lifetime_s, MAX_LIFETIME_S)
            new, text = _new_key(
                family=old.family,
                tenant=old.tenant,
                models=old.models,
                limits=old.limits,
                create_time=now,
                expire_time=new_until,
            )
            await connection.execute(
                update(api_keys)
                .where(api_keys.c.prefix == prefix)
                .values(expire_time=old_until, revision=revision)
            )
            await _insert(connection, new, revision)
            return await _key(connection, prefix), new, text


async def newest_revision(connection: AsyncConnection) -> int:
    """Return the revision of the newest change of a key or a provider key."""
    newest: int = (await connection.execute(select(key_revision.c.revision))).scalar_one()
    return newest


async def next_revision(connection: AsyncConnection) -> int:
    """Return the revision of a change. It locks the row until the transaction ends: one change at a time."""
    await connection.execute(update(key_revision).values(revision=key_revision.c.revision + 1))
    return await newest_revision(connection)


async def _key(connection: AsyncConnection, prefix: str) -> ApiKey:
    rows = await connection.execute(select(*_KEY_COLUMNS).where(api_keys.c.prefix == prefix))
    for key in _keys(rows.all()):
        return key
    raise KeyRefused(f"there is no key {prefix}")


async def _insert(connection: AsyncConnection, key: ApiKey, revision: int) -> None:
    values = {name: getattr(key, name) for name in ApiKey.__struct_fields__}
    values["limits"] = key.limits.model_dump(exclude_none=True)
    await connection.execute(insert(api_keys).values(**values, revision=revision))


def _new_key(*, family: str | None = None, **fields: Any) -> tuple[ApiKey, str]:
    text = make_key_text()
    secret = parse_key_text(text)
    assert secret is not None  # noqa: S101  # it was generated above
    return ApiKey(secret.prefix, family or secret.prefix, digest=secret.digest, **fields), text


def _keys(rows: Sequence[Row[*tuple[Any, ...]]]) -> Sequence[ApiKey]:
    """Return the keys. A row that cannot be read becomes an UnreadableKey; other rows are not affected."""
    keys = []
    for row in rows:
        try:
            keys.append(_readable(row))
        except (ValueError, TypeError, RecursionError, msgspec.MsgspecError) as error:
            why = str(error).partition("\n")[0]
            prefix = _text(row.prefix)
            logger.warning("the key %s is refused: its row cannot be read: %s", prefix, why)
            keys.append(_unreadable(row))
    return keys


def _readable(row: Row[*tuple[Any, ...]]) -> ApiKey:
    values = {name: row._mapping[name] for name in ApiKey.__struct_fields__}
    limits = msgspec.json.decode(values["limits"], type=dict[str, Any])
    # A newer server may have more limits, which only it enforces.
    values["limits"] = CallerLimits(
        **{name: limit for name, limit in limits.items() if name in CallerLimits.model_fields}
    )
    values["models"] = msgspec.json.decode(values["models"], type=tuple[str, ...])
    # SQLite stores values of any type in any column, so the types are checked here.
    key = msgspec.convert(values, ApiKey, builtin_types=(bytes,))
    if "\ufffd" in key.prefix + key.family + key.tenant:
        raise ValueError("a name is damaged")
    times = (key.create_time, 0.0 if key.revoke_time is None else key.revoke_time)
    if not all(0 <= time <= MAX_TIME_S for time in times):
        raise ValueError("a time is not between 1970 and 9999")
    # Older versions could write such a time when a key was rotated.
    if key.expire_time is not None and key.expire_time > MAX_TIME_S:
        return msgspec.structs.replace(key, expire_time=MAX_TIME_S)
    if key.expire_time is not None and not key.expire_time >= 0:
        raise ValueError("the key expires before 1970")
    return key


def _unreadable(row: Row[*tuple[Any, ...]]) -> UnreadableKey:
    """Return the fields that lists and revocations need of a row that cannot be read."""
    prefix, revoked = _text(row.prefix), row.revoke_time
    if revoked is not None and not (isinstance(revoked, float) and 0 <= revoked <= MAX_TIME_S):
        revoked = 0.0
    return UnreadableKey(
        prefix, prefix, _text(row.tenant), bytes(32), 0.0, expire_time=0.0, revoke_time=revoked
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else repr(value)
