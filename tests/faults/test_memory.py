"""Memory that callers cannot make grow: ended streams leave nothing, and retained streams are counted."""

import asyncio
import time
from sys import getsizeof

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration

from tokenwire.v1 import chat_pb2, chat_pb2_grpc
from tokenwire_server.events import TextDelta
from tokenwire_server.rpc import codec
from tokenwire_server.streamlog.memory import MAX_READ_ENTRIES, MemoryLog
from tokenwire_server.streamlog.space import LogSpace

SMALL_WINDOW = [("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0)]
AT_ONCE = 20
ALLOWED_PER_STREAM_BYTES = 1024
"""Bytes per stream: an order of magnitude above the noise of allocators and caches, below one object
graph."""


async def finish_many(api, count, **fields):
    turn = asyncio.Semaphore(AT_ONCE)

    async def one():
        async with turn:
            await api.events("openai/sim?tokens=5&itl_ms=1", **fields)

    await asyncio.gather(*(one() for _ in range(count)))


def growth(before, after, most):
    """Return the types of objects whose number grew by more than `most`."""
    return {
        kind: number - before["objects"].get(kind, 0)
        for kind, number in after["objects"].items()
        if number - before["objects"].get(kind, 0) > most
    }


async def warm(server, api):
    """Return a census after all one-time allocations, such as the ledger's statements after a second."""
    after = None
    for _ in range(10):
        before = after
        await finish_many(api, 200)
        await asyncio.sleep(1)
        after = server.census()
        if before is not None and not growth(before, after, 20):
            return after
    raise AssertionError(f"it grows with every 200 streams: {growth(before, after, 20)}")


async def memory_left_by(observed, api_on, count):
    with observed(log_ttl_s=0) as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            api = api_on(channel)
            before = await warm(server, api)
            await finish_many(api, count)
            give_up = time.monotonic() + 5
            while (
                growth(before, after := server.census(), count / 10)
                or after["tasks"] > before["tasks"] + 2
            ):
                if time.monotonic() > give_up:
                    break
                await asyncio.sleep(0.2)  # the last records are being written
    assert after["live_streams"] == after["ended_streams"] == after["log_bytes"] == 0
    assert after["tasks"] <= before["tasks"] + 2  # connections to the provider come and go
    grown = growth(before, after, count / 10)
    per_stream = (after["rss_bytes"] - before["rss_bytes"]) / count
    print(f"\n{count} streams: {per_stream:.0f} B of RSS each, objects left: {grown}")
    return grown, per_stream


async def test_streams_that_ended_and_expired_leave_nothing(observed, api_on):
    grown, _ = await memory_left_by(observed, api_on, 500)
    assert grown == {}


@pytest.mark.faults
@pytest.mark.timeout(300)
async def test_ten_thousand_streams_that_ended_leave_no_memory(observed, api_on):
    grown, per_stream = await memory_left_by(observed, api_on, 10_000)
    assert grown == {}
    assert per_stream <= ALLOWED_PER_STREAM_BYTES


@pytest.mark.parametrize("text", ["word ", "é", "漢字", "🙂"])
def test_a_log_stays_within_its_bound_with_readers_that_keep_up(text):
    max_bytes, text = 65536, text * 30
    log = MemoryLog(max_bytes, LogSpace(2**40, lambda: None))
    for number in range(5000):
        event = TextDelta(f"{text}{number}", 0)
        # A reader that takes each entry as it arrives does this: protobuf keeps a string's UTF-8 in it.
        codec.encode(log.append(event), event)
    held, after_sequence = 0, log.earliest_sequence - 1
    while entries := log.read(after_sequence):
        held += sum(getsizeof(event) + getsizeof(event.text) for event in entries)
        after_sequence += len(entries)
    assert held <= log.byte_count <= max_bytes


async def test_resumed_readers_that_do_not_read_copy_little_of_the_log(observed, api_on):
    """Each reader resumes from the beginning and reads nothing. Little may be taken for it."""
    readers, tokens = 50, 2 * MAX_READ_ENTRIES
    with observed() as server:
        async with (
            grpc.aio.insecure_channel(server.address) as wide,
            grpc.aio.insecure_channel(server.address, options=SMALL_WINDOW) as narrow,
        ):
            model = f"openai/sim?repeat=forever&tokens_per_second=20000&text={'x' * 180}"
            retention = chat_pb2.RetentionOptions(log_ttl=Duration(seconds=60))
            call = api_on(wide).chat_stream(api_on.request(model, retention=retention))
            stream_id = (await call.read()).started.stream_id
            while (await call.read()).sequence < tokens:
                pass
            api = api_on(wide)
            await api.cancel_stream(chat_pb2.CancelStreamRequest(stream_id=stream_id))
            before = server.census()
            request = chat_pb2.ResumeStreamRequest(stream_id=stream_id)
            calls = [
                chat_pb2_grpc.ChatServiceStub(narrow).ResumeStream(request) for _ in range(readers)
            ]
            for call in calls:
                assert (await call.read()).sequence == 1  # the rest has been taken and waits
            after = server.census()
            held = (after["rss_bytes"] - before["rss_bytes"]) / readers
            for call in calls:
                call.cancel()
    print(f"\n{held / 1024:.0f} KiB per reader that does not read")
    assert after["objects"]["tokenwire_server.streams.reader.Reader"] == readers
    assert held <= 256 * 1024
