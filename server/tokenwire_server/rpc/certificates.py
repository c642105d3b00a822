"""The server's certificate, its key, and the authorities of client certificates, read and checked.

gRPC reports any fault in them only as an address that it cannot listen on, or not at all. So they are parsed
with `cryptography`, and tried in a handshake of the standard library.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import PublicKeyAlgorithmOID

from ..config import ConfigError, TlsConfig

MAX_PEM_BYTES = 4 * 2**20
"""Size of one file. The authorities that a system trusts are 200 KiB."""


class FilesChanged(ConfigError):
    """The files changed while they were checked, so the result is invalid."""


@dataclass(frozen=True)
class PemFiles:
    """The content of the files at one moment."""

    cert: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None


@dataclass(frozen=True)
class Certificates:
    """Checked certificates and their key in PEM form. Other text in the certificates' files is left out."""

    cert: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None
    expire_time: float
    """When the server's certificate expires, in seconds since the epoch."""


def read(tls: TlsConfig) -> PemFiles:
    """Read the files. Raises ConfigError."""
    cert, key = _pair(tls)
    client_ca = None if tls.client_ca is None else _content("tls.client_ca", tls.client_ca)
    return PemFiles(_content("tls.cert", cert), _content("tls.key", key), client_ca)


def check(files: PemFiles, tls: TlsConfig) -> Certificates:
    """Return the certificates if the server can use them now and every client accepts them.

    Raises FilesChanged if the files change during the check, and ConfigError for any fault. Performs a
    handshake, which takes some milliseconds.
    """
    cert, key = _pair(tls)
    where = f"tls.cert: {cert}"
    chain = _certificates(files.cert, where)
    _check_names(chain[0], where)
    client = _trusting(chain, where)
    client_ca = None
    if files.client_ca is not None:
        authorities = _certificates(files.client_ca, f"tls.client_ca: {tls.client_ca}")
        _trusting(authorities, f"tls.client_ca: {tls.client_ca}")  # raises if one is damaged
        client_ca = _pem(authorities)
    _check_key(files.key, chain[0], tls)
    try:
        server = _serving(cert, key)
    except ConfigError:
        _check_unchanged(files, tls)
        raise
    _check_unchanged(files, tls)
    _check_handshake(server, client, where)
    if not _has_common_key(chain[0]):
        raise ConfigError(f"{where}: its key must be RSA or P-256 or P-384")
    return Certificates(_pem(chain), files.key, client_ca, chain[0].not_valid_after_utc.timestamp())


def _check_unchanged(files: PemFiles, tls: TlsConfig) -> None:
    """Raise FilesChanged unless the files still have the content that was checked."""
    try:
        is_unchanged = read(tls) == files
    except ConfigError:  # one of them is being replaced
        is_unchanged = False
    if not is_unchanged:
        raise FilesChanged(f"tls.cert: {tls.cert}: the TLS files changed while they were checked")


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
            raise ConfigError(f"{setting}: {path}: no such file")
        with path.open("rb") as file:
            content = file.read(MAX_PEM_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{setting}: {path}: cannot be read ({error.strerror})") from error
    if len(content) > MAX_PEM_BYTES:
        raise ConfigError(f"{setting}: {path}: is larger than {MAX_PEM_BYTES >> 20} MiB")
    return content


def _certificates(pem: bytes, where: str) -> list[x509.Certificate]:
    if b"-----END CERTIFICATE-----" not in pem:
        raise ConfigError(f"{where}: contains no certificate in PEM form")
    try:
        return x509.load_pem_x509_certificates(pem)
    except (ValueError, x509.InvalidVersion) as error:
        raise ConfigError(f"{where}: contains a damaged certificate") from error


def _check_names(certificate: x509.Certificate, where: str) -> None:
    try:
        _ = certificate.extensions  # parsed on access
    except (ValueError, x509.DuplicateExtension) as error:
        raise ConfigError(f"{where}: contains a damaged certificate") from error
    except x509.UnsupportedGeneralNameType:
        pass  # a valid kind of name that servers do not use


def _pem(certificates: list[x509.Certificate]) -> bytes:
    return b"".join(one.public_bytes(Encoding.PEM) for one in certificates)


def _trusting(certificates: list[x509.Certificate], where: str) -> ssl.SSLContext:
    """Return a client that trusts these certificates, and nothing else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # without the authority above them
    der = b"".join(one.public_bytes(Encoding.DER) for one in certificates)
    try:
        context.load_verify_locations(cadata=der)
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(f"{where}: contains a damaged certificate") from error
    return context


def _check_key(pem: bytes, certificate: x509.Certificate, tls: TlsConfig) -> None:
    where = f"tls.key: {tls.key}"
    if b"PRIVATE KEY-----" not in pem:
        raise ConfigError(f"{where}: contains no private key in PEM form")
    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError:
        raise ConfigError(f"{where}: is locked by a passphrase; remove the passphrase") from None
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{where}: cannot be used: damaged, or of an unknown kind") from error
    if key.public_key() != _public_key(certificate):
        raise ConfigError(f"{where}: is not the key of the certificate in {tls.cert}")


def _public_key(certificate: x509.Certificate) -> object:
    """Return the public key, or None if its kind is unknown."""
    try:
        return certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return None


def _has_common_key(certificate: x509.Certificate) -> bool:
    """Return whether every client accepts the key's kind.

    gRPC's clients in C, and so in Python, accept no other: they drop the connection.
    """
    key = _public_key(certificate)
    if isinstance(key, ec.EllipticCurvePublicKey):
        return isinstance(key.curve, (ec.SECP256R1, ec.SECP384R1))
    # Not RSA-PSS, whose keys are of the same Python type.
    return certificate.public_key_algorithm_oid == PublicKeyAlgorithmOID.RSAES_PKCS1_v1_5


def _serving(cert: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(
            cert, key, password=""
        )  # so that OpenSSL never asks on the terminal
    except ssl.SSLError as error:
        why = (error.reason or "damaged").replace("_", " ").lower()
        raise ConfigError(f"tls.key: {key}: cannot be used ({why})") from error
    except OSError as error:
        raise ConfigError(f"tls.key: {key}: cannot be read ({error.strerror})") from error
    return context


def _check_handshake(server: ssl.SSLContext, client: ssl.SSLContext, where: str) -> None:
    """Raise ConfigError if the client refuses the server's certificate: expired, or not for servers."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    serving = server.wrap_bio(to_server, to_client, server_side=True)
    connecting = client.wrap_bio(to_client, to_server)
    try:
        for side in (connecting, serving, connecting):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    except ssl.SSLCertVerificationError as error:
        raise ConfigError(f"{where}: {error.verify_message}") from error
    except ssl.SSLError as error:
        raise ConfigError(f"{where}: cannot be used ({error.reason})") from error
