"""Certificates for tests: an authority that issues any certificate, valid or invalid."""

import datetime
import functools
import ipaddress

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tokenwire_server.config import TlsConfig

SERVER = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
DAY = datetime.timedelta(days=1)


class Pair:
    """A certificate and its private key, as PEM."""

    def __init__(self, certificate, key, chain=()):
        self.certificate = certificate
        self.private_key = key
        self.cert = b"".join(
            one.public_bytes(serialization.Encoding.PEM) for one in (certificate, *chain)
        )
        self.key = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    @property
    def locked_key(self):
        return self.private_key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"passphrase"),
        )

    @property
    def der(self):
        return self.certificate.public_bytes(serialization.Encoding.DER)


class TlsFiles:
    """The TLS files of a server, in a folder."""

    def __init__(self, folder, pair, *, client_ca=None):
        self.cert, self.key, self.client_ca = (
            folder / name for name in ("cert.pem", "key.pem", "client-ca.pem")
        )
        self.write(pair)
        self.asks = client_ca is not None
        if client_ca:
            self.client_ca.write_bytes(client_ca.pem)

    def write(self, pair):
        self.cert.write_bytes(pair.cert)
        self.key.write_bytes(pair.key)

    @property
    def config(self):
        return TlsConfig(
            cert=self.cert, key=self.key, client_ca=self.client_ca if self.asks else None
        )

    @property
    def flags(self):
        flags = ["--tls-cert", str(self.cert), "--tls-key", str(self.key)]
        return [*flags, *(["--tls-client-ca", str(self.client_ca)] if self.asks else [])]


class Authority:
    """Issues certificates. With `above` it is an intermediate authority whose certificate is in the chain of
    its pairs.
    """

    def __init__(self, name="authority", *, above=None, days=(-1, 30)):
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.private_key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(self.name, self.private_key.public_key(), days)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        issuer, key = (above.name, above.private_key) if above else (self.name, self.private_key)
        self.certificate = builder.issuer_name(issuer).sign(key, hashes.SHA256())
        self.chain = (self.certificate,) if above else ()
        self.pem = self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(
        self,
        *,
        names=("localhost", "127.0.0.1"),
        uris=(),
        purposes=(SERVER,),
        days=(-1, 30),
        key=None,
    ):
        """Issue a pair that is valid from and until `days` from now, for `names` and `uris`."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        builder = _builder(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "holder")]), key.public_key(), days
        )
        alternatives = [_general_name(name) for name in names]
        alternatives += [x509.UniformResourceIdentifier(uri) for uri in uris]
        if alternatives:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), False)
        if purposes:
            builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), False)
        certificate = builder.issuer_name(self.name).sign(self.private_key, hashes.SHA256())
        return Pair(certificate, key, self.chain)

    issue_to_client = functools.partialmethod(issue, names=(), purposes=(CLIENT,))


def _builder(name, public_key, days):
    now = datetime.datetime.now(datetime.UTC)
    first, last = days
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + first * DAY)
        .not_valid_after(now + last * DAY)
    )


def _general_name(name):
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
