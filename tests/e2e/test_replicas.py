"""Two servers that share their streams through Redis."""

import asyncio
import signal
import sqlite3
import time
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import grpc
import grpc.aio
import pytest
from e2e_calls import CONTINUE, info, read, reason, resume, said

from tokenwire.v1 import chat_pb2 as pb
from tokenwire.v1 import event_pb2

FOREVER = "openai/sim?repeat=forever&itl_ms=10"
LEASE_S = 5.0
LATER_SERVER = Path(__file__).with_name("later_server.py")


def sequences(events):
    """Return the sequences of the events that are in the log."""
    return [event.sequence for event in events if not event.HasField("notice")]


def is_complete(events, after=0):
    """Return whether each event follows the one before it. Joined deltas carry the last sequence."""
    numbers = [after, *sequences(events)]
    texts = [event.text.text for event in events if event.HasField("text")]
    return all(first < second for first, second in pairwise(numbers)) and "" not in texts


@pytest.fixture
def replicas(start, own_redis, new_database, simulator):
    """Start two servers with one Redis and one database. Yields (process, address) for each."""

    @contextmanager
    def run(second_program="tokenwire_server", **env):
        shared = simulator.environ() | {
            "TOKENWIRE_REDIS__URL": own_redis.url,
            "TOKENWIRE_DATABASE": new_database(),
            **env,
        }
        command = ("serve", "--listen", "127.0.0.1:0")
        with (
            start(*command, env=shared) as first,
            start(*command, env=shared, program=second_program) as second,
        ):
            yield first, second, shared["TOKENWIRE_DATABASE"].removeprefix("sqlite:///")

    return run


async def test_a_stream_is_read_found_cancelled_and_deleted_at_any_replica(replicas, api_on):
    with replicas() as ((_, one), (_, two), _):
        async with (
            grpc.aio.insecure_channel(one) as at_one,
            grpc.aio.insecure_channel(two) as at_two,
        ):
            api, other = api_on(at_one), api_on(at_two)
            events = await api.events("openai/sim?tokens=200&itl_ms=1")
            id = events[0].started.stream_id
            for after in (0, 1, events[-2].sequence, events[-1].sequence):
                again = await read(resume(other, id, after))
                assert is_complete(again, after)
                if after == 0:
                    assert said(again) == said(events)
                    assert again[-1] == events[-1]
                assert sequences(again)[-1:] == (
                    [] if after == events[-1].sequence else [events[-1].sequence]
                )
            found = [
                await each.get_stream(pb.GetStreamRequest(stream_id=id)) for each in (api, other)
            ]
            assert found[0] == found[1]

            call = aiter(api.chat_stream(api.request(FOREVER, retention=CONTINUE)))
            id = (await anext(call)).started.stream_id
            remote = aiter(resume(other, id))
            first = await anext(remote)
            assert first.started.stream_id == id
            async with asyncio.timeout(20):
                running = pb.StreamInfo()
                while running.reader_count != 2 or not running.usage.output_tokens:
                    running = await other.get_stream(pb.GetStreamRequest(stream_id=id))
                    await asyncio.sleep(0.05)
            assert running.state == pb.STREAM_STATE_RUNNING
            cancelled = await other.cancel_stream(pb.CancelStreamRequest(stream_id=id))
            assert cancelled.stream.finish_reason == event_pb2.FINISH_REASON_CANCELLED
            texts = [said([first, *await read(remote)]), said(await read(call))]
            assert texts[0] == texts[1]

            await other.delete_stream(pb.DeleteStreamRequest(stream_id=id))
            for each in (api, other):
                with pytest.raises(grpc.aio.AioRpcError) as gone:
                    async with asyncio.timeout(20):
                        while True:
                            await each.get_stream(pb.GetStreamRequest(stream_id=id))
                assert reason(gone.value) == "STREAM_NOT_FOUND"


async def test_a_stream_is_cancelled_when_its_last_reader_leaves_another_replica(
    replicas, api_on, simulator
):
    with replicas() as ((_, one), (_, two), _):
        async with (
            grpc.aio.insecure_channel(one) as at_one,
            grpc.aio.insecure_channel(two) as at_two,
        ):
            api, other = api_on(at_one), api_on(at_two)
            call = api.chat_stream(api.request(f"{FOREVER}&key=left-elsewhere"))
            id = (await call.read()).started.stream_id
            remote = resume(other, id)
            await remote.read()
            async with asyncio.timeout(20):
                while (await api.get_stream(pb.GetStreamRequest(stream_id=id))).reader_count != 2:
                    await asyncio.sleep(0.02)
            call.cancel()
            for _ in range(30):
                await remote.read()
            remote.cancel()
            async with asyncio.timeout(20):
                while (
                    await api.get_stream(pb.GetStreamRequest(stream_id=id))
                ).state == pb.STREAM_STATE_RUNNING:
                    await asyncio.sleep(0.02)
            simulator.wait_until_none_open(5)


async def test_readers_of_a_killed_replica_get_producer_lost_within_its_lease(replicas, api_on):
    with replicas() as ((process, one), (_, two), _database):
        async with (
            grpc.aio.insecure_channel(one) as at_one,
            grpc.aio.insecure_channel(two) as at_two,
        ):
            api, other = api_on(at_one), api_on(at_two)
            call = api.chat_stream(api.request(FOREVER))
            id = (await call.read()).started.stream_id
            remote = resume(other, id)
            events = []
            with pytest.raises(grpc.aio.AioRpcError) as lost:
                async for event in remote:
                    events.append(event)
                    if len(events) == 50:
                        process.send_signal(signal.SIGKILL)
                        killed = time.monotonic()
            lasted_s = time.monotonic() - killed
            assert reason(lost.value) == "PRODUCER_LOST"
            assert lost.value.code() == grpc.StatusCode.ABORTED
            last = int(info(lost.value).metadata["last_sequence"])
            assert (events[-1].sequence, is_complete(events)) == (last, True)
            print(f"PRODUCER_LOST {lasted_s:.1f} s after the kill")
            assert lasted_s < 3 * LEASE_S
            with pytest.raises(grpc.aio.AioRpcError) as lost:
                await read(resume(other, id, last - 5))
            assert reason(lost.value) == "PRODUCER_LOST"


@pytest.mark.parametrize("program", ["tokenwire_server", LATER_SERVER], ids=["same", "later"])
async def test_readers_of_a_replica_that_drains_continue_at_the_other_one(
    replicas, api_on, program
):
    with replicas(program, TOKENWIRE_DRAIN_GRACE_S="30", TOKENWIRE_DRAIN_ACCEPT_S="0") as (
        (process, one),
        (_, two),
        database,
    ):
        async with (
            grpc.aio.insecure_channel(one) as at_one,
            grpc.aio.insecure_channel(two) as at_two,
        ):
            api, other = api_on(at_one), api_on(at_two)
            call = api.chat_stream(api.request("openai/sim?tokens=300&itl_ms=10"))
            events = []
            async for event in call:
                if event.notice.kind == event_pb2.NOTICE_KIND_DRAINING:
                    break
                events.append(event)
                if len(events) == 20:
                    process.send_signal(signal.SIGTERM)
            call.cancel()
            await asyncio.sleep(0.2)
            rest = await read(resume(other, events[0].started.stream_id, events[-1].sequence))
            events += [event for event in rest if not event.HasField("notice")]
            assert is_complete(events)
            assert events[-1].finished.reason == event_pb2.FINISH_REASON_STOP
            expected = await other.events("openai/sim?tokens=300&itl_ms=0")
            assert said(events) == said(expected)
            assert await asyncio.to_thread(process.wait, 20) == 0
    with sqlite3.connect(database) as rows:
        states = rows.execute("select reason from tokenwire_usage_records").fetchall()
    assert states == [("STOP",), ("STOP",)]


@pytest.mark.parametrize("format", ["1", "2"])
async def test_servers_of_two_releases_read_each_others_streams_or_say_that_they_cannot(
    replicas, api_on, format
):
    with replicas(LATER_SERVER, LATER_FORMAT=format) as ((_, one), (_, two), _):
        async with (
            grpc.aio.insecure_channel(one) as at_one,
            grpc.aio.insecure_channel(two) as at_two,
        ):
            earlier, later = api_on(at_one), api_on(at_two)
            for api, other in ((earlier, later), (later, earlier)):
                events = await api.events("openai/sim?tokens=20")
                call = resume(other, events[0].started.stream_id)
                if (other, format) == (earlier, "2"):
                    with pytest.raises(grpc.aio.AioRpcError) as unknown:
                        await read(call)
                    assert reason(unknown.value) == "STORE_UNAVAILABLE"
                else:
                    again = await read(call)
                    assert (said(again), again[-1]) == (said(events), events[-1])


async def test_readers_of_another_replicas_stream_are_told_to_leave_a_replica_that_drains(
    replicas, api_on
):
    with replicas(TOKENWIRE_DRAIN_GRACE_S="1", TOKENWIRE_DRAIN_ACCEPT_S="0") as (
        (_, one),
        (process, two),
        _database,
    ):
        async with (
            grpc.aio.insecure_channel(one) as at_one,
            grpc.aio.insecure_channel(two) as at_two,
        ):
            api, other = api_on(at_one), api_on(at_two)
            call = api.chat_stream(api.request(FOREVER))
            id = (await call.read()).started.stream_id
            events = []
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                async for event in resume(other, id):
                    events.append(event)
                    if len(events) == 20:
                        process.send_signal(signal.SIGTERM)
            assert reason(ended.value) == "DRAINING"
            assert info(ended.value).metadata["last_sequence"] == str(events[-1].sequence)
            assert event_pb2.NOTICE_KIND_DRAINING in [event.notice.kind for event in events]
            assert is_complete(events)
            assert await asyncio.to_thread(process.wait, 20) == 0
            after = events[-1].sequence
            assert (await resume(api, id, after).read()).sequence > after
            call.cancel()


async def test_a_request_id_starts_one_generation_however_many_replicas_get_it(
    replicas, api_on, simulator
):
    with replicas() as ((_, one), (_, two), _):
        async with (
            grpc.aio.insecure_channel(one) as at_one,
            grpc.aio.insecure_channel(two) as at_two,
        ):
            request = api_on(at_one).request(
                "openai/sim?tokens=50&itl_ms=5&key=replicas", request_id="r"
            )
            calls = [api_on(channel).chat_stream(request) for channel in (at_one, at_two) * 5]
            answers = await asyncio.gather(*map(read, calls))
            assert len({said(events) for events in answers}) == 1
            assert len({events[0].started.stream_id for events in answers}) == 1
            assert simulator.request("replicas")["attempt"] == 1
