"""The client that a command talks through."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ...client import AsyncClient
from ...key import check_key
from ...tls import Tls, named_tls, resolve_tls
from ..app import Arguments
from ..render import say

EXIT_USAGE = 2  # as argparse leaves

MAX_KEY_BYTES = 4096
"""A longer file is no key: gRPC would refuse it among a call's metadata."""


def client_for(arguments: Arguments) -> AsyncClient:
    """A client with the command's key and encryption.

    Raises:
        SystemExit: with 2, after a line that says so, where a file is missing or not what it should be.
    """
    try:
        return AsyncClient(
            arguments.target,
            key=None if arguments.key_file is None else _key_in(arguments.key_file),
            tls=_tls(arguments),
        )
    except ValueError as error:
        say(f"tokenwire: {error}")
        raise SystemExit(EXIT_USAGE) from None


def is_encrypted(arguments: Arguments) -> bool:
    """Whether that client talks over TLS."""
    return resolve_tls(_tls(arguments), arguments.target) is not None


def _key_in(path: str) -> str:
    name = f"--key-file {path}"
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_KEY_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{name}: cannot read it: {error.strerror or error}") from None
    key = data.decode("ascii", "replace").strip()
    if not key or len(data) > MAX_KEY_BYTES:
        raise ValueError(f"{name}: there is no key in it")
    check_key(key, name)
    return key


def _tls(arguments: Arguments) -> bool | Tls | None:
    """What the options name, over what the variables do."""
    given = {"ca": arguments.tls_ca, "cert": arguments.tls_cert, "key": arguments.tls_key}
    if not any(given.values()):
        return arguments.tls
    return replace(named_tls() or Tls(), **{name: path for name, path in given.items() if path})
