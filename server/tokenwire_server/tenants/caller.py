"""The caller of an RPC."""

from __future__ import annotations

from fnmatch import fnmatchcase

import msgspec

from ..config import CallerLimits

DEFAULT_TENANT = "default"
"""Tenant of calls without a key."""


class Caller(msgspec.Struct, frozen=True):
    """The caller, as the credentials of a call identify it."""

    tenant: str = DEFAULT_TENANT
    key_prefix: str = ""
    """Prefix of the call's key. Empty if the call has no key."""
    key_family: str = ""
    """Prefix of the first key of the family. Keys that replace each other by rotation share it."""
    models: tuple[str, ...] = ()
    """Patterns of the models that the key may call; `*` matches any text. Empty: every model."""
    limits: CallerLimits = CallerLimits()
    """Limits of the key."""
    expire_time: float | None = None
    """When the key expires, in seconds since the epoch. None: never."""

    def may_call(self, *names: str) -> bool:
        """Return whether the caller may call a model with any of these names."""
        return not self.models or any(
            fnmatchcase(name, pattern) for name in names for pattern in self.models
        )
