"""Resumable streams on connections that break, against the real server."""

import asyncio
import itertools
import random
import time

import pytest

import tokenwire
from tokenwire.v1 import chat_pb2
from tokenwire.v1.event_pb2 import NOTICE_KIND_CAUGHT_UP
from tokenwire_server.simulator.words import generated_text

from .breakable_wire import wire_to
from .conftest import LIMIT_S

TOKENS = 2000
CUTS = 20
WORDS = generated_text(TOKENS)
UPTO = [0, 0, *itertools.accumulate(len(word) for word in WORDS)]
"""Characters of text up to each sequence, from 0: `started` is 1, each token an entry of the log."""
MODEL = f"openai/sim?tokens={TOKENS}&itl_ms=1.5"


class Puller:
    """Cuts the connection CUTS times in one answer, a few bytes after an event: inside a frame."""

    def __init__(self, wire, call, seed):
        self._wire = wire
        self._call = call
        self._rng = random.Random(seed)
        self._left = CUTS
        self._next = 2

    def saw(self, event):
        if self._left and event.sequence >= self._next and self._wire.cuts + self._left == CUTS:
            self._left -= 1
            self._next = event.sequence + (TOKENS - event.sequence) // (self._left + 1)
            self._call(self._wire.break_after, [self._rng.randint(1, 60)])


class History:
    """Checks what one reader gets: each sequence corresponds to a length of the text."""

    def __init__(self):
        self.pieces = []
        self.chars = 0
        self.last = 0
        self.caught_up = 0
        self.finished = None

    def saw(self, event):
        assert self.finished is None, "an event after the end"
        if event.notice.kind == NOTICE_KIND_CAUGHT_UP:
            assert event.sequence == self.last
            self.caught_up += 1
            return
        assert event.sequence > self.last
        assert (event.WhichOneof("event") == "started") == (event.sequence == 1)
        self.last = event.sequence
        if event.HasField("text"):
            self.pieces.append(event.text.text)
            self.chars += len(event.text.text)
            assert self.chars == UPTO[event.sequence]
        if event.HasField("finished"):
            self.finished = event.finished

    def is_whole(self):
        assert "".join(self.pieces) == "".join(WORDS)
        assert self.last == TOKENS + 2
        assert 0 < self.caught_up <= CUTS, "one notice for each time that it resumed"
        assert self.finished.reason == tokenwire.FinishReason.STOP


def report(who, wire, took_s):
    assert wire.cuts == CUTS
    print(f"\n{who}: wire pulled {wire.cuts} times in {TOKENS} tokens, {took_s:.1f} s: whole")


async def test_a_connection_cut_many_times_loses_and_repeats_nothing(real_server):
    history = History()
    async with (
        asyncio.timeout(60),
        wire_to(real_server) as wire,
        tokenwire.AsyncClient(wire.target, resumable=True) as client,
    ):
        began = time.monotonic()
        async with client.chat_stream(MODEL, "Hi", timeout=60) as stream:
            puller = Puller(wire, asyncio.get_running_loop().call_soon, seed=1)
            async for event in stream:
                puller.saw(event)
                history.saw(event)
            answer = await stream.final()
        report("asyncio", wire, time.monotonic() - began)

    history.is_whole()
    assert answer.message.parts[0].text == "".join(WORDS)
    assert answer.finished.usage.output_tokens == TOKENS


async def test_a_connection_cut_many_times_loses_and_repeats_nothing_in_a_thread(real_server):
    history = History()
    loop = asyncio.get_running_loop()

    def read(wire):
        with (
            tokenwire.Client(wire.target, resumable=True) as client,
            client.chat_stream(MODEL, "Hi", timeout=60) as stream,
        ):
            puller = Puller(wire, loop.call_soon_threadsafe, seed=2)
            for event in stream:
                puller.saw(event)
                history.saw(event)
            return stream.final()

    async with asyncio.timeout(60), wire_to(real_server) as wire:
        began = time.monotonic()
        answer = await asyncio.to_thread(read, wire)
        report("threads", wire, time.monotonic() - began)

    history.is_whole()
    assert answer.message.parts[0].text == "".join(WORDS)


async def test_a_reader_that_stalls_resumes_or_gets_a_named_error(start, simulator):
    narrow = [("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0)]
    stalls_soon = simulator.environ() | {"TOKENWIRE_LIMITS__READER_STALL_S": "1"}

    async def read_with_a_pause(target, count):
        async with (
            asyncio.timeout(LIMIT_S * 3),
            tokenwire.AsyncClient(target, resumable=True, options=narrow) as client,
            client.chat_stream(f"openai/sim?tokens={count}", "Hi") as stream,
        ):
            text = await anext(stream.text)
            # Until it is released, and the log contains what it keeps.
            while (
                info := await client.get_stream(stream.stream_id)
            ).reader_count or info.state == chat_pb2.STREAM_STATE_RUNNING:
                await asyncio.sleep(0.05)
            async for piece in stream.text:
                text += piece
        return text

    with start("serve", "--listen", "127.0.0.1:0", env=stalls_soon) as (_, target):
        kept, more_than_is_kept = 50_000, 200_000
        assert await read_with_a_pause(target, kept) == "".join(generated_text(kept))
        with pytest.raises(tokenwire.ResumePointExpired) as caught:
            await read_with_a_pause(target, more_than_is_kept)
    assert caught.value.earliest_sequence > caught.value.last_sequence + 1


@pytest.mark.parametrize("moment", ["early", "any"])
async def test_readers_cancelled_at_random_moments_leave_no_generation_running(
    real_server, simulator, moment
):
    model = "openai/sim?repeat=forever&itl_ms=3"
    longest_s = 0.01 if moment == "early" else 0.2
    rng = random.Random(moment)

    async def leave(client):
        async def read():
            async with client.chat_stream(model, "Hi") as stream:
                await stream.final()

        task = asyncio.create_task(read())
        await asyncio.sleep(rng.random() * longest_s)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    before = simulator.stats()["requests_total"]
    async with (
        asyncio.timeout(LIMIT_S),
        tokenwire.AsyncClient(real_server, resumable=True) as client,
    ):
        await client.list_models()
        await asyncio.gather(*(leave(client) for _ in range(60)))
    closed_s = await asyncio.to_thread(simulator.wait_until_none_open, 1)

    asked = simulator.stats()["requests_total"] - before
    print(
        f"\n60 readers left, {asked} were answered; all generations closed in {closed_s * 1e3:.0f} ms"
    )
