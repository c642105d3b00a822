"""An ASGI extension with which a response is written without a coroutine for each piece."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

EXTENSION = "tokenwire.body_writer"
"""The key in `scope["extensions"]`. Applications use `send` on servers that do not have it."""


class BodyWriter:
    """Writes pieces of one response's body, between its head and its end.

    ASGI's `send` calls through every layer of the application, and resumes a task to do so. For one token
    this costs more than everything else together.
    """

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self.size = 0
        """Bytes written here, which the layers of the application have not seen."""

    def write(self, body: bytes) -> bool:
        """Write a piece of the body, unless earlier pieces still wait for the caller to accept them.

        Return whether the piece was written. If not, use `send`, which waits for the caller. A piece for a
        caller that has left is dropped, and counts as written.
        """
        cycle = self._cycle
        if cycle.disconnected or not body:
            return True
        if cycle.flow.write_paused or not cycle.chunked_encoding or cycle.response_complete:
            return False
        cycle.transport.write(b"%x\r\n%b\r\n" % (len(body), body))
        self.size += len(body)
        return True


def body_writer_of(scope: Mapping[str, Any]) -> BodyWriter | None:
    """Return the writer of a request's response, or None if the server does not have this extension."""
    writer: BodyWriter | None = scope.get("extensions", {}).get(EXTENSION)
    return writer
