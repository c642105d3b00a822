"""Readers that do not read: their cost is bounded, and other callers are not affected."""

import asyncio
import time
from pathlib import Path

import grpc
import grpc.aio
import pytest
from e2e_calls import SMALL_WINDOW, info

# A hundred bytes per token, so that the window of a stopped reader fills quickly.
FAST = f"openai/sim?repeat=forever&tokens_per_second=5000&text={'x' * 100}"


def rss_bytes(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


async def test_a_caller_that_accepts_no_data_is_ended_and_its_slot_is_released(
    start, api_on, simulator
):
    env = simulator.environ() | {
        "TOKENWIRE_LIMITS__MAX_STREAMS": "1",
        "TOKENWIRE_LIMITS__READER_STALL_S": "0.5",
    }
    with start("serve", "--listen", "127.0.0.1:0", env=env) as (process, address):
        async with (
            grpc.aio.insecure_channel(address, options=SMALL_WINDOW) as narrow,
            grpc.aio.insecure_channel(address) as wide,
        ):
            stalled = api_on(narrow).chat_stream(api_on.request(f"{FAST}&key=stalled"))
            await stalled.initial_metadata()
            async with asyncio.timeout(20):
                while True:
                    try:
                        await api_on(wide).events("openai/sim?tokens=1")
                        break
                    except grpc.aio.AioRpcError as error:
                        assert info(error).reason == "OVERLOADED"
                        await asyncio.sleep(0.05)
            assert simulator.request("stalled")["aborted"]
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                async for _ in stalled:
                    pass
            assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        process.terminate()
        process.wait(10)
        process.log.seek(0)
        assert "internal error" not in process.log.read()


async def test_the_error_of_a_reader_that_fell_behind_the_log_has_the_usage(
    start, api_on, simulator
):
    env = simulator.environ() | {"TOKENWIRE_LIMITS__MAX_LOG_BYTES": "65536"}
    with start("serve", "--listen", "127.0.0.1:0", env=env) as (_, address):
        async with grpc.aio.insecure_channel(address, options=SMALL_WINDOW) as channel:
            call = api_on(channel).chat_stream(api_on.request(FAST))
            await call.initial_metadata()
            await asyncio.sleep(2)
            last = 0
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                async for event in call:
                    assert event.sequence > last
                    last = event.sequence
    found = info(caught.value)
    assert found.reason == "SLOW_READER"
    assert int(found.metadata["last_sequence"]) == last
    assert int(found.metadata["earliest_sequence"]) > last + 1
    assert int(found.metadata["output_tokens"]) > 0


async def test_a_reader_is_unaffected_by_eight_readers_that_do_not_read(server, api_on):
    async with (
        grpc.aio.insecure_channel(server, options=SMALL_WINDOW) as narrow,
        grpc.aio.insecure_channel(server) as wide,
    ):
        idle = [
            api_on(narrow).chat_stream(api_on.request(FAST.replace("5000", "500")))
            for _ in range(8)
        ]
        for call in idle:
            await call.initial_metadata()
        gaps, last = [], None
        async for event in api_on(wide).chat_stream(
            api_on.request("openai/sim?tokens=60&itl_ms=20")
        ):
            now = time.monotonic()
            if event.HasField("text"):
                gaps.append(now - last if last else 0)
                last = now
        for call in idle:
            call.cancel()
    assert sorted(gaps)[len(gaps) // 2] < 0.1


async def test_a_prompt_does_not_stay_in_memory_while_its_answer_comes(start, api_on, simulator):
    with start("serve", "--listen", "127.0.0.1:0", env=simulator.environ()) as (process, address):
        async with grpc.aio.insecure_channel(address) as channel:
            api = api_on(channel)
            await api.events("openai/sim?tokens=1", "x" * 2_000_000)
            before = rss_bytes(process.pid)
            calls = []
            for _ in range(40):
                call = api.chat_stream(
                    api.request("openai/sim?tokens=5&stall_after=5", "x" * 2_000_000)
                )
                while not (await call.read()).HasField("text"):
                    pass
                calls.append(call)
            held = (rss_bytes(process.pid) - before) / len(calls)
            for call in calls:
                call.cancel()
    print(f"\n{held / 1e6:.2f} MB a stream for a prompt of 2 MB")
    assert held < 3_000_000  # gRPC keeps the bytes of the request; nothing else does


async def test_a_long_silence_of_the_model_is_not_a_slow_reader(start, api_on, simulator):
    env = simulator.environ() | {"TOKENWIRE_LIMITS__READER_STALL_S": "0.3"}
    with start("serve", "--listen", "127.0.0.1:0", env=env) as (_, address):
        async with grpc.aio.insecure_channel(address) as channel:
            events = await api_on(channel).events("openai/sim?tokens=3&ttft_ms=700&itl_ms=700")
    assert events[-1].HasField("finished")
