"""Runs a plan against a real server and records its history."""

import asyncio
import random
import time
import urllib.error
from contextlib import AsyncExitStack
from typing import NamedTuple

import grpc.aio
import history_decode as decode
from history import DRAINING, Answer, End, History, Reading
from history_plan import FALLBACK, Plan, span
from history_proxy import Wire

from tokenwire.v1 import chat_pb2

NARROW = [("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0)]
"""Options of a channel whose window is full after about forty unread tokens."""
OWN = [("grpc.use_local_subchannel_pool", 1), ("grpc.initial_reconnect_backoff_ms", 100)]
"""Option for a separate connection."""
KEY = "key"
"""Label with the plan's key. It finds the usage records of all streams of a history."""
AHEAD = 1_000_000
CUT_S = 1.0
"""Time after which a call has noticed that its connection was cut."""
MOVES = 0.8
"""The share of the callers that leave a server that drains."""
OVER_S = 5.0
"""How long a stream may still exist after its last reader left and `linger` passed."""


class Way(NamedTuple):
    """How a caller reaches the server: the RPCs of a channel, and its proxy if it has one."""

    api: object
    wire: Wire | None = None
    server: int = 0
    """The number of the server process."""


class Recorder:
    """Records one history. `await Recorder(...).run()` returns it.

    `api_on` creates an Api from a channel. `wide` and `narrow` are channels to the server at `address`.
    """

    HEARTBEATS = (None, None, 0.02, 0.1)
    """The heartbeat intervals that callers set."""

    def __init__(self, plan: Plan, address, wide, narrow, simulator, api_on):
        self._plan = plan
        self._address = address
        self._api = api_on(wide)
        self._narrow = api_on(narrow)
        self._api_on = api_on
        self._simulator = simulator
        self._stack = AsyncExitStack()
        self.history = History(
            plan.reference,
            seed=plan.seed,
            linger_s=plan.linger_s,
            log_ttl_s=plan.log_ttl_s,
            is_tight=plan.is_tight,
        )
        self._known = asyncio.Event()  # the stream's id

    async def run(self) -> History:
        plan = self._plan
        async with self._stack:
            first = asyncio.create_task(self._reader(0))
            known = asyncio.create_task(self._known.wait())
            await asyncio.wait({first, known}, return_when=asyncio.FIRST_COMPLETED)
            others = []
            if self.history.stream_id:
                others = [self._reader(n) for n in range(1, plan.reader_count)]
                others.append(self._controls())
            await asyncio.gather(first, *others)
            known.cancel()
            if self.history.stream_id:
                await self._wait_until_over()
                await self._read_again()
                await self._check_provider(self._plan.key)
                if self._plan.fallback:
                    await self._check_provider(self._plan.key + FALLBACK)
        return self.history

    async def undisturbed(self) -> Reading:
        """Record a single reader that does not leave, without control calls."""
        return await self._visit(self._rng(0), Way(self._api), 0, is_first=True, stays=True)

    def _rng(self, who):
        return random.Random(f"{self._plan.seed}/{who}")

    async def _reader(self, number):
        """Run one caller, which reads, leaves and returns."""
        rng = self._rng(number)
        way = await self._way(rng)
        cursor = 0
        if number:
            await asyncio.sleep(rng.random() * (self._plan.length_s * 0.8 + 0.05))
            cursor = self._cursor(rng, 0)
        for visit in range(rng.randint(1, 4)):
            reading = await self._visit(rng, way, cursor, is_first=not (number or visit))
            if not self.history.stream_id or (reading.end.kind != "cut" and rng.random() < 0.7):
                return
            way = await self._next_way(rng, way)
            cursor = self._cursor(rng, reading.position)
            await asyncio.sleep(rng.choice([0, 0, rng.random() * 2 * (self._plan.linger_s or 0.1)]))

    async def _way(self, rng):
        """Choose how a caller reaches the server."""
        match rng.randint(0, 5):
            case 0:
                return await self._wired(await self._stack.enter_async_context(Wire(self._address)))
            case 1 | 2:
                return Way(self._narrow)
            case _:
                return Way(self._api)

    async def _next_way(self, _rng, way):
        """Choose how a caller that has left reaches the server again."""
        if way.wire is None:
            return way
        return await self._wired(way.wire)  # the old channel may not have noticed the cut yet

    def _control_way(self, _rng):
        """Choose how a control call reaches the server."""
        return Way(self._api)

    async def _wired(self, wire, server=0):
        channel = grpc.aio.insecure_channel(wire.target, options=OWN)
        return Way(self._api_on(await self._stack.enter_async_context(channel)), wire, server)

    def _cursor(self, rng, mine):
        """Choose a cursor: usually the one where this reader stopped."""
        seen = [event.sequence for r in self.history.readings for event in r.events]
        match rng.randint(0, 9):
            case 0 | 1:
                return 0
            case 2 | 3 if seen:
                return rng.choice(seen)
            case 4 if seen:
                return max(seen)
            case 5 if rng.random() < 0.2:
                return AHEAD
            case _:
                return mine

    async def _visit(self, rng, way, cursor, *, is_first=False, stays=False):
        """Run one call until it ends or the caller leaves."""
        plan = self._plan
        leaves = not stays and (plan.reference.end is None or rng.random() < 0.6)
        leave_after_s = rng.random() * (plan.length_s / 2 + 0.1) if leaves else None
        heartbeat_s = rng.choice(self.HEARTBEATS)
        usage_s = rng.choice([None, None, None, 0.05])
        delivery = chat_pb2.DeliveryOptions()
        if heartbeat_s:
            delivery.heartbeat_interval.CopyFrom(span(heartbeat_s))
        if usage_s:
            delivery.usage_interval.CopyFrom(span(usage_s))
        reading = Reading(
            cursor, time.time(), heartbeat_s=heartbeat_s, usage_s=usage_s, server=way.server
        )
        timeout = None
        if leaves and way.wire is None and not is_first and rng.random() < 0.2:
            timeout = leave_after_s + 0.02
            reading.deadline = reading.sent + timeout
            reading.left = reading.sent + leave_after_s
            leave_after_s = None
        if is_first or (plan.request_id and cursor == 0 and rng.random() < 0.5):
            reading.attaches = True
            request = self._api.request(
                plan.model,
                retention=plan.retention,
                request_id=plan.request_id,
                labels={KEY: plan.key},
                delivery=delivery,
                fallback_models=[plan.fallback] if plan.fallback else [],
            )
            call = way.api.chat_stream(request, timeout=timeout)
        else:
            request = chat_pb2.ResumeStreamRequest(
                stream_id=self.history.stream_id, after_sequence=cursor, delivery=delivery
            )
            call = way.api.resume_stream(request, timeout=timeout)
        self.history.readings.append(reading)
        await self._follow(rng, call, reading, leave_after_s, way.wire, is_first=is_first)
        return reading

    async def _follow(self, rng, call, reading, leave_after_s, wire, *, is_first):
        timers = []
        loop = asyncio.get_running_loop()

        def leave():
            reading.left = time.time()
            if wire is not None and not call.done():
                wire.cut()
                # A call that was not sent yet survives: gRPC sends it on its next connection.
                timers.append(loop.call_later(CUT_S, call.cancel))
            elif not call.cancel():
                reading.left = None

        if leave_after_s is not None and not is_first:
            timers.append(loop.call_later(leave_after_s, leave))
        try:
            metadata = dict(await call.initial_metadata())
            reading.stream_id = metadata.get("tokenwire-stream-id", "")
            if reading.stream_id:
                reading.confirmed = time.time()
            if is_first:
                self.history.stream_id = reading.stream_id
                self._known.set()
                if leave_after_s is not None:
                    timers.append(loop.call_later(leave_after_s, leave))
            elif reading.stream_id not in ("", self.history.stream_id):
                self.history.readings.remove(reading)
                self.history.strangers.append(reading)
                call.cancel()
            await self._take(rng, call, reading)
            reading.end = End("ok", at=time.time())
        except asyncio.CancelledError:
            if asyncio.current_task().cancelling():
                raise  # the test itself was cancelled, not the call
            reading.end = End("cut", at=time.time())
        except grpc.aio.AioRpcError as error:
            end = decode.end_of(error)
            if end.kind == "lost" and reading.left is not None and reading.left <= end.at:
                end = End("cut", at=end.at)
            reading.end = end
        finally:
            for timer in timers:
                timer.cancel()
            call.cancel()

    async def _take(self, rng, call, reading):
        """Read, with occasional pauses."""
        pause_s = rng.choice([0, 0, 0.05])
        left_s = 0.3
        async for event in call:
            reading.events.append(decode.seen(event))
            if reading.events[-1].kind == DRAINING and rng.random() < MOVES:
                reading.left = time.time()
                call.cancel()
            if pause_s and left_s > 0 and rng.random() < 0.1:
                paused_s = rng.random() * pause_s
                left_s -= paused_s
                await asyncio.sleep(paused_s)

    async def _controls(self):
        rng = self._rng("control")
        for call in self._plan.control:
            await asyncio.sleep(rng.random() * (self._plan.length_s + 0.1) * 0.7)
            ways = [self._control_way(rng) for _ in range(rng.choice([1, 1, 2]))]
            await asyncio.gather(*(self._control(call, way) for way in ways))

    async def _control(self, call, way=None):
        """Run one control call."""
        api = self._api if way is None else way.api
        sent, id = time.time(), self.history.stream_id
        info, refusal = None, ""
        try:
            match call:
                case "get":
                    info = await api.get_stream(chat_pb2.GetStreamRequest(stream_id=id))
                case "cancel":
                    request = chat_pb2.CancelStreamRequest(stream_id=id)
                    info = (await api.cancel_stream(request)).stream
                case "delete":
                    await api.delete_stream(chat_pb2.DeleteStreamRequest(stream_id=id))
        except grpc.aio.AioRpcError as error:
            refusal = decode.end_of(error).reason
        state = None if info is None else decode.info(info)
        server = 0 if way is None else way.server
        answer = Answer(call, sent, time.time(), state, refusal, server)
        self.history.answers.append(answer)
        return answer

    async def _wait_until_over(self, way=None, within_s=OVER_S):
        """Wait until the stream ends and has no readers, after all readers left."""
        linger_s = self._plan.linger_s or 0.0
        until = time.time() + linger_s + within_s
        while True:
            answer = await self._control("get", way)
            info = answer.info
            if info is None or (info.reason and not info.reader_count):
                return
            if time.time() > until:
                self.history.leftovers.append(f"long after the last reader: {info}")
                return
            await asyncio.sleep(0.02)

    async def _read_again(self):
        """Read the whole stream again, without leaving."""
        rng = self._rng("again")
        if not self.history.leftovers:
            await self._visit(rng, Way(self._api), 0, stays=True)

    async def _check_provider(self, key):
        """Check that the provider's connection is closed, and count the requests that it got."""
        # A call with the request id of a stream that is gone may have opened another one.
        until = time.time() + OVER_S + (self._plan.linger_s or 0.0)
        while True:
            request = await asyncio.to_thread(_journal_entry, self._simulator, key)
            if request is None or request["closed_at"] is not None:
                break
            if time.time() > until:
                self.history.leftovers.append("the provider's connection is still open")
                return
            await asyncio.sleep(0.02)
        if request is not None:
            self.history.request_count += request["attempt"]


def _journal_entry(simulator, key):
    try:
        return simulator.request(key)
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
        return None  # it was cancelled before the provider was called
