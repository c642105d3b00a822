"""Compression of bodies, for the content encodings of RFC 9110."""

from __future__ import annotations

import zlib

_WINDOW_BITS = {"deflate": zlib.MAX_WBITS, "gzip": zlib.MAX_WBITS | 16}


class Compressor:
    """Compresses one body, so that a client can always decompress what was sent so far."""

    def __init__(self, encoding: str) -> None:
        self._stream = zlib.compressobj(wbits=_WINDOW_BITS[encoding])

    def piece(self, data: bytes) -> bytes:
        """Compress a piece of the body."""
        return self._stream.compress(data) + self._stream.flush(zlib.Z_SYNC_FLUSH)

    def end(self) -> bytes:
        """Return the end of the compressed data."""
        return self._stream.flush()

    def all(self, body: bytes) -> bytes:
        """Compress a whole body."""
        return self._stream.compress(body) + self.end()
