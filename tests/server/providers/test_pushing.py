"""What arrives is passed on in the callback of the transport, by aiohttp's own parser."""

import asyncio

import aiohttp
import pytest

from tokenwire_server.providers.body import MAX_PIECE_BYTES, Body
from tokenwire_server.providers.framing import MAX_PUSH_BYTES, BoundedConnector

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Transport(asyncio.Transport):
    def is_closing(self):
        return False

    def pause_reading(self):
        pass

    def resume_reading(self):
        pass


class Response:
    connection = None

    def __init__(self, content, encoding="identity"):
        self.content = content
        self.headers = {"Content-Encoding": encoding}


def chunk(data):
    return b"%x\r\n%b\r\n" % (len(data), data)


@pytest.fixture
async def protocol():
    connector = BoundedConnector()
    protocol = connector._factory()
    protocol.connection_made(Transport())
    protocol.set_response_params(read_bufsize=16 * 1024, auto_decompress=False)
    yield protocol
    await connector.close()


async def begun(protocol, first=b"", **options):
    """Return the body of an answer that has begun."""
    protocol.data_received(HEAD + first)
    _, content = await protocol.read()
    return Body(Response(content, **options))


async def pushing(body, receive):
    task = asyncio.create_task(body.push(receive))
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
    await body.push(got.append)  # returns: bytes wait
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


async def test_a_connection_that_breaks_ends_the_push_and_fails_the_read(protocol):
    body, got = await begun(protocol), []
    task = await pushing(body, lambda data: got.append(data) is None)
    protocol.data_received(chunk(b"one"))
    protocol.connection_lost(ConnectionResetError())
    await task
    assert got == [b"one"]
    with pytest.raises(aiohttp.ClientPayloadError):
        await body.read()


async def test_a_compressed_body_is_not_pushed(protocol):
    body, got = await begun(protocol, encoding="gzip"), []
    await body.push(got.append)
    assert got == []


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
    assert not protocol._reading_paused
