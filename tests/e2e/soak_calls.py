"""The calls of a soak: each kind of call, and what its caller must see.

A kind is a coroutine function of `Caller` in KINDS. It raises an exception if the caller sees something else.
"""

import asyncio
import itertools
import random

import grpc
import grpc.aio
from e2e_calls import CONTINUE, PROVIDERS, info, read, reason, said
from history_proxy import Wire
from tenants_support import bearer

import tokenwire
from tokenwire.v1 import chat_pb2, chat_pb2_grpc, event_pb2
from tokenwire_server.simulator import generated_text

LABEL = "key"
"""Label of each request. Its value is unique, and is the key of the requests to the simulator."""
IDLE_S, STALL_S = 3.0, 2.0
"""`upstream_idle_s` and `reader_stall_s` of the server."""
LONGEST_S = 60.0
"""Time limit of a call. None takes more than a few seconds, so a longer one hangs."""
RETRIED = (
    "status=500", "status=503", "status=429&retry_after_ms=20", "drop_after=0", "drop_after=0&drop=rst",
    "drop_before_head=1&drop=rst", "error_event_after=0", "garbage_after=0",
)  # fmt: skip
"""Faults before the first content. The next attempt answers."""
FATAL = (
    ("status=400", "UPSTREAM_REJECTED"),
    ("status=401", "UPSTREAM_AUTH"),
    ("status=503", "UPSTREAM_UNAVAILABLE"),
    ("status=429&retry_after=86400", "UPSTREAM_RATE_LIMITED"),
    ("instead=html", "UPSTREAM_UNAVAILABLE"),
    ("huge_line=3000000", "UPSTREAM_UNAVAILABLE"),
    ("headers_then_silent=1", "UPSTREAM_UNAVAILABLE"),
    ("tokens=30&itl_ms=2&drop_after=9", "UPSTREAM_BROKEN"),
    ("tokens=30&itl_ms=2&error_event_after=9", "UPSTREAM_BROKEN"),
    ("tokens=30&itl_ms=2&garbage_after=9", "UPSTREAM_BROKEN"),
    ("tokens=30&itl_ms=2&missing_end=1", "UPSTREAM_BROKEN"),
    ("tokens=30&itl_ms=2&stall_after=9", "UPSTREAM_STALLED"),
)
"""Faults that end the stream, and the reason that the caller gets."""
UNANSWERED = (
    "silent=1",
    "headers_then_silent=1",
    "repeat=forever&itl_ms=5",
    "tokens=5&stall_after=2",
)
ENDLESS = "repeat=forever&itl_ms=5"
WIDE = f"repeat=forever&tokens_per_second=2000&text={'x' * 100}"
"""Fills the window of a caller that does not read in less than a second."""


class Caller:
    """Calls to a server with one key. It remembers which calls opened a stream.

    `wide` and `narrow` are channels to the server at `address`: with usual windows, and with small ones.
    """

    def __init__(self, address, key, api_on, wide, narrow):
        self.address, self.key = address, key
        self.stream_ids = set()
        """Streams that were confirmed to a caller."""
        self.refused, self.unconfirmed = set(), set()
        """Labels of the calls that opened no stream, and of those that may have opened one."""
        self.metadata = bearer(key)
        self.api, self.narrow = api_on(wide), api_on(narrow)
        self.count_tokens = chat_pb2_grpc.ChatServiceStub(wide).CountTokens
        self._numbers = itertools.count()

    def request(self, rng, script, **fields):
        """Return a request with a unique label, for a random provider."""
        label = f"soak-{next(self._numbers)}"
        model = fields.pop("model", "") or f"{rng.choice(PROVIDERS)}/sim?{script}&key={label}"
        self.unconfirmed.add(label)
        return self.api.request(model, labels={LABEL: label}, **fields)

    def start(self, request, api=None, **options):
        options.setdefault("metadata", self.metadata)
        return (api or self.api).chat_stream(request, **options)

    async def confirmed(self, request, call):
        """Return the id of the call's stream, or an empty string. It may belong to an earlier call."""
        stream_id = dict(await call.initial_metadata()).get("tokenwire-stream-id", "")
        self.note(request, stream_id)
        return stream_id

    def note(self, request, stream_id):
        if stream_id:
            self.stream_ids.add(stream_id)
            self.unconfirmed.discard(request.labels[LABEL])

    def never_opens(self, request):
        """Note that the request must not open a stream."""
        label = request.labels[LABEL]
        self.unconfirmed.discard(label)
        self.refused.add(label)

    async def answer(self, request, call):
        """Return all events of a call."""
        await self.confirmed(request, call)
        return await read(call)

    def resume(self, stream_id, after=0):
        request = chat_pb2.ResumeStreamRequest(stream_id=stream_id, after_sequence=after)
        return self.api.resume_stream(request, metadata=self.metadata)

    async def error(self, request, call):
        """Return the reason with which a call fails."""
        try:
            events = await self.answer(request, call)
        except grpc.aio.AioRpcError as error:
            return reason(error)
        raise AssertionError(f"it ended with {events[-1:]}")


def text_of(tokens):
    return "".join(generated_text(tokens))


def check(events, tokens):
    """Check a whole answer: its text, its sequences, and its end."""
    assert said(events) == text_of(tokens)
    entries = [event.sequence for event in events if not event.HasField("heartbeat")]
    assert entries == sorted(entries)
    assert [event.HasField("finished") for event in events].count(True) == 1
    assert events[-1].finished.reason == event_pb2.FINISH_REASON_STOP


def paced(rng):
    """Return a number of tokens, and a script with it that takes up to 0.6 s."""
    tokens = rng.randint(1, 120)
    return (
        tokens,
        f"tokens={tokens}&itl_ms={rng.choice([0, 1, 5])}&ttft_ms={rng.choice([0, 0, 30])}",
    )


async def whole(caller, rng):
    tokens, script = paced(rng)
    request = caller.request(rng, script)
    check(await caller.answer(request, caller.start(request)), tokens)


async def reasoning_and_tools(caller, rng):
    request = caller.request(rng, "tokens=20&reasoning=10&tools=2&itl_ms=1")
    events = await caller.answer(request, caller.start(request))
    assert said(events) == text_of(20)
    assert sum(event.HasField("tool_call") for event in events) == 2
    assert events[-1].finished.reason == event_pb2.FINISH_REASON_TOOL_CALLS


async def chat(caller, rng):
    tokens, script = paced(rng)
    request = caller.request(rng, script)
    call = caller.api.chat(request, metadata=caller.metadata)
    await caller.confirmed(request, call)
    answer = await call
    assert "".join(part.text for part in answer.message.parts) == text_of(tokens)


async def resumed(caller, rng):
    """Read a part, leave, and resume one to three times, each time from the last sequence."""
    tokens, script = paced(rng)
    request = caller.request(rng, script, retention=CONTINUE)
    call, events = caller.start(request), []
    stream_id = await caller.confirmed(request, call)
    for _ in range(rng.randint(1, 3)):
        await take(call, events, rng.randint(0, tokens // 2))
        call.cancel()
        await asyncio.sleep(rng.random() * 0.2)
        call = caller.resume(stream_id, events[-1].sequence if events else 0)
    await take(call, events)
    check([event for event in events if not event.HasField("notice")], tokens)


async def take(call, events, count=None):
    """Append up to `count` events of a call, or all."""
    while (count is None or count > 0) and (event := await call.read()) is not grpc.aio.EOF:
        events.append(event)
        count = count and count - 1


async def rest(call):
    """Return the events of a call of which some were read."""
    events = []
    await take(call, events)
    return events


async def twins(caller, rng):
    """Several readers of one stream, by its request id and by its stream id. Some leave early."""
    tokens, script = paced(rng)
    request = caller.request(rng, script, retention=CONTINUE)
    request.request_id = request.labels[LABEL]
    first = caller.start(request)
    stream_id = await caller.confirmed(request, first)

    async def other():
        await asyncio.sleep(rng.random() * 0.2)
        is_twin = rng.random() < 0.5
        call = caller.start(request) if is_twin else caller.resume(stream_id)
        assert dict(await call.initial_metadata())["tokenwire-stream-id"] == stream_id
        if rng.random() < 0.3:
            await call.read()
            call.cancel()
        else:
            check(await read(call), tokens)

    _, events = await asyncio.gather(
        asyncio.gather(*(other() for _ in range(rng.randint(1, 6)))), read(first)
    )
    check(events, tokens)


async def cut(caller, rng):
    """The client library reads through a connection that is cut, and resumes by itself."""
    request = caller.request(rng, "tokens=60&itl_ms=5")
    async with (
        Wire(caller.address) as wire,
        tokenwire.AsyncClient(wire.target, key=caller.key, tls=False, resumable=True) as client,
        client.chat_stream(request, timeout=LONGEST_S) as stream,
    ):
        caller.note(request, stream.stream_id)
        # Not earlier: without the id of its stream, a client cannot resume.
        cutting = asyncio.get_running_loop().call_later(rng.random() * 0.3, wire.cut)
        try:
            text = "".join([each.text.text async for each in stream if each.HasField("text")])
        finally:
            cutting.cancel()
    assert text == text_of(60)


async def cancelled(caller, rng):
    """Leave at a random moment, also while the server's write is blocked, and between two attempts."""
    script = rng.choice([*UNANSWERED, WIDE, "status=429&retry_after=15", "tokens=20&itl_ms=5"])
    request = caller.request(rng, script)
    call = caller.start(request, caller.narrow if script is WIDE else None)

    async def reading():
        await caller.confirmed(request, call)
        await (asyncio.sleep(LONGEST_S) if script is WIDE else read(call))

    task = asyncio.create_task(reading())
    await asyncio.sleep(rng.random() * 0.3)
    call.cancel()
    task.cancel()
    (ended,) = await asyncio.gather(task, return_exceptions=True)
    assert ended is None or isinstance(ended, asyncio.CancelledError), ended


async def stopped(caller, rng):
    """Cancel or delete a stream by its id. Its reader sees it."""
    request = caller.request(rng, ENDLESS)
    call = caller.start(request)
    stream_id = await caller.confirmed(request, call)
    await call.read()
    if rng.random() < 0.5:
        stop = chat_pb2.CancelStreamRequest(stream_id=stream_id)
        await caller.api.cancel_stream(stop, metadata=caller.metadata)
        events = await rest(call)
        assert events[-1].finished.reason == event_pb2.FINISH_REASON_CANCELLED
    else:
        delete = chat_pb2.DeleteStreamRequest(stream_id=stream_id)
        await caller.api.delete_stream(delete, metadata=caller.metadata)
        try:
            await rest(call)
        except grpc.aio.AioRpcError as error:
            assert reason(error) == "STREAM_NOT_FOUND"  # it may also have ended before


async def deadline(caller, rng):
    request = caller.request(rng, rng.choice(UNANSWERED))
    call = caller.start(request, timeout=0.05 + rng.random())
    try:
        await caller.answer(request, call)
    except grpc.aio.AioRpcError as error:
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        return
    raise AssertionError("it ended before its deadline")


async def slow(caller, rng):
    """A reader that pauses for less than the limit gets the same text."""
    request = caller.request(rng, "tokens=1500&itl_ms=1")
    call, events = caller.start(request, caller.narrow), []
    await caller.confirmed(request, call)
    for _ in range(2):
        await take(call, events, 20)
        await asyncio.sleep(rng.random() * STALL_S / 4)
    await take(call, events)
    check(events, 1500)


async def stalled(caller, rng):
    """A reader that accepts nothing is ended, and with it the stream that it alone reads."""
    request = caller.request(rng, WIDE)
    call = caller.start(request, caller.narrow)
    stream_id = await caller.confirmed(request, call)
    get = chat_pb2.GetStreamRequest(stream_id=stream_id)
    while True:
        await asyncio.sleep(0.5)
        try:
            found = await caller.api.get_stream(get, metadata=caller.metadata)
        except grpc.aio.AioRpcError as error:
            assert reason(error) == "STREAM_NOT_FOUND", error  # it has expired
            break
        if found.state == chat_pb2.STREAM_STATE_FINISHED:
            assert found.finish_reason == event_pb2.FINISH_REASON_CANCELLED, found
            break
    call.cancel()


async def retried(caller, rng):
    tokens, script = paced(rng)
    count = rng.randint(1, 2)
    request = caller.request(rng, f"{script}&{rng.choice(RETRIED)}&fault_attempts={count}")
    events = await caller.answer(request, caller.start(request))
    kinds = [event.notice.kind for event in events if event.HasField("notice")]
    assert kinds == count * [event_pb2.NOTICE_KIND_RETRYING]
    check(events, tokens)


async def fallback(caller, rng):
    tokens, script = paced(rng)
    second = f"{rng.choice(PROVIDERS)}/sim?{script}"
    fault = rng.choice(["status=401", "status=503", "drop_after=0"])
    request = caller.request(rng, fault, fallback_models=[second])
    events = await caller.answer(request, caller.start(request))
    kinds = [event.notice.kind for event in events if event.HasField("notice")]
    assert kinds[-1] == event_pb2.NOTICE_KIND_FALLBACK
    check(events, tokens)


async def failed(caller, rng):
    script, expected = rng.choice(FATAL)
    request = caller.request(rng, script)
    try:
        await caller.answer(request, caller.start(request))
    except grpc.aio.AioRpcError as error:
        assert reason(error) == expected, (script, error)
        if expected in ("UPSTREAM_BROKEN", "UPSTREAM_STALLED"):
            assert int(info(error).metadata["last_sequence"]) >= 1
        return
    raise AssertionError(f"{script}: it finished")


async def cached(caller, rng):
    """The same few requests again and again, most of them from the cache."""
    tokens = rng.randint(1, 8)
    model = f"{PROVIDERS[tokens % 3]}/sim?tokens={tokens}"
    keep = chat_pb2.CacheOptions(mode=chat_pb2.CACHE_MODE_READ_WRITE)
    request = caller.request(rng, "", model=model, cache=keep)
    check(await caller.answer(request, caller.start(request)), tokens)


async def counted(caller, rng):
    by = rng.choice([chat_pb2.TOKEN_COUNTING_PROVIDER, chat_pb2.TOKEN_COUNTING_UNSPECIFIED])
    request = caller.request(rng, "", model="anthropic/sim", token_counting=by)
    caller.never_opens(request)
    counted = await caller.count_tokens(request, metadata=caller.metadata)
    assert counted.input_tokens > 0


async def refused(caller, rng):
    """Calls without a key, with an unknown model, and with a field that the provider lacks."""
    options, fields, expected = rng.choice(
        [
            ({"metadata": ()}, {}, "UNAUTHENTICATED"),
            ({}, {"model": "nothing/m"}, "UNKNOWN_MODEL"),
            ({}, {"messages": []}, "INVALID_REQUEST"),
        ]
    )
    request = caller.request(rng, ENDLESS, **fields)
    caller.never_opens(request)
    assert await caller.error(request, caller.start(request, **options)) == expected


KINDS = {
    whole: 5, reasoning_and_tools: 2, chat: 3, resumed: 4, twins: 2, cut: 1, cancelled: 6, stopped: 2,
    deadline: 3, slow: 1, stalled: 0.5, retried: 4, fallback: 3, failed: 4, cached: 4, counted: 2, refused: 2,
}  # fmt: skip
"""The kinds of calls, and how often each is chosen relative to the others."""


def chosen(seed, number):
    """Return a kind, and a source of random numbers for it. At first, each kind is chosen once."""
    rng = random.Random(f"{seed}/{number}")
    if number < len(KINDS):
        return list(KINDS)[number], rng
    return rng.choices(list(KINDS), list(KINDS.values()))[0], rng
