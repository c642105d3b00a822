"""The caller's key, and the metadata that carries it."""

from __future__ import annotations

import os
import re

from .._checks import check_type

KEY_VARIABLE = "TOKENWIRE_KEY"

_KEY = re.compile(r"[!-~]+")


class _Credential(str):
    """The value of `authorization`. Its repr does not show the key, for example in a traceback."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'Bearer ...'"


CallMetadata = tuple[tuple[str, str], ...]
"""Metadata of every call, in gRPC's form."""


def call_metadata(key: str | None) -> CallMetadata:
    """Return the metadata for a key. None: the key in TOKENWIRE_KEY. "": no key.

    Whitespace around the value of the variable is removed, because files often end with a newline.

    Raises:
        ValueError: the key is malformed. The message never contains it.
    """
    name = "key"
    if key is None:
        name, key = KEY_VARIABLE, os.environ.get(KEY_VARIABLE, "").strip()
    if not key:
        return ()
    check_key(key, name)
    return (("authorization", _Credential(f"Bearer {key}")),)


def check_key(key: str, name: str) -> None:
    """Raise ValueError if gRPC cannot send the key. `name` is the source of the key, for the message."""
    if not _KEY.fullmatch(check_type(key, str, name)):
        raise ValueError(f"{name}: a key has visible ASCII characters only, and no blanks")
