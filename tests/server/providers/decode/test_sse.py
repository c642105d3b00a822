"""The framer, against a plain reading of the specification."""

import itertools
import re
import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwire_server.providers.decode.sse import SSEFramer

BOM = b"\xef\xbb\xbf"
TOKEN = b'data: {"choices":[{"delta":{"content":" need"}}]}'

bodies = st.lists(
    st.sampled_from(
        [
            b"data: ",
            b"data:",
            b"data",
            b"event: ",
            b"event",
            b"id: 1",
            b"retry",
            b":",
            b" ",
            b"x",
            b"{}",
            b"\n",
            b"\n\n",
            b"\r",
            b"\r\n",
            b"\r\n\r\n",
            b"\n\n\n",
            BOM,
            b"\xef",
            b"\x00",
            b"\xff",
            TOKEN + b"\n\n",
            b"event: e\n" + TOKEN + b"\n\n",
            b": comment\n\n",
        ]
    )
    | st.binary(max_size=6),
    max_size=24,
).map(b"".join)


def as_specified(body):
    """The whole stream at once: lines first, then fields."""
    events, name, data = [], b"", []
    *lines, _unfinished = re.split(rb"\r\n|\r|\n", body.removeprefix(BOM))
    for line in lines:
        if not line:
            if data:
                events.append((name, b"\n".join(data)))
            name, data = b"", []
        elif line.startswith(b":"):
            continue
        else:
            field, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if field == b"data":
                data.append(value)
            elif field == b"event":
                name = value
    return events


def frame(*pieces, **options):
    framer = SSEFramer(**options)
    return [event for piece in pieces for event in framer.feed(piece)]


def split(body, cuts):
    return [body[start:end] for start, end in itertools.pairwise([0, *sorted(cuts), len(body)])]


@given(bodies)
def test_events_are_those_of_the_specification(body):
    assert frame(body) == as_specified(body)


@given(bodies, st.lists(st.integers(0, 400), max_size=8))
def test_where_the_network_splits_the_bytes_never_matters(body, cuts):
    pieces = split(body, [cut for cut in cuts if cut <= len(body)])

    assert frame(*pieces) == as_specified(body)
    assert frame(*split(body, range(1, len(body)))) == as_specified(body)


@given(bodies, st.lists(st.integers(0, 400), max_size=8), st.integers(0, 40))
def test_where_a_too_long_event_is_noticed_never_depends_on_the_splits(body, cuts, max_event_bytes):
    whole, cut = SSEFramer(max_event_bytes), SSEFramer(max_event_bytes)
    events = whole.feed(body)
    pieces = split(body, [position for position in cuts if position <= len(body)])

    assert [event for piece in pieces for event in cut.feed(piece)] == events
    assert cut.overflowed == whole.overflowed
    assert all(len(data) <= max_event_bytes for _, data in events)
    if not whole.overflowed:
        assert events == as_specified(body)


@given(bodies, st.lists(st.integers(0, 400), max_size=8))
def test_the_end_of_the_body_completes_the_event_it_stands_in(body, cuts):
    framer = SSEFramer()
    events = [e for p in split(body, [c for c in cuts if c <= len(body)]) for e in framer.feed(p)]

    assert events + framer.eof() == as_specified(body + b"\n\n")


def test_after_a_too_long_event_nothing_comes_out():
    framer = SSEFramer(max_event_bytes=8)

    assert framer.feed(b"data: 1\n\ndata: 23456789\n\ndata: 2\n\n") == [(b"", b"1")]
    assert framer.overflowed
    assert framer.feed(b"data: 3\n\n") == []
    assert framer.feed(b"\n\ndata: 3\n\n") == []
    assert framer.eof() == []


def test_comments_without_end_are_no_event_and_take_no_memory():
    framer = SSEFramer()
    piece = b": OPENROUTER PROCESSING\n" * 4096
    tracemalloc.start()
    try:
        for _ in range(100):
            assert framer.feed(piece) == []
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert not framer.overflowed
    assert peak_bytes < 4 * len(piece)


@pytest.mark.parametrize("piece_bytes", [1, 7])
def test_a_long_event_in_small_pieces_takes_time_in_proportion_to_its_length(piece_bytes):
    def seconds(length_bytes):
        framer = SSEFramer()
        body = b"data: " + b"a" * length_bytes + b"\n\n"
        pieces = [body[i : i + piece_bytes] for i in range(0, len(body), piece_bytes)]
        start = time.perf_counter()
        count = sum(len(framer.feed(piece)) for piece in pieces)
        assert count == 1
        return time.perf_counter() - start

    short, long = (min(seconds(length) for _ in range(3)) for length in (50_000, 800_000))
    assert long < 16 * short * 3  # were it quadratic, 256 times


def test_a_token_costs_a_few_microseconds_at_most():
    framer, token = SSEFramer(), TOKEN + b"\n\n"

    def us_per_event(piece, count):
        start = time.perf_counter()
        for _ in range(count):
            framer.feed(piece)
        return (time.perf_counter() - start) / count * 1e6

    alone = min(us_per_event(token, 5000) for _ in range(5))
    in_bursts = min(us_per_event(token * 100, 50) / 100 for _ in range(5))
    print(f"{alone:.2f} us per event alone, {in_bursts:.2f} in bursts")
    assert max(alone, in_bursts) < 5
