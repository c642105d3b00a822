"""The body of a provider's answer, read in pieces that one turn of the event loop can take.

aiohttp returns whatever is buffered, up to several 100 kB, and does not suspend while there is more. So
one provider that sends faster than its answer can be decoded would stop all other streams, and no
deadline would fire. A `Body` returns small pieces and lets other tasks run between them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import aiohttp

from .inflate import MAX_STEP_BYTES, BodyError, Inflater

MAX_PIECE_BYTES = MAX_STEP_BYTES
"""Most bytes that one `read` returns. The costliest ones, SSE comments of three bytes each, take 1.5 ms to
decode."""
STEP_COST_BYTES = 512
"""What a step of decompression counts as at least: one without output takes time, too."""
MAX_BYTES_WITHOUT_CONTENT = 64 * 2**20
"""Most bytes between two deltas: comments and events of kinds that are not read. Images that are drawn
while the answer is streamed take a few MB each."""


class Body:
    """Reads one response. The owner calls `got_content` whenever what it read had content.

    A response with an encoding that is not supported raises BodyError.
    """

    __slots__ = ("_bytes_without_content", "_content", "_inflater", "_received_bytes", "_steps")

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._content = response.content
        encoding = response.headers.get("Content-Encoding", "").strip().lower()
        self._inflater = Inflater(encoding) if encoding not in ("", "identity") else None
        self._steps: Iterator[bytes] | None = None
        """Pieces of what was received, which are not returned yet."""
        self._received_bytes = 0
        self._bytes_without_content = 0

    async def read(self) -> bytes:
        """Wait for bytes, and return the next piece, decompressed. Empty: the body ended.

        Other tasks run before each piece. Raises aiohttp.ClientError when the connection breaks, after
        everything that was received before, and BodyError when the body exceeds a bound. Cancelled, it
        loses nothing.
        """
        while True:
            if self._steps is None:
                content = self._content
                if content.total_bytes != self._received_bytes:  # buffered: it would not suspend
                    await asyncio.sleep(0)
                try:
                    data = await content.readany()
                except aiohttp.ClientError as error:
                    data = self._received_before(error)
                self._received_bytes += len(data)
                if len(data) <= MAX_PIECE_BYTES and self._inflater is None:
                    self._count(len(data))
                    return data
                if not data:
                    return data
                self._steps = self._split(data)
            else:
                await asyncio.sleep(0)
            piece = next(self._steps, None)
            if piece is None:
                self._steps = None
                continue
            self._count(max(len(piece), STEP_COST_BYTES))
            if piece:
                return piece

    def got_content(self) -> None:
        """Content has come: the bound of bytes without it counts from here."""
        self._bytes_without_content = 0

    async def drain(self, max_bytes: int) -> None:
        """Read to the end of the body, or past `max_bytes`."""
        while max_bytes > 0 and (data := await self.read()):
            max_bytes -= len(data)

    async def read_whole(self, max_bytes: int) -> bytes:
        """Read a small body, or the first `max_bytes` of it."""
        whole = bytearray()
        while len(whole) < max_bytes and (data := await self.read()):
            whole += data
        return bytes(whole[:max_bytes])

    def _received_before(self, error: aiohttp.ClientError) -> bytes:
        """Return what was received before the connection broke, and raise the error once that is read."""
        self._content.set_exception(None)  # type: ignore[arg-type]  # else it cannot be read
        data = self._content.read_nowait()
        self._content.set_exception(error)
        if not data:
            raise error
        return data

    def _count(self, size_bytes: int) -> None:
        self._bytes_without_content += size_bytes
        if self._bytes_without_content > MAX_BYTES_WITHOUT_CONTENT:
            raise BodyError(
                f"sent {MAX_BYTES_WITHOUT_CONTENT // 2**20} MiB without any content in them"
            )

    def _split(self, data: bytes) -> Iterator[bytes]:
        if self._inflater is not None:
            return self._inflater.steps(data)
        return (
            data[start : start + MAX_PIECE_BYTES] for start in range(0, len(data), MAX_PIECE_BYTES)
        )
