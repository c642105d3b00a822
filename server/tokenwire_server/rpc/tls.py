"""TLS of the server: its certificates, renewed while it runs, and whom a client's certificate names."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache

import grpc

from ..config import ConfigError, TlsConfig
from ..errors import Unauthenticated
from ..tenants.key import TENANT_NAME
from .certificates import Certificates, PemFiles, check, read

logger = logging.getLogger(__name__)

LOOK_INTERVAL_S = 0.3
"""How often the files are read. What changed is taken over once it has stood still for one interval."""
TENANT_URI = "tokenwire://tenant/"
"""What a client's certificate names its tenant by, in its subject alternative name: this, and the name."""

_OUR_SCHEME = TENANT_URI.partition("/")[0].encode()


class ServerTls:
    """The certificates of a server, renewed from their files by whoever runs `follow`."""

    def __init__(self, config: TlsConfig) -> None:
        """Raises ConfigError, with the setting and what is wrong with its file."""
        self._config = config
        files = read(config)
        self._current = check(files, config)
        self._seen: PemFiles | str = files
        self._decided: PemFiles | str = files
        self._told_expired = False
        self._tell_taken()

    @classmethod
    def of(cls, config: TlsConfig) -> ServerTls | None:
        """None when the settings ask for no TLS. Raises ConfigError."""
        return None if config == TlsConfig() else cls(config)

    def credentials(self) -> grpc.ServerCredentials:
        """Credentials for one address, whose new connections get the newest certificates."""
        given = self._current

        def newer() -> grpc.ServerCertificateConfiguration | None:
            # Before each handshake, on a thread of gRPC's, one at a time.
            nonlocal given
            current = self._current
            if current is given:
                return None
            given = current
            return _configuration(current)

        return grpc.dynamic_ssl_server_credentials(
            _configuration(given),
            newer,  # type: ignore[arg-type]  # None says: as before
            require_client_authentication=self._config.client_ca is not None,
        )

    async def follow(self) -> None:
        """Take over files that change, within a second, until cancelled. Open connections stay."""
        while True:
            await asyncio.sleep(LOOK_INTERVAL_S)
            await asyncio.to_thread(self.look)  # a file system may hang

    def look(self) -> None:
        """Take over what changed and has stood still since the last look, or say once why not."""
        self._tell_expired()
        seen = self._read()
        steady, self._seen = seen == self._seen, seen
        if not steady or seen == self._decided:
            return
        self._decided = seen
        try:
            if isinstance(seen, str):
                raise ConfigError(seen)
            self._current = check(seen, self._config)
        except ConfigError as error:
            logger.warning("%s; the certificates read before stay in use", error)
        else:
            self._told_expired = False
            self._tell_taken()

    def _read(self) -> PemFiles | str:
        """The files, or why they cannot be read."""
        try:
            return read(self._config)
        except ConfigError as error:
            return str(error)

    def _tell_taken(self) -> None:
        until = datetime.fromtimestamp(self._current.expire_time, UTC).isoformat()
        logger.info("tls.cert: %s is in use; it is valid until %s", self._config.cert, until)

    def _tell_expired(self) -> None:
        if not self._told_expired and time.time() >= self._current.expire_time:
            self._told_expired = True
            logger.error("tls.cert: %s has expired: clients refuse it", self._config.cert)


def tenant_of(auth_context: Mapping[str, Iterable[bytes]]) -> str | None:
    """The tenant that a connection's client certificate names; None when it names none, or there is none.

    Raises Unauthenticated when it names several, or has a URI of our scheme that names no tenant.
    """
    uris = auth_context.get("peer_uri")
    if uris is None:
        return None
    ours = {uri for uri in uris if uri[: len(_OUR_SCHEME)].lower() == _OUR_SCHEME}
    if not ours:
        return None
    if len(ours) > 1:
        raise Unauthenticated("the client certificate names several tenants")
    uri = ours.pop()
    text = uri.decode("ascii", "backslashreplace")
    name = text.removeprefix(TENANT_URI)
    (pem,) = auth_context["x509_pem_cert"]
    if not TENANT_NAME.fullmatch(name) or _is_cut(uri, pem):
        raise Unauthenticated(
            f"the client certificate must name its tenant as {TENANT_URI}NAME, not as {text!r}"
        )
    return name


@lru_cache(maxsize=1024)
def _is_cut(uri: bytes, pem: bytes) -> bool:
    """Whether it goes on behind a NUL, where gRPC ends it: then it is another name than it seems."""
    return uri + b"\0" in ssl.PEM_cert_to_DER_cert(pem.decode())


def _configuration(certificates: Certificates) -> grpc.ServerCertificateConfiguration:
    pair = (certificates.key, certificates.cert)
    return grpc.ssl_server_certificate_configuration([pair], certificates.client_ca)
