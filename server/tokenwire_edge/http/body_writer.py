"""An ASGI extension with which a response is written without a coroutine for each piece."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

EXTENSION = "tokenwire.body_writer"
"""The key in `scope["extensions"]`. Applications use `send` on servers that do not have it."""


class BodyWriter:
    """Writes pieces of one response's body, between its head and its end.

    `send` of ASGI passes through every layer of the application, and resumes a task for it. For a token
    that is more work than all the rest.
    """

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self.size = 0
        """Bytes written here, which the layers of the application have not seen."""

    def write(self, body: bytes) -> bool:
        """Write a piece of the body, unless the caller must first accept what was written before.

        Return whether it was taken. If not, use `send`, which waits for the caller. A piece for a caller
        that has left is taken and dropped.
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
    """Return the writer of a request's response. None: the server has no such extension."""
    writer: BodyWriter | None = scope.get("extensions", {}).get(EXTENSION)
    return writer
