"""The spans and metrics that a real server sends to a collector."""

import asyncio
import json
import os
import re
import time
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest
from e2e_calls import CONTINUE, PROVIDERS, read, reason
from otlp_receiver import OtlpReceiver

from server_process import completed
from tokenwire.v1 import chat_pb2
from tokenwire_server.streams.otel_metrics import INSTRUMENTS
from tokenwire_server.telemetry.semconv import ATTRIBUTES

SERVER, CLIENT = 2, 3
ERROR = 2
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
TRACESTATE = "vendor=canary-state"
ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    b'data: {"id":"x","model":"m","choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":'
    b'"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":1}}\n\ndata: [DONE]\n\n'
)
REFUSAL = b"HTTP/1.1 503 Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
LATEST = {"OTEL_SEMCONV_STABILITY_OPT_IN": "http,gen_ai_latest_experimental"}


@pytest.fixture
def collector():
    with OtlpReceiver() as receiver:
        yield receiver


@pytest.fixture
def traced(start, api_on, simulator):
    """Starts a server that sends its traces to a collector: a context manager of its Api and its process."""

    @asynccontextmanager
    async def run(collector, **env):
        env = simulator.environ() | collector.environ(**env)
        with start("serve", "--listen", "127.0.0.1:0", env=env) as (process, address):
            async with grpc.aio.insecure_channel(address) as channel:
                yield api_on(channel), process

    return run


@asynccontextmanager
async def provider_with(*answers):
    """A provider that gives each request the next answer. Yields its URL and the heads of the requests."""
    heads, left = [], list(answers)

    async def answer(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        heads.append(
            dict(line.split(": ", 1) for line in head.decode().lower().split("\r\n")[1:-2])
        )
        await reader.readexactly(int(heads[-1]["content-length"]))
        writer.write(left.pop(0))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", heads
    finally:
        server.close()


async def received(collector, count):
    return await asyncio.to_thread(collector.wait_for, count)


def logged(process):
    return os.pread(process.log.fileno(), 2**20, 0).decode()


async def test_the_callers_trace_contains_the_stream_its_attempts_and_the_providers_requests(
    collector, traced
):
    async with provider_with(REFUSAL, ANSWER) as (url, heads):
        env = {"OPENAI_BASE_URL": f"{url}/v1", "OTEL_SERVICE_NAME": "chats"}
        async with traced(collector, **env) as (api, _):
            metadata = (("traceparent", TRACEPARENT), ("tracestate", TRACESTATE))
            request = api.request("openai/gpt-x", request_id="mine")
            events = await read(api.chat_stream(request, metadata=metadata))
            spans = await received(collector, 3)
    stream, *_ = (span for span in spans if not span.is_attempt)
    failed, served = sorted((span for span in spans if span.is_attempt), key=lambda s: s.start)
    assert {span.trace_id for span in spans} == {TRACE}
    assert (stream.parent, failed.parent, served.parent) == (PARENT, stream.id, stream.id)
    assert {span.state for span in spans} == {TRACESTATE}
    assert [head["traceparent"] for head in heads] == [
        f"00-{TRACE}-{span.id}-01" for span in (failed, served)
    ]
    assert [head["tracestate"] for head in heads] == [TRACESTATE] * 2
    assert (stream.name, stream.kind) == ("chat openai/gpt-x", SERVER)
    assert (served.name, served.kind) == ("chat gpt-x", CLIENT)
    assert stream.start <= failed.start <= failed.end <= served.start <= served.end <= stream.end
    assert failed.status.code == ERROR
    assert (stream.status.code, served.status.code) == (0, 0)
    assert failed.attributes["error.type"] == "UPSTREAM_UNAVAILABLE"
    assert failed.attributes["http.response.status_code"] == 503
    assert served.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.system": "openai",
        "gen_ai.request.model": "gpt-x",
        "gen_ai.response.model": "m",
        "gen_ai.response.id": "x",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 1,
        "tokenwire.attempt": 2,
        "tokenwire.provider": "openai",
    }
    finished = events[-1].finished
    assert stream.attributes.pop("tokenwire.time_to_first_token_s") == pytest.approx(
        finished.timings.ttft.ToMicroseconds() / 1e6, abs=1e-3
    )
    assert stream.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "openai/gpt-x",
        "gen_ai.response.model": "m",
        "tokenwire.attempts": 2,
        "tokenwire.from_cache": False,
        "tokenwire.input_tokens": 3,
        "tokenwire.outcome": "finished",
        "tokenwire.output_tokens": 1,
        "tokenwire.provider": "openai",
        "tokenwire.reason": "STOP",
        "tokenwire.request_id": "mine",
        "tokenwire.stream_id": events[0].started.stream_id,
        "tokenwire.tenant": "default",
    }
    resource = {each.key: each.value.string_value for each in collector.resources[0].attributes}
    assert resource["service.name"] == "chats"
    assert resource["service.version"]


async def test_a_fallback_is_a_second_attempt_at_its_own_provider(collector, traced):
    refused, whole = "sim?status=401", "sim?tokens=4"
    async with traced(collector) as (api, _):
        events = await api.events(f"openai/{refused}", fallback_models=[f"anthropic/{whole}"])
        spans = await received(collector, 3)
    (stream,) = (span for span in spans if not span.is_attempt)
    attempts = sorted((span for span in spans if span.is_attempt), key=lambda span: span.start)
    assert [span.parent for span in attempts] == [stream.id] * 2
    assert [span.name for span in attempts] == [f"chat {refused}", f"chat {whole}"]
    names = ("tokenwire.attempt", "tokenwire.provider", "gen_ai.system", "gen_ai.request.model")
    assert [[span.attributes[name] for name in names] for span in attempts] == [
        [1, "openai", "openai", refused],
        [2, "anthropic", "anthropic", whole],
    ]
    failed, served = attempts
    assert failed.end <= served.start
    assert (failed.status.code, failed.attributes["error.type"]) == (ERROR, "UPSTREAM_AUTH")
    assert served.attributes["gen_ai.usage.output_tokens"] == 4
    assert stream.name == f"chat openai/{refused}"
    assert stream.attributes["gen_ai.request.model"] == f"openai/{refused}"
    assert stream.attributes["tokenwire.provider"] == events[-1].finished.provider == "anthropic"
    assert stream.attributes["gen_ai.response.model"] == events[-1].finished.model
    assert stream.attributes["tokenwire.attempts"] == 2


@pytest.mark.parametrize("version", ["default", "latest"])
async def test_spans_have_exactly_the_documented_attributes(collector, traced, version):
    keep = chat_pb2.CacheOptions(mode=chat_pb2.CACHE_MODE_READ_WRITE)
    script = "sim?tokens=4&reasoning=3&input_tokens=50&cache_read_tokens=3&cache_write_tokens=7"
    prices = json.dumps({f"anthropic/{script}": {"prices": {"input": 1, "output": 5}}})
    env = {"TOKENWIRE_MODELS": prices} | (LATEST if version == "latest" else {})
    async with traced(collector, **env) as (api, _):
        await api.events("openai/sim?tokens=3", request_id="one")
        for _ in range(2):
            await api.events(f"anthropic/{script}", cache=keep)
        with pytest.raises(grpc.aio.AioRpcError):
            await api.events("openai/sim?status=401")
        spans = await received(collector, 7)
    found = {
        (name, "attempt" if span.is_attempt else "stream")
        for span in spans
        for name in span.attributes
    }
    assert found == {
        (name, place)
        for name, places, _, names_version in ATTRIBUTES
        for place in (("stream", "attempt") if places == "both" else (places,))
        if names_version in ("both", version)
    }


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_cancelled_and_failed_streams_end_their_spans(collector, traced, provider):
    async with traced(collector) as (api, _):
        call = api.chat_stream(api.request(f"{provider}/sim?repeat=forever&itl_ms=10"))
        async for event in call:
            if event.HasField("text"):
                break
        call.cancel()
        cancelled = await received(collector, 2)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await api.events(f"{provider}/sim?drop_after=3")
        failed = (await received(collector, 4))[2:]
    assert [span.status.code for span in cancelled] == [0, 0]
    assert {span.attributes.get("tokenwire.outcome") for span in cancelled} == {None, "cancelled"}
    assert [span.status.code for span in failed] == [ERROR, ERROR]
    assert {span.attributes["error.type"] for span in failed} == {reason(error.value)}


async def test_a_stopped_server_sends_the_spans_of_the_streams_that_it_ends(collector, traced):
    env = {"TOKENWIRE_DRAIN_GRACE_S": "0.1", "OTEL_BSP_SCHEDULE_DELAY": "60000"}
    async with traced(collector, **env) as (api, process):
        model = "openai/sim?repeat=forever&itl_ms=10"
        calls = [api.chat_stream(api.request(model, retention=CONTINUE)) for _ in range(20)]
        for call in calls:
            await call.read()
        process.terminate()
        assert await asyncio.to_thread(process.wait, 15) == 0
    assert len(collector.spans) >= 20  # an attempt may not have begun
    assert {span.attributes["error.type"] for span in collector.spans} == {"SERVER_STOPPED"}


async def test_a_collector_that_hangs_delays_neither_streams_nor_the_stop(traced):
    with OtlpReceiver(hangs=True) as collector:
        env = {"OTEL_BSP_MAX_QUEUE_SIZE": "10", "TOKENWIRE_OTEL__METRICS": "true"}
        async with traced(collector, **env) as (api, process):
            for _ in range(10):
                await api.events("openai/sim?tokens=3")
            stopping = time.monotonic()
            process.terminate()
            assert await asyncio.to_thread(process.wait, 15) == 0
            took_s = time.monotonic() - stopping
            log = logged(process)
        assert took_s < 5
        assert "the OTLP collector did not answer in time: 10 spans were not sent" in log


async def test_an_invalid_trace_context_of_a_caller_starts_a_new_trace_and_is_not_logged(
    collector, traced
):
    invalid = [
        [("traceparent", "00-canary")],
        [("traceparent", "x" * 600)],
        [("tracestate", TRACESTATE)],
    ]
    bad_state = [("traceparent", TRACEPARENT), ("tracestate", "canary canary")]
    async with traced(collector, TOKENWIRE_LOG_LEVEL="DEBUG") as (api, process):
        for metadata in invalid:
            await read(api.chat_stream(api.request("openai/sim?tokens=1"), metadata=metadata))
        spans = await received(collector, 6)
        await read(api.chat_stream(api.request("openai/sim?tokens=1"), metadata=bad_state))
        without_state = (await received(collector, 8))[6:]
        log = logged(process)
    assert len({span.trace_id for span in spans} - {TRACE}) == 3
    assert {(span.trace_id, span.state) for span in without_state} == {(TRACE, "")}
    assert "canary" not in log


async def test_a_trace_that_the_caller_does_not_sample_is_passed_on_but_not_sent(collector, traced):
    async with provider_with(ANSWER) as (url, heads):
        async with traced(collector, OPENAI_BASE_URL=f"{url}/v1") as (api, process):
            metadata = [("traceparent", TRACEPARENT[:-2] + "00")]
            await read(api.chat_stream(api.request("openai/gpt-x"), metadata=metadata))
            process.terminate()
            assert await asyncio.to_thread(process.wait, 15) == 0
    assert heads[0]["traceparent"].startswith(f"00-{TRACE}-")
    assert heads[0]["traceparent"].endswith("-00")
    assert collector.spans == []


async def test_metrics_have_the_documented_names_and_agree_with_the_traffic(collector, traced):
    models = {"refused": {"targets": ["openai/sim?status=401"]}}
    env = {"TOKENWIRE_OTEL__TRACES": "false", "TOKENWIRE_OTEL__METRICS": "true"}
    env["TOKENWIRE_MODELS"] = json.dumps(models)
    async with traced(collector, **env) as (api, process):
        events = await api.events("openai/sim?tokens=30&itl_ms=1&input_tokens=12")
        with pytest.raises(grpc.aio.AioRpcError):
            await api.events("refused")
        process.terminate()
        assert await asyncio.to_thread(process.wait, 15) == 0
    assert not collector.spans
    assert set(collector.points) == {instrument.name for instrument in INSTRUMENTS}

    def by(name, key):
        return {
            {each.key: each.value.string_value for each in point.attributes}.get(key): (
                point.count,
                point.sum,
            )
            for point in collector.points[name]
        }

    usage = events[-1].finished.usage
    assert by("gen_ai.client.token.usage", "gen_ai.token.type") == {
        "input": (1, 12),
        "output": (1, usage.output_tokens),
    }
    for name in ("gen_ai.client.operation.duration", "gen_ai.server.request.duration"):
        counts = {key: count for key, (count, _) in by(name, "error.type").items()}
        assert counts == {None: 1, "UPSTREAM_AUTH": 1}
        assert "sim?status=401" in by(name, "gen_ai.request.model")  # it is in the configuration
    for name in ("gen_ai.server.time_to_first_token", "gen_ai.server.time_per_output_token"):
        ((system, (count, total)),) = by(name, "gen_ai.system").items()
        assert (system, count) == ("openai", 1)
        assert 0 < total < 10


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "only http/protobuf is supported"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "-1", "a variable OTEL_* is invalid"),
    ],
)
def test_what_the_sdk_cannot_do_is_one_line_and_exit_code_1(tmp_path, variable, value, said):
    env = {"TOKENWIRE_OTEL__TRACES": "true", variable: value}
    result = completed("serve", "--demo", "--listen", "127.0.0.1:0", env=env, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("tokenwire-server: otel: ")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("log_format", ["json", "text"])
async def test_the_end_of_a_stream_is_one_line_with_the_id_of_its_trace(
    collector, traced, log_format
):
    async with traced(collector, TOKENWIRE_LOG_FORMAT=log_format) as (api, process):
        events = await api.events("openai/sim?tokens=3&input_tokens=12", request_id="mine")
        with pytest.raises(grpc.aio.AioRpcError):
            await api.events("openai/sim?status=401")
        spans = await received(collector, 4)
        lines = [line for line in logged(process).splitlines() if "stream ended" in line]
    if log_format == "json":
        served, failed = map(json.loads, lines)
    else:
        served, failed = (dict(re.findall(r" (\w+)=(\S+)", line)) for line in lines)
    stream_id = events[0].started.stream_id
    (span,) = (s for s in spans if s.attributes.get("tokenwire.stream_id") == stream_id)
    expected = {
        "stream_id": stream_id,
        "request_id": "mine",
        "trace_id": span.trace_id,
        "tenant": "default",
        "provider": "openai",
        "outcome": "finished",
        "reason": "STOP",
        "attempts": 1,
        "input_tokens": 12,
        "output_tokens": events[-1].finished.usage.output_tokens,
    }
    assert {name: str(served[name]) for name in expected} == {
        name: str(value) for name, value in expected.items()
    }
    assert 0 < float(served["ttft_s"]) <= float(served["duration_s"])
    assert (failed["outcome"], failed["reason"]) == ("failed", "UPSTREAM_AUTH")
    assert "ttft_s" not in failed


async def test_the_line_of_each_stream_can_be_turned_off(collector, traced):
    async with traced(collector, TOKENWIRE_LOG_STREAMS="false") as (api, process):
        await api.events("openai/sim?tokens=3")
        assert "stream ended" not in logged(process)
