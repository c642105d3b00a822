"""All ways in which a stream can end, with what its caller sees, for comparison with the usage records."""

import asyncio
import random
import socket
import struct
import subprocess
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import grpc.aio
from e2e_calls import PROVIDERS, info
from records_support import ENDLESS, bill, continuing, span, words_of
from tenants_support import bearer

from tokenwire.v1 import chat_pb2, event_pb2, usage_pb2

CALLER = Path(__file__).with_name("records_caller.py")
CALLERS_AT_ONCE = 80


@dataclass
class Try:
    """One attempt to open a stream, and what its caller learned of it."""

    number: int
    provider: str
    tenancy: object
    way: str = ""
    ends: frozenset[str] = frozenset({"FINISHED STOP"})
    """The possible outcomes and reasons of its record. Empty if there must be no record."""
    ids: set[str] = field(default_factory=set)
    """Usage of the stream, each time it was reported."""
    events: list = field(default_factory=list)
    finished: object = None
    refused: object = None
    """ErrorInfo of the error that ended it."""
    key: str = ""
    """Key of the request in the provider's journal. Such a request has no price."""
    seen: bool = True
    """Whether its caller must have seen that it started."""
    paced: bool = False
    """Whether its caller received all that the provider had sent, except what was on the way."""

    @property
    def words(self):
        return words_of(self.events)

    def request(self, api, script, **fields):
        return api.request(f"{script}-{self.provider}", labels={"try": str(self.number)}, **fields)

    def keyed(self, api, script, **fields):
        self.key = f"try-{self.number}"
        model = f"{self.provider}/sim?{script}&key={self.key}"
        return api.request(model, labels={"try": str(self.number)}, **fields)

    async def read(self, call, words=None):
        """Read a call to its end, or until `words` words have arrived in total."""
        try:
            metadata = await call.initial_metadata()
            self.ids |= {value for name, value in metadata if name == "tokenwire-stream-id"}
            async for event in call:
                self.events.append(event)
                if event.HasField("started"):
                    self.ids.add(event.started.stream_id)
                if event.HasField("finished"):
                    self.finished = event.finished
                if words is not None and event.HasField("text") and self.words >= words:
                    return
        except grpc.aio.AioRpcError as error:
            if error.code() not in (
                grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED
            ) and "grpc-status-details-bin" in dict(error.trailing_metadata() or ()):  # fmt: skip
                self.refused = info(error)


def ends(*names):
    return frozenset(names)


CANCELLED = ends("CANCELLED CANCELLED")


def finishes(script, *names):
    async def way(attempt, api, _):
        attempt.ends = ends(*names or ("FINISHED STOP",))
        await attempt.read(api.chat_stream(attempt.request(api, script)))
        assert attempt.finished is not None

    way.__name__ = f"{script} finishes"
    return way


async def is_answered_whole(attempt, api, rng):
    call = api.chat(attempt.request(api, rng.choice(["short", "paced"])))
    attempt.ids |= {v for k, v in await call.initial_metadata() if k == "tokenwire-stream-id"}
    attempt.finished = (await call).finished


async def has_no_price(attempt, api, _):
    await attempt.read(api.chat_stream(attempt.keyed(api, "tokens=5")))


async def is_left_in_the_middle(attempt, api, rng):
    attempt.ends, attempt.paced = CANCELLED, True
    call = api.chat_stream(attempt.request(api, "steady"))
    await attempt.read(call, words=rng.randrange(50, 60))
    call.cancel()


async def is_left_at_once(attempt, api, rng):
    attempt.ends, attempt.seen = CANCELLED, False
    call = api.chat_stream(attempt.keyed(api, f"itl_ms=10&{ENDLESS}"))
    await asyncio.sleep(rng.random() * 0.02)
    call.cancel()


async def is_cancelled_for_all(attempt, api, rng):
    attempt.ends, attempt.paced = CANCELLED, True
    call = api.chat_stream(attempt.request(api, "steady", retention=continuing()))
    await attempt.read(call, words=rng.randrange(50, 60))
    await api.cancel_stream(
        chat_pb2.CancelStreamRequest(stream_id=attempt.events[0].started.stream_id)
    )
    await attempt.read(call)
    assert attempt.finished.reason == event_pb2.FINISH_REASON_CANCELLED


async def is_deleted(attempt, api, _):
    attempt.ends = CANCELLED
    call = api.chat_stream(attempt.request(api, "quick"))
    await attempt.read(call, words=5)
    await api.delete_stream(
        chat_pb2.DeleteStreamRequest(stream_id=attempt.events[0].started.stream_id)
    )


async def lingers(attempt, api, _):
    attempt.ends = CANCELLED
    request = attempt.request(api, "quick", retention=continuing(linger=span(0.05)))
    call = api.chat_stream(request)
    await attempt.read(call, words=5)
    call.cancel()


async def passes_its_deadline(attempt, api, rng):
    attempt.ends, attempt.seen = CANCELLED, False
    request = attempt.keyed(api, f"itl_ms=10&{ENDLESS}")
    await attempt.read(api.chat_stream(request, timeout=0.002 + rng.random() * 0.3))


async def ends_before_its_deadline(attempt, api, rng):
    attempt.ends = ends("TIME_LIMIT TIME_LIMIT")
    retention = chat_pb2.RetentionOptions(soft_deadline_margin=span(10))
    request = attempt.request(api, rng.choice(["slow", "silent"]), retention=retention)
    await attempt.read(api.chat_stream(request, timeout=11 + rng.random() / 2))
    assert attempt.finished.reason == event_pb2.FINISH_REASON_TIME_LIMIT


async def reaches_its_budget(attempt, api, rng):
    attempt.ends = ends("BUDGET BUDGET")
    affordable = usage_pb2.Usage(input_tokens=20, output_tokens=rng.randrange(20, 60))
    most = bill(attempt.provider, affordable)
    request = attempt.request(api, "slow", budget=chat_pb2.Budget(max_cost_microusd=most))
    await attempt.read(api.chat_stream(request))
    half = usage_pb2.Usage()
    half.CopyFrom(attempt.finished.usage)
    half.output_tokens //= 2
    assert bill(attempt.provider, half) <= most < attempt.finished.usage.cost_microusd


def fails(script, reason):
    async def way(attempt, api, _):
        attempt.ends = ends(f"FAILED {reason}")
        await attempt.read(api.chat_stream(attempt.request(api, script)))
        assert attempt.refused.reason == reason

    way.__name__ = f"{script} fails"
    return way


async def loses_its_socket(attempt, api, rng):
    attempt.ends = CANCELLED
    async with (
        Relay(attempt.tenancy.address) as relay,
        grpc.aio.insecure_channel(relay.address) as channel,
    ):
        request = attempt.request(api, "quick")
        call = type(api)(channel).chat_stream(request, metadata=bearer(attempt.tenancy.acme))
        await attempt.read(call, words=rng.randrange(1, 60))
        relay.cut()
        await attempt.read(call)


async def is_replayed(attempt, api, _):
    cache = chat_pb2.CacheOptions(mode=chat_pb2.CACHE_MODE_READ_WRITE)
    await attempt.read(api.chat_stream(attempt.request(api, "long", cache=cache)))
    assert attempt.finished is not None


async def is_attached_to(attempt, api, _):
    request = attempt.request(api, "paced", request_id=f"id-{attempt.number}")
    other = Try(attempt.number, attempt.provider, attempt.tenancy)
    await asyncio.gather(
        attempt.read(api.chat_stream(request)), other.read(api.chat_stream(request))
    )
    await other.read(api.chat_stream(request))  # a replay of it
    attempt.ids |= other.ids
    assert other.finished == attempt.finished


async def is_resumed(attempt, api, _):
    call = api.chat_stream(attempt.request(api, "paced", retention=continuing()))
    await attempt.read(call, words=5)
    call.cancel()
    request = chat_pb2.ResumeStreamRequest(
        stream_id=attempt.events[0].started.stream_id, after_sequence=attempt.events[-1].sequence
    )
    await attempt.read(api.resume_stream(request))
    assert attempt.finished is not None


async def is_refused(attempt, api, rng):
    attempt.ends = frozenset()
    script, fields = rng.choice(
        [
            ("short", {"messages": []}),
            ("nobody", {}),
            ("short", {"budget": chat_pb2.Budget(max_cost_microusd=0)}),
            ("short", {"budget": chat_pb2.Budget(max_input_tokens=1)}),
        ]
    )
    await attempt.read(api.chat_stream(attempt.request(api, script, **fields)))
    assert attempt.refused.reason in ("INVALID_REQUEST", "UNKNOWN_MODEL", "BUDGET_EXCEEDED")


WAYS = {
    finishes("short"): 5,
    finishes("long"): 4,
    finishes("paced"): 3,
    finishes("cached-input"): 3,
    finishes("reasoning", "FINISHED TOOL_CALLS"): 4,
    finishes("length", "FINISHED MAX_TOKENS"): 2,
    finishes("refusal", "FINISHED REFUSAL"): 2,
    finishes("unmetered"): 2,
    is_answered_whole: 6,
    has_no_price: 2,
    is_left_in_the_middle: 8,
    is_left_at_once: 4,
    is_cancelled_for_all: 4,
    is_deleted: 2,
    lingers: 2,
    passes_its_deadline: 4,
    ends_before_its_deadline: 4,
    reaches_its_budget: 5,
    fails("dropped-early", "UPSTREAM_UNAVAILABLE"): 2,
    fails("dropped", "UPSTREAM_BROKEN"): 3,
    fails("closed", "UPSTREAM_BROKEN"): 2,
    fails("error-event", "UPSTREAM_BROKEN"): 2,
    fails("endless-cut", "UPSTREAM_BROKEN"): 2,
    fails("stalled", "UPSTREAM_STALLED"): 1,
    fails("status-400", "UPSTREAM_REJECTED"): 1,
    fails("status-401", "UPSTREAM_AUTH"): 1,
    fails("status-404", "UNKNOWN_MODEL"): 1,
    fails("status-429", "UPSTREAM_RATE_LIMITED"): 1,
    fails("status-500", "UPSTREAM_UNAVAILABLE"): 1,
    fails("status-503", "UPSTREAM_UNAVAILABLE"): 1,
    fails("status-529", "UPSTREAM_UNAVAILABLE"): 1,
    loses_its_socket: 3,
    is_replayed: 4,
    is_attached_to: 3,
    is_resumed: 3,
    is_refused: 2,
}
"""Number of streams of each way, out of a hundred."""


class Relay:
    """Forwards one caller's connection to the server until it resets both sides."""

    def __init__(self, address):
        self._host, _, self._port = address.rpartition(":")
        self._sockets = []

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        self._tasks = set()
        return self

    async def __aexit__(self, *_):
        self._server.close()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self):
        for writer in self._sockets:
            if not writer.is_closing():
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, linger
                )
                writer.transport.abort()
        self._server.close()

    async def _carry(self, reader, writer):
        self._tasks.add(asyncio.current_task())
        there, back = await asyncio.open_connection(self._host, self._port)
        self._sockets += [writer, back]
        await asyncio.gather(_pump(reader, back), _pump(there, writer))


async def _pump(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def end_in_every_way(tenancy, count, seed):
    """Run at least `count` tries, in all ways with the frequencies of WAYS, in an order that depends on the
    seed.
    """
    rng = random.Random(seed)
    waiting = [way for way, share in WAYS.items() for _ in range(-(-count * share // 100))]
    rng.shuffle(waiting)
    done = []

    async def caller():
        async with tenancy.api(tenancy.acme) as api:
            while waiting:
                way = waiting.pop()
                attempt = Try(len(done), rng.choice(PROVIDERS), tenancy, way.__name__)
                done.append(attempt)
                await way(attempt, api, rng)

    await asyncio.gather(*(caller() for _ in range(min(count, CALLERS_AT_ONCE))))
    return done


async def die_with_their_caller(tenancy, first, count):
    """Run tries whose caller's process is killed, each in the middle of its stream."""
    models = [f"slow-{provider}" for provider in PROVIDERS]
    argv = [sys.executable, CALLER, tenancy.address, tenancy.acme, str(first), str(count), *models]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    tries = []
    try:
        for _ in range(count):
            number, stream_id = (await asyncio.to_thread(process.stdout.readline)).split()
            attempt = Try(
                int(number), PROVIDERS[(int(number) - first) % 3], tenancy, ends=CANCELLED
            )
            attempt.ids.add(stream_id)
            tries.append(attempt)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    return tries


@asynccontextmanager
async def staying_open(tenancy, first, count):
    """Run tries that are in the middle of their streams. Leaving the block waits for their ends."""
    tries = [
        Try(first + n, PROVIDERS[n % 3], tenancy, ends=ends("FAILED SERVER_STOPPED"))
        for n in range(count)
    ]
    async with tenancy.api(tenancy.acme) as api:
        calls = [api.chat_stream(attempt.request(api, "slow")) for attempt in tries]
        for attempt, call in zip(tries, calls, strict=True):
            await attempt.read(call, words=1)
        yield tries
        await asyncio.gather(*map(Try.read, tries, calls))
