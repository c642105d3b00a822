"""Parts of the stream state machine test: an event loop with a manual clock, a scripted provider, and the
model.
"""

import asyncio

from history import CAUGHT_UP, Seen
from history_invariants import covers
from streams_support import Streams

from tokenwire_server.config import BreakerConfig
from tokenwire_server.errors import (
    SlowReader,
    StreamNotFound,
    TokenwireError,
    UpstreamBroken,
)
from tokenwire_server.events import (
    CaughtUp,
    Citation,
    Finished,
    ReasoningDelta,
    Started,
    TextDelta,
    TextInfo,
)
from tokenwire_server.providers.base import Route
from tokenwire_server.providers.decode.base import Complete
from tokenwire_server.providers.slots import ConnectionSlots
from tokenwire_server.request import ChatRequest, Message, Text
from tokenwire_server.routing.breakers import Breakers
from tokenwire_server.streams.generation import StreamObserver


class ManualLoop(asyncio.SelectorEventLoop):
    """An event loop whose timers fire only when `now` is advanced past them."""

    now = 0.0

    def time(self):
        return self.now

    def settle(self):
        """Run all callbacks that are ready, without advancing the clock."""
        self.run_until_complete(_turns(30))

    def end(self):
        """Close the loop, and cancel tasks that a failed test left."""
        tasks = asyncio.all_tasks(self)
        for task in tasks:
            task.cancel()
        self.run_until_complete(_ended(tasks))
        self.close()

    def move(self, by_s):
        self.now += by_s
        self.settle()


async def _ended(tasks):
    await asyncio.gather(*tasks, return_exceptions=True)


async def _turns(count):
    for _ in range(count):
        await asyncio.sleep(0)


class EndRecorder(StreamObserver):
    """Records the order in which streams ended. `StreamHandle.end_time` cannot show it: it is computed from
    two clocks, and is late if the process paused between reading the first and the second.
    """

    def __init__(self):
        self.ended_in_order = []

    def ended(self, generation):
        self.ended_in_order.append(generation.stream)


class Host:
    """A registry, and the task that owns its producers."""

    def __init__(self, loop, limits):
        self._loop = loop
        self._limits = limits
        self._over = asyncio.Event()
        self._task = loop.create_task(self._run())
        loop.settle()

    async def _run(self):
        async with asyncio.TaskGroup() as tasks:
            self.recorder = EndRecorder()
            # The model has no breaker, which opens when five requests in a row fail.
            breakers = Breakers(BreakerConfig(enabled=False))
            self.registry = Streams(
                self._limits, tasks, observers=(self.recorder,), breakers=breakers
            )
            await self._over.wait()

    def is_over_at_once(self):
        """Return whether no producer is left, so that the host ends without waiting."""
        self._over.set()
        self._loop.settle()
        return self._task.done()


class ScriptedProvider:
    """A provider, its upstream and its decoder. The test sets what it sends in the next iteration."""

    name = "played"
    slots = ConnectionSlots("played")
    is_sent = False
    usage = None
    response_id = ""
    model = ""

    def __init__(self):
        self._said = asyncio.Queue()
        self.end = None
        self.opened = 0
        self.is_open = False
        self.may_close = asyncio.Event()
        self.may_close.set()
        self.closes_badly = False
        """Set after it sent its end."""

    def say(self, *what):
        """Send entries together, or an end."""
        self._said.put_nowait(what)

    @property
    def decoder(self):
        return self

    @property
    def route(self):
        return Route(self, "asked-for", None)

    def open(self, request, model, max_output_tokens):
        self.opened += 1
        return self

    async def __aenter__(self):
        self.is_open = True
        return self

    async def __aexit__(self, *_):
        await self.may_close.wait()
        self.is_open = False
        if self.closes_badly and self.end is not None:
            raise UpstreamBroken("after the end")

    async def read(self):
        what = await self._said.get()
        if isinstance(what[0], Complete | UpstreamBroken):
            self.end = what[0]
            return []
        return [_delta(entry) for entry in what]

    async def push(self, take):
        while self.end is None and take(await self.read()):
            pass


class TrackedStream:
    """The model of one stream, which the real stream is compared with."""

    def __init__(self, stream, provider, request):
        self.stream = stream
        self.provider = provider
        self.request = request
        self.entries = []
        self.readers = []
        self.end = None
        """The finish or error reason, once it is determined."""
        self.alone_since = None
        self.ended_at = None
        self.is_deleted = False

    @property
    def is_sealed(self):
        """Whether the stream is sealed. An interrupted stream is sealed when its provider is closed."""
        is_interrupted = self.end in ("CANCELLED", "SERVER_STOPPED")
        return self.end is not None and (not is_interrupted or self.provider.may_close.is_set())

    @property
    def is_finished(self):
        return self.is_sealed and self.end in ("STOP", "CANCELLED")

    @property
    def last_sequence(self):
        return 1 + len(self.entries) + self.is_finished

    def is_expired(self, now):
        """Return whether log_ttl has passed since the end."""
        return self.ended_at is not None and now >= self.ended_at + self.request.retention.log_ttl_s


class Reading:
    """One reader, and its pending read."""

    def __init__(self, tracked, reader, after, *, reports_caught_up):
        self.tracked = tracked
        self.caught_up_due = reports_caught_up
        """Whether it must be told when it waits for the first time. Never in a stream that has ended."""
        self.past = tracked.stream.log.last_sequence
        """The last sequence before it joined."""
        self.reader = reader
        self.position = after
        self.taking = None
        self.follows = False
        """Whether it keeps reading."""
        self.is_over = False
        self.error = None
        reader.__enter__()

    def leave(self):
        """Leave as a `with` block does: with the error that ended it, to which the position is added."""
        error = self.error
        self.reader.__exit__(type(error) if error else None, error, None)
        if error is not None and error.at is not None:
            assert error.at.last_sequence == self.position

    def take(self, loop):
        if self.taking is None and not self.is_over:
            self.taking = loop.create_task(self.reader.take())

    def check(self, *, is_pressed):
        """Check the events that it took. `is_pressed`: some entries may have been dropped because of the
        space.
        """
        log = self.tracked.stream.log
        if self.taking is None:
            return
        if not self.taking.done():
            assert self.position == log.last_sequence
            assert not log.sealed
            assert not self.caught_up_due
            return
        taking, self.taking = self.taking, None
        try:
            taken = taking.result()
        except TokenwireError as error:
            self.is_over, self.error = True, error
            self._check_failure(error, is_pressed=is_pressed)
            return
        if not taken:
            self.is_over = True
            assert self.tracked.is_finished
            assert self.position == self.tracked.last_sequence
        for sequence, event in taken:
            self._check_event(seen(sequence, event))
            self.reader.delivered = sequence

    def _check_failure(self, error, *, is_pressed):
        tracked = self.tracked
        if isinstance(error, SlowReader | StreamNotFound):
            assert self.position + 1 < tracked.stream.log.earliest_sequence
            assert not tracked.is_finished or self.position < tracked.last_sequence - 1
            assert tracked.is_deleted == isinstance(error, StreamNotFound)
            assert tracked.is_deleted or is_pressed
        else:
            assert (error.reason, self.position) == (tracked.end, tracked.last_sequence)

    def _check_event(self, event):
        tracked, position = self.tracked, self.position
        if event.kind == CAUGHT_UP:
            assert self.caught_up_due
            assert self.past <= event.sequence == position
            self.caught_up_due = False
            return
        assert event.sequence > position
        if event.kind == "started":
            assert (event.sequence, event.proof) == (1, tracked.stream.id)
        elif event.kind == "finished":
            assert (event.sequence, position) == (tracked.last_sequence, tracked.last_sequence - 1)
            assert event.name == tracked.end
        else:
            assert covers(event, tracked.entries[position - 1 : event.sequence - 1]) == ""
        self.position = event.sequence


def a_request(**fields):
    return ChatRequest(model="played/m", messages=(Message("user", (Text("hi"),)),), **fields)


def _delta(entry):
    match entry.kind:
        case "text":
            return TextDelta(entry.text, entry.index)
        case "text_info":
            return TextInfo(entry.index, provider_state=entry.name.encode())
        case "citation":
            return Citation(entry.index, title=entry.name)
    return ReasoningDelta(entry.text, entry.index, entry.name)


def seen(sequence, event):
    """Convert a server's event to the type of a history."""
    match event:
        case TextDelta():
            return Seen(sequence, "text", event.index, event.text)
        case ReasoningDelta():
            return Seen(sequence, "reasoning", event.index, event.text, event.signature)
        case TextInfo():
            return Seen(sequence, "text_info", event.index, name=event.provider_state.decode())
        case Citation():
            return Seen(sequence, "citation", event.index, name=event.title)
        case Started():
            return Seen(sequence, "started", proof=event.stream_id)
        case CaughtUp():
            return Seen(sequence, CAUGHT_UP)
        case Finished():
            return Seen(sequence, "finished", name=event.reason.name)
    raise AssertionError(event)
