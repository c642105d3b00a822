"""Calls as raw HTTP/2 frames, with bytes that no gRPC client sends."""

import socket
import struct

# RFC 9113, sections 6, 6.5.2 and 7.
DATA, HEADERS, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE = 0x0, 0x1, 0x3, 0x4, 0x6, 0x8
ACK, INITIAL_WINDOW_SIZE, CANCEL = 0x1, 0x4, 0x8
END_STREAM, END_HEADERS = 0x1, 0x4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def head(path, *fields):
    """Return the header block of a request, with each field as a literal (RFC 7541, section 6.2.2)."""
    return b"".join(
        b"\0" + _length(name) + name + _length(value) + value
        for name, value in (
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", path),
            (b":authority", b"raw"),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            *fields,
        )
    )


def connected(address, timeout_s=5, stream_window=2**16 - 1):
    """Return a socket on which frames can be sent. It accepts `stream_window` bytes for each stream."""
    host, _, port = address.rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout=timeout_s)
    settings = frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW_SIZE, stream_window))
    window = struct.pack(">I", 2**30)
    connection.sendall(PREFACE + settings + frame(WINDOW_UPDATE, 0, 0, window))
    return connection


def send_call(connection, stream, path, message=b"", ends=True):
    """Send a complete call, or one without its last byte."""
    data = b"\0" + len(message).to_bytes(4, "big") + message
    connection.sendall(
        frame(HEADERS, END_HEADERS, stream, head(path))
        + frame(DATA, END_STREAM if ends else 0, stream, data if ends else data[:-1])
    )


def answer(address, path, *fields, message=b"\0\0\0\0\0"):
    """Return what the server sends to one call until it ends the call or the connection, or is silent."""
    with connected(address, timeout_s=0.5) as connection:
        connection.sendall(frame(HEADERS, END_HEADERS, 1, head(path, *fields)))
        connection.sendall(frame(DATA, END_STREAM, 1, message))
        got = b""
        try:
            while data := connection.recv(65536):
                got += data
                if b"grpc-status" in got:
                    break
        except TimeoutError:
            pass
    return got


def _length(data):
    """Encode an integer with a prefix of 7 bits (RFC 7541, section 5.1)."""
    if len(data) < 127:
        return bytes([len(data)])
    rest, out = len(data) - 127, b"\x7f"
    while rest >= 128:
        out += bytes([rest % 128 + 128])
        rest //= 128
    return out + bytes([rest])
