"""Who calls."""

from __future__ import annotations

from fnmatch import fnmatchcase

import msgspec

from ..config import CallerLimits

DEFAULT_TENANT = "default"
"""Whose calls are that need no key."""


class Caller(msgspec.Struct, frozen=True):
    """Who calls, as far as a call's credentials say it."""

    tenant: str = DEFAULT_TENANT
    key_prefix: str = ""
    """Of the key that the call bears. Empty: it bears none."""
    key_family: str = ""
    """The prefix of the first key that this one took the place of: what keys share over a rotation."""
    models: tuple[str, ...] = ()
    """What the key may call, `*` standing for any text. Empty: every model."""
    limits: CallerLimits = CallerLimits()
    """Those of the key."""
    expire_time: float | None = None
    """When the key stops to be taken, in seconds since the epoch. None: never."""

    def may_call(self, *names: str) -> bool:
        """Whether it may call a model that has these names: the one asked for, and what it leads to."""
        return not self.models or any(
            fnmatchcase(name, pattern) for name in names for pattern in self.models
        )
