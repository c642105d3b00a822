"""Hops that need an event loop: they run to their end in one of their own. `hop_loops` has the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from itertools import cycle, islice
from types import TracebackType
from typing import Any, Self

import uvloop
from hop_events import DELTAS, chat_events

from tokenwire_server.config import Limits, OverloadConfig
from tokenwire_server.events import NO_USAGE, Delta, FinishReason, ReaderEvent, Usage
from tokenwire_server.pricing.estimate import rough_estimate
from tokenwire_server.providers.base import Route
from tokenwire_server.providers.body import Body
from tokenwire_server.providers.decode.base import Complete
from tokenwire_server.providers.endpoint import Endpoint
from tokenwire_server.providers.http import Connections
from tokenwire_server.request import ChatRequest, Delivery, Message, Text
from tokenwire_server.routing.attempt import Attempt
from tokenwire_server.routing.pacing import ReadPacing
from tokenwire_server.rpc.writer import Writer
from tokenwire_server.streamlog.memory import MemoryLog
from tokenwire_server.streamlog.space import LogSpace
from tokenwire_server.streams.reader import Reader

Loop = Callable[[int], object]
"""Passes this number of tokens. Called once."""

REQUEST = ChatRequest(model="m", messages=(Message("user", (Text("x" * 40),)),))
_MIB = 2**20


def new_log() -> MemoryLog:
    """Return a log with room for all tokens of a loop."""
    return MemoryLog(8 * _MIB, LogSpace(64 * _MIB, make_room=lambda: None))


def receiving() -> Loop:
    """Return a loop in which each event arrives by itself: from the socket to the decoder.

    A part of the instructions are those with which the other end of the connection sends them.
    """
    events = [b"%x\r\n%b\r\n" % (len(event), event) for event in chat_events()]

    async def pass_all(count: int) -> None:
        provider = _Sender()
        server = await asyncio.get_running_loop().create_server(lambda: provider, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        waiting = islice(cycle(events), count)
        received = 0

        def receive(data: bytes) -> bool:
            nonlocal received
            received += 1
            event = next(waiting, None)
            if event is not None:
                provider.send(event)
            return event is not None

        connections = Connections(connect_s=5.0)
        response = await connections.post(Endpoint(f"http://127.0.0.1:{port}", {}), b"")
        body = Body(response)
        provider.send(next(waiting))
        while received < count:
            await body.pushing.push(receive)
            if received < count:
                receive(await body.read())
        response.close()
        await connections.aclose()
        server.close()

    return in_event_loop(pass_all)


def attempting() -> Loop:
    """Return a loop from the decoder to the log: the meter, the limits, and the append."""

    async def pass_all(count: int) -> None:
        provider: Any = _Provider(count)
        attempt = Attempt(
            Route(provider, "m", None),
            rough_estimate(REQUEST),
            Limits(),
            ReadPacing(OverloadConfig(), lambda: 0.0),
            started=0.0,
        )
        log = new_log()
        await attempt.run(REQUEST, log.append, _nothing, _nothing)
        assert log.last_sequence == count

    return in_event_loop(pass_all)


def taking() -> Loop:
    """Return a loop in which a reader waits for each entry: append, wake, task switch and take."""

    async def read(stream: _Stream, count: int) -> None:
        with Reader(stream, 0, Delivery()) as reader:
            taken = 0
            while taken < count:
                taken = (await reader.take())[-1][0]

    async def pass_all(count: int) -> None:
        stream = _Stream()
        reading = asyncio.create_task(read(stream, count))
        await asyncio.sleep(0)
        for delta in islice(cycle(DELTAS), count):
            stream.log.append(delta)
            await asyncio.sleep(0)
        await reading

    return in_event_loop(pass_all)


def writing() -> Loop:
    """Return a loop that encodes, and writes to a connection that accepts everything at once."""

    async def pass_all(count: int) -> None:
        context: Any = _Context()
        reader: Any = _Reader(count)
        with Writer(context, 30.0) as writer:
            await writer.deliver(reader)
        assert context.written == count

    return in_event_loop(pass_all)


def in_event_loop(pass_all: Callable[[int], Coroutine[Any, Any, None]]) -> Loop:
    def loop(count: int) -> None:
        uvloop.run(pass_all(count))

    return loop


def _nothing(*_: object) -> None:
    pass


class _Sender(asyncio.Protocol):
    """The provider's end of a connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        """Answer the request with a head."""
        self.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )

    def send(self, data: bytes) -> None:
        self._transport.write(data)


class _Provider:
    """A provider, an upstream and a decoder whose deltas arrive one by one."""

    name = "provider"
    is_sent = True
    has_more = False
    usage = None
    response_id = ""
    model = ""

    def __init__(self, count: int) -> None:
        self.end: Complete | None = None
        self._arrivals = islice(cycle([[delta] for delta in DELTAS]), count)
        self.decoder = self

    def open(self, request: ChatRequest, model: str, max_output_tokens: int | None) -> Self:
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        pass

    async def read(self) -> list[Delta]:
        for deltas in self._arrivals:
            return deltas
        self.end = Complete(FinishReason.STOP)
        return []

    async def push(self, take: Callable[[list[Delta]], bool]) -> None:
        for deltas in self._arrivals:
            if not take(deltas):
                return


class _Stream:
    """What a reader needs of a stream."""

    id = "stream"
    is_deleted = False

    def __init__(self) -> None:
        self.log = new_log()

    def usage(self) -> Usage:
        return NO_USAGE

    def leave(self, reader: Reader) -> None:
        pass


class _Reader:
    """A reader whose events come one by one, and never have to be waited for."""

    delivered = 0

    def __init__(self, count: int) -> None:
        self._taken = islice(enumerate(cycle(DELTAS), 1000), count)

    async def take(self) -> Sequence[tuple[int, ReaderEvent]]:
        return list(islice(self._taken, 1))


class _Context:
    """What a writer needs of a call."""

    def __init__(self) -> None:
        self.written = 0

    async def write(self, data: bytes) -> None:
        self.written += 1
