"""Validation of the addresses in the settings. Every library that gets an address accepts what passes here.

The functions are pure. They raise ValueError with the fault. The text never repeats a URL, which may
contain a password.
"""

from __future__ import annotations

import ipaddress
import re

import idna

MAX_PORT = 65535
MAX_HOST_CHARS = 253

_URL = re.compile(
    r"(?P<scheme>https?)://"
    r"(?P<host>\[[^\]/?#@]*\]|[^:/?#@\[\]]*)"
    r"(?::(?P<port>[^/?#@]*))?"
    r"(?P<path>/[^?#]*)?"
)
_PATH = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*")
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")


def base_url(text: str) -> str:
    """Check an http or https URL to which paths are appended; return it without trailing slashes."""
    if not text.startswith(("http://", "https://")):
        raise ValueError("must begin with http:// or https://")
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("contains a space, a control character or a character that is not ASCII")
    if "@" in text.partition("://")[2].partition("/")[0]:
        raise ValueError("must not contain a user name or a password: api_key_env names the key")
    if "?" in text or "#" in text:
        raise ValueError("must not contain ? or #: paths are appended to it")
    parts = _URL.fullmatch(text)
    if parts is None or not is_host(parts["host"]):
        raise ValueError("has no valid host, such as localhost, 127.0.0.1 or [::1]")
    if parts["port"] is not None and not (is_port(parts["port"]) and int(parts["port"])):
        raise ValueError(f"has a port that is not a number from 1 to {MAX_PORT}")
    if not _PATH.fullmatch(parts["path"] or ""):
        raise ValueError("has a path with a character that must be written as %XX")
    return text.rstrip("/")


def endpoint_url(text: str) -> str:
    """Check an http or https URL that is used as it is; return it."""
    base_url(text)
    return text


def listen_address(text: str) -> str:
    """Check HOST:PORT, a TCP address to listen on; return it."""
    host, colon, port = text.rpartition(":")
    if text.startswith(("unix:", "unix-abstract:", "vsock:")):
        raise ValueError(
            "must be HOST:PORT, such as 127.0.0.1:50051: other kinds of sockets are not supported"
        )
    if not colon or not is_port(port) or not is_host(host):
        raise ValueError(f"must be HOST:PORT, such as 127.0.0.1:50051 or [::1]:50051, not {text!r}")
    return text


def is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= MAX_PORT


def is_host(text: str) -> bool:
    """Return whether a text is a name, an IPv4 address, or an IPv6 address in brackets."""
    if text.startswith("[") and text.endswith("]"):
        return _is_ip(text[1:-1], ipaddress.IPv6Address)
    labels = text.removesuffix(".").split(".")
    if len(text) > MAX_HOST_CHARS or not all(map(_LABEL.fullmatch, labels)):
        return False
    if "xn--" in text.lower() and not _decodes(text):
        return False
    # A name whose last label is a number is read as an IPv4 address.
    return not labels[-1].isdigit() or _is_ip(text, ipaddress.IPv4Address)


def _decodes(host: str) -> bool:
    """Return whether an internationalized name can be decoded. HTTP clients decode it before use."""
    try:
        idna.decode(host)
    except UnicodeError:
        return False
    return True


def _is_ip(text: str, kind: type[ipaddress.IPv4Address | ipaddress.IPv6Address]) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return "%" not in text
