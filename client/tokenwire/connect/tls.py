"""TLS of a connection: whether to use it, and its certificates."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from typing import NamedTuple

from .target import is_loopback

PLAINTEXT_VARIABLE = "TOKENWIRE_PLAINTEXT"
CA_VARIABLE = "TOKENWIRE_TLS_CA"
CERT_VARIABLE = "TOKENWIRE_TLS_CLIENT_CERT"
KEY_VARIABLE = "TOKENWIRE_TLS_CLIENT_KEY"
"""Not TOKENWIRE_TLS_CERT: a misspelt setting of a server must not be taken for one of these."""

_FLAGS = {"": None, "1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


@dataclass(frozen=True, slots=True)
class Tls:
    """How a connection is encrypted. Files are PEM, and are read when the client is created."""

    ca: str | os.PathLike[str] | None = None
    """Certificate authorities to trust. None: Mozilla's, which gRPC includes. The machine's own
    authorities are used only if they are named here."""
    cert: str | os.PathLike[str] | None = None
    """The caller's certificate and its intermediate certificates, for servers that require one."""
    key: str | os.PathLike[str] | None = None
    """The private key of the caller's certificate, unencrypted."""
    server_name: str | None = None
    """The name in the server's certificate. None: the host name of the target."""


class TlsFiles(NamedTuple):
    """The content of the files of a `Tls`."""

    ca: bytes | None
    cert: bytes | None
    key: bytes | None
    server_name: str | None

    def __repr__(self) -> str:
        return "TlsFiles(...)"


def resolve_tls(tls: bool | Tls | None, target: str) -> Tls | None:
    """Return how to encrypt the connection to a target. None: not at all.

    For True, the files are those in the environment variables, or the defaults. For None,
    TOKENWIRE_PLAINTEXT decides (1: plaintext, 0: TLS), then whether a variable names a file, then the
    target: a connection on this machine is in plaintext, any other over TLS.

    Raises:
        TypeError: `tls` is of another type, such as the path of a file.
        ValueError: the variables contradict each other, or TOKENWIRE_PLAINTEXT is neither 1 nor 0.
    """
    if isinstance(tls, Tls):
        return tls
    if tls is not None and not isinstance(tls, bool):
        raise TypeError(f"tls: must be True, False, a Tls or None, not {type(tls).__name__}")
    if tls is False:
        return None
    named = named_tls()
    plaintext = None if tls else _flag(PLAINTEXT_VARIABLE)
    if plaintext:
        if named is not None:
            raise ValueError(f"{PLAINTEXT_VARIABLE} contradicts the variables that name TLS files")
        return None
    if named is None and (tls or plaintext is False or not is_loopback(target)):
        return Tls()
    return named


def named_tls() -> Tls | None:
    """Return the files that the environment variables name. None: no file."""
    ca, cert, key = (
        os.environ.get(name) or None for name in (CA_VARIABLE, CERT_VARIABLE, KEY_VARIABLE)
    )
    return Tls(ca, cert, key) if ca or cert or key else None


def read_files(tls: Tls) -> TlsFiles:
    """Read and check the files of a `Tls`. For bad files gRPC reports only that it cannot connect.

    Raises:
        ValueError: a file is missing or invalid. The message names the field.
    """
    if (tls.cert is None) != (tls.key is None):
        raise ValueError(
            "tls.key: is required with tls.cert"
            if tls.key is None
            else "tls.cert: is required with tls.key"
        )
    ca, cert, key = (_read(name, getattr(tls, name)) for name in ("ca", "cert", "key"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if tls.ca is not None:
        try:
            context.load_verify_locations(cafile=tls.ca)
        except ssl.SSLError:
            raise ValueError(f"tls.ca: {tls.ca} contains no PEM certificate") from None
    if tls.cert is not None:
        try:
            # Without a password, OpenSSL would prompt for one on the terminal.
            context.load_cert_chain(tls.cert, tls.key, password="")
        except ssl.SSLError:
            raise ValueError(
                f"tls.cert, tls.key: {tls.cert} and {tls.key} are not a PEM certificate and its "
                "unencrypted private key"
            ) from None
    return TlsFiles(ca, cert, key, tls.server_name)


def _read(name: str, path: str | os.PathLike[str] | None) -> bytes | None:
    if path is None:
        return None
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"tls.{name}: must be a path, not {type(path).__name__}")
    from pathlib import Path  # not needed in plaintext, and takes 3 % of the client's import

    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"tls.{name}: cannot read {path}: {error.strerror or error}") from None


def _flag(name: str) -> bool | None:
    value = os.environ.get(name, "").strip().lower()
    if value not in _FLAGS:
        raise ValueError(f"{name}: must be 1 or 0")
    return _FLAGS[value]
