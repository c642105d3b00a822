"""The streams of several tenants and keys in one process."""

import asyncio

import pytest
from streams_support import Played, Streams, a_request, raises_failed, read_all, route_to

from tokenwire_server.config import Limits
from tokenwire_server.errors import StreamNotFound, UpstreamUnavailable
from tokenwire_server.events import FinishReason
from tokenwire_server.providers.decode.base import Complete
from tokenwire_server.request import Retention
from tokenwire_server.tenants.caller import Caller

STOP = Complete(FinishReason.STOP)
ACME = Caller("acme", "tw_000000000001", "tw_000000000000")
ROTATED = Caller("acme", "tw_000000000002", "tw_000000000000")
GLOBEX = Caller("globex", "tw_000000000003", "tw_000000000003")
SAME = {"request_id": "r", "body_hash": b"h"}


def opened(streams, caller, *steps, **fields):
    request, route = a_request(**fields), route_to(Played(*steps))
    stream = streams.open(request, route, caller=caller)
    reader = stream.join()
    streams.start(stream)
    return stream, reader


async def test_a_stream_is_found_by_its_tenant_only(streams):
    stream, reader = opened(streams, ACME, "text", STOP, retention=Retention(log_ttl_s=60.0))
    await read_all(reader)
    assert streams.find(stream.id, "acme") is stream
    for other in ("globex", "default"):
        with pytest.raises(StreamNotFound):
            streams.find(stream.id, other)


async def test_a_request_id_is_free_again_for_its_tenant_once_its_stream_failed(streams):
    failed, reader = opened(streams, ACME, UpstreamUnavailable("down"), **SAME)
    with raises_failed(UpstreamUnavailable):
        await read_all(reader)
    again, reader = opened(streams, ACME, "text", STOP, **SAME)
    assert again is not failed
    await read_all(reader)


async def test_the_end_of_one_tenants_stream_frees_no_request_id_of_another(streams):
    kept = Retention(log_ttl_s=60.0)
    theirs, reader = opened(streams, GLOBEX, "text", STOP, retention=kept, **SAME)
    await read_all(reader)
    ours, reader = opened(streams, ACME, "text", STOP, retention=kept, **SAME)
    await read_all(reader)
    streams.delete(ours)
    attached, reader = opened(streams, GLOBEX, **SAME)
    assert attached is theirs
    await read_all(reader)
    again, reader = opened(streams, ACME, "text", STOP, **SAME)
    assert again is not ours
    await read_all(reader)


async def test_a_tenants_stream_whose_reader_goes_before_its_time_stays(streams):
    stream, reader = opened(streams, ACME, "text", STOP, retention=Retention(log_ttl_s=60.0))
    await read_all(reader)
    with stream.join():
        pass
    assert streams.find(stream.id, "acme") is stream
    assert streams.log_bytes > 0


async def test_a_revoked_key_leaves_the_streams_of_the_key_that_took_its_place(streams):
    lingering = Retention(linger_s=60.0)
    old, first = opened(streams, ACME, asyncio.Event(), retention=lingering)
    fresh, second = opened(streams, ROTATED, asyncio.Event(), retention=lingering)
    streams.cancel_all_of(ROTATED.key_prefix)
    await asyncio.wait_for(fresh.log.wait_sealed(), 5)
    assert not old.log.sealed
    streams.cancel_all_of(ACME.key_prefix)
    await asyncio.wait_for(old.log.wait_sealed(), 5)
    for reader in (first, second):
        with reader:
            pass


async def test_a_revoked_key_leaves_what_has_ended_as_it_is(streams):
    stream, reader = opened(streams, ACME, "text", STOP, retention=Retention(log_ttl_s=60.0))
    await read_all(reader)
    streams.cancel_all_of(ACME.key_prefix)
    assert stream.log.finished.reason == FinishReason.STOP
    assert streams.find(stream.id, "acme") is stream


async def test_when_memory_is_short_the_tenant_whose_ended_streams_take_most_loses_the_oldest():
    async with asyncio.TaskGroup() as tasks:
        streams = Streams(Limits(max_total_log_bytes=1 << 20), tasks)
        by_caller = {ACME: [], GLOBEX: []}
        for caller, count in ((GLOBEX, 2), (ACME, 40)):
            for _ in range(count):
                stream, reader = opened(
                    streams, caller, "x" * 100_000, STOP, retention=Retention(log_ttl_s=60.0)
                )
                await read_all(reader)
                by_caller[caller].append(stream)
        for stream in by_caller[GLOBEX]:
            assert streams.find(stream.id, "globex") is stream
        *dropped, newest = by_caller[ACME]
        assert streams.find(newest.id, "acme") is newest
        with pytest.raises(StreamNotFound):
            streams.find(dropped[0].id, "acme")
        assert streams.log_bytes <= 1 << 20
        assert streams.ended_count < 12
        for stream in (*by_caller[GLOBEX], *by_caller[ACME]):
            streams.delete(stream)
        assert streams.log_bytes == streams.ended_count == 0
