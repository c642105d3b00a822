"""A caller that reads HTTP/2 frames itself, so that the load takes little CPU.

gRPC's Python client takes as much CPU for an event as a server. On two cores the load and the measured process
would then wait for each other. This caller only finds the frames and keeps their bytes; messages are split and
decoded after the run.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Iterator, Mapping
from typing import cast

from callers import (
    CALL_LIMIT_S,
    CONNECT_LIMIT_S,
    METHOD,
    Arrival,
    GrpcCaller,
    Recording,
    Unmeasurable,
    request,
)
from hpack import Decoder, Encoder
from jobs import Target

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4
INITIAL_WINDOW_SIZE = 4
MAX_WINDOW_BYTES = 2**31 - 1
"""No run receives as much, so windows are never updated."""
DEFAULT_WINDOW_BYTES = 2**16 - 1


class CallFailed(Unmeasurable):
    """A call ended with an error. `trailers` are those of its status, or empty if it was reset."""

    def __init__(self, text: str, trailers: Mapping[str, str]) -> None:
        super().__init__(text)
        self.trailers = trailers


class FrameConnection(asyncio.Protocol):
    """One connection with any number of calls, each of which ends after `limit_s` at the latest."""

    def __init__(self, target: Target, authority: str, limit_s: float = CALL_LIMIT_S) -> None:
        self.ready = asyncio.get_running_loop().create_future()
        """Done when the server has sent its settings."""
        self._headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", METHOD),
            (":authority", authority),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("grpc-timeout", f"{limit_s:.0f}S"),
        ]
        self._limit_s = limit_s
        if target.api_key:
            self._headers.append(("authorization", f"Bearer {target.api_key}"))
        self._encoder, self._decoder = Encoder(), Decoder()
        self._calls: dict[int, tuple[Recording, asyncio.Future[None]]] = {}
        self._last_id = -1
        self._rest = b""

    async def call(self, message: bytes, recording: Recording) -> None:
        """Make one call, and record what arrives until it has ended.

        Raises CallFailed; Unmeasurable if the connection breaks; and TimeoutError if the call does not end in
        time.
        """
        if self._transport.is_closing():
            raise Unmeasurable("the connection has ended")
        self._last_id += 2
        ended = asyncio.get_running_loop().create_future()
        recording.called = time.monotonic()
        self._calls[self._last_id] = recording, ended
        headers = self._encoder.encode(self._headers)
        body = struct.pack(">BI", 0, len(message)) + message
        self._transport.write(
            _frame(HEADERS, END_HEADERS, self._last_id, headers)
            + _frame(DATA, END_STREAM, self._last_id, body)
        )
        async with asyncio.timeout(self._limit_s):
            await ended

    def close(self) -> None:
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        settings = struct.pack(">HI", INITIAL_WINDOW_SIZE, MAX_WINDOW_BYTES)
        window = struct.pack(">I", MAX_WINDOW_BYTES - DEFAULT_WINDOW_BYTES)
        self._transport.write(
            PREFACE + _frame(SETTINGS, 0, 0, settings) + _frame(WINDOW_UPDATE, 0, 0, window)
        )

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        if self._rest:
            data = self._rest + data
        start, end = 0, len(data)
        while end - start >= 9:
            size_bytes = int.from_bytes(data[start : start + 3], "big")
            begin, start = start + 9, start + 9 + size_bytes
            if start > end:
                start = begin - 9
                break
            stream_id = int.from_bytes(data[begin - 4 : begin], "big")
            if data[begin - 6] == DATA:
                if stream_id in self._calls:
                    recording = self._calls[stream_id][0]
                    recording.instants.append(now)
                    recording.payloads.append(data[begin:start])
            else:
                self._control(data[begin - 6], data[begin - 5], stream_id, data[begin:start])
        self._rest = data[start:]

    def connection_lost(self, exc: Exception | None) -> None:
        for _, ended in self._calls.values():
            if not ended.done():
                ended.set_exception(Unmeasurable(f"the connection ended: {exc}"))

    def _control(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == HEADERS:
            if not flags & END_HEADERS:
                raise Unmeasurable("headers in several frames are not read")
            headers = dict(self._decoder.decode(payload))
            if flags & END_STREAM:
                self._end(stream_id, headers)
        elif kind == SETTINGS and not flags & ACK:
            self._transport.write(_frame(SETTINGS, ACK, 0, b""))
            if not self.ready.done():
                self.ready.set_result(None)
        elif kind == PING and not flags & ACK:
            self._transport.write(_frame(PING, ACK, 0, payload))
        elif kind == RST_STREAM:
            self._end(stream_id, {})
        elif kind == GOAWAY:
            self._transport.close()

    def _end(self, stream_id: int, trailers: dict[str, str]) -> None:
        _, ended = self._calls.pop(stream_id)
        if ended.done():
            return
        status = trailers.get("grpc-status", "reset")
        if status == "0":
            ended.set_result(None)
        else:
            text = f"status {status}: {trailers.get('grpc-message', '')}"
            ended.set_exception(CallFailed(text, trailers))


class FrameCaller(GrpcCaller):
    """Calls ChatStream over several connections, as several callers would. `record` does not use gRPC."""

    def __init__(self, target: Target, channels: int) -> None:
        super().__init__(target, channels)
        self._target = target
        self._connections: list[FrameConnection] = []

    async def connect(self) -> None:
        """Open all connections. Raises TimeoutError if the server does not answer."""
        loop = asyncio.get_running_loop()
        addresses = self._target.address.split(",")
        async with asyncio.timeout(CONNECT_LIMIT_S):
            for number in range(len(self._channels)):
                address = addresses[number % len(addresses)]
                host, _, port = address.rpartition(":")
                _, connection = await loop.create_connection(
                    lambda address=address: FrameConnection(self._target, address), host, int(port)
                )
                self._connections.append(connection)
                await connection.ready

    async def close(self) -> None:
        for connection in self._connections:
            connection.close()
        await super().close()

    async def record(self, model: str, recording: Recording) -> None:
        """One stream from its call to its end."""
        self._turn += 1
        connection = self._connections[self._turn % len(self._connections)]
        message = request(self._prefix + model, has_values=bool(recording.json_tokens))
        await connection.call(message, recording)

    @staticmethod
    def arrivals(recording: Recording) -> Iterator[Arrival]:
        """The arrivals of text. Raises Unmeasurable unless the text is what the provider sent."""
        instants, messages, rest = [], [], b""
        for instant, payload in zip(recording.instants, recording.payloads, strict=True):
            rest += payload
            while len(rest) >= 5 and len(rest) >= (end := 5 + int.from_bytes(rest[1:5], "big")):
                instants.append(instant)
                messages.append(rest[5:end])
                rest = rest[end:]
        recording.instants, recording.payloads = instants, messages
        return GrpcCaller.arrivals(recording)


def _frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream_id) + payload
