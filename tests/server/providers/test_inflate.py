"""Decompression of bodies in bounded steps."""

import gzip
import itertools
import sys
import zlib

import brotli
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

from tokenwire_server.providers.inflate import FREE_BYTES, MAX_STEP_BYTES, BodyError, Inflater

texts = st.binary(max_size=50) | st.builds(
    lambda piece, n: piece * n, st.binary(min_size=1, max_size=9), st.integers(1, 20_000)
)


def raw_deflated(data):
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def inflated(encoding, pieces):
    inflater = Inflater(encoding)
    steps = [step for piece in pieces for step in inflater.steps(piece)]
    assert all(len(step) <= MAX_STEP_BYTES for step in steps)
    return b"".join(steps)


@settings(deadline=None)
@example([b""], [20], b"\0")  # the bytes after the last member arrive on their own
@given(
    st.lists(texts, min_size=1, max_size=3),
    st.lists(st.integers(0, 300), max_size=4),
    st.binary(max_size=3),
)
def test_the_result_does_not_depend_on_how_the_bytes_are_split(members, cuts, junk):
    whole = b"".join(members)
    gzipped = b"".join(map(gzip.compress, members)) + b"\0" + junk
    for encoding, packed in [
        ("gzip", gzipped),
        ("x-gzip", gzipped),
        ("deflate", zlib.compress(whole) + junk),
        ("deflate", raw_deflated(whole)),
        ("br", brotli.compress(whole, quality=1)),
        ("zstd", b"".join(map(zstd.compress, members)) + b"\0" + junk),
    ]:
        edges = [0, *sorted(cut for cut in cuts if cut < len(packed)), len(packed)]
        pieces = [packed[start:end] for start, end in itertools.pairwise(edges)]
        assert inflated(encoding, pieces) == whole


def gzip_packer():
    packer = zlib.compressobj(wbits=31)
    return lambda token: packer.compress(token) + packer.flush(zlib.Z_SYNC_FLUSH)


def brotli_packer():
    packer = brotli.Compressor()
    return lambda token: packer.process(token) + packer.flush()


def zstd_packer():
    packer = zstd.ZstdCompressor()
    return lambda token: packer.compress(token, packer.FLUSH_BLOCK)


@pytest.mark.parametrize(
    ("encoding", "packer"), [("gzip", gzip_packer), ("br", brotli_packer), ("zstd", zstd_packer)]
)
def test_flushed_data_is_returned_immediately(encoding, packer):
    pack = packer()
    inflater = Inflater(encoding)
    for n in range(100):
        token = b"data: %d\n\n" % n
        assert b"".join(inflater.steps(pack(token))) == token


def wide_window():
    """Return a zstd frame whose decoder would need a window of 128 MiB."""
    packer = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 27})
    return packer.compress(b"text") + packer.flush()


@pytest.mark.parametrize(
    ("encoding", "pack", "why"),
    [
        ("gzip", lambda: gzip.compress(bytes(200 * FREE_BYTES), mtime=0), "more than 100 times"),
        ("gzip", lambda: b"plain text", "cannot be decompressed"),
        ("gzip", lambda: gzip.compress(b"text", mtime=0)[:-5] + b"12345", "cannot be decompressed"),
        ("br", lambda: brotli.compress(bytes(200 * FREE_BYTES), quality=5), "more than 100 times"),
        ("br", lambda: b"plain text, not brotli", "cannot be decompressed"),
        ("zstd", lambda: zstd.compress(bytes(200 * FREE_BYTES)), "more than 100 times"),
        ("zstd", lambda: b"plain text", "cannot be decompressed"),
        ("zstd", wide_window, "cannot be decompressed"),
        ("compress", bytes, "other than gzip, deflate, br and zstd"),
        ("gzip, gzip", bytes, "other than gzip, deflate, br and zstd"),
    ],
)
def test_an_invalid_body_is_refused_with_a_reason(encoding, pack, why):
    with pytest.raises(BodyError, match=why):
        inflated(encoding, [pack()])
