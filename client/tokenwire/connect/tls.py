"""Whether a connection is encrypted, and whom it trusts."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path

from .target import is_loopback

PLAINTEXT_VARIABLE = "TOKENWIRE_PLAINTEXT"
CA_VARIABLE = "TOKENWIRE_TLS_CA"
CERT_VARIABLE = "TOKENWIRE_TLS_CLIENT_CERT"
KEY_VARIABLE = "TOKENWIRE_TLS_CLIENT_KEY"
"""No TOKENWIRE_TLS_CERT: a server's own setting, misspelt, must not pass for one of these."""

_FLAGS = {"": None, "1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


@dataclass(frozen=True, slots=True)
class Tls:
    """How a connection is encrypted. Files are PEM, and read when the client is made."""

    ca: str | os.PathLike[str] | None = None
    """Authorities that the server's certificate is to be from. None: those that gRPC ships,
    Mozilla's; the machine's own are asked only where they are named here."""
    cert: str | os.PathLike[str] | None = None
    """The caller's certificate, and those between it and its authority, for servers that want one."""
    key: str | os.PathLike[str] | None = None
    """Its private key, unencrypted."""
    server_name: str | None = None
    """The name that the server's certificate has. None: the target's."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """What the files of a `Tls` held."""

    ca: bytes | None
    cert: bytes | None
    key: bytes | None
    server_name: str | None

    def __repr__(self) -> str:
        return "TlsFiles(...)"


def resolve_tls(tls: bool | Tls | None, target: str) -> Tls | None:
    """How to connect to a target; None: in plaintext.

    True stands for what the variables name, and for the defaults where they name nothing. None leaves
    it to TOKENWIRE_PLAINTEXT (1: never TLS, 0: always), then to whether the variables name files, then
    to the target: what stays on this machine needs no TLS, everything else does.

    Raises:
        ValueError: the variables contradict each other, or one is neither 1 nor 0.
    """
    if isinstance(tls, Tls):
        return tls
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
    """What the variables name. None: no file."""
    ca, cert, key = (
        os.environ.get(name) or None for name in (CA_VARIABLE, CERT_VARIABLE, KEY_VARIABLE)
    )
    return Tls(ca, cert, key) if ca or cert or key else None


def read_files(tls: Tls) -> TlsFiles:
    """The files of a `Tls`, checked: gRPC says of bad ones no more than that nothing connects.

    Raises:
        ValueError: a file is missing or is not what it should be; the message names the field.
    """
    if (tls.cert is None) != (tls.key is None):
        raise ValueError(
            "tls.key: is missing, as tls.cert is given"
            if tls.key is None
            else "tls.cert: is missing, as tls.key is given"
        )
    ca, cert, key = (_read(name, getattr(tls, name)) for name in ("ca", "cert", "key"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if tls.ca is not None:
        try:
            context.load_verify_locations(cafile=tls.ca)
        except ssl.SSLError:
            raise ValueError(f"tls.ca: {tls.ca} has no certificate in PEM") from None
    if tls.cert is not None:
        try:
            # Without a password it would ask the terminal for one.
            context.load_cert_chain(tls.cert, tls.key, password="")
        except ssl.SSLError:
            raise ValueError(
                f"tls.cert, tls.key: {tls.cert} and {tls.key} are not a certificate and its "
                "private key, in PEM and unencrypted"
            ) from None
    return TlsFiles(ca, cert, key, tls.server_name)


def _read(name: str, path: str | os.PathLike[str] | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"tls.{name}: cannot read {path}: {error.strerror or error}") from None


def _flag(name: str) -> bool | None:
    value = os.environ.get(name, "").strip().lower()
    if value not in _FLAGS:
        raise ValueError(f"{name}: must be 1 or 0")
    return _FLAGS[value]
