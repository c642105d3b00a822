"""SIGTERM: what a server still accepts, what its callers are told, and when it exits."""

import asyncio
import signal
import sqlite3
import time

import grpc
import grpc.aio
import pytest
from e2e_calls import CONTINUE, details, info, read, reason, resume
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tokenwire.v1 import chat_pb2 as pb
from tokenwire.v1 import event_pb2

DRAINING = event_pb2.NOTICE_KIND_DRAINING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
EVERYTHING = health_pb2.HealthCheckRequest()
EXIT_S = 2.0
"""An idle server exits this long after its grace period at the latest."""
SLACK_S = 8.0
"""More time for a busy machine."""


async def notice_of(call):
    """Read up to the notice of the drain. Return it, and the sequence of the event before it."""
    last = 0
    async for event in call:
        if event.notice.kind == DRAINING:
            return event, last
        last = event.sequence
    raise AssertionError("there was no notice")


async def refusal(api, model="openai/sim?tokens=1", **fields):
    """Return the error of a chat, or None if it is accepted."""
    try:
        await api.events(model, **fields)
    except grpc.aio.AioRpcError as error:
        return error
    return None


async def test_a_server_that_drains_serves_its_open_streams_and_no_others(start, simulator, api_on):
    """The steps of docs/operations.md, in order."""
    env = simulator.environ() | {
        "TOKENWIRE_DRAIN_ACCEPT_S": "1.5",
        "TOKENWIRE_DRAIN_GRACE_S": "60",
    }
    command = ("serve", "--listen", "127.0.0.1:0")
    async with asyncio.timeout(100):
        with start(*command, env=env) as (process, address):
            async with grpc.aio.insecure_channel(address) as channel:
                api, health = api_on(channel), health_pb2_grpc.HealthStub(channel)
                watch = health.Watch(EVERYTHING)
                await watch.read()
                fields = {"request_id": "r", "retention": CONTINUE}
                request = api.request("openai/sim?repeat=forever&itl_ms=20", **fields)
                call = api.chat_stream(request)
                started = (await anext(aiter(call))).started
                other = api.chat_stream(api.request("openai/sim?repeat=forever&itl_ms=20"))
                await anext(aiter(other))

                process.send_signal(signal.SIGTERM)
                assert (await watch.read()).status == NOT_SERVING
                began = time.monotonic()
                assert await refusal(api) is None  # load balancers have not noticed yet

                while (refused := await refusal(api)) is None:
                    await asyncio.sleep(0.05)
                assert time.monotonic() - began > 1.0
                assert (refused.code(), reason(refused)) == (
                    grpc.StatusCode.UNAVAILABLE,
                    "DRAINING",
                )
                assert set(details(refused)) == {"ErrorInfo"}
                with pytest.raises(grpc.aio.AioRpcError) as unary:
                    await api.chat(api.request("openai/sim?tokens=1"))
                assert reason(unary.value) == "DRAINING"

                for reader in (call, other):
                    event, last = await notice_of(reader)
                    assert event.sequence == last
                    assert 0 < event.notice.delay.ToTimedelta().total_seconds() <= 60
                call.cancel()  # its reader loses the connection, and resumes
                resumed = resume(api, started.stream_id, last)
                event, _ = await notice_of(resumed)
                assert event.sequence == last
                attached = api.chat_stream(request)
                assert (await anext(aiter(attached))).started == started

                assert (await health.Check(EVERYTHING)).status == NOT_SERVING
                assert (await api.list_models(b"")) is not None
                found = await api.get_stream(pb.GetStreamRequest(stream_id=started.stream_id))
                assert (found.state, found.reader_count) == (pb.STREAM_STATE_RUNNING, 2)
                await api.cancel_stream(pb.CancelStreamRequest(stream_id=started.stream_id))
                for reader in (resumed, attached):
                    assert (await read(reader))[-1].HasField("finished")
                assert process.poll() is None
                other.cancel()
                code = await asyncio.to_thread(process.wait, 20)  # not after the 60 s
    assert code == 0


@pytest.mark.parametrize("has_second_signal", [False, True])
async def test_100_streams_end_with_a_cursor_and_a_record_when_the_server_stops(
    start, simulator, api_on, tmp_path, has_second_signal
):
    grace_s = 60.0 if has_second_signal else 1.0
    database = tmp_path / "tokenwire.db"
    env = simulator.environ() | {
        "TOKENWIRE_DATABASE": f"sqlite:///{database}",
        "TOKENWIRE_DRAIN_GRACE_S": str(grace_s),
        "TOKENWIRE_DRAIN_ACCEPT_S": "0.2",
    }
    with start("serve", "--listen", "127.0.0.1:0", env=env) as (process, address):
        async with grpc.aio.insecure_channel(address) as channel:
            api = api_on(channel)
            request = api.request("openai/sim?repeat=forever&itl_ms=100")
            calls = [api.chat_stream(request) for _ in range(100)]
            for call in calls:
                await anext(aiter(call))

            async def end(call):
                notices, last = 0, 0
                try:
                    async for event in call:
                        notices += event.notice.kind == DRAINING
                        last = event.sequence
                except grpc.aio.AioRpcError as error:
                    return reason(error), notices, int(info(error).metadata["last_sequence"]) - last
                raise AssertionError("the stream finished")

            ends = [asyncio.create_task(end(call)) for call in calls]
            process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            if has_second_signal:
                await asyncio.sleep(1.0)
                process.send_signal(signal.SIGTERM)
                began, grace_s = time.monotonic(), 0.0
            code = await asyncio.to_thread(process.wait, 30)
            took_s = time.monotonic() - began
            seen = await asyncio.gather(*ends)
    print(f"exit {took_s:.2f} s after the last signal, with {grace_s:g} s of grace left")
    assert code == 0
    assert seen == [("SERVER_STOPPED", 1, 0)] * 100
    assert took_s < grace_s + EXIT_S + SLACK_S
    rows = sqlite3.connect(database).execute("select reason from tokenwire_usage_records")
    assert rows.fetchall() == [("SERVER_STOPPED",)] * 100
