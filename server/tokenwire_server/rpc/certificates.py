"""The server's certificate, its key, and the authorities of callers: read from files, and checked.

The standard library's TLS judges them, and not gRPC's, which says of any fault only that it could not
listen, or goes on without a word.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path

from ..config import ConfigError, TlsConfig

MAX_PEM_BYTES = 4 * 2**20
"""Size of one file. The authorities that a system trusts are 200 KiB."""

KEY_KINDS = {
    "RSA": bytes.fromhex("06092a864886f70d010101"),
    "P-256": bytes.fromhex("06072a8648ce3d020106082a8648ce3d030107"),
    "P-384": bytes.fromhex("06072a8648ce3d020106052b81040022"),
}
"""How a certificate names the kind of its key (RFC 3279, 5480). gRPC's clients in C, and so in Python,
take no other: they drop the connection."""

MISMATCHES = {"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"}
"""How OpenSSL says that a key is another's; the last when it is even of another kind."""

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_PRIVATE_KEY = re.compile(rb"-----BEGIN ([A-Z]+ )?PRIVATE KEY-----")


@dataclass(frozen=True)
class PemFiles:
    """What stood in the files at one moment."""

    cert: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None


@dataclass(frozen=True)
class Certificates:
    """What fits together, in PEM form, without any other text that stood in the files."""

    cert: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None
    expire_time: float
    """When the certificate stops to be valid, in seconds since the epoch."""


class _Locked(Exception):
    """A key that asks for a passphrase."""


def read(tls: TlsConfig) -> PemFiles:
    """The files as they are. Raises ConfigError."""
    cert, key = _pair(tls)
    client_ca = None if tls.client_ca is None else _content("tls.client_ca", tls.client_ca)
    return PemFiles(_content("tls.cert", cert), _content("tls.key", key), client_ca)


def check(files: PemFiles, tls: TlsConfig) -> Certificates:
    """The files, if a server can use them: now, and with any client. Raises ConfigError.

    Takes some milliseconds: a handshake.
    """
    cert, key = _pair(tls)
    where = f"tls.cert: {cert}"
    chain = _certificates(files.cert, where)
    client = _trusting(chain, where)
    client_ca = None
    if files.client_ca is not None:
        authorities = _certificates(files.client_ca, f"tls.client_ca: {tls.client_ca}")
        _trusting(authorities, f"tls.client_ca: {tls.client_ca}")  # raises if one is damaged
        client_ca = _pem(authorities)
    server = _serving(cert, key, files.key)
    if read(tls) != files:
        raise ConfigError(f"{where}: changed while it was read")
    expire_time = _expire_time(server, client, where)
    if not any(kind in chain[0] for kind in KEY_KINDS.values()):
        raise ConfigError(
            f"{where}: its key must be {' or '.join(KEY_KINDS)}, which every client takes"
        )
    return Certificates(_pem(chain), files.key, client_ca, expire_time)


def _pair(tls: TlsConfig) -> tuple[Path, Path]:
    if tls.cert is None:
        setting = "tls.key" if tls.key is not None else "tls.client_ca"
        raise ConfigError(f"{setting}: needs tls.cert, the server's own certificate")
    if tls.key is None:
        raise ConfigError("tls.cert: needs tls.key, its private key")
    return tls.cert, tls.key


def _content(setting: str, path: Path) -> bytes:
    try:
        if not path.is_file():
            raise ConfigError(f"{setting}: {path}: there is no such file")
        with path.open("rb") as file:
            content = file.read(MAX_PEM_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{setting}: {path}: cannot be read ({error.strerror})") from error
    if len(content) > MAX_PEM_BYTES:
        raise ConfigError(f"{setting}: {path}: is larger than {MAX_PEM_BYTES >> 20} MiB")
    return content


def _certificates(pem: bytes, where: str) -> list[bytes]:
    """Those in a file, in binary form."""
    found = _CERTIFICATE.findall(pem.decode("ascii", "backslashreplace"))
    if not found:
        raise ConfigError(f"{where}: holds no certificate in PEM form")
    try:
        return [ssl.PEM_cert_to_DER_cert(one) for one in found]
    except ValueError as error:
        raise ConfigError(f"{where}: holds a damaged certificate") from error


def _pem(certificates: list[bytes]) -> bytes:
    return "".join(ssl.DER_cert_to_PEM_cert(one) for one in certificates).encode()


def _trusting(certificates: list[bytes], where: str) -> ssl.SSLContext:
    """A client that trusts these certificates, and nothing else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # without the authority above them
    try:
        context.load_verify_locations(cadata=b"".join(certificates))
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(f"{where}: holds a damaged certificate") from error
    return context


def _serving(cert: Path, key: Path, key_pem: bytes) -> ssl.SSLContext:
    where = f"tls.key: {key}"
    if not _PRIVATE_KEY.search(key_pem):
        raise ConfigError(f"{where}: holds no private key in PEM form")

    def ask() -> str:
        raise _Locked

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(cert, key, password=ask)
    except _Locked:
        raise ConfigError(f"{where}: is locked by a passphrase, which nobody can enter") from None
    except ssl.SSLError as error:
        if error.reason in MISMATCHES:
            raise ConfigError(f"{where}: is not the key of the certificate in {cert}") from error
        why = error.reason.replace("_", " ").lower() if error.reason else "damaged"
        raise ConfigError(f"{where}: cannot be used ({why})") from error
    except OSError as error:
        raise ConfigError(f"{where}: cannot be read ({error.strerror})") from error
    return context


def _expire_time(server: ssl.SSLContext, client: ssl.SSLContext, where: str) -> float:
    """When the certificate that a client is shown expires.

    Raises ConfigError when the client refuses it: it has expired, or is not for servers.
    """
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    served = server.wrap_bio(to_server, to_client, server_side=True)
    asked = client.wrap_bio(to_client, to_server)
    try:
        for side in (asked, served, asked):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
        return ssl.cert_time_to_seconds(str((asked.getpeercert() or {})["notAfter"]))
    except ssl.SSLCertVerificationError as error:
        raise ConfigError(f"{where}: {error.verify_message}") from error
    except ssl.SSLError as error:
        raise ConfigError(f"{where}: cannot be used ({error.reason})") from error
    except ValueError as error:  # a name in it is no text, or its time is none
        raise ConfigError(f"{where}: holds a damaged certificate") from error
