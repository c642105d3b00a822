"""Retention: streams whose readers leave, whose deadline is near or that have ended, short memory, and
draining.
"""

import asyncio
import contextlib
import signal
import time

import grpc
import grpc.aio
import pytest
from e2e_calls import PROVIDERS, details, read, reason, resume, said
from google.protobuf.duration_pb2 import Duration

from tokenwire.v1 import chat_pb2 as pb
from tokenwire.v1 import event_pb2
from tokenwire_server.simulator import generated_text

CANCELLED, STOP, TIME_LIMIT = (
    event_pb2.FINISH_REASON_CANCELLED,
    event_pb2.FINISH_REASON_STOP,
    event_pb2.FINISH_REASON_TIME_LIMIT,
)
ENDLESS = "repeat=forever&itl_ms=10"


def goes_on(linger_s=None, **fields):
    if linger_s is not None:
        fields["linger"] = Duration(nanos=int(linger_s * 1e9) % 10**9, seconds=int(linger_s))
    return pb.RetentionOptions(on_disconnect=pb.ON_DISCONNECT_CONTINUE, **fields)


def margin(seconds):
    span = Duration()
    span.FromMilliseconds(round(seconds * 1000))
    return pb.RetentionOptions(soft_deadline_margin=span)


async def begin(api, model, count=3, timeout=None, **fields):
    """Return a call that has read `count` events, and the id of its stream."""
    call = api.chat_stream(api.request(model, **fields), timeout=timeout)
    events = [await call.read() for _ in range(count)]
    return call, events[0].started.stream_id


async def info_of(api, stream_id):
    return await api.get_stream(pb.GetStreamRequest(stream_id=stream_id))


async def ended(api, stream_id, within_s=10):
    """Wait until the stream has ended, and return its state."""
    async with asyncio.timeout(within_s):
        while (info := await info_of(api, stream_id)).state == pb.STREAM_STATE_RUNNING:
            await asyncio.sleep(0.01)
    return info


async def readers(api, stream_id, count):
    """Wait until the stream has this number of readers, and return its state."""
    async with asyncio.timeout(10):
        while (info := await info_of(api, stream_id)).reader_count != count:
            await asyncio.sleep(0.002)
    return info


@contextlib.asynccontextmanager
async def server_with(start, simulator, api_on, grace_s=5, **limits):
    """Start a server with other limits. Yields its process and an Api."""
    env = simulator.environ() | {"TOKENWIRE_DRAIN_GRACE_S": str(grace_s)}
    env |= {f"TOKENWIRE_LIMITS__{name.upper()}": str(value) for name, value in limits.items()}
    with start("serve", "--listen", "127.0.0.1:0", env=env) as (process, address):
        async with grpc.aio.insecure_channel(address) as channel:
            yield process, api_on(channel)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_only_the_last_reader_to_leave_cancels_the_provider(api, simulator, provider):
    key = f"last-{provider}"
    call, stream_id = await begin(api, f"{provider}/sim?{ENDLESS}&key={key}")
    others = [resume(api, stream_id) for _ in range(3)]
    for other in others:
        await other.read()
    for left, leaving in enumerate((others[1], call, others[0])):  # including the creator
        leaving.cancel()
        assert (await readers(api, stream_id, 3 - left)).state == pb.STREAM_STATE_RUNNING
        for _ in range(20):
            assert (await others[2].read()).sequence
        assert not simulator.request(key)["closed_at"]
    left = time.monotonic()
    others[2].cancel()
    info = await ended(api, stream_id)
    assert (info.state, info.finish_reason) == (pb.STREAM_STATE_FINISHED, CANCELLED)
    await asyncio.to_thread(simulator.wait_until_none_open, 5)
    seen = simulator.request(key)
    assert seen["aborted"]
    assert seen["closed_at"] - left < 3


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_continuing_stream_runs_for_its_linger_after_its_reader_left(
    api, simulator, provider
):
    key = f"linger-{provider}"
    call, stream_id = await begin(
        api, f"{provider}/sim?{ENDLESS}&key={key}", retention=goes_on(0.6)
    )
    call.cancel()
    left = time.monotonic()
    before = await readers(api, stream_id, 0)
    info = await ended(api, stream_id)
    lingered_s = time.monotonic() - left
    assert info.last_sequence > before.last_sequence + 10
    assert info.finish_reason == CANCELLED
    assert 0.5 < lingered_s < 6
    await asyncio.to_thread(simulator.wait_until_none_open, 5)
    assert 0.5 < simulator.request(key)["closed_at"] - left < 6
    events = await read(resume(api, stream_id))
    assert events[-1].finished.reason == CANCELLED
    assert events[-1].finished.usage.output_tokens > 0
    assert events[-1].sequence == info.last_sequence


async def test_a_continuing_stream_can_finish_without_a_reader(api):
    call, stream_id = await begin(api, "openai/sim?tokens=50&itl_ms=5", retention=goes_on())
    call.cancel()
    info = await ended(api, stream_id)
    assert info.finish_reason == STOP
    assert said(await read(resume(api, stream_id))) == "".join(generated_text(50))


async def test_a_reader_that_returns_within_linger_keeps_the_stream_running(api):
    model = "openai/sim?tokens=100&itl_ms=30"
    call, stream_id = await begin(api, model, retention=goes_on(1.5))
    call.cancel()
    await readers(api, stream_id, 0)
    events = await read(resume(api, stream_id, 2))  # takes twice the linger
    assert events[-1].finished.reason == STOP
    assert said(events) == "".join(generated_text(100))[len(generated_text(1)[0]) :]


async def test_linger_restarts_each_time_the_last_reader_leaves(api):
    call, stream_id = await begin(api, f"openai/sim?{ENDLESS}", retention=goes_on(2))
    for _ in range(4):
        call.cancel()
        await readers(api, stream_id, 0)
        await asyncio.sleep(0.6)  # together longer than linger
        call = resume(api, stream_id)
        assert (await call.read()).HasField("started")
    assert (await info_of(api, stream_id)).state == pb.STREAM_STATE_RUNNING
    await api.cancel_stream(pb.CancelStreamRequest(stream_id=stream_id))


@pytest.mark.parametrize("scenario", [ENDLESS, "silent=1", "headers_then_silent=1"])
async def test_the_callers_deadline_does_not_end_a_continuing_stream(api, simulator, scenario):
    key = f"outlives-{scenario.partition('=')[0]}"
    call = api.chat_stream(
        api.request(f"openai/sim?{scenario}&key={key}", retention=goes_on(0.8)), timeout=1
    )
    stream_id = dict(await call.initial_metadata())["tokenwire-stream-id"]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read(call)
    left = time.monotonic()
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert (await info_of(api, stream_id)).state == pb.STREAM_STATE_RUNNING
    assert (await ended(api, stream_id)).finish_reason == CANCELLED
    await asyncio.to_thread(simulator.wait_until_none_open, 5)
    assert 0.6 < simulator.request(key)["closed_at"] - left < 8


async def test_a_deadline_ends_only_its_reader_while_another_is_left(api):
    model = "openai/sim?tokens=100&itl_ms=20"
    call, stream_id = await begin(api, model, timeout=1)
    other = asyncio.create_task(read(resume(api, stream_id)))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        while await call.read():
            pass
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert said(await other) == "".join(generated_text(100))


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_the_soft_deadline_ends_a_stream_for_all_its_readers_before_the_deadline(
    api, simulator, provider
):
    key = f"soft-{provider}"
    began = time.monotonic()
    call, stream_id = await begin(
        api, f"{provider}/sim?{ENDLESS}&key={key}", timeout=20, retention=margin(19.2)
    )
    other = asyncio.create_task(read(resume(api, stream_id)))
    last = None
    while event := await call.read():
        last = event
    took_s = time.monotonic() - began
    assert await call.code() == grpc.StatusCode.OK
    assert 0.7 < took_s < 20
    for finished in (last.finished, (await other)[-1].finished):
        assert finished.reason == TIME_LIMIT
        assert finished.usage.output_tokens > 0
        assert finished.usage.estimated
    await asyncio.to_thread(simulator.wait_until_none_open, 5)
    assert simulator.request(key)["aborted"]


async def test_the_soft_deadline_ends_a_stream_with_a_silent_provider(api):
    call = api.chat_stream(api.request("openai/sim?silent=1", retention=margin(19.5)), timeout=20)
    events = await read(call)
    assert events[-1].finished.reason == TIME_LIMIT


async def test_the_soft_deadline_has_no_effect_without_a_deadline(api):
    events = await api.events("openai/sim?tokens=3&itl_ms=50", retention=margin(0.9))
    assert events[-1].finished.reason == STOP


@pytest.mark.parametrize("margin_s", [11, 30])  # gRPC may round a deadline up
async def test_a_soft_deadline_that_leaves_no_time_is_refused(api, margin_s):
    call = api.chat_stream(api.request("openai/sim", retention=margin(margin_s)), timeout=10)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read(call)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    (violation,) = details(caught.value)["BadRequest"].field_violations
    assert violation.field == "retention.soft_deadline_margin"


async def test_contradictory_retention_options_are_refused_with_trailers_only(api):
    contradictory = pb.RetentionOptions(
        on_disconnect=pb.ON_DISCONNECT_CONTINUE,
        soft_deadline_margin=Duration(seconds=1),
        log_ttl=Duration(seconds=2**62),
    )
    call = api.chat_stream(api.request("openai/sim", retention=contradictory, request_id="a b"))
    assert "tokenwire-stream-id" not in dict(await call.initial_metadata())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read(call)
    assert [v.field for v in details(caught.value)["BadRequest"].field_violations] == [
        "request_id",
        "retention.log_ttl",
        "retention.soft_deadline_margin",
    ]


async def test_a_stream_is_found_until_its_log_ttl_has_passed(api):
    kept = pb.RetentionOptions(log_ttl=Duration(nanos=500_000_000))
    seen = await api.events("openai/sim?tokens=5", retention=kept)
    stream_id = seen[0].started.stream_id
    info = await info_of(api, stream_id)
    kept_ms = info.expire_time.ToMilliseconds() - info.end_time.ToMilliseconds()
    assert 499 <= kept_ms <= 501
    assert said(await read(resume(api, stream_id))) == said(seen)
    began = time.monotonic()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        while time.monotonic() - began < 10:
            await info_of(api, stream_id)
            await asyncio.sleep(0.02)
    assert reason(caught.value) == "STREAM_NOT_FOUND"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read(resume(api, stream_id))
    assert reason(caught.value) == "STREAM_NOT_FOUND"


async def test_a_stream_with_log_ttl_zero_is_dropped_at_its_end(api):
    kept = pb.RetentionOptions(log_ttl=Duration())
    seen = await api.events("openai/sim?tokens=5", retention=kept)
    assert seen[-1].HasField("finished")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read(resume(api, seen[0].started.stream_id))
    assert reason(caught.value) == "STREAM_NOT_FOUND"


async def test_a_reader_of_a_stream_with_log_ttl_zero_reads_it_to_its_end(api):
    kept = pb.RetentionOptions(log_ttl=Duration())
    call, stream_id = await begin(api, "openai/sim?tokens=50&itl_ms=4", retention=kept)
    other = await read(resume(api, stream_id))
    assert said(other) == "".join(generated_text(50))
    assert other[-1].HasField("finished")
    call.cancel()


WORDS = 1200
LARGE = f"openai/sim?tokens={WORDS}&itl_ms=0"  # some 130 kB of a log


async def test_short_memory_drops_the_oldest_ended_streams_and_then_refuses_new_ones(
    start, simulator, api_on
):
    async with server_with(start, simulator, api_on, max_total_log_bytes=2**20) as (_, api):
        ids = [(await api.events(LARGE))[0].started.stream_id for _ in range(16)]
        found = []
        for stream_id in ids:
            with contextlib.suppress(grpc.aio.AioRpcError):
                found.append((await info_of(api, stream_id)).stream_id)
        assert found == ids[-len(found) :]
        assert 4 <= len(found) <= 10
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read(resume(api, ids[0]))
        assert reason(caught.value) == "STREAM_NOT_FOUND"

        running = []
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            for _ in range(40):  # each of them uses its space until it has ended
                call, stream_id = await begin(api, f"{LARGE}&stall_after={WORDS}", count=1)
                running.append((call, stream_id))
                while (await call.read()).sequence < WORDS:
                    pass
        refused = caught.value
        assert (refused.code(), reason(refused)) == (grpc.StatusCode.UNAVAILABLE, "OVERLOADED")
        assert details(refused)["RetryInfo"].retry_delay.seconds == 1
        assert details(refused)["ErrorInfo"].metadata == {
            "limit": str(2**20),
            "limit_name": "max_total_log_bytes",
        }
        for call, stream_id in running:  # running streams are not affected
            assert (await info_of(api, stream_id)).state == pb.STREAM_STATE_RUNNING
            call.cancel()
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    assert (await api.events("openai/sim?tokens=1"))[-1].HasField("finished")
                    break


async def test_a_drain_waits_for_streams_without_readers_and_lets_readers_resume(
    start, simulator, api_on
):
    async with server_with(start, simulator, api_on, grace_s=8) as (process, api):
        model = "openai/sim?tokens=100&itl_ms=20"
        call, stream_id = await begin(api, model, retention=goes_on(30))
        call.cancel()
        await readers(api, stream_id, 0)
        process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.3)
        began = time.monotonic()
        events = await read(resume(api, stream_id))
        assert said(events) == "".join(generated_text(100))
        assert events[-1].finished.reason == STOP
        assert await asyncio.to_thread(process.wait, 10) == 0
        assert time.monotonic() - began < 8  # it did not wait for its whole grace period


async def test_a_drain_ends_streams_without_readers_within_its_grace(start, simulator, api_on):
    async with server_with(start, simulator, api_on, grace_s=0.5) as (process, api):
        gone, _ = await begin(api, f"openai/sim?{ENDLESS}&key=undrained", retention=goes_on(600))
        gone.cancel()
        _, stream_id = await begin(api, f"openai/sim?{ENDLESS}", retention=goes_on(600))
        reading = asyncio.create_task(read(resume(api, stream_id)))
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await reading
        assert (caught.value.code(), reason(caught.value)) == (
            grpc.StatusCode.UNAVAILABLE,
            "SERVER_STOPPED",
        )
        assert await asyncio.to_thread(process.wait, 10) == 0
        assert time.monotonic() - began < 0.5 + 6
    assert simulator.request("undrained")["aborted"]


async def test_the_soft_deadline_also_ends_a_unary_chat(api):
    request = api.request("openai/sim?repeat=forever&itl_ms=10", retention=margin(19.5))
    answer = await api.chat(request, timeout=20)
    assert answer.finished.reason == event_pb2.FINISH_REASON_TIME_LIMIT
