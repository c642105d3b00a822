"""What a caller has taken for a stream comes back when the stream ends, however it ends."""

import asyncio

import pytest
from streams_support import Played, Streams, a_request, raises_failed, read_all, route_to

from tokenwire_server.config import CallerLimits, Limits
from tokenwire_server.errors import Overloaded, RequestIdReused, UpstreamBroken, UpstreamUnavailable
from tokenwire_server.events import FinishReason, Usage
from tokenwire_server.pricing.tokens import estimate_input_tokens
from tokenwire_server.providers.decode.base import Complete
from tokenwire_server.request import CacheUse, Retention
from tokenwire_server.tenants.caller import Caller
from tokenwire_server.tenants.memory_limiter import MemoryLimiter

RESERVED = 100
SOME = CallerLimits(requests_per_minute=1000, tokens_per_minute=100_000, concurrent_streams=50)
ACME = Caller("acme", "tw_000000000001", "tw_000000000001")
STOP = Complete(FinishReason.STOP)


@pytest.fixture
def limiter():
    return MemoryLimiter({"acme": SOME})


async def taken(limiter):
    """Requests, tokens and slots that are taken now."""
    return tuple(found.allowed - found.remaining for found in await limiter.allowances(ACME))


async def opened(streams, limiter, *steps, usage=None, **fields):
    request, provider = a_request(**fields), Played(*steps)
    provider.usage = usage

    async def reserve():
        return (await limiter.take(ACME, RESERVED),)

    stream = streams.open(request, route_to(provider), caller=ACME, reserve=reserve)
    reader = stream.join()
    streams.start(stream)
    return stream, reader


async def test_while_it_generates_its_slot_and_its_estimate_are_taken(streams, limiter):
    _, reader = await opened(streams, limiter, asyncio.Event())
    assert await taken(limiter) == (1, RESERVED, 1)
    with reader:
        pass


async def test_at_its_end_it_has_taken_what_it_used(streams, limiter):
    usage = Usage(input_tokens=11, output_tokens=7)
    _, reader = await opened(streams, limiter, "text", STOP, usage=usage)
    await read_all(reader)
    assert await taken(limiter) == (1, 18, 0)


async def test_cancelled_it_has_taken_the_estimate_of_what_it_used(streams, limiter):
    stream, reader = await opened(streams, limiter, "12345678", asyncio.Event())
    await reader.take()  # Started
    await reader.take()
    stream.cancel()
    await stream.log.wait_sealed()
    assert await taken(limiter) == (1, estimate_input_tokens(a_request()) + 2, 0)


async def test_broken_it_has_taken_what_came(streams, limiter):
    _, reader = await opened(streams, limiter, "12345678", UpstreamBroken("gone"))
    with raises_failed(UpstreamBroken):
        await read_all(reader)
    assert await taken(limiter) == (1, estimate_input_tokens(a_request()) + 2, 0)


async def test_failed_before_its_first_token_it_has_taken_no_tokens(streams, limiter):
    _, reader = await opened(streams, limiter, UpstreamUnavailable("down"))
    with raises_failed(UpstreamUnavailable):
        await read_all(reader)
    assert await taken(limiter) == (1, 0, 0)


async def test_stopped_with_the_server_its_slot_is_free(streams, limiter):
    stream, _ = await opened(streams, limiter, asyncio.Event())
    streams.stop_all()
    await stream.log.wait_sealed()
    assert (await taken(limiter))[2] == 0


async def test_its_slot_is_free_when_it_ends_and_not_when_it_is_read(streams, limiter):
    stream, reader = await opened(streams, limiter, "text", STOP, retention=Retention(60.0, 60.0))
    await stream.log.wait_sealed()
    assert (await taken(limiter))[2] == 0
    await read_all(reader)
    streams.delete(stream)
    assert (await taken(limiter))[2] == 0


async def test_a_replay_from_the_cache_takes_a_request_and_nothing_else(streams, limiter):
    cache = CacheUse(key=b"k", ttl_s=60.0, read=True)
    usage = Usage(input_tokens=11, output_tokens=7)
    for _ in range(2):
        _, reader = await opened(streams, limiter, "text", STOP, usage=usage, cache=cache)
        await read_all(reader)
    assert await taken(limiter) == (2, 18, 0)


async def test_a_request_that_attaches_takes_nothing(streams, limiter):
    same = {"request_id": "r", "body_hash": b"h"}
    first, reader = await opened(streams, limiter, asyncio.Event(), **same)
    second, other = await opened(streams, limiter, asyncio.Event(), **same)
    assert second is first
    assert await taken(limiter) == (1, RESERVED, 1)
    for left in (reader, other):
        with left:
            pass


async def test_a_request_that_is_refused_takes_nothing(streams, limiter):
    _, reader = await opened(streams, limiter, asyncio.Event(), request_id="r", body_hash=b"h")
    with pytest.raises(RequestIdReused):
        await opened(streams, limiter, request_id="r", body_hash=b"another")
    assert await taken(limiter) == (1, RESERVED, 1)
    with reader:
        pass


async def test_a_server_that_is_full_takes_nothing_from_its_callers(limiter):
    async with asyncio.TaskGroup() as tasks:
        streams = Streams(Limits(max_streams=1), tasks)
        _, reader = await opened(streams, limiter, asyncio.Event())
        with pytest.raises(Overloaded):
            await opened(streams, limiter)
        assert await taken(limiter) == (1, RESERVED, 1)
        with reader:
            pass


async def test_the_streams_that_a_key_began_end_when_it_is_revoked_and_no_others(streams, limiter):
    stream, reader = await opened(
        streams, limiter, asyncio.Event(), retention=Retention(linger_s=60.0)
    )
    with reader:
        pass
    request, route = a_request(), route_to(Played(asyncio.Event()))
    other = streams.open(request, route, caller=Caller("acme", "tw_000000000002"))
    with other.join():
        streams.start(other)
        streams.cancel_all_of(ACME.key_prefix)
        await stream.log.wait_sealed()
        assert stream.log.finished.reason == FinishReason.CANCELLED
        assert not other.log.sealed
