"""Decompression of an answer's body in bounded steps. Sans-IO.

Requests ask for `Accept-Encoding: identity`, because compression delays tokens. Some proxies compress
anyway. zlib inflates 1 kB to 1 MB, so the output of each step, and the ratio, are bounded here.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

MAX_STEP_BYTES = 8 * 1024
"""Maximum output of one step."""
MAX_RATIO = 100
"""Maximum output for each byte of input, beyond `FREE_BYTES`. Event streams compress to 5 or 10 %."""
FREE_BYTES = 2**20
"""Output that is accepted at any ratio, because many keep-alive comments compress well."""
MAX_INFLATED_BYTES = 512 * 2**20
"""Maximum output of one body. An answer of 128,000 tokens with 20 logprobs each takes 400 MB."""

_INPUT_BYTES = 4 * 1024  # zlib copies the input that a step does not use
_WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
_RAW_DEFLATE = -15
_GZIP_MAGIC = b"\x1f\x8b"


class BodyError(Exception):
    """The body cannot be read any further. `str(error)` contains nothing that the provider sent."""


class Inflater:
    """Decompresses one body of `gzip` or `deflate`, which may arrive in pieces of any size.

    `deflate` is read with the zlib header (RFC 9110, 8.4.1.2) and without, as some servers send it.
    A gzip body may have several members (RFC 1952, 2.2); bytes after the last one are ignored.
    """

    def __init__(self, encoding: str) -> None:
        """Raises BodyError for an encoding that is not supported."""
        window_bits = _WINDOW_BITS.get(encoding)
        if window_bits is None:
            raise BodyError("compressed its answer with an encoding other than gzip and deflate")
        self._window_bits = window_bits
        self._is_deflate = encoding == "deflate"
        self._zlib: zlib._Decompress | None = None
        self._has_ended_member = False
        self._is_over = False
        self._input_bytes = 0
        self._output_bytes = 0

    @property
    def is_over(self) -> bool:
        """Whether the body has ended. Bytes after the end are ignored; the caller must bound them."""
        return self._is_over

    def steps(self, data: bytes) -> Iterator[bytes]:
        """Decompress the next bytes lazily. Exhaust the iterator before the next call.

        Each item takes bounded work and has at most `MAX_STEP_BYTES`; it may be empty. Raises BodyError if
        the data does not have its encoding, or exceeds a bound.
        """
        for start in range(0, len(data), _INPUT_BYTES):
            yield from self._inflate(data[start : start + _INPUT_BYTES])

    def _inflate(self, data: bytes) -> Iterator[bytes]:
        self._input_bytes += len(data)
        is_full = False  # then zlib may hold more output than it returned
        while (data or is_full) and not self._is_over:
            if self._zlib is None:
                if self._has_ended_member and not _GZIP_MAGIC.startswith(data[:2]):
                    self._is_over = True
                    return
                self._zlib = self._begin_member(data)
            try:
                output = self._zlib.decompress(data, MAX_STEP_BYTES)
            except zlib.error as error:
                raise BodyError("sent a body that cannot be decompressed") from error
            is_full = len(output) == MAX_STEP_BYTES
            data = self._zlib.unconsumed_tail
            if self._zlib.eof:
                is_full = False
                data = self._end_member(self._zlib.unused_data)
            self._count(len(output))
            yield output

    def _begin_member(self, data: bytes) -> zlib._Decompress:
        if self._is_deflate and data[0] & 0x0F != zlib.DEFLATED:
            return zlib.decompressobj(_RAW_DEFLATE)
        return zlib.decompressobj(self._window_bits)

    def _end_member(self, rest: bytes) -> bytes:
        """Return the bytes that are left to decompress after the end of a member."""
        self._zlib = None
        self._has_ended_member = True
        self._is_over = self._is_deflate
        return rest

    def _count(self, output_bytes: int) -> None:
        self._output_bytes += output_bytes
        if self._output_bytes > FREE_BYTES + MAX_RATIO * self._input_bytes:
            raise BodyError(f"sent a body that inflates to more than {MAX_RATIO} times its size")
        if self._output_bytes > MAX_INFLATED_BYTES:
            raise BodyError(
                f"sent a body that inflates to more than {MAX_INFLATED_BYTES // 2**20} MiB"
            )
