"""The framer of server-sent events, compared with a simple implementation of the specification."""

import itertools
import re
import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import scaled
from tokenwire_server.providers.decode.sse import MAX_EVENT_BYTES, MAX_EVENT_OBJECTS, SSEFramer

BOM = b"\xef\xbb\xbf"
TOKEN = b'data: {"choices":[{"delta":{"content":" need"}}]}'

# Also fed one by one, so that feeds begin and end at events, and elsewhere.
pieces = st.lists(
    st.sampled_from(
        [b"data: ", b"data:", b"data", b"event: ", b"event", b"id: 1", b"error: ", b":"]
    )
    | st.sampled_from([b" ", b"x", b"{}", b"\n", b"\n\n", b"\r", b"\r\n", b"\r\n\r\n", b"\n\n\n"])
    | st.sampled_from(
        [b"data: 1\n\n", b"event: e\ndata: 2\n\n", b"data: 3\ndata: 4\n\n", b": c\n\n"]
    )
    | st.sampled_from([b"data: 1", b"event: e\n", b"data: 1\r", b"data: " + b"a" * 30 + b"\n\n"])
    | st.sampled_from([BOM, b"\xef", b"\x00", b"\xff"])
    | st.binary(max_size=6),
    max_size=16,
)
bodies = pieces.map(b"".join)
cuts = st.lists(st.integers(0, 120), max_size=8)
often = settings(max_examples=scaled(400))


def as_specified(body):
    """Parse the whole stream at once: lines first, then fields. `error` is llama.cpp's."""
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
            if field in (b"data", b"error"):
                data.append(value)
            if field == b"error":
                name = b"error"
            elif field == b"event":
                name = value
    return events


def frame(*given_pieces, max_event_bytes=MAX_EVENT_BYTES):
    framer = SSEFramer(max_event_bytes)
    return [event for piece in given_pieces for event in framer.feed(piece)], framer


def split(body, at):
    edges = [0, *sorted(position for position in at if position <= len(body)), len(body)]
    return [body[start:end] for start, end in itertools.pairwise(edges)]


@often
@given(pieces, cuts)
def test_events_match_the_specification_for_every_split_of_the_bytes(feeds, at):
    body = b"".join(feeds)
    expected = as_specified(body)

    assert frame(body)[0] == expected
    assert frame(*feeds)[0] == expected
    assert frame(*split(body, at))[0] == expected
    assert frame(*split(body, range(1, len(body))))[0] == expected


@often
@given(pieces, cuts, st.integers(3, 40))
def test_a_too_long_event_is_detected_at_the_same_point_for_every_split(feeds, at, max_event_bytes):
    body = b"".join(feeds)
    events, framer = frame(body, max_event_bytes=max_event_bytes)

    for cut in (feeds, split(body, at), split(body, range(1, len(body)))):
        cut_events, cut_framer = frame(*cut, max_event_bytes=max_event_bytes)
        assert (cut_events, cut_framer.overflowed) == (events, framer.overflowed)
    assert framer.overflowed == is_too_long(body, max_event_bytes)
    assert framer.overflowed or events == as_specified(body)


def is_too_long(body, max_event_bytes):
    """Lines count as they arrive, even unfinished ones. Data counts when its line is complete."""
    *whole, unfinished = re.split(rb"\r\n|\r|\n", body.removeprefix(BOM))
    events = as_specified(BOM + b"\n".join([*whole, b"", b""]))
    lengths = [len(line) for line in [*whole, unfinished]] + [len(data) for _, data in events]
    return max(lengths) > max_event_bytes


@often
@given(bodies, cuts)
def test_the_end_of_the_body_completes_an_unfinished_event(body, at):
    events, framer = frame(*split(body, at))

    assert events + framer.eof() == as_specified(body + b"\n\n")


def test_no_events_are_returned_after_a_too_long_event():
    framer = SSEFramer(max_event_bytes=12)

    assert framer.feed(b"data: 1\n\ndata: 23456789\n\ndata: 2\n\n") == [(b"", b"1")]
    assert framer.overflowed
    assert framer.feed(b"data: 3\n\n") == []
    assert framer.feed(b"\n\ndata: 3\n\n") == []
    assert framer.eof() == []


def test_the_data_of_many_short_lines_can_be_too_long():
    events, framer = frame(b"data: 1\n" * 6 + b"\n", max_event_bytes=11)
    assert (events, framer.overflowed) == ([(b"", b"1\n1\n1\n1\n1\n1")], False)

    events, framer = frame(b"data: 1\n" * 6 + b"\n", max_event_bytes=10)
    assert (events, framer.overflowed) == ([], True)


def test_a_byte_order_mark_is_skipped_at_the_start_only():
    feeds = [b"", b"data: 1\n\n", BOM + b"data: 2\n\n", b"data: 3\n\n"]

    assert frame(*feeds)[0] == as_specified(b"".join(feeds)) == [(b"", b"1"), (b"", b"3")]


def test_an_event_of_maximum_length_is_returned():
    for body in (b"data: 123456\n\n", b"event: e\ndata: 123456\n\n", b"data: 1\ndata: 3456\n\n"):
        events, framer = frame(body, max_event_bytes=12)
        assert [len(data) for _, data in events] == [6]
        assert not framer.overflowed


def test_endless_comments_are_not_events_and_use_no_memory():
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


def test_an_event_with_too_many_objects_overflows():
    for count, overflows in ((MAX_EVENT_OBJECTS, False), (MAX_EVENT_OBJECTS + 1, True)):
        framer = SSEFramer()
        assert len(framer.feed(b"data: " + b"{}," * count + b"\n\n")) == (not overflows)
        assert framer.overflowed is overflows


@pytest.mark.parametrize("piece_bytes", [1, 7])
def test_the_time_for_a_long_event_in_small_pieces_is_linear(piece_bytes):
    def seconds(length_bytes):
        framer = SSEFramer()
        body = b"data: " + b"a" * length_bytes + b"\n\n"
        feeds = [body[i : i + piece_bytes] for i in range(0, len(body), piece_bytes)]
        start = time.thread_time()
        count = sum(len(framer.feed(piece)) for piece in feeds)
        assert count == 1
        return time.thread_time() - start

    short = min(seconds(25_000) for _ in range(3))
    # The least of three runs: further ones if the first is too slow. 256 times if it were quadratic.
    assert any(seconds(400_000) < 16 * short * 3 for _ in range(3))


def test_framing_a_token_takes_a_few_microseconds():
    framer, token = SSEFramer(), TOKEN + b"\n\n"

    def us_per_event(piece, count):
        start = time.thread_time()
        for _ in range(count):
            framer.feed(piece)
        return (time.thread_time() - start) / count * 1e6

    alone = min(us_per_event(token, 5000) for _ in range(5))
    in_bursts = min(us_per_event(token * 100, 50) / 100 for _ in range(5))
    print(f"{alone:.2f} us per event alone, {in_bursts:.2f} in bursts")
    assert max(alone, in_bursts) < 5
