"""The limits of a connection, in this process, with applications of the tests."""

import asyncio
from contextlib import asynccontextmanager, suppress

from uvicorn import Config
from uvicorn.server import ServerState

from tokenwire_edge.websocket.connection import MAX_FRAGMENTS, EdgeWebSocketProtocol

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nhost: edge\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
BEGIN, CONTINUE = b"\x01\x80" + bytes(4), b"\x00\x80" + bytes(4)
"""Frames without content: the first one of a message, and one in its middle."""


@asynccontextmanager
async def connected(app):
    """A connection whose handshake is sent: its protocol, and the streams of its peer."""
    connections, config = [], Config(app, ws_ping_interval=None, log_config=None)

    def connection():
        connections.append(EdgeWebSocketProtocol(config, ServerState(), {}))
        return connections[0]

    server = await asyncio.get_running_loop().create_server(connection, "127.0.0.1", 0)
    async with server, asyncio.timeout(60):
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(HANDSHAKE)
        while not connections:
            await asyncio.sleep(0)
        yield connections[0], reader, writer
        writer.close()


async def test_the_fragments_that_a_peer_sends_instead_of_its_close_frame_are_bounded():
    async def closing(scope, receive, send):
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": 1000})

    async with connected(closing) as (connection, reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        assert (await reader.readexactly(4))[0] == 0x88  # the close frame
        writer.write(BEGIN)
        for _ in range(4):
            writer.write(CONTINUE * MAX_FRAGMENTS)
            await writer.drain()
            await asyncio.sleep(0.1)
            assert len(connection.frames) <= MAX_FRAGMENTS


async def test_an_invalid_frame_before_the_handshake_is_accepted_ends_the_connection():
    has_begun, has_ended = asyncio.Event(), asyncio.Event()

    async def waiting(scope, receive, send):
        await receive()
        has_begun.set()
        assert (await receive())["type"] == "websocket.disconnect"
        has_ended.set()
        await send({"type": "websocket.accept"})

    async with connected(waiting) as (_, reader, writer):
        await has_begun.wait()
        writer.write(b"\xff\xff")
        await asyncio.wait_for(has_ended.wait(), 10)
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
