"""A stream without a server, and a provider that is played by hand."""

import asyncio

from tokenwire_server.errors import UpstreamBroken
from tokenwire_server.events import TextDelta, Usage
from tokenwire_server.pricing.estimate import rough_estimate
from tokenwire_server.providers.base import Route
from tokenwire_server.providers.decode.base import Complete
from tokenwire_server.request import ChatRequest, Message, Retention, Text
from tokenwire_server.streamlog.memory import MemoryLog
from tokenwire_server.streamlog.space import LogSpace
from tokenwire_server.streams.stream import Stream
from tokenwire_server.tenants.caller import Caller


class KeptBooks:
    """A keeper that admits everybody and writes down what it is told."""

    def __init__(self):
        self.readers = 0
        self.ended_streams = []

    def reader_joins(self):
        self.readers += 1

    def reader_left(self, stream):
        self.readers -= 1

    def ended(self, stream):
        self.ended_streams.append(stream)


class Played:
    """A provider, its upstream and its decoder: each read does the next step.

    A step is a text, an end, an error to raise, figures, or an event to wait for.
    """

    name = "played"
    usage = None
    response_id = ""
    model = ""

    def __init__(self, *steps, closing=None):
        self._steps = list(steps)
        self._closing = closing
        self.end = None
        self.opened = 0
        self.closed = asyncio.Event()

    @property
    def decoder(self):
        return self

    def open(self, request, model, max_output_tokens):
        self.opened += 1
        return self

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        if self._closing is not None:
            await self._closing.wait()
        self.closed.set()

    async def read(self):
        step = self._steps.pop(0)
        if isinstance(step, asyncio.Event):
            await step.wait()
            return []
        if isinstance(step, Exception) and not isinstance(step, UpstreamBroken):
            raise step
        if isinstance(step, Usage):
            self.usage = step
            return []
        if isinstance(step, Complete | UpstreamBroken):
            self.end = step
            return []
        return [TextDelta(step, 0)]


def a_request(**fields):
    return ChatRequest(model="played/m", messages=(Message("user", (Text("hi"),)),), **fields)


def a_stream(*, max_bytes=1 << 20, keeper=None, **retention):
    log = MemoryLog(max_bytes, LogSpace(1 << 30, lambda: None))
    request = a_request(retention=Retention(**retention))
    return Stream(
        "id",
        Caller(),
        log,
        keeper or KeptBooks(),
        request,
        route_to(Played()),
        rough_estimate(request),
        time_limit_s=60.0,
    )


async def read_all(reader):
    async with asyncio.timeout(5):
        with reader:
            events = []
            while taken := await reader.take():
                events += [event for _, event in taken]
            return events


def route_to(provider):
    return Route(provider, "asked-for", None)
