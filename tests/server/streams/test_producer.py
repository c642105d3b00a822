"""A producer and an upstream that is played by hand."""

import asyncio

import pytest

from tokenwire_server.config import Limits
from tokenwire_server.errors import InternalFault, UpstreamBroken, UpstreamUnavailable
from tokenwire_server.events import FinishReason, TextDelta
from tokenwire_server.providers.decode.base import Complete
from tokenwire_server.providers.registry import Route
from tokenwire_server.request import ChatRequest, Message, Text
from tokenwire_server.streams.live import LiveStreams

REQUEST = ChatRequest(model="played/m", messages=(Message("user", (Text("hi"),)),))


class Played:
    """A provider, its upstream and its decoder: each read does the next step."""

    name = "played"
    usage = None
    response_id = ""
    model = ""

    def __init__(self, *steps, closing=None):
        self._steps = list(steps)
        self._closing = closing
        self.end = None
        self.closed = False

    @property
    def decoder(self):
        return self

    def open(self, request, model, max_output_tokens):
        return self

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        if self._closing is not None:
            await self._closing.wait()
        self.closed = True

    async def read(self):
        step = self._steps.pop(0)
        if isinstance(step, Exception) and not isinstance(step, UpstreamBroken):
            raise step
        if isinstance(step, Complete | UpstreamBroken):
            self.end = step
            return []
        return [TextDelta(step, 0)]


@pytest.fixture
async def streams():
    async with asyncio.TaskGroup() as tasks:
        yield LiveStreams(Limits(), tasks)


def begun(streams, provider):
    stream = streams.open()
    reader = stream.join()
    streams.produce(stream, Route(provider, "asked-for", None), REQUEST)
    return stream, reader


async def read_all(reader):
    async with asyncio.timeout(5):
        with reader:
            events = []
            while taken := await reader.take():
                events += [event for _, event in taken]
            return events


async def test_a_bug_of_ours_ends_its_own_stream_by_name_and_no_other(streams):
    provider = Played("some", RuntimeError("CANARY"))
    _, reader = begun(streams, provider)
    with pytest.raises(InternalFault) as caught:
        await read_all(reader)
    assert "CANARY" not in str(caught.value)
    assert caught.value.at.last_sequence == 2
    assert provider.closed
    _, other = begun(streams, Played("fine", Complete(FinishReason.STOP)))
    assert (await read_all(other))[1] == TextDelta("fine", 0)


@pytest.mark.parametrize(("steps", "kind"), [([], UpstreamUnavailable), (["some"], UpstreamBroken)])
async def test_a_fault_that_the_decoder_found_names_the_provider(streams, steps, kind):
    _, reader = begun(streams, Played(*steps, UpstreamBroken("not an answer")))
    with pytest.raises(kind) as caught:
        await read_all(reader)
    assert caught.value.facts()["provider"] == "played"


async def test_the_model_that_served_is_named_as_the_provider_calls_it(streams):
    provider = Played("a", Complete(FinishReason.STOP))
    provider.model = "m-2026-01-01"
    assert (await read_all(begun(streams, provider)[1]))[-1].model == "m-2026-01-01"
    silent_about_it = Played("a", Complete(FinishReason.STOP))
    assert (await read_all(begun(streams, silent_about_it)[1]))[-1].model == "asked-for"


async def test_a_reader_that_leaves_a_finished_answer_does_not_break_its_connection(streams):
    closing = asyncio.Event()
    provider = Played("a", Complete(FinishReason.STOP), closing=closing)
    _, reader = begun(streams, provider)
    await read_all(reader)
    await asyncio.sleep(0)
    assert not provider.closed
    closing.set()
    await asyncio.wait_for(streams.wait_until_none(), 1)
    assert provider.closed  # which a cancel would have prevented
