"""Streams without a server, and a provider that is played by hand."""

import asyncio
from contextlib import contextmanager

import msgspec
import pytest

from tokenwire_server.chats.admission import Admission
from tokenwire_server.chats.chats import Chats
from tokenwire_server.chats.screening import Screening
from tokenwire_server.config import BreakerConfig, OverloadConfig, RetryConfig
from tokenwire_server.errors import Failure, StreamFailed, UpstreamBroken
from tokenwire_server.events import NO_USAGE, TextDelta, Usage
from tokenwire_server.pricing.estimate import rough_estimate
from tokenwire_server.providers.base import Route
from tokenwire_server.providers.decode.base import Complete
from tokenwire_server.providers.slots import ConnectionSlots
from tokenwire_server.request import ChatRequest, Message, Retention, Text
from tokenwire_server.routing.breakers import Breakers
from tokenwire_server.routing.owner import Routing
from tokenwire_server.routing.pacing import ReadPacing
from tokenwire_server.routing.plan import Plan
from tokenwire_server.routing.retry import Retries
from tokenwire_server.streamlog.memory import MemoryLog
from tokenwire_server.streamlog.space import LogSpace
from tokenwire_server.streams.admitted import AdmittedChat
from tokenwire_server.streams.cache import ResponseCache
from tokenwire_server.streams.directory import StreamDirectory
from tokenwire_server.streams.handle import StreamHandle
from tokenwire_server.streams.host import StreamHost
from tokenwire_server.streams.observers import Settlement
from tokenwire_server.tenants.caller import Caller
from tokenwire_server.tenants.reservation import Reservation
from tokenwire_server.tenants.spend import SpendLimiter

DEFAULT_CALLER = Caller()
NO_RETRIES = RetryConfig(max_attempts=1)


class RoughEstimator:
    """Estimates without tokenizers, with the tariff of each model."""

    def __init__(self):
        self.tariffs = {}
        self.waits = None
        """An event for which each estimate waits."""

    async def estimate(self, request, route, tenant):
        if self.waits is not None:
            await self.waits.wait()
        return msgspec.structs.replace(rough_estimate(request), tariff=self.tariffs.get(route.name))


class Streams:
    """The streams of a process, opened as `Chats` opens them, for requests that are admitted already."""

    def __init__(self, limits, tasks, observers=(), *, retries=None, breakers=None):
        self.limits = limits
        self.estimator = RoughEstimator()
        self.directory = StreamDirectory()
        self.cache = ResponseCache.within(limits)
        observers = (Settlement(), self.cache, *observers)
        self.breakers = Breakers(BreakerConfig()) if breakers is None else breakers
        self.pacing = ReadPacing(OverloadConfig(), lambda: 0.0)
        retrying = Retries(retries or NO_RETRIES)
        routing = Routing(limits, retrying, self.breakers, self.estimator, self.pacing)
        self.routing = routing
        self.host = StreamHost(tasks, self.directory, routing, observers)
        self.chats = Chats(
            self, SpendLimiter({}), self.directory, self.host, self.cache, Screening(routing)
        )

    def open(self, request, route, **options):
        """Return the stream that answers a request, which does not have to wait. See `opened`."""
        return at_once(self.opened(request, route, **options))

    async def opened(
        self, request, route, *, caller=DEFAULT_CALLER, estimate=None, reserve=None, deadline=None
    ):
        """Return the stream that answers a request. `reserve` is a coroutine function. `route` may be
        several routes.
        """
        self._admitted = estimate or rough_estimate(request), reserve
        routes = (route,) if isinstance(route, Route) else route
        stream, *_ = await self.chats._open_stream(request, Plan(routes), caller, deadline)
        return stream

    async def reserve(self, request, plan, caller, deadline):
        """Admit a request, in place of `Admission`."""
        estimate, reserve = self._admitted
        reservation = Reservation(*(await reserve() if reserve else ()))
        return AdmittedChat(request, caller, plan, estimate, reservation, deadline)

    def start(self, stream):
        self.host.start(stream)

    def stop(self, stream):
        """End one stream as `stop_all` ends all of them."""
        if stream.id in self.host._live:
            self.host._live[stream.id].stop()

    def find(self, stream_id, tenant="default"):
        return at_once(self.directory.find(stream_id, tenant))

    def delete(self, stream):
        """Delete a stream that has ended."""
        self.cache.remove(stream.id)
        self.host.delete(stream)

    async def delete_by_id(self, stream):
        """Delete a stream, which may be another process's."""
        await self.chats.delete(stream.id, Caller(stream.tenant))

    def __getattr__(self, name):
        return getattr(self.host, name)


def new_chats(router, limits, tasks, *, limiter, spend, estimator, observers=()):
    """Return the chats of a process, and the host of their streams, as `app` composes them."""
    directory, cache = StreamDirectory(), ResponseCache.within(limits)
    observers = (Settlement(), cache, *observers)
    pacing = ReadPacing(OverloadConfig(), lambda: 0.0)
    breakers = Breakers(BreakerConfig())
    routing = Routing(limits, Retries(NO_RETRIES), breakers, estimator, pacing)
    host = StreamHost(tasks, directory, routing, observers)
    admission = Admission(router, limiter, spend, estimator)
    return Chats(admission, spend, directory, host, cache, Screening(routing)), host


def at_once(coroutine):
    """Return the result of a coroutine that does not have to wait."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it has to wait")


@contextmanager
def raises_failed(kind, match=None):
    """Expect the failure of a stream, with the reason of an error class."""
    with pytest.raises(StreamFailed, match=match) as caught:
        yield caught
    assert caught.value.reason == kind.reason


class RecordingReaderHost:
    """Admits all readers and counts them."""

    def __init__(self):
        self.readers = 0
        self.drain_ends_at = None

    def reader_joins(self, stream):
        self.readers += 1

    def reader_left(self, stream):
        self.readers -= 1


class Control:
    """A generation that only records that it was cancelled."""

    def __init__(self, usage=NO_USAGE):
        self._usage = usage
        self.cancelled = asyncio.Event()

    @property
    def is_cancelled(self):
        return self.cancelled.is_set()

    def usage(self):
        return self._usage

    def cancel(self):
        self.cancelled.set()


def fail(stream, error):
    """Seal the log of a stream with an error."""
    last_sequence = stream.log.last_sequence
    stream.log.fail(Failure.of(error, last_sequence=last_sequence, usage=stream.usage()))


class Played:
    """A provider, its upstream and its decoder: each read does the next step.

    A step is a text or another delta, an end, an error to raise, figures, or an event to wait for.
    """

    name = "played"
    slots = ConnectionSlots("played")
    is_sent = False
    has_more = False
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
        return [TextDelta(step, 0) if isinstance(step, str) else step]

    async def push(self, take):
        while self.end is None and take(await self.read()):
            pass


def a_request(**fields):
    return ChatRequest(model="played/m", messages=(Message("user", (Text("hi"),)),), **fields)


def a_stream(*, max_bytes=1 << 20, host=None, **retention):
    """Return a stream without a generation."""
    log = MemoryLog(max_bytes, LogSpace(1 << 30, lambda: None))
    host = host or RecordingReaderHost()
    return StreamHandle(
        "id", "default", log, host, created_time=0.0, retention=Retention(**retention)
    )


async def read_all(reader):
    async with asyncio.timeout(5):
        with reader:
            events = []
            while taken := await reader.take():
                events += [event for _, event in taken]
            return events


def route_to(provider, name=""):
    return Route(provider, "asked-for", None, name=name)


def begun(streams, provider, estimate=None, **fields):
    request = a_request(**fields)
    stream = streams.open(request, route_to(provider), estimate=estimate)
    reader = stream.join()
    streams.start(stream)
    return stream, reader
