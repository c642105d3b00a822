"""A producer and an upstream that is played by hand."""

import asyncio

import pytest
from streams_support import Played, a_request, read_all, route_to

from tokenwire_server.errors import InternalFault, UpstreamBroken, UpstreamUnavailable
from tokenwire_server.events import FinishReason, TextDelta
from tokenwire_server.providers.decode.base import Complete


def begun(registry, provider):
    request = a_request()
    stream = registry.open(request, route_to(provider))
    reader = stream.join()
    registry.produce(stream, route_to(provider), request)
    return stream, reader


async def test_a_bug_of_ours_ends_its_own_stream_by_name_and_no_other(registry):
    provider = Played("some", RuntimeError("CANARY"))
    _, reader = begun(registry, provider)
    with pytest.raises(InternalFault) as caught:
        await read_all(reader)
    assert "CANARY" not in str(caught.value)
    assert caught.value.at.last_sequence == 2
    assert provider.closed.is_set()
    _, other = begun(registry, Played("fine", Complete(FinishReason.STOP)))
    assert (await read_all(other))[1] == TextDelta("fine", 0)


@pytest.mark.parametrize(("steps", "kind"), [([], UpstreamUnavailable), (["some"], UpstreamBroken)])
async def test_a_fault_that_the_decoder_found_names_the_provider(registry, steps, kind):
    _, reader = begun(registry, Played(*steps, UpstreamBroken("not an answer")))
    with pytest.raises(kind) as caught:
        await read_all(reader)
    assert caught.value.facts()["provider"] == "played"


async def test_the_model_that_served_is_named_as_the_provider_calls_it(registry):
    provider = Played("a", Complete(FinishReason.STOP))
    provider.model = "m-2026-01-01"
    assert (await read_all(begun(registry, provider)[1]))[-1].model == "m-2026-01-01"
    silent_about_it = Played("a", Complete(FinishReason.STOP))
    assert (await read_all(begun(registry, silent_about_it)[1]))[-1].model == "asked-for"


async def test_a_reader_that_leaves_a_finished_answer_does_not_break_its_connection(registry):
    closing = asyncio.Event()
    provider = Played("a", Complete(FinishReason.STOP), closing=closing)
    _, reader = begun(registry, provider)
    await read_all(reader)
    await asyncio.sleep(0)
    assert not provider.closed.is_set()
    closing.set()
    await asyncio.wait_for(provider.closed.wait(), 1)  # which a cancel would have prevented
