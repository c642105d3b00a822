"""The jobs with streams that have ended and can still be read."""

from __future__ import annotations

import asyncio
import time

import grpc
from callers import CALL_LIMIT_S, METHOD, Unmeasurable
from google.protobuf.duration_pb2 import Duration
from jobs import Resume, ResumeResult, Retain, RetainResult, Target

from tokenwire.v1 import chat_pb2, event_pb2
from tokenwire_server.simulator import generated_text

RESUME_METHOD = "/tokenwire.v1.ChatService/ResumeStream"
LOG_TTL_S = 600
WARMING_SAMPLES = 3
REST_S = 0.01
OPTIONS = [("grpc.use_local_subchannel_pool", 1)]
SMALL_WINDOW = [("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0)]
"""Small windows, so that the writer of a stopped reader is blocked quickly. gRPC's default windows take
seconds to fill."""


async def resume(job: Resume) -> ResumeResult:
    """Resume one answer `samples` times on a warm channel, and as often on cold ones, alternately."""
    expected = "".join(generated_text(job.tokens))
    warm: list[tuple[float, float]] = []
    cold: list[tuple[float, float]] = []
    async with grpc.aio.insecure_channel(job.target.address, OPTIONS) as channel:
        stream_id = await _chat(channel, job.target, f"sim?tokens={job.tokens}")
        request = chat_pb2.ResumeStreamRequest(stream_id=stream_id).SerializeToString()
        for sample in range(-WARMING_SAMPLES, job.samples):
            took, events = await _resume(channel, request, time.monotonic(), expected)
            await asyncio.sleep(REST_S)
            began = time.monotonic()
            async with grpc.aio.insecure_channel(job.target.address, OPTIONS) as fresh:
                took_cold, _ = await _resume(fresh, request, began, expected)
            await asyncio.sleep(REST_S)
            if sample >= 0:
                warm.append(took)
                cold.append(took_cold)
    return ResumeResult(
        first_event_ms=sorted(first * 1000 for first, _ in warm),
        whole_ms=sorted(whole * 1000 for _, whole in warm),
        cold_first_event_ms=sorted(first * 1000 for first, _ in cold),
        cold_whole_ms=sorted(whole * 1000 for _, whole in cold),
        events=events,
    )


async def retain(job: Retain) -> RetainResult:
    """Run the job. Raises ExceptionGroup if a stream fails."""
    model = f"sim?tokens={job.tokens}&itl_ms={job.token_interval_ms}"
    turn = asyncio.Semaphore(job.at_once)
    async with grpc.aio.insecure_channel(job.target.address, OPTIONS) as channel:

        async def one() -> None:
            async with turn:
                await _chat(channel, job.target, model)

        async with asyncio.TaskGroup() as group:
            for _ in range(job.streams):
                group.create_task(one())
    return RetainResult(job.streams)


async def _chat(channel: grpc.aio.Channel, target: Target, model: str) -> str:
    """Read a stream to its end. Return its id."""
    part = chat_pb2.Part(text="Go.")
    request = chat_pb2.ChatRequest(
        model=target.model_prefix + model,
        messages=[chat_pb2.Message(role=chat_pb2.ROLE_USER, parts=[part])],
        retention=chat_pb2.RetentionOptions(log_ttl=Duration(seconds=LOG_TTL_S)),
    )
    method = channel.unary_stream(METHOD)
    payloads = [p async for p in method(request.SerializeToString(), timeout=CALL_LIMIT_S)]
    return event_pb2.TokenEvent.FromString(payloads[0]).started.stream_id


async def _resume(
    channel: grpc.aio.Channel, request: bytes, began: float, expected: str
) -> tuple[tuple[float, float], int]:
    """Return the seconds from `began` to the first event and to the end, and the number of events."""
    payloads: list[bytes] = []
    first_s = 0.0
    async for payload in channel.unary_stream(RESUME_METHOD)(request, timeout=CALL_LIMIT_S):
        if not payloads:
            first_s = time.monotonic() - began
        payloads.append(payload)
    whole_s = time.monotonic() - began
    text = "".join(event_pb2.TokenEvent.FromString(payload).text.text for payload in payloads)
    if text != expected:
        raise Unmeasurable(f"{len(text)} characters came of {len(expected)}")
    return (first_s, whole_s), len(payloads)
