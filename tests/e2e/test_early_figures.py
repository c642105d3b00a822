"""Providers that report usage before the answer or with it: the figures cover only what they can have
counted.
"""

import asyncio
import json
from contextlib import asynccontextmanager

import grpc
import pytest
from e2e_calls import reason
from google.protobuf.duration_pb2 import Duration
from priced_support import (
    ARRIVAL,
    INPUT_PRICE,
    OUTPUT_PRICE,
    budget,
    calling,
    model,
    priced,
)
from raw_provider import HEAD, RawProvider, wait_for_end

from tokenwire.v1 import chat_pb2, event_pb2, usage_pb2

INPUT_TOKENS = 40
WORDS = 200


def chunk(usage=None, word=None):
    choices = [] if word is None else [{"index": 0, "delta": {"content": word}}]
    found = {"id": "x", "model": "m", "choices": choices}
    if usage is not None:
        found["usage"] = {"prompt_tokens": INPUT_TOKENS, "completion_tokens": usage}
    return b"data: " + json.dumps(found).encode() + b"\n\n"


def speaking(first, repeated, *, words=WORDS, breaks=False, may_speak=None):
    """A provider that reports usage first, or with each of its words, and then waits or breaks.

    With the event `may_speak`, its first word comes after that is set.
    """

    async def script(provider, reader, writer):
        writer.write(HEAD + b"Connection: close\r\n\r\n" + chunk(first))
        if may_speak is not None:
            await may_speak.wait()
        for _ in range(words):
            writer.write(chunk(repeated, "word "))
            await writer.drain()
            await asyncio.sleep(0.001)
        if not breaks:
            await wait_for_end(reader)

    return script


class Upstream:
    def __init__(self, url):
        self._url = url

    def environ(self):
        return {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": self._url}


@pytest.fixture
def serving(start, api_on, tmp_path):
    """Start a server with a priced model of a provider that follows a script."""

    @asynccontextmanager
    async def run(script):
        async with RawProvider(script) as provider:
            upstream = Upstream(provider.url)
            env = {"TOKENWIRE_LIMITS__MIN_DELIVERY_INTERVAL_S": "0.05"}
            with priced(start, upstream, tmp_path, model("m", "openai/m"), **env) as (_, address):
                async with calling(api_on, address) as api:
                    yield api

    return run


async def the_record(api):
    """Return the record of the only stream when it is closed."""
    async with asyncio.timeout(10):
        while True:
            records = await api.records()
            if records and records[0].outcome != usage_pb2.USAGE_OUTCOME_OPEN:
                return records[0]
            await asyncio.sleep(0.1)


def chat_of(api):
    """Start a stream with usage events."""
    interval = Duration(nanos=50_000_000)
    delivery = chat_pb2.DeliveryOptions(usage_interval=interval)
    return api.chat_stream(api.request("m", delivery=delivery))


async def texts_after_the_figures(call, may_speak):
    """Yield the texts of an answer, which begins when the first figures have arrived."""
    async for event in call:
        if event.usage.input_tokens == INPUT_TOKENS:
            may_speak.set()
        yield event.text.text


EARLY = pytest.mark.parametrize(("first", "repeated"), [(0, None), (0, 0), (1, None)])


@EARLY
async def test_usage_reported_before_the_answer_does_not_hide_the_tokens_of_a_cancelled_stream(
    serving, first, repeated
):
    may_speak = asyncio.Event()
    async with serving(speaking(first, repeated, may_speak=may_speak)) as api:
        call = chat_of(api)
        words = 0
        async for text in texts_after_the_figures(call, may_speak):
            words += text.count("word")
            if words == WORDS:
                break
        call.cancel()
        usage = (await the_record(api)).usage
    assert usage.input_tokens == INPUT_TOKENS
    assert (
        abs(usage.output_tokens - WORDS) <= 5
    )  # the space at the end, and what arrived with the figures
    assert usage.cost_microusd == INPUT_TOKENS * INPUT_PRICE + usage.output_tokens * OUTPUT_PRICE
    assert usage.estimated


@EARLY
async def test_usage_reported_before_the_answer_does_not_hide_its_tokens_from_the_budget(
    serving, first, repeated
):
    words = 70  # above the budget by less than ARRIVAL, even if all of them arrive at once
    async with serving(speaking(first, repeated, words=words, breaks=True)) as api:
        finished = (await api.events("m", budget=budget(300)))[-1].finished
        assert finished.reason == event_pb2.FINISH_REASON_BUDGET
        assert 300 < finished.usage.cost_microusd <= 300 + ARRIVAL
        assert (await the_record(api)).usage == finished.usage


@EARLY
async def test_usage_reported_before_the_answer_does_not_hide_the_tokens_of_a_broken_stream(
    serving, first, repeated
):
    may_speak = asyncio.Event()
    async with serving(speaking(first, repeated, breaks=True, may_speak=may_speak)) as api:
        with pytest.raises(grpc.aio.AioRpcError) as broken:
            async for _ in texts_after_the_figures(chat_of(api), may_speak):
                pass
        assert reason(broken.value) == "UPSTREAM_BROKEN"
        usage = (await the_record(api)).usage
    assert abs(usage.output_tokens - WORDS) <= 5
    assert usage.estimated
