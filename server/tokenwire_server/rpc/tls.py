"""TLS of the server: its certificates, renewed while it runs, and the tenants of client certificates."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache

import grpc
from cryptography import x509

from ..config import ConfigError, TlsConfig
from ..errors import Unauthenticated
from ..tenants.key import TENANT_NAME
from ..threads import ReaderThread
from .certificates import Certificates, FilesChanged, PemFiles, check, read

logger = logging.getLogger(__name__)

POLL_INTERVAL_S = 0.3
"""How often the files are read. A change is used once the files have stayed the same for one interval."""
TENANT_URI = "tokenwire://tenant/"
"""The URI in the subject alternative name of a client certificate that names its tenant: this, then the
name."""

_SCHEME = TENANT_URI.partition("/")[0]


class ServerTls:
    """The certificates of a server. `follow` renews them from their files."""

    def __init__(self, config: TlsConfig) -> None:
        """Raises ConfigError with the setting and the fault of its file."""
        self._config = config
        files = read(config)
        self._current = check(files, config)
        self._used = files
        self._last_read: PemFiles | str = files
        self._last_checked: PemFiles | str = files
        self._has_logged_expiry = False
        self._log_renewal()

    @classmethod
    def of(cls, config: TlsConfig) -> ServerTls | None:
        """Return None if TLS is not configured. Raises ConfigError."""
        return None if config == TlsConfig() else cls(config)

    def credentials(self) -> grpc.ServerCredentials:
        """Return credentials for one address. Its new connections get the newest certificates."""
        given = self._current

        def newer() -> grpc.ServerCertificateConfiguration | None:
            # Called before each handshake, on a thread of gRPC, one at a time.
            nonlocal given
            current = self._current
            if current is given:
                return None
            given = current
            return _configuration(current)

        return grpc.dynamic_ssl_server_credentials(
            _configuration(given),
            newer,  # type: ignore[arg-type]  # None means no change
            require_client_authentication=self._config.client_ca is not None,
        )

    async def follow(self) -> None:
        """Use changed files within a second, until cancelled. Open connections keep their certificates."""
        reader = ReaderThread("certificates")
        while True:
            await asyncio.sleep(POLL_INTERVAL_S)
            await reader.run(self.poll)  # a file system may hang

    def poll(self) -> None:
        """Use files that have changed and are the same as at the last poll. Log once why they cannot be."""
        self._log_expiry()
        files = self._read()
        is_stable, self._last_read = files == self._last_read, files
        if not is_stable or files == self._last_checked:
            return
        try:
            if isinstance(files, str):
                raise ConfigError(files)
            self.use(files, check(files, self._config))
        except FilesChanged:
            return  # the next poll reads them again
        except ConfigError as error:
            logger.warning("%s; the previous certificates stay in use", error)
        self._last_checked = files

    def changed(self) -> tuple[PemFiles, Certificates] | None:
        """Read and check the files now. Return them for `use`, or None if they have not changed.

        Blocks. Raises ConfigError. Thread-safe.
        """
        files = read(self._config)
        return None if files == self._used else (files, check(files, self._config))

    def use(self, files: PemFiles, certificates: Certificates) -> None:
        """Use certificates for new connections. Thread-safe."""
        self._used = self._last_read = self._last_checked = files
        self._current = certificates
        self._has_logged_expiry = False
        self._log_renewal()

    def _read(self) -> PemFiles | str:
        """Return the files, or why they cannot be read."""
        try:
            return read(self._config)
        except ConfigError as error:
            return str(error)

    def _log_renewal(self) -> None:
        until = datetime.fromtimestamp(self._current.expire_time, UTC).isoformat()
        logger.info("tls.cert: %s is in use; it is valid until %s", self._config.cert, until)

    def _log_expiry(self) -> None:
        if not self._has_logged_expiry and time.time() >= self._current.expire_time:
            self._has_logged_expiry = True
            logger.error("tls.cert: %s has expired: clients refuse it", self._config.cert)


def tenant_of(auth_context: Mapping[str, Iterable[bytes]]) -> str | None:
    """Return the tenant that a connection's client certificate names, or None if it names none.

    Raises Unauthenticated if it names several, or has a URI of our scheme that names no tenant.
    """
    # gRPC cuts a URI off at a NUL, so this is only a quick check.
    scheme = _SCHEME.encode()
    if not any(uri[: len(scheme)].lower() == scheme for uri in auth_context.get("peer_uri", ())):
        return None
    (pem,) = auth_context["x509_pem_cert"]
    uris = _tenant_uris(pem)
    if len(uris) != 1:
        fault = "names several tenants" if uris else "cannot be read"
        raise Unauthenticated(f"the client certificate {fault}")
    (uri,) = uris
    name = uri.removeprefix(TENANT_URI)
    if not TENANT_NAME.fullmatch(name):
        raise Unauthenticated(
            f"the client certificate must name its tenant as {TENANT_URI}NAME, not as {uri!r}"
        )
    return name


@lru_cache(maxsize=1024)
def _tenant_uris(pem: bytes) -> frozenset[str]:
    """Return the URIs of our scheme in a certificate; an empty set if it cannot be parsed."""
    try:
        extensions = x509.load_pem_x509_certificate(pem).extensions
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (
        ValueError,
        x509.DuplicateExtension,
        x509.ExtensionNotFound,
        x509.InvalidVersion,
        x509.UnsupportedGeneralNameType,
    ):
        return frozenset()
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return frozenset(uri for uri in uris if uri.lower().startswith(_SCHEME))


def _configuration(certificates: Certificates) -> grpc.ServerCertificateConfiguration:
    pair = (certificates.key, certificates.cert)
    return grpc.ssl_server_certificate_configuration([pair], certificates.client_ca)
