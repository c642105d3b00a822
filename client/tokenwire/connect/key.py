"""The key that shows a server who calls."""

from __future__ import annotations

import os
import re

KEY_VARIABLE = "TOKENWIRE_KEY"

_KEY = re.compile(r"[!-~]+")


class _Credential(str):
    """What goes out with every call. Its repr tells nothing, wherever a traceback shows it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'Bearer ...'"


CallMetadata = tuple[tuple[str, str], ...]
"""Metadata of every call, as gRPC takes it."""


def call_metadata(key: str | None) -> CallMetadata:
    """What shows a key to the server; without one, what TOKENWIRE_KEY has. "": no key at all.

    Blanks and line ends around the variable's value are left out: files bring them along.

    Raises:
        ValueError: it cannot be a key. The message never holds it.
    """
    name = "key"
    if key is None:
        name, key = KEY_VARIABLE, os.environ.get(KEY_VARIABLE, "").strip()
    if not key:
        return ()
    check_key(key, name)
    return (("authorization", _Credential(f"Bearer {key}")),)


def check_key(key: str, name: str) -> None:
    """Raises ValueError, with the name of what holds it, where gRPC could not send it as it is."""
    if not _KEY.fullmatch(key):
        raise ValueError(f"{name}: a key has visible ASCII characters only, and no blanks")
