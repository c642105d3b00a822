"""Keys as text: a table for people, JSON for programs. Pure functions. Digests are never shown."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime

from tokenwire.cli.table import Column, table_lines

from ..tenants.key import ApiKey, UnreadableKey

HEADINGS = ("PREFIX", "TENANT", "STATE", "MODELS", "LIMITS", "CREATED", "EXPIRES")


def table(keys: Iterable[ApiKey], now: float) -> list[str]:
    """Return a table with one line per key."""
    return table_lines(list(map(Column, HEADINGS)), [_row(key, now) for key in keys])


def json_line(key: ApiKey, now: float) -> str:
    """Return a key, without its digest, as one line of JSON. Times are RFC 3339; null means never.

    A key that cannot be read has only its prefix, tenant and state.
    """
    if isinstance(key, UnreadableKey):
        return json.dumps({"prefix": key.prefix, "tenant": key.tenant, "state": state(key, now)})
    return json.dumps(
        {
            "prefix": key.prefix,
            "family": key.family,
            "tenant": key.tenant,
            "state": state(key, now),
            "models": key.models,
            "limits": key.limits.model_dump(exclude_none=True),
            "create_time": moment(key.create_time),
            "expire_time": None if key.expire_time is None else moment(key.expire_time),
            "revoke_time": None if key.revoke_time is None else moment(key.revoke_time),
        }
    )


def state(key: ApiKey, now: float) -> str:
    if isinstance(key, UnreadableKey):
        return "unreadable"
    if key.revoke_time is not None:
        return "revoked"
    return "active" if key.active(now) else "expired"


def moment(time: float | None, timespec: str = "seconds") -> str:
    if time is None:
        return "never"
    return datetime.fromtimestamp(time, UTC).isoformat(timespec=timespec).replace("+00:00", "Z")


def _row(key: ApiKey, now: float) -> tuple[str, ...]:
    if isinstance(key, UnreadableKey):
        return key.prefix, key.tenant, state(key, now), "-", "-", "-", "-"
    limits = key.limits.model_dump(exclude_none=True)
    return (
        key.prefix,
        key.tenant,
        state(key, now),
        ",".join(key.models) or "every",
        ",".join(f"{name}={limit}" for name, limit in limits.items()) or "none",
        moment(key.create_time),
        moment(key.expire_time),
    )
