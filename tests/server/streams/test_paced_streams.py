"""Streams that are read less often because the event loop is late."""

import asyncio

from streams_support import Played, a_request, begun, read_all

from tokenwire_server.config import FilterConfig
from tokenwire_server.content.filter_set import FilterSet
from tokenwire_server.events import FinishReason, TextDelta
from tokenwire_server.providers.base import Route
from tokenwire_server.providers.decode.base import Complete


async def test_a_paced_stream_reads_again_after_its_pause_and_a_cancel_does_not_wait_for_it(
    streams,
):
    streams.pacing.pause_s = 60
    provider = Played("first", "second", Complete(FinishReason.STOP))
    stream, reader = begun(streams, provider)
    for _ in range(20):
        await asyncio.sleep(0)
    stream.cancel()
    await asyncio.wait_for(provider.closed.wait(), 10)
    events = await read_all(reader)
    assert (events[1], events[-1].reason) == (TextDelta("first", 0), FinishReason.CANCELLED)
    assert len(events) == 3


async def test_an_end_that_arrives_with_the_last_text_is_not_delayed(streams):
    class EndsWithItsText(Played):
        async def read(self):
            self.end = Complete(FinishReason.STOP)
            return [TextDelta("all of it", 0)]

    streams.pacing.pause_s = 60
    _, reader = begun(streams, EndsWithItsText())
    assert (await read_all(reader))[-1].reason == FinishReason.STOP


async def test_a_paced_stream_reads_at_once_what_has_arrived(streams):
    class Fast(Played):
        has_more = True

    streams.pacing.pause_s = 60
    _, reader = begun(streams, Fast("first", "second", Complete(FinishReason.STOP)))
    assert (await read_all(reader))[-1].reason == FinishReason.STOP


async def test_a_pause_longer_than_the_idle_limit_does_not_end_the_answer(streams):
    streams.pacing.pause_s = 60
    route = Route(Played("first", "second", Complete(FinishReason.STOP)), "m", None, idle_s=2)
    stream = streams.open(a_request(), route)
    reader = stream.join()
    streams.start(stream)
    assert (await read_all(reader))[-1].reason == FinishReason.STOP


async def test_a_pause_of_the_server_does_not_release_what_a_filter_holds(streams):
    secret = FilterConfig(action="redact", patterns=("secret",), hold_s=0.2)
    streams.host._routing.filters = FilterSet.of({"secret": secret})
    streams.pacing.pause_s = 0.5
    provider = Played("a sec", "ret", " b", Complete(FinishReason.STOP))
    _, reader = begun(streams, provider)
    events = await read_all(reader)
    assert "".join(event.text for event in events[1:-1]) == "a [redacted] b"
