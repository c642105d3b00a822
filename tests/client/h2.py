"""A server that sends raw HTTP/2 frames, for ends of a call that a gRPC server does not produce."""

import asyncio
import contextlib
import socket
import struct

from .conftest import STREAM_ID, started, text

# RFC 9113, section 6 and 7.
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0x0, 0x1, 0x3, 0x4, 0x6, 0x7
ACK, END_HEADERS = 0x1, 0x4
PROTOCOL_ERROR, INTERNAL_ERROR, REFUSED_STREAM, CANCEL = 0x1, 0x2, 0x7, 0x8
PREFACE_BYTES = 24


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def literal(name, value):
    """Return a header field that is not in a table (RFC 7541, section 6.2.2)."""
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


HEAD = b"\x88" + b"".join(  # \x88: ":status: 200"
    [
        literal(b"content-type", b"application/grpc"),
        literal(b"tokenwire-stream-id", STREAM_ID.encode()),
    ]
)


def message(each):
    data = each.SerializeToString()
    return b"\x00" + struct.pack(">I", len(data)) + data


async def h2_server(reader, writer, may_end, end):
    """Answer a call with two events, wait for `may_end`, and end it with `end`."""
    await reader.readexactly(PREFACE_BYTES)
    writer.write(frame(SETTINGS, 0, 0))
    while True:
        head = await reader.readexactly(9)
        length, kind, flags = int.from_bytes(head[:3]), head[3], head[4]
        stream = int.from_bytes(head[5:])
        payload = await reader.readexactly(length)
        if kind in (SETTINGS, PING) and not flags & ACK:
            writer.write(frame(kind, ACK, 0, payload if kind == PING else b""))
        if kind == HEADERS:
            writer.write(frame(HEADERS, END_HEADERS, stream, HEAD))
            for each in (started(), text(2, "a")):
                writer.write(frame(DATA, 0, stream, message(each)))
            await may_end.wait()
            end(writer, stream)


def resets(error_code):
    def end(writer, stream):
        writer.write(frame(RST_STREAM, 0, stream, struct.pack(">I", error_code)))

    return end


def goes_away(writer, _stream):
    """Send GOAWAY: neither this call nor another is answered."""
    writer.write(frame(GOAWAY, 0, 0, struct.pack(">II", 0, 0)))


def goes_away_and_closes(writer, stream):
    writer.write(frame(GOAWAY, 0, 0, struct.pack(">II", stream, INTERNAL_ERROR)))
    writer.close()


def closes(writer, _stream):
    writer.close()


def closes_with_half_an_event(writer, stream):
    writer.write(frame(DATA, 0, stream, message(text(3, "half"))[:7]))
    writer.close()


def aborts(writer, _stream):
    handle = writer.get_extra_info("socket")
    handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.close()


def gateway_fails(writer, stream):
    head = literal(b":status", b"502") + literal(b"content-type", b"text/html")
    writer.write(frame(HEADERS, END_HEADERS | 0x1, stream, head))


@contextlib.asynccontextmanager
async def raw_server(end):
    """Run the server. Yield its address, and the event that lets it end its calls."""
    connections, may_end = {}, asyncio.Event()

    async def accepted(reader, writer):
        connections[asyncio.current_task()] = writer
        try:
            await h2_server(reader, writer, may_end, end)
        except (asyncio.IncompleteReadError, OSError):
            writer.close()

    async with await asyncio.start_server(accepted, "127.0.0.1") as listener:
        yield f"127.0.0.1:{listener.sockets[0].getsockname()[1]}", may_end
        listener.close()
        for writer in connections.values():
            writer.transport.abort()
        if connections:
            await asyncio.wait(connections)
