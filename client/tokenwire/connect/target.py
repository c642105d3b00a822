"""The address of a server."""

from __future__ import annotations

import os
import re

from .._checks import check_type

DEFAULT_TARGET = "127.0.0.1:50051"
TARGET_VARIABLE = "TOKENWIRE_TARGET"

_URL = re.compile(r"(?i)(https?|grpcs?|tcp|wss?)://(?:[^/@]*@)?([^/?#]*)")
_PLAINTEXT_SCHEMES = frozenset({"http", "grpc", "tcp", "ws"})
_DEFAULT_PORTS = {"http": 80, "https": 443}

_HOST_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]+))(?::[0-9]+)?")

_PORT = re.compile(r"(?!unix)(?:[^:\[\]]+|\[[^\]]*\]):([0-9]{1,9})")


def resolve_target(target: str | None) -> str:
    """Return the target, or TOKENWIRE_TARGET, or the default address of a server.

    Targets are gRPC names: `host:port`, `dns:///host:port`, `unix:path`.
    """
    return target or os.environ.get(TARGET_VARIABLE) or DEFAULT_TARGET


def check_target(target: str) -> None:
    """Raise ValueError if the target is a URL or has an invalid port. For a URL, suggest the right target.

    gRPC would only report that it cannot resolve the name, or would connect to another port.
    """
    if not (url := _URL.match(check_type(target, str, "target"))):
        port = _PORT.fullmatch(target)
        if port and not 0 < int(port[1]) < 65536:
            raise ValueError(f"target: {target}: a port is a number from 1 to 65535")
        return
    scheme, address = url[1].lower(), url[2]
    if (default := _DEFAULT_PORTS.get(scheme)) and not re.search(r":\d+$", address):
        address = f"{address}:{default}"
    if scheme not in _PLAINTEXT_SCHEMES:
        encryption = ", tls=True" if is_loopback(address) else ""
    else:
        encryption = "" if is_loopback(address) else ", tls=False"
    raise ValueError(
        f'target: {scheme}://{url[2]} is a URL; a gRPC target is host:port: use "{address}"{encryption}'
    )


def is_loopback(target: str) -> bool:
    """Return whether data for the target certainly stays on this machine. Names are not resolved."""
    scheme, _, rest = target.partition(":")
    match scheme:
        case "unix" | "unix-abstract":
            return True
        case "ipv4" | "ipv6":
            return all(_is_loopback_host(address) for address in rest.split(","))
        case (
            "dns"
        ):  # dns:host; dns://SERVER/host is excluded, because that name server may answer anything
            return _is_loopback_host(rest.removeprefix("///"))
    return _is_loopback_host(target)


def _is_loopback_host(address: str) -> bool:
    """Return the same for `host` or `host:port`, parsed as gRPC does."""
    host = address
    if named := _HOST_PORT.fullmatch(address):
        host = named[1] or named[2]
    if host.lower() in ("localhost", "127.0.0.1"):
        return True
    from ipaddress import IPv6Address, ip_address  # the usual targets do not need it

    try:
        ip = ip_address(host)
    except ValueError:
        return False
    if isinstance(ip, IPv6Address):
        if ip.scope_id is not None:
            return False
        ip = ip.ipv4_mapped or ip
    return ip.is_loopback or ip.is_unspecified  # the unspecified address connects to this machine
