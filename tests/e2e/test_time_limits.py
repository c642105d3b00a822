"""Each limit on the time of a stream is reached on time, and the caller gets its name and its value."""

import asyncio
import json
import time

import grpc
import grpc.aio
from e2e_calls import details
from raw_provider import HEAD, RawProvider
from test_metrics import Scrape, url_of

from tokenwire.v1 import chat_pb2, event_pb2

TOKEN = b'data: {"id":"x","model":"m","choices":[{"index":0,"delta":{"content":"hi"}}]}\n\n'
LIMITS = {
    "upstream_connect_s": 0.5,
    "upstream_first_content_s": 0.6,
    "upstream_drip_s": 0.8,
    "upstream_idle_s": 0.4,
    "max_stream_duration_s": 2.0,
}
PATIENT = {"idle_s": 30}
THINKING = {"capabilities": ["reasoning"]}
UNAVAILABLE, STALLED = "UPSTREAM_UNAVAILABLE", "UPSTREAM_STALLED"

ROWS = {
    # The model's name: its target, its own settings, and the limit that is reached.
    "no-connection": ("gone/m", PATIENT, "upstream_connect_s", UNAVAILABLE),
    "no-head": ("openai/sim?silent=1", PATIENT, "upstream_first_content_s", UNAVAILABLE),
    "head-only": (
        "openai/sim?headers_then_silent=1",
        PATIENT,
        "upstream_first_content_s",
        UNAVAILABLE,
    ),
    "pings": ("raw/pings", {}, "upstream_first_content_s", UNAVAILABLE),
    "thinking-pings": ("raw/pings", THINKING, "upstream_drip_s", UNAVAILABLE),
    "thinking-no-head": ("openai/sim?silent=1", THINKING, "upstream_idle_s", UNAVAILABLE),
    "thinking-head-only": (
        "openai/sim?headers_then_silent=1",
        THINKING,
        "upstream_idle_s",
        UNAVAILABLE,
    ),
    "stalled": ("openai/sim?stall_after=3", {}, "upstream_idle_s", STALLED),
    "endless": ("openai/sim?repeat=forever&itl_ms=10", {}, "max_stream_duration_s", None),
    "pings-after-content": ("raw/content", {}, "max_stream_duration_s", None),
}


async def send_pings(provider, reader, writer):
    """Answer with pings for ever, after one token if the model is `content`."""
    body = await reader.readuntil(b"}")
    writer.write(
        HEAD + b"\r\n" + (TOKEN if b'"content"' in body.partition(b"messages")[0] else b"")
    )
    while True:
        writer.write(b": ping\n\n")
        await writer.drain()
        await asyncio.sleep(0.02)


def settings(raw_url, gone_url):
    models = {name: {"target": target} | own for name, (target, own, *_) in ROWS.items()}
    models["no-limit"] = {
        "target": "openai/sim?tokens=1&ttft_ms=1000",
        "first_content_s": 0,
        "drip_s": 0,
    } | PATIENT
    providers = {
        name: {"kind": "openai-chat", "base_url": url}
        for name, url in (("raw", raw_url), ("gone", gone_url))
    }
    return {
        "TOKENWIRE_RETRIES__MAX_ATTEMPTS": "1",
        "TOKENWIRE_MODELS": json.dumps(models),
        "TOKENWIRE_PROVIDERS": json.dumps(providers),
    } | {f"TOKENWIRE_LIMITS__{name.upper()}": str(value) for name, value in LIMITS.items()}


async def ended(call):
    """Read a call to its end. Return its last event, its error, and the seconds that it took."""
    began, event, error = time.monotonic(), None, None
    try:
        async for received in call:
            event = received
    except grpc.aio.AioRpcError as caught:
        error = caught
    return event, error, time.monotonic() - began


async def test_each_limit_on_the_time_of_a_stream_is_reached_on_time(
    start, api_on, simulator, unreachable
):
    reasoning = chat_pb2.GenerationConfig(
        reasoning=chat_pb2.ReasoningConfig(effort=chat_pb2.REASONING_EFFORT_LOW)
    )
    async with RawProvider(send_pings) as raw:
        env = simulator.environ() | settings(raw.url, unreachable)
        arguments = ("--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0")
        with start("serve", *arguments, env=env) as (process, address):
            async with grpc.aio.insecure_channel(address) as channel:
                api = api_on(channel)
                requests = {name: api.request(name) for name in (*ROWS, "no-limit")}
                requests["asked-to-think"] = api.request("raw/asked", generation=reasoning)
                ends = await asyncio.gather(
                    *(ended(api.chat_stream(request)) for request in requests.values())
                )
            counted = await asyncio.to_thread(Scrape, url_of(process))
        await asyncio.sleep(0.1)  # the provider notices that its connections are closed
    found = dict(zip(requests, ends, strict=True))
    rows = {name: row[2:] for name, row in ROWS.items()}
    for name, (limit, reason) in rows.items() | {
        ("asked-to-think", ("upstream_drip_s", UNAVAILABLE))
    }:
        event, error, took_s = found[name]
        print(f"\n{name}: {limit} of {LIMITS[limit]} s, reached after {took_s:.3f} s", end="")
        assert LIMITS[limit] <= took_s < LIMITS[limit] + 5
        if reason is None:
            assert event.finished.reason == event_pb2.FINISH_REASON_TIME_LIMIT
            continue
        info = details(error)["ErrorInfo"]
        assert (info.reason, info.metadata["limit_name"]) == (reason, limit)
        assert f"{LIMITS[limit]:g} s ({limit})" in error.details()
        assert ("RetryInfo" in details(error)) == (reason == UNAVAILABLE)
    assert counted.by("limits_reached_total", "limit") == {
        "upstream_connect_s": 1,
        "upstream_first_content_s": 3,
        "upstream_drip_s": 2,
        "upstream_idle_s": 3,
    }
    assert counted.by("streams_total", "outcome")["time_limit"] == 2
    assert found["no-limit"][0].finished.reason == event_pb2.FINISH_REASON_STOP
