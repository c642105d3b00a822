"""The settings of Redis, which carries the streams of several processes."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated
from urllib.parse import unquote

from pydantic import AfterValidator, SecretStr

from .addresses import MAX_PORT, is_host, is_port
from .bounds import Bytes, RedisConnections, RedisSeconds
from .section import Section

DEFAULT_PORT = 6379

_URL = re.compile(
    r"(?P<scheme>rediss?)://"
    r"(?:(?P<user>[^:@/?#]*):(?P<password>[^@/?#]*)@)?"
    r"(?P<host>\[[^\]/?#@]*\]|[^:/?#@\[\]]*)"
    r"(?::(?P<port>[^/?#@]*))?"
    r"(?:/(?P<database>[^/?#@]*))?"
)
_DATABASE = re.compile(r"[0-9]{0,6}")
_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """A server of Redis, and how to log in to it."""

    host: str
    """A name, or an IP address without brackets."""
    port: int
    database: int
    has_tls: bool
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        """Return the URL without user and password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        scheme = "rediss" if self.has_tls else "redis"
        return f"{scheme}://{host}:{self.port}/{self.database}"

    @classmethod
    def of(cls, url: str) -> RedisAddress:
        """Raises ValueError with the fault. Its text never repeats a part of the URL."""
        if not url.startswith(("redis://", "rediss://")):
            raise ValueError("must begin with redis:// or rediss://")
        if not url.isascii() or not url.isprintable() or " " in url:
            raise ValueError(
                "contains a space, a control character or a character that is not ASCII"
            )
        parts = _URL.fullmatch(url)
        if parts is None:
            raise ValueError(
                "must be redis://HOST:PORT/DATABASE or redis://USER:PASSWORD@HOST:PORT/DATABASE without "
                "parameters, where USER may be empty. In USER and PASSWORD, write every character that is "
                "not a letter or a digit as %XX"
            )
        host, port, database = parts["host"], parts["port"], parts["database"]
        if not is_host(host):
            raise ValueError("has no valid host, such as localhost, 127.0.0.1 or [::1]")
        if port is not None and not (is_port(port) and int(port)):
            raise ValueError(f"has a port that is not a number from 1 to {MAX_PORT}")
        if not _DATABASE.fullmatch(database or ""):
            raise ValueError("has a path that is not the number of a database, such as /0")
        return cls(
            host=host.strip("[]"),
            port=int(port or DEFAULT_PORT),
            database=int(database or 0),
            has_tls=parts["scheme"] == "rediss",
            user=_decoded(parts["user"]),
            password=_decoded(parts["password"]),
        )


def _decoded(text: str | None) -> str | None:
    """Return a user or a password, or None if it is empty. Raises ValueError."""
    if not text:
        return None
    try:
        if _PERCENT.search(text):
            raise ValueError
        return unquote(text, errors="strict")
    except ValueError:  # also UnicodeDecodeError, whose text has a part of the password
        raise ValueError(
            "has a % in its user or password that two hexadecimal digits do not follow, or that is not "
            "UTF-8: write % itself as %25"
        ) from None


def _url(value: SecretStr) -> SecretStr:
    RedisAddress.of(value.get_secret_value())
    return value


class RedisConfig(Section):
    """Redis, or Valkey, which lets several servers share streams. It needs the extra `redis`."""

    url: Annotated[SecretStr, AfterValidator(_url)] | None = None
    """`redis://USER:PASSWORD@HOST:PORT/DATABASE`, or `rediss://` for TLS with a certificate of an authority
    that the system trusts. User, password, port and database may be omitted. For a Redis Cluster, give the
    address of any of its servers; the others are found, and user, password and TLS are the same for all. By
    default no Redis is used."""
    max_connections: RedisConnections = 8
    """Maximum number of connections of this server to Redis. If all are in use, commands wait for one. The
    primaries of a Redis Cluster share them equally, but each gets 3 at least."""
    timeout_s: RedisSeconds = 2.0
    """Longest time to connect, to wait for a free connection, and to wait for the reply to a command. A
    command to a Redis Cluster may take twice as long, while its servers change."""
    max_cached_answer_bytes: Bytes = 256 * 1024
    """Maximum size of a cached answer in Redis, in bytes: 4 to 8 for each token. A larger answer is
    cached only by the server that generated it. 0: cached answers are not shared."""

    @property
    def address(self) -> RedisAddress | None:
        """The server of Redis. None if no Redis is used."""
        return None if self.url is None else RedisAddress.of(self.url.get_secret_value())
