"""Ask a running server for its health, for `tokenwire-server health`."""

from __future__ import annotations

from pathlib import Path

import grpc
from cryptography import x509
from grpc_health.v1 import health_pb2

from ..config import ConfigError, Settings, TlsConfig

CHECK = f"/{health_pb2.DESCRIPTOR.services_by_name['Health'].full_name}/Check"
WILDCARDS = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104  # not listened on
"""Hosts that a server listens on, but that no client connects to, and the loopback address of each."""


def health_problem(
    settings: Settings, target: str | None, service: str, *, timeout_s: float, ca: Path | None
) -> str | None:
    """Ask once. Return None if the service is SERVING, otherwise the address and what is wrong.

    `target` is HOST:PORT, by default the address that `settings` listen on. `ca` is a file with the
    authorities to trust. By default only the server's certificate in `settings` is trusted, whatever its
    names and its issuer are; without one there is no TLS. Raises ConfigError.
    """
    target = target or _address(settings.listen)
    with _channel(target, settings.tls, ca) as channel:
        check = channel.unary_unary(
            CHECK,
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            status: int = check(request, timeout=timeout_s).status
        except grpc.RpcError as error:
            return f"{target}: {error.code().name}: {error.details()}"
    if status == health_pb2.HealthCheckResponse.SERVING:
        return None
    return f"{target}: {health_pb2.HealthCheckResponse.ServingStatus.Name(status)}"


def _address(listen: str) -> str:
    host, _, port = listen.rpartition(":")
    if not int(port):
        raise ConfigError(f"listen: {listen} does not name a port: use --target")
    return f"{WILDCARDS.get(host, host)}:{port}"


def _channel(target: str, tls: TlsConfig, ca: Path | None) -> grpc.Channel:
    options: list[tuple[str, str | int]] = [("grpc.enable_http_proxy", 0)]
    if tls == TlsConfig() and ca is None:
        return grpc.insecure_channel(target, options)
    if ca is not None:
        roots = _content("--tls-ca", ca)
    elif tls.cert is not None:
        roots = _content("tls.cert", tls.cert)
        options.append(("grpc.ssl_target_name_override", _name(roots, tls.cert)))
    else:
        raise ConfigError("tls.key: needs tls.cert, the server's own certificate")
    key = chain = None
    if tls.client_ca is not None and tls.cert is not None and tls.key is not None:
        # The server requires a client certificate. It accepts its own one if client_ca issued it.
        key, chain = _content("tls.key", tls.key), _content("tls.cert", tls.cert)
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(roots, key, chain), options)


def _content(setting: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{setting}: cannot read {path}: {error.strerror}") from error


def _name(pem: bytes, path: Path) -> str:
    """Return a name that the certificate is valid for."""
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound) as error:
        raise ConfigError(f"tls.cert: {path} is not a certificate with names") from error
    for name in names.get_values_for_type(x509.DNSName):
        return name.replace("*", "health", 1)
    for address in names.get_values_for_type(x509.IPAddress):
        return str(address)
    raise ConfigError(f"tls.cert: {path} has neither a DNS name nor an IP address")
