"""An address that takes POST requests, with the part of the requests that is always the same."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import aiohttp
from yarl import URL

_FORBIDDEN = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class Endpoint:
    """A URL and the headers of its requests.

    The heads of all requests to it differ only in their length and in the headers of a trace. So the rest is
    encoded once.
    """

    __slots__ = ("_head", "target")

    def __init__(
        self, url: str, headers: Mapping[str, str], query: Mapping[str, str] | None = None
    ) -> None:
        """`query` is added to the query of the URL. Raises ValueError for a header that cannot be sent."""
        address = URL(url).extend_query(query or {})
        self.target = aiohttp.ClientRequest("POST", address)
        """What aiohttp's connector needs to find or open a connection. This request is never sent."""
        host = address.host_port_subcomponent or ""
        lines = _lines([("Host", host), *headers.items()])
        self._head = b"POST %b HTTP/1.1\r\n%b" % (address.raw_path_qs.encode(), lines)

    def head(self, body_bytes: int, headers: Iterable[tuple[str, str]] = ()) -> bytes:
        """Return the head of a request. Raises ValueError for a header that cannot be sent."""
        return b"%b%bContent-Length: %d\r\n\r\n" % (self._head, _lines(headers), body_bytes)


def _lines(headers: Iterable[tuple[str, str]]) -> bytes:
    lines = []
    for name, value in headers:
        if _FORBIDDEN.search(name) or _FORBIDDEN.search(value):
            raise ValueError(f"the header {name!r} contains a control character")
        lines.append(f"{name}: {value}\r\n")
    return "".join(lines).encode()
