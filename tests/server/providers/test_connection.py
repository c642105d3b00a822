"""What arrives is passed on in the callback of the transport, or waits to be read, within bounds."""

import asyncio
import contextlib
import gc
import itertools
import socket
import sys
import weakref

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from raw_provider import RawProvider, wait_for_end

from tokenwire_server.providers.body import MAX_PIECE_BYTES, Body
from tokenwire_server.providers.connection import (
    MAX_PUSH_BYTES,
    MAX_WRITE_BYTES,
    STEP_BYTES,
    InvalidResponse,
    ProviderConnection,
)
from tokenwire_server.providers.endpoint import Endpoint
from tokenwire_server.providers.http import Connections
from tokenwire_server.providers.response import MAX_WAITING_BYTES, Response

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"


class Transport(asyncio.Transport):
    def __init__(self):
        super().__init__()
        self.is_paused = self.is_aborted = False
        self.writes = []

    def is_closing(self):
        return self.is_aborted

    def pause_reading(self):
        self.is_paused = True

    def resume_reading(self):
        self.is_paused = False

    def write(self, data):
        self.writes.append(bytes(data))

    def writelines(self, pieces):
        self.write(b"".join(pieces))

    def get_write_buffer_size(self):
        return 0

    def abort(self):
        self.is_aborted = True


class Pooled:
    """A connection of the pool."""

    def __init__(self, protocol):
        self.protocol = protocol
        self.is_released = False

    def release(self):
        self.is_released = True

    def close(self):
        pass


def chunk(data):
    return b"%x\r\n%b\r\n" % (len(data), data)


@pytest.fixture
async def protocol():
    protocol = ProviderConnection(asyncio.get_running_loop())
    protocol.connection_made(Transport())
    return protocol


async def response_to(protocol, *pieces):
    """Return a response whose head has arrived."""
    response = Response(Pooled(protocol))
    requesting = asyncio.create_task(response.request(b"head", b"body"))
    await asyncio.sleep(0)
    for piece in pieces:
        protocol.data_received(piece)
    await requesting
    return response


async def begun(protocol, first=b"", encoding="identity"):
    """Return the body of an answer that has begun."""
    head = HEAD + f"Content-Encoding: {encoding}\r\n\r\n".encode()
    return Body(await response_to(protocol, head + first))


async def pushing(body, receive):
    task = asyncio.create_task(body.pushing.push(receive))
    await asyncio.sleep(0)
    return task


async def test_pieces_are_passed_on_before_any_task_runs(protocol):
    body, got = await begun(protocol), []
    task = await pushing(body, lambda data: got.append(data) is None)
    protocol.data_received(chunk(b"one") + chunk(b"two"))
    protocol.data_received(chunk(b"three"))
    assert got == [b"one", b"two", b"three"]
    assert not task.done()
    protocol.data_received(chunk(b""))
    await task
    assert await body.read() == b""


async def test_what_comes_after_the_piece_that_stopped_the_push_is_read(protocol):
    body, got = await begun(protocol), []
    task = await pushing(body, got.append)  # None, so it stops
    protocol.data_received(chunk(b"one") + chunk(b"two"))
    protocol.data_received(chunk(b"three"))
    await task
    assert got == [b"one"]
    assert await body.read() == b"twothree"


async def test_bytes_that_arrive_when_nobody_reads_are_read_later(protocol):
    body, got = await begun(protocol, chunk(b"early")), []
    assert body.pushing is None
    assert (await body.read(), got) == (b"early", [])
    task = await pushing(body, got.append)
    task.cancel()
    protocol.data_received(chunk(b"late"))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await body.read(), got) == (b"late", [])


@pytest.mark.parametrize("size", [100, MAX_PUSH_BYTES + 1])
async def test_no_more_is_passed_on_at_once_than_other_streams_can_wait_for(protocol, size):
    body, got = await begun(protocol), []
    task = await pushing(body, lambda data: got.append(data) is None)
    pieces = [bytes((65 + number % 26,)) * size for number in range(200)]
    protocol.data_received(b"".join(map(chunk, pieces)))
    assert sum(map(len, got)) <= MAX_PUSH_BYTES
    await task
    while sum(map(len, got)) < 200 * size:
        got.append(await body.read())
        assert len(got[-1]) <= MAX_PIECE_BYTES
    assert b"".join(got) == b"".join(pieces)
    protocol.data_received(chunk(b"more"))
    assert await body.read() == b"more"
    task = await pushing(body, lambda data: got.append(data) is None)
    protocol.data_received(chunk(b"next"))
    assert got[-1] == b"next"
    task.cancel()


async def test_an_error_of_the_receiver_is_raised_where_the_push_is_awaited(protocol):
    def receive(data):
        raise ValueError(data)

    body = await begun(protocol)
    task = await pushing(body, receive)
    protocol.data_received(chunk(b"one"))
    with pytest.raises(ValueError, match="one"):
        await task


async def test_a_receiver_that_raised_is_not_kept_until_the_garbage_collection(protocol):
    def receive(data):
        raise ValueError(data)

    body = await begun(protocol)
    reference = weakref.ref(receive)
    gc.disable()
    try:
        task = await pushing(body, receive)
        protocol.data_received(chunk(b"one"))
        with contextlib.suppress(ValueError):
            await task
        del task, receive
        await asyncio.sleep(0)  # the callback that woke this test refers to the task
        assert reference() is None
    finally:
        gc.enable()


async def test_a_connection_that_breaks_ends_the_push_and_fails_the_read(protocol):
    body, got = await begun(protocol), []
    task = await pushing(body, lambda data: got.append(data) is None)
    protocol.data_received(chunk(b"one"))
    protocol.connection_lost(ConnectionResetError())
    await task
    assert got == [b"one"]
    with pytest.raises(aiohttp.ClientError, match="the connection ended"):
        await body.read()


async def test_a_compressed_body_is_not_pushed(protocol):
    assert (await begun(protocol, encoding="gzip")).pushing is None


async def test_chunks_that_are_read_after_many_were_pushed_do_not_count_as_unread(protocol):
    body, got = await begun(protocol), []
    task = await pushing(body, lambda data: got.append(data) is None)
    for _ in range(5000):
        protocol.data_received(chunk(b"a"))
    task.cancel()
    await asyncio.wait((task,))
    for _ in range(5000):
        protocol.data_received(chunk(b"b"))
        got.append(await body.read())
    assert b"".join(got) == b"a" * 5000 + b"b" * 5000
    assert not protocol.transport.is_paused


BODY = bytes(range(256)) * 300
"""More than may wait to be read, and more than is parsed at once."""
CHUNKS = b"".join(chunk(BODY[start : start + 1000]) for start in range(0, len(BODY), 1000))
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nContent-Length: 9\r\n\r\n"
FRAMINGS = {
    "chunked": (b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKS + b"0\r\n\r\n", True),
    "trailers": (b"transfer-encoding: Chunked\r\n\r\n" + CHUNKS + b"0\r\nX-End: 1\r\n\r\n", True),
    "length": (b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY, True),
    "closed": (b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY, False),
    "end of the connection": (b"\r\n" + BODY, False),
    "line feeds": (b"Content-Length: %d\n\n" % len(BODY) + BODY, True),
    "something after it": (b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY + HINTS, False),
}


async def received(framing, hints, cuts):
    """Receive a response in pieces, while a task reads it; return it and its body."""
    protocol = ProviderConnection(asyncio.get_running_loop())
    transport = Transport()
    protocol.connection_made(transport)
    response = Response(Pooled(protocol))
    data = HINTS * hints + b"HTTP/1.1 200 OK\r\n" + FRAMINGS[framing][0]

    async def read():
        await response.request(b"", b"")
        while piece := await response.read():
            whole.append(piece)
            await asyncio.sleep(0)

    whole = []
    reading = asyncio.create_task(read())
    await asyncio.sleep(0)
    for start, end in itertools.pairwise([0, *sorted(cuts), len(data)]):
        if end > start:
            protocol.data_received(data[start:end])
        while transport.is_paused:
            await asyncio.sleep(0)
    protocol.connection_lost(None)
    await reading
    return response, b"".join(whole)


@pytest.mark.parametrize("framing", FRAMINGS)
@given(hints=st.integers(0, 3), cuts=st.lists(st.integers(0, len(BODY) + 100), max_size=20))
def test_a_response_is_the_same_however_it_is_cut(framing, hints, cuts):
    response, body = asyncio.run(received(framing, hints, cuts))
    assert (response.status, body) == (200, BODY)
    assert response.headers.keys() <= {"transfer-encoding", "content-length", "connection"}
    assert response.keeps_connection == (FRAMINGS[framing][1] or framing == "something after it")


@pytest.mark.parametrize("framing", FRAMINGS)
async def test_a_connection_is_reused_only_after_all_of_a_response_that_permits_it(framing):
    protocol = ProviderConnection(asyncio.get_running_loop())
    protocol.connection_made(Transport())
    data, is_reused = FRAMINGS[framing]
    response = await response_to(protocol, b"HTTP/1.1 200 OK\r\n" + data[:-1])
    while response.has_more:
        await response.read()
        await asyncio.sleep(0)
    assert protocol.should_close
    protocol.data_received(data[-1:])
    assert protocol.should_close != is_reused


@pytest.mark.parametrize("size", [0, STEP_BYTES])
async def test_what_is_received_without_a_request_is_never_a_response(protocol, size):
    response = await response_to(protocol, b"HTTP/1.1 204 No Content\r\n\r\n")
    assert response.has_ended
    assert not protocol.should_close
    head = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: %d\r\n\r\n" % size
    protocol.data_received(head + b"x" * size)
    assert protocol.transport.is_aborted
    assert protocol.should_close
    with pytest.raises(aiohttp.ClientConnectionError):
        await Response(Pooled(protocol)).request(b"head", b"body")


@pytest.mark.parametrize(
    "late", [b"HTTP/1.1 408 Request Timeout\r\n\r\n", b""], ids=["data", "end"]
)
async def test_a_connection_on_which_unread_data_has_arrived_is_not_reused(late):
    loop = asyncio.get_running_loop()
    ours, providers = socket.socketpair()
    with providers:
        transport, protocol = await loop.create_connection(
            lambda: ProviderConnection(loop), sock=ours
        )
        response = await response_to(protocol, b"HTTP/1.1 204 No Content\r\n\r\n")
        assert response.has_ended
        assert protocol.is_connected()
        providers.send(late) if late else providers.close()
        assert not protocol.is_connected()
    transport.abort()


@pytest.mark.parametrize(
    "headers",
    [
        b"",
        b"Connection: keep-alive\r\n",
        b"Connection: upgrade\r\nUpgrade: x\r\n",
        b"Connection: upgrade\r\nUpgrade: x\r\nContent-Length: 2\r\n",
    ],
)
async def test_a_connection_that_changed_its_protocol_is_not_reused(protocol, headers):
    response = await response_to(protocol, b"HTTP/1.1 101 Switching\r\n" + headers + b"\r\n")
    assert response.status == 101
    assert protocol.should_close


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (b"000 No\r\n", "0 is not an HTTP status"),
        (b"099 No\r\n", "99 is not an HTTP status"),
        (b"200 OK\r\nX: a\0b\r\n", "NUL"),
    ],
)
async def test_what_the_parser_accepts_although_it_is_not_http_fails(protocol, start, message):
    with pytest.raises(InvalidResponse, match=message):
        await response_to(protocol, b"HTTP/1.1 " + start + b"Content-Length: 0\r\n\r\n")
    assert protocol.transport.is_aborted


async def test_a_body_in_chunks_is_complete_only_after_its_last_chunk(protocol):
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"
    response = await response_to(protocol, head + chunk(b"first"))
    assert await response.read() == b"first"
    protocol.connection_lost(None)
    with pytest.raises(aiohttp.ClientError, match="the connection ended"):
        await response.read()


async def test_an_answer_can_end_with_the_connection_while_the_request_is_still_sent(protocol):
    response = await response_to(protocol, b"HTTP/1.1 413 Too Large\r\n\r\ntoo large")
    protocol.eof_received()  # asyncio keeps the transport open until all is sent
    assert await response.read() == b"too large"
    assert await response.read() == b""
    assert protocol.should_close


async def test_a_connection_that_ends_before_the_head_fails_while_the_request_is_still_sent(
    protocol,
):
    requesting = asyncio.create_task(response_to(protocol, b"HTTP/1.1 4"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    protocol.eof_received()
    with pytest.raises(aiohttp.ClientError, match="before the end of the head"):
        await asyncio.wait_for(requesting, 5)


async def test_a_body_that_ends_with_the_connection_is_not_complete_if_we_close_it(protocol):
    response = await response_to(protocol, b"HTTP/1.1 200 OK\r\n\r\nbegin")
    assert await response.read() == b"begin"
    protocol.close()
    protocol.connection_lost(None)
    with pytest.raises(aiohttp.ClientError, match="was closed"):
        await response.read()


@pytest.mark.parametrize("closes", [False, True])
async def test_what_arrived_at_once_is_not_kept_after_it_was_parsed_or_the_answer_closed(
    protocol, closes
):
    response = await response_to(protocol, HEAD + b"\r\n")
    data = chunk(b"x" * 100_000)
    references = sys.getrefcount(data)
    protocol.data_received(data)
    await asyncio.sleep(0)
    assert sys.getrefcount(data) > references
    received = 0
    while received < 100_000 and not closes:
        received += len(await response.read())
    if closes:
        response.close()
    assert sys.getrefcount(data) == references


async def test_a_large_request_is_written_in_pieces_as_the_transport_takes_them(protocol):
    body = bytes(range(256)) * 2048
    requesting = asyncio.create_task(Response(Pooled(protocol)).request(b"head", body))
    writes = protocol.transport.writes
    for _ in range(2):
        await asyncio.sleep(0)
    protocol.pause_writing()
    count = len(writes)
    assert count < 1 + len(body) / MAX_WRITE_BYTES
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(writes) == count
    protocol.resume_writing()
    while protocol.has_unsent:
        await asyncio.sleep(0)
    assert b"".join(writes) == b"head" + body
    assert max(map(len, writes)) <= MAX_WRITE_BYTES
    protocol.data_received(b"HTTP/1.1 204 No Content\r\n\r\n")
    await requesting


async def test_a_connection_is_not_reused_before_all_of_a_request_is_written(protocol):
    pooled = Pooled(protocol)
    response = Response(pooled)
    requesting = asyncio.create_task(response.request(b"head", b"x" * 2 * MAX_WRITE_BYTES))
    await asyncio.sleep(0)
    protocol.pause_writing()
    protocol.data_received(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
    await requesting
    assert response.has_ended
    response.release()
    assert protocol.transport.is_aborted
    assert not pooled.is_released


@contextlib.asynccontextmanager
async def connections_to(script):
    connections = Connections(connect_s=5)
    async with RawProvider(script) as provider, asyncio.timeout(20):
        yield connections, Endpoint(provider.url, {})
        await connections.aclose()


async def test_a_pool_closes_at_once_while_a_provider_does_not_read_a_request():
    reached = asyncio.Event()

    async def script(provider, reader, writer):
        writer.transport.pause_reading()
        reached.set()
        await provider.ended_at

    async with connections_to(script) as (connections, endpoint):
        requesting = asyncio.create_task(connections.post(endpoint, b"x" * 20_000_000))
        await reached.wait()
        async with asyncio.timeout(5):
            await connections.aclose()
            with pytest.raises(aiohttp.ClientError):
                await requesting


async def test_a_failed_request_is_not_kept_until_the_garbage_collection():
    async def script(provider, reader, writer):
        writer.write(b"This is not HTTP.")
        await wait_for_end(reader)

    def on_sent():
        """Is referred to by the same frame as the request's body."""

    gc.disable()
    try:
        async with connections_to(script) as (connections, endpoint):
            reference = weakref.ref(on_sent)
            with contextlib.suppress(InvalidResponse):
                await connections.post(endpoint, b"{}", on_sent=on_sent)
            del on_sent
            assert reference() is None
    finally:
        gc.enable()


async def test_the_transport_is_paused_while_more_waits_than_may(protocol):
    response = await response_to(protocol, HEAD + b"\r\n")
    sent = 0
    while not protocol.transport.is_paused:
        protocol.data_received(chunk(b"x" * 1000))
        sent += 1000
    assert sent <= MAX_WAITING_BYTES + 1000
    protocol.data_received(chunk(b"y" * 300_000))  # it was on its way
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(response.buffer) <= MAX_WAITING_BYTES + STEP_BYTES
    got = b""
    while len(got) < sent + 300_000:
        got += await response.read()
    assert got == b"x" * sent + b"y" * 300_000
    await asyncio.sleep(0)
    assert not protocol.transport.is_paused
