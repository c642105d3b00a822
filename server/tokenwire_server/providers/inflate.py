"""Decompression of an answer's body in bounded steps. Sans-IO.

Requests ask for `Accept-Encoding: identity`, because compression delays tokens. Some proxies compress
anyway. 1 kB can inflate to 1 MB with zlib, and to much more with the others, so the output of each step, and
the ratio, are bounded here.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterator
from typing import ClassVar, Protocol

import brotli  # type: ignore[import-untyped]

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAX_STEP_BYTES = 8 * 1024
"""Maximum output of one step."""
MAX_RATIO = 100
"""Maximum output for each byte of input, beyond `FREE_BYTES`. Event streams compress to 5 or 10 %."""
FREE_BYTES = 2**20
"""Output that is accepted at any ratio, because many keep-alive comments compress well."""
MAX_INFLATED_BYTES = 512 * 2**20
"""Maximum output of one body. An answer of 128,000 tokens with 20 logprobs each takes 400 MB."""

MAX_ZSTD_WINDOW_LOG = 23
"""8 MiB, the most that a server may use for HTTP (RFC 9659). A decoder allocates the window at once."""

_INPUT_BYTES = 4 * 1024  # decoders copy the input that a step does not use
_RAW_DEFLATE = -15


class BodyError(Exception):
    """The body cannot be read any further. `str(error)` contains nothing that the provider sent."""


class _Member(Protocol):
    """One compressed stream. A body may have several, one after another."""

    magic: ClassVar[bytes]
    """First bytes of another member. Empty: there is none."""
    is_over: bool
    rest: bytes
    """Input that is not used yet; at the end, that after the member."""
    has_more: bool
    """Whether there may be more output without more input."""

    def step(self, data: bytes) -> bytes:
        """Decompress `data`, which begins with `rest`. The output is bounded."""
        ...


class _Zlib:
    magic: ClassVar[bytes] = b""

    def __init__(self, window_bits: int) -> None:
        self._zlib = zlib.decompressobj(window_bits)
        self.is_over = self.has_more = False
        self.rest = b""

    def step(self, data: bytes) -> bytes:
        output = self._zlib.decompress(data, MAX_STEP_BYTES)
        self.is_over = self._zlib.eof
        self.has_more = len(output) == MAX_STEP_BYTES and not self.is_over
        self.rest = self._zlib.unused_data if self.is_over else self._zlib.unconsumed_tail
        return output


class _Gzip(_Zlib):
    magic = b"\x1f\x8b"

    def __init__(self, _: bytes) -> None:
        super().__init__(31)


class _Deflate(_Zlib):
    def __init__(self, data: bytes) -> None:
        super().__init__(_RAW_DEFLATE if data[0] & 0x0F != zlib.DEFLATED else 15)


class _Brotli:
    magic: ClassVar[bytes] = b""

    def __init__(self, _: bytes) -> None:
        self._brotli = brotli.Decompressor()
        self.is_over = self.has_more = False
        self.rest = b""

    def step(self, data: bytes) -> bytes:
        output: bytes = self._brotli.process(data, output_buffer_limit=MAX_STEP_BYTES)
        self.is_over = self._brotli.is_finished()
        # A long copy is not pending input, so a full buffer is a sign of more output, too.
        is_full = len(output) >= MAX_STEP_BYTES or not self._brotli.can_accept_more_data()
        self.has_more = is_full and not self.is_over
        return output


class _Zstd:
    magic: ClassVar[bytes] = b"\x28\xb5\x2f\xfd"

    def __init__(self, _: bytes) -> None:
        options: dict[int, int] = {
            int(zstd.DecompressionParameter.window_log_max): MAX_ZSTD_WINDOW_LOG
        }
        self._zstd = zstd.ZstdDecompressor(options=options)
        self.is_over = self.has_more = False
        self.rest = b""

    def step(self, data: bytes) -> bytes:
        output = self._zstd.decompress(data, MAX_STEP_BYTES)
        self.is_over = self._zstd.eof
        self.has_more = not self.is_over and not self._zstd.needs_input
        self.rest = self._zstd.unused_data if self.is_over else b""
        return output


_ENCODINGS: dict[str, Callable[[bytes], _Member]] = {
    "gzip": _Gzip,
    "x-gzip": _Gzip,
    "deflate": _Deflate,
    "br": _Brotli,
    "zstd": _Zstd,
}


class Inflater:
    """Decompresses one body of `gzip`, `deflate`, `br` or `zstd`, which may arrive in pieces of any size.

    `deflate` is read with the zlib header (RFC 9110, 8.4.1.2) and without, as some servers send it. A body
    of gzip or zstd may have several members (RFC 1952, 2.2; RFC 8878, 3.1). Bytes after the last member are
    ignored, except with `br`, where they are invalid.
    """

    def __init__(self, encoding: str) -> None:
        """Raises BodyError for an encoding that is not supported."""
        begin = _ENCODINGS.get(encoding)
        if begin is None:
            raise BodyError(
                "compressed its answer with an encoding other than gzip, deflate, br and zstd"
            )
        self._begin = begin
        self._member: _Member | None = None
        self._magic = b""
        """First bytes of another member, once one has ended."""
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
        member = self._member
        while (data or (member is not None and member.has_more)) and not self._is_over:
            if member is None:
                if self._has_ended_member and not self._magic.startswith(
                    data[: len(self._magic)] or b"\0"
                ):
                    self._is_over = True
                    return
                member = self._member = self._begin(data)
            try:
                output = member.step(data)
            except (zlib.error, brotli.error, zstd.ZstdError) as error:
                raise BodyError("sent a body that cannot be decompressed") from error
            data = member.rest
            if member.is_over:
                self._has_ended_member = True
                self._magic = member.magic
                member = self._member = None
            self._count(len(output))
            # Brotli's buffer grows in blocks of 32 KiB.
            for start in range(0, len(output) or 1, MAX_STEP_BYTES):
                yield output[start : start + MAX_STEP_BYTES]

    def _count(self, output_bytes: int) -> None:
        self._output_bytes += output_bytes
        if self._output_bytes > FREE_BYTES + MAX_RATIO * self._input_bytes:
            raise BodyError(f"sent a body that inflates to more than {MAX_RATIO} times its size")
        if self._output_bytes > MAX_INFLATED_BYTES:
            raise BodyError(
                f"sent a body that inflates to more than {MAX_INFLATED_BYTES // 2**20} MiB"
            )
