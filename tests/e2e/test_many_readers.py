"""Several callers of one stream: readers that join and leave, and callers of GetStream, CancelStream and
DeleteStream.
"""

import asyncio
import random
import time

import grpc
import grpc.aio
import pytest
from e2e_calls import CONTINUE, PROVIDERS, SMALL_WINDOW, info, read, resume, said
from google.protobuf.duration_pb2 import Duration

from tokenwire.v1 import chat_pb2 as pb
from tokenwire.v1 import event_pb2
from tokenwire_server.simulator import generated_text

CANCELLED, STOP = event_pb2.FINISH_REASON_CANCELLED, event_pb2.FINISH_REASON_STOP
RUNNING, FINISHED, FAILED = (
    pb.STREAM_STATE_RUNNING,
    pb.STREAM_STATE_FINISHED,
    pb.STREAM_STATE_FAILED,
)
ENDLESS = "repeat=forever&itl_ms=5"


async def begun(api, model, **fields):
    """Return a call, and the request that names its stream in every other RPC."""
    call = api.chat_stream(api.request(model, **fields))
    stream_id = dict(await call.initial_metadata())["tokenwire-stream-id"]
    return call, pb.GetStreamRequest(stream_id=stream_id)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_eight_readers_that_come_and_go_at_any_time_all_read_the_same_text(
    api, simulator, provider
):
    tokens = 400
    key = f"eight-{provider}"
    call, id = await begun(api, f"{provider}/sim?tokens={tokens}&itl_ms=5&key={key}")
    rng = random.Random(provider)

    async def come_and_go():
        text, cursor = "", 0
        while True:
            await asyncio.sleep(rng.random() * 0.2)
            reading = resume(api, id.stream_id, cursor)
            stay = rng.randrange(100)
            async for event in reading:
                is_notice = event.HasField("notice")  # repeats the sequence before it
                assert event.sequence == cursor if is_notice else event.sequence > cursor
                cursor = event.sequence
                text += event.text.text
                if event.HasField("finished"):
                    return text, event
                if (stay := stay - 1) == 0:
                    break
            reading.cancel()

    others = [asyncio.create_task(come_and_go()) for _ in range(8)]
    events = await read(call)
    for text, finished in await asyncio.gather(*others):
        assert text == said(events) == "".join(generated_text(tokens))
        assert finished == events[-1]
    assert simulator.request(key)["attempt"] == 1
    assert (await api.get_stream(id)).reader_count == 0


async def test_a_reader_that_accepts_nothing_delays_no_other(server, api, api_on):
    async with grpc.aio.insecure_channel(server, options=SMALL_WINDOW) as narrow:
        model = f"openai/sim?repeat=forever&tokens_per_second=2000&text={'x' * 100}"
        stalled, id = await begun(api_on(narrow), model, retention=CONTINUE)
        gaps, before = [], None
        reading = resume(api, id.stream_id)
        async for event in reading:
            now = time.monotonic()
            gaps.append(now - (before or now))
            before = now
            if event.sequence > 6000:  # six times the size of the other reader's window
                break
        assert (await api.get_stream(id)).reader_count == 2
        assert sorted(gaps)[len(gaps) // 2] < 0.1
        assert max(gaps) < 3
        # Cancelling does not wait for it either.
        ended = await asyncio.wait_for(api.cancel_stream(id), 5)
        assert ended.stream.finish_reason == CANCELLED
        reading.cancel()
        stalled.cancel()


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_cancel_ends_the_stream_for_all_readers_and_closes_the_providers_connection(
    api, simulator, provider
):
    key = f"cancelled-{provider}"
    call, id = await begun(api, f"{provider}/sim?{ENDLESS}&key={key}")
    reading = [
        asyncio.create_task(read(c)) for c in (call, *(resume(api, id.stream_id) for _ in range(3)))
    ]
    while (await api.get_stream(id)).last_sequence < 20:
        await asyncio.sleep(0.005)
    asked = time.monotonic()
    answers = await asyncio.gather(*(api.cancel_stream(id) for _ in range(5)))
    for answer in answers:
        answer.stream.ClearField("reader_count")  # they are leaving now
    assert all(answer == answers[0] for answer in answers)
    stream = answers[0].stream
    assert (stream.state, stream.finish_reason) == (FINISHED, CANCELLED)
    for events in await asyncio.gather(*reading):  # none of them must fail
        assert events[-1].finished.reason == CANCELLED
        assert events[-1].finished.usage == stream.usage
        assert events[-1].sequence == stream.last_sequence
    assert stream.usage.output_tokens > 0
    assert stream.usage.estimated
    await asyncio.to_thread(simulator.wait_until_none_open, 5)
    seen = simulator.request(key)
    assert seen["aborted"]
    assert seen["closed_at"] - asked < 3
    assert (await api.cancel_stream(id)).stream.end_time == stream.end_time


@pytest.mark.parametrize(
    "scenario", ["silent=1", "headers_then_silent=1", "tokens=5&stall_after=3"]
)
async def test_cancel_works_while_the_provider_is_silent(api, simulator, scenario):
    call, id = await begun(api, f"openai/sim?{scenario}")
    ended = await asyncio.wait_for(api.cancel_stream(id), 5)
    assert ended.stream.finish_reason == CANCELLED
    assert (await read(call))[-1].finished.reason == CANCELLED
    await asyncio.to_thread(simulator.wait_until_none_open, 5)


async def test_cancelling_an_ended_stream_changes_nothing(api):
    events = await api.events("openai/sim?tokens=5")
    id = pb.CancelStreamRequest(stream_id=events[0].started.stream_id)
    for _ in range(2):
        stream = (await api.cancel_stream(id)).stream
        assert (stream.state, stream.finish_reason) == (FINISHED, STOP)
    call, id = await begun(api, "openai/sim?tokens=9&drop_after=4")
    with pytest.raises(grpc.aio.AioRpcError):
        await read(call)
    stream = (await api.cancel_stream(id)).stream
    assert (stream.state, stream.error_reason) == (FAILED, "UPSTREAM_BROKEN")
    assert stream.finish_reason == event_pb2.FINISH_REASON_UNSPECIFIED


async def test_a_reader_after_the_cancel_reads_all_events_and_the_cancelled_end(api):
    call, id = await begun(api, f"openai/sim?{ENDLESS}", retention=CONTINUE)
    while (await api.get_stream(id)).last_sequence < 20:
        await asyncio.sleep(0.005)
    await api.cancel_stream(id)
    late = await read(resume(api, id.stream_id))
    assert said(late) == said(await read(call))
    assert late[-1].finished.reason == CANCELLED


async def test_a_deleted_stream_is_immediately_not_found(api, simulator):
    call, id = await begun(api, f"openai/sim?{ENDLESS}&key=deleted")
    reading = asyncio.create_task(read(call))
    while (await api.get_stream(id)).last_sequence < 20:
        await asyncio.sleep(0.005)
    await api.delete_stream(id)
    for rpc in (api.delete_stream, api.cancel_stream, api.get_stream):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await rpc(id)
        assert (caught.value.code(), info(caught.value).reason) == (
            grpc.StatusCode.NOT_FOUND,
            "STREAM_NOT_FOUND",
        )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read(resume(api, id.stream_id))
    assert info(caught.value).reason == "STREAM_NOT_FOUND"
    try:
        assert (await reading)[
            -1
        ].finished.reason == CANCELLED  # it had read everything before the end
    except grpc.aio.AioRpcError as error:
        assert info(error).reason == "STREAM_NOT_FOUND"
    await asyncio.to_thread(simulator.wait_until_none_open, 5)
    assert simulator.request("deleted")["aborted"]


async def test_deleting_an_ended_stream_twice_is_not_found(api):
    events = await api.events("openai/sim?tokens=5")
    id = pb.DeleteStreamRequest(stream_id=events[0].started.stream_id)
    await api.delete_stream(id)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await api.delete_stream(id)
    assert info(caught.value).reason == "STREAM_NOT_FOUND"


async def test_a_slow_reader_of_a_deleted_stream_gets_stream_not_found(server, api, api_on):
    async with grpc.aio.insecure_channel(server, options=SMALL_WINDOW) as narrow:
        model = f"openai/sim?repeat=forever&tokens_per_second=20000&text={'x' * 100}"
        call, id = await begun(api_on(narrow), model)
        async with asyncio.timeout(20):
            while (await api.get_stream(id)).last_sequence < 10_000:
                await asyncio.sleep(0.02)
        await api.delete_stream(id)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read(call)
    assert info(caught.value).reason == "STREAM_NOT_FOUND"
    assert info(caught.value).metadata["stream_id"] == id.stream_id
    assert int(info(caught.value).metadata["output_tokens"]) > 0


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_get_stream_describes_a_running_and_a_finished_stream(api, provider):
    model = f"{provider}/sim?tokens=60&itl_ms=10&input_tokens=7"
    began = time.time()
    call, id = await begun(api, model, request_id=f"stands-{provider}")
    other = resume(api, id.stream_id)
    await other.read()
    while (running := await api.get_stream(id)).last_sequence < 10:
        await asyncio.sleep(0.005)
    assert (running.state, running.reader_count) == (RUNNING, 2)
    assert (running.stream_id, running.request_id) == (id.stream_id, f"stands-{provider}")
    assert running.earliest_sequence == 1
    assert running.usage.estimated
    assert running.usage.output_tokens > 0
    assert not running.HasField("end_time")
    assert not running.HasField("expire_time")
    other.cancel()
    events = await read(call)
    ended = await api.get_stream(id)
    assert (ended.state, ended.finish_reason, ended.error_reason) == (FINISHED, STOP, "")
    assert ended.last_sequence == events[-1].sequence
    assert ended.usage == events[-1].finished.usage
    assert (ended.usage.input_tokens, ended.usage.output_tokens) == (7, 60)
    assert not ended.usage.estimated
    times = [t.ToMicroseconds() for t in (ended.created_time, ended.end_time, ended.expire_time)]
    assert times == sorted(times)
    assert abs(times[0] / 1e6 - began) < 5
    assert times[2] - times[1] == pytest.approx(60e6, abs=10)
    assert ended.created_time == events[0].started.created_time


async def test_get_stream_has_the_usage_of_a_failed_stream(api):
    call, id = await begun(api, "anthropic/sim?tokens=40&drop_after=20&input_tokens=33")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read(call)
    stood = await api.get_stream(id)
    assert (stood.state, stood.error_reason) == (FAILED, "UPSTREAM_BROKEN")
    assert stood.usage.input_tokens == 33
    assert stood.usage.output_tokens > 0
    assert info(caught.value).metadata["output_tokens"] == str(stood.usage.output_tokens)
    assert stood.HasField("end_time")
    assert stood.HasField("expire_time")


async def test_get_stream_does_not_count_as_a_reader(api):
    call, id = await begun(api, f"openai/sim?{ENDLESS}")
    await call.read()
    call.cancel()
    async with asyncio.timeout(5):
        while (stood := await api.get_stream(id)).state == RUNNING:
            await asyncio.sleep(0.005)
    assert (stood.finish_reason, stood.reader_count) == (CANCELLED, 0)


async def test_five_hundred_concurrent_readers_read_the_same_text_and_all_leave(
    server, api, api_on
):
    tokens = 150
    call, id = await begun(api, f"openai/sim?tokens={tokens}&itl_ms=20&ttft_ms=500")
    channels = [
        grpc.aio.insecure_channel(server, options=[("grpc.use_local_subchannel_pool", 1)])
        for _ in range(4)
    ]
    readers = [read(resume(api_on(channels[n % 4]), id.stream_id)) for n in range(500)]
    answers = await asyncio.gather(read(call), *readers)
    assert {said(events) for events in answers} == {"".join(generated_text(tokens))}
    assert (await api.get_stream(id)).reader_count == 0
    for channel in channels:
        await channel.close()


async def test_readers_that_join_and_leave_immediately_are_all_removed(api, simulator):
    call, id = await begun(api, f"openai/sim?{ENDLESS}&key=storm", retention=CONTINUE)
    rng = random.Random(7)

    async def glance():
        reading = resume(api, id.stream_id, rng.choice((0, 1)))
        await asyncio.sleep(rng.random() * 0.01)
        reading.cancel()

    for _ in range(10):
        await asyncio.gather(*(glance() for _ in range(60)))
    async with asyncio.timeout(5):
        while (stood := await api.get_stream(id)).reader_count != 1:
            await asyncio.sleep(0.01)
    assert stood.state == RUNNING
    assert simulator.request("storm")["attempt"] == 1
    call.cancel()
    await api.cancel_stream(id)


async def test_cancelling_at_any_moment_of_the_start_ends_the_stream(api, simulator):
    kept = pb.RetentionOptions(log_ttl=Duration(seconds=5))
    for round in range(60):
        provider = PROVIDERS[round % 3]
        call, id = await begun(api, f"{provider}/sim?{ENDLESS}", retention=kept)
        await asyncio.sleep(round % 10 * 0.0005)
        ended = await asyncio.wait_for(api.cancel_stream(id), 5)
        assert (ended.stream.state, ended.stream.finish_reason) == (FINISHED, CANCELLED)
        events = await read(call)
        assert events[0].HasField("started")
        assert events[-1].finished.reason == CANCELLED
    await asyncio.to_thread(simulator.wait_until_none_open, 5)


@pytest.mark.parametrize("on_disconnect", [pb.ON_DISCONNECT_CANCEL, pb.ON_DISCONNECT_CONTINUE])
async def test_callers_that_leave_at_any_moment_of_the_start_leave_nothing_open(
    api, simulator, on_disconnect
):
    retention = pb.RetentionOptions(on_disconnect=on_disconnect)
    if on_disconnect == pb.ON_DISCONNECT_CONTINUE:
        retention.linger.CopyFrom(Duration(nanos=1))
    rng = random.Random(on_disconnect)

    async def leave():
        model = f"{rng.choice(PROVIDERS)}/sim?{ENDLESS}"
        call = api.chat_stream(api.request(model, retention=retention))
        await asyncio.sleep(rng.random() * 0.006)
        call.cancel()

    for _ in range(10):
        await asyncio.gather(*(leave() for _ in range(20)))
    # Requests before it are in the provider's journal by then, if they ever arrive.
    assert (await api.events("openai/sim?tokens=1"))[-1].HasField("finished")
    await asyncio.to_thread(simulator.wait_until_none_open, 5)
