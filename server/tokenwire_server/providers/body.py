"""Reading of a response's body in pieces that are small enough for one iteration of the event loop.

A provider that sends faster than its answer can be decoded would otherwise block all other streams, and no
deadline would fire. A `Body` returns small pieces, decompressed, and lets other tasks run between them.
"""

from __future__ import annotations

from collections.abc import Iterator

from .backlog import Backlog
from .inflate import MAX_STEP_BYTES, BodyError, Inflater
from .response import Response

MAX_PIECE_BYTES = MAX_STEP_BYTES
"""Maximum number of bytes that one `read` returns. In the worst case, SSE comments of three bytes each, they
take 1.5 ms to decode."""
STEP_COST_BYTES = 512
"""Bytes that a step of decompression counts as, at least: a step without output takes time, too."""
MAX_BYTES_WITHOUT_CONTENT = 64 * 2**20
"""Maximum number of bytes between two deltas, in comments and events that are not decoded. Partial images
that a provider streams take a few MB each."""


class Body:
    """Reads one response. `push` is the fast way for small pieces that arrive one by one; `read` handles
    everything else.

    The owner sets `bytes_without_content` to 0 whenever a piece contained content, and calls
    `count_without_content` for a pushed piece that contained none.

    The constructor raises BodyError if the response has an encoding that is not supported.
    """

    __slots__ = (
        "_backlog",
        "_inflater",
        "_response",
        "_steps",
        "bytes_without_content",
    )

    def __init__(self, response: Response, backlog: Backlog | None = None) -> None:
        """`backlog` is shared by all answers that are decoded in one event loop."""
        self._backlog = backlog or Backlog()
        self._response = response
        encoding = response.headers.get("content-encoding", "").strip().lower()
        self._inflater = Inflater(encoding) if encoding not in ("", "identity") else None
        self._steps: Iterator[bytes] | None = None
        """Received pieces that have not been returned yet."""
        self.bytes_without_content = 0
        """Bytes since the last content."""

    @property
    def has_more(self) -> bool:
        """Whether bytes have arrived that were not returned."""
        return self._steps is not None or self._response.has_more

    async def read(self) -> bytes:
        """Wait for the next piece and return it, decompressed; b"" at the end of the body.

        Other tasks run before each piece. When the connection breaks, the bytes that were received before
        are returned first; then aiohttp.ClientError is raised. Raises BodyError when the body exceeds a
        bound. Cancellation loses no bytes.
        """
        while True:
            if self._steps is None:
                response = self._response
                if response.has_more:  # then `read` returns at once, or after a step of the parser
                    size_bytes = len(response.buffer) or MAX_PIECE_BYTES
                    await self._backlog.turn(min(size_bytes, MAX_PIECE_BYTES))
                data = await response.read()
                if len(data) <= MAX_PIECE_BYTES and self._inflater is None:
                    self.count_without_content(len(data))
                    return data
                if not data:
                    return data
                if self._inflater is not None and self._inflater.is_over:
                    self.count_without_content(len(data))
                    continue
                self._steps = self._split(data)
            else:
                await self._backlog.turn(MAX_PIECE_BYTES)
            piece = next(self._steps, None)
            if piece is None:
                self._steps = None
                continue
            self.count_without_content(max(len(piece), STEP_COST_BYTES))
            if piece:
                return piece

    @property
    def pushing(self) -> Response | None:
        """The response, if its `push` may replace the next `read`. None: only `read` can continue.

        That is the case at the end of the body, and if it is compressed or bytes wait.
        """
        if self._inflater is not None or self._steps is not None or not self._response.can_push:
            return None
        return self._response

    def count_without_content(self, size_bytes: int) -> None:
        """Count bytes. Raises BodyError if there are too many since the last content."""
        self.bytes_without_content += size_bytes
        if self.bytes_without_content > MAX_BYTES_WITHOUT_CONTENT:
            raise BodyError(
                f"sent {MAX_BYTES_WITHOUT_CONTENT // 2**20} MiB that contain no content"
            )

    async def drain(self, max_bytes: int) -> None:
        """Read to the end of the body, or past `max_bytes`."""
        while max_bytes > 0 and (data := await self.read()):
            max_bytes -= len(data)

    async def read_whole(self, max_bytes: int) -> bytes:
        """Return the body, cut off after `max_bytes`."""
        whole = bytearray()
        while len(whole) < max_bytes and (data := await self.read()):
            whole += data
        return bytes(whole[:max_bytes])

    def _split(self, data: bytes) -> Iterator[bytes]:
        if self._inflater is not None:
            return self._inflater.steps(data)
        return (
            data[start : start + MAX_PIECE_BYTES] for start in range(0, len(data), MAX_PIECE_BYTES)
        )
