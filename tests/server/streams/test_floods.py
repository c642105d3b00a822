"""Providers that send faster than their answers can be decoded, through decoder, meter and log."""

import asyncio
import contextlib
import gzip
import random
import time
import zlib

import pytest
from raw_provider import HEAD, ThreadProvider
from streams_support import Streams, a_request, read_all

from tokenwire_server.config import Limits, ProviderConfig
from tokenwire_server.errors import TokenwireError
from tokenwire_server.events import Finished, FinishReason, TextDelta
from tokenwire_server.providers import body
from tokenwire_server.providers.base import Route
from tokenwire_server.providers.registry import ProviderRegistry

MAX_TURN_S = 0.04
"""Most CPU time between two turns of another task; 1 to 10 ms were measured."""
TOKEN = b'data: {"id":"x","model":"m","choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
END = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


def gzipped(pieces):
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    body = b"".join([packer.compress(piece) for piece in pieces]) + packer.flush()
    return b"%bContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%b" % (HEAD, len(body), body)


def sends(*pieces):
    return lambda connection: [connection.sendall(piece) for piece in pieces]


def sends_for_ever(head, piece):
    def script(connection):
        connection.sendall(head)
        while True:
            connection.sendall(piece)

    return script


def event_of(count, item, before=b'{"choices":[{"delta":{"content":[', after=b"]}}]}"):
    return b"data: " + before + b",".join([item] * count) + after + b"\n\n"


def some_comments(count):
    rng = random.Random(1)
    return [b": %x\n\n" % rng.getrandbits(32) for _ in range(count)]


PLAIN = HEAD + b"\r\n"
GZIP = HEAD + b"Content-Encoding: gzip\r\n\r\n"
ARGUMENTS = (
    rb'{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"name":"f","arguments":"{\"%b\":['
)
AROUND_ARGUMENTS = (ARGUMENTS % b"a", rb"""]"}}]}}]}""")
AROUND_ARGUMENTS_WITH_HALF = (ARGUMENTS % rb"\\ud800", rb"""]}"}}]}}]}""")
PART = b'{"type":"text","text":"a"}'
BROKEN = "UPSTREAM_BROKEN"
UNAVAILABLE = "UPSTREAM_UNAVAILABLE"
FLOODS = {
    "a bomb of comments": (lambda: sends(gzipped([b":\n\n" * 2**15] * 160)), UNAVAILABLE),
    "a bomb of tokens": (lambda: sends(gzipped([TOKEN * 2**10] * 160)), BROKEN),
    "a bomb after the end": (
        lambda: sends(gzipped([TOKEN + END, *[b": ping\n\n" * 2**13] * 256])),
        FinishReason.STOP,
    ),
    "compressed comments": (
        lambda: sends(gzipped([*some_comments(300_000), TOKEN, END])),
        FinishReason.STOP,
    ),
    "empty members": (
        lambda: sends(gzipped([])[:-20] + gzipped([])[-20:] * 20_000),
        UNAVAILABLE,
    ),
    "bytes after a compressed body": (
        lambda: sends_for_ever(GZIP + gzip.compress(b":\n\n"), b"x" * 2**16),
        UNAVAILABLE,
    ),
    "escaped brackets in arguments": (
        lambda: sends(PLAIN, event_of(150_000, rb"\u005b\u005d", *AROUND_ARGUMENTS), END),
        FinishReason.INVALID_TOOL_CALLS,
    ),
    "a half character in long arguments": (
        lambda: sends(PLAIN, event_of(150_000, rb"\u007b}", *AROUND_ARGUMENTS_WITH_HALF), END),
        FinishReason.TOOL_CALLS,
    ),
    "a burst": (lambda: sends(PLAIN, TOKEN * 30_000 + END), FinishReason.STOP),
    "many parts": (lambda: sends(PLAIN, event_of(30_000, PART), END), FinishReason.STOP),
    "many objects": (
        lambda: sends(PLAIN, event_of(10**6, b"{}", b'{"choices":[', b"]}"), END),
        UNAVAILABLE,
    ),
    "comments for ever": (lambda: sends_for_ever(PLAIN, b":\n\n" * 2**15), FinishReason.TIME_LIMIT),
    "tiny chunks for ever": (
        lambda: sends_for_ever(
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n\n\r\n" * 2**14
        ),
        FinishReason.TIME_LIMIT,
    ),
}
"""Functions that make what the provider sends, which takes long, and the end of the stream."""


async def longest_turn_s(ended):
    """Return the longest CPU time between two turns of this task, until the event is set."""
    longest_s = 0.0
    before = time.thread_time()
    while not ended.is_set():
        await asyncio.sleep(0)
        now = time.thread_time()
        longest_s = max(longest_s, now - before)
        before = now
    return longest_s


async def end_of(streams, route):
    """Return how a stream ended, and its text."""
    request = a_request()
    stream = streams.open(request, route)
    reader = stream.join()
    streams.start(stream)
    try:
        events = await read_all(reader)
    except TokenwireError as error:
        return error.reason, ""
    text = "".join(event.text for event in events if isinstance(event, TextDelta))
    assert isinstance(events[-1], Finished)
    return events[-1].reason, text


@contextlib.asynccontextmanager
async def flooded(script, time_limit_s):
    limits = Limits(max_stream_duration_s=time_limit_s)
    with ThreadProvider(script) as provider:
        config = {"flood": ProviderConfig(kind="openai-chat", base_url=provider.url)}
        async with ProviderRegistry(config, limits, {}) as providers, asyncio.TaskGroup() as tasks:
            yield Streams(limits, tasks), Route(providers.get("flood"), "m", None)


@pytest.mark.parametrize(("made", "end"), FLOODS.values(), ids=FLOODS.keys())
async def test_other_tasks_run_while_an_answer_floods(made, end):
    script = made()
    is_endless = end is FinishReason.TIME_LIMIT
    ended = asyncio.Event()
    async with flooded(script, 0.3 if is_endless else 60) as (streams, route):
        turns = asyncio.create_task(longest_turn_s(ended))
        began = time.monotonic()
        reason, text = await end_of(streams, route)
        took_s = time.monotonic() - began
        ended.set()
    print(f"\nlongest turn {await turns * 1e3:.1f} ms of CPU, ended after {took_s:.2f} s")
    assert reason == end
    if end is FinishReason.STOP:
        assert text.strip("a") == ""
        assert len(text) in (1, 30_000)
    assert await turns <= MAX_TURN_S
    assert not is_endless or took_s < 5


async def test_eight_floods_at_once_leave_turns_to_other_tasks():
    made, _ = FLOODS["comments for ever"]
    ended = asyncio.Event()
    async with flooded(made(), 0.5) as (streams, route):
        turns = asyncio.create_task(longest_turn_s(ended))
        ends = await asyncio.gather(*(end_of(streams, route) for _ in range(8)))
        ended.set()
    print(f"\nlongest turn {await turns * 1e3:.1f} ms of CPU")
    assert {reason for reason, _ in ends} == {FinishReason.TIME_LIMIT}
    assert await turns <= 2 * MAX_TURN_S


async def test_an_answer_of_nothing_but_comments_ends_at_a_bound(monkeypatch):
    monkeypatch.setattr(body, "MAX_BYTES_WITHOUT_CONTENT", 2**20)
    pieces = [PLAIN, TOKEN * 20_000, b": ping\n\n" * 60_000, TOKEN, b": ping\n\n" * 10**6, END]
    async with flooded(sends(*pieces), 60) as (streams, route):
        assert await end_of(streams, route) == (BROKEN, "")


@pytest.mark.parametrize(("kib", "end"), [(48, FinishReason.STOP), (80, BROKEN)])
async def test_comments_that_arrive_one_by_one_count_until_the_next_content(kib, end, monkeypatch):
    monkeypatch.setattr(body, "MAX_BYTES_WITHOUT_CONTENT", 2**16)
    comments = [b": %b\n\n" % (b"x" * 1020)] * kib

    def script(connection):
        for piece in (PLAIN, TOKEN, *comments, TOKEN, *comments, END):
            connection.sendall(piece)
            time.sleep(0.001)  # most pieces are read alone, so they are pushed

    async with flooded(script, 60) as (streams, route):
        assert (await end_of(streams, route))[0] == end
