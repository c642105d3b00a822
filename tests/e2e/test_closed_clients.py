"""A client that is closed cancels the generations that its open streams would cancel when they are left."""

import asyncio

import pytest

import tokenwire

ENDLESS = "openai/sim?repeat=forever&itl_ms=20"


async def ends(server, stream_ids, within_s=10):
    """Return why the streams ended."""
    async with tokenwire.AsyncClient(server) as client, asyncio.timeout(within_s):
        reasons = []
        for stream_id in stream_ids:
            while not (info := await client.get_stream(stream_id)).HasField("end_time"):
                await asyncio.sleep(0.02)
            reasons.append(tokenwire.FinishReason(info.finish_reason).name)
    return reasons


async def test_closing_the_client_cancels_its_open_resumable_streams(server):
    client = tokenwire.AsyncClient(server)
    streams = [client.chat_stream(ENDLESS, "Hi", resumable=True) for _ in range(3)]
    for stream in streams:
        await stream.__aenter__()
        await anext(stream.text)
    await client.close()
    assert await ends(server, [stream.stream_id for stream in streams]) == ["CANCELLED"] * 3
    with pytest.raises(tokenwire.Cancelled):
        await streams[0].final()


async def test_closing_the_client_for_threads_does_too(server):
    client = tokenwire.Client(server)
    streams = [client.chat_stream(ENDLESS, "Hi", resumable=True) for _ in range(3)]
    for stream in streams:
        await asyncio.to_thread(stream.__enter__)
        await asyncio.to_thread(next, stream.text)
    await asyncio.to_thread(client.close)
    assert await ends(server, [stream.stream_id for stream in streams]) == ["CANCELLED"] * 3


async def test_closing_the_client_does_not_cancel_what_was_detached_or_left(server):
    client = tokenwire.AsyncClient(server)
    model = "openai/sim?tokens=40&itl_ms=20"
    detached = client.chat_stream(model, "Hi", resumable=True)
    await detached.__aenter__()
    detached.detach()
    async with client.chat_stream(model, "Hi", resumable=True) as finished:
        await finished.final()
    await client.close()
    assert await ends(server, [detached.stream_id, finished.stream_id]) == ["STOP", "STOP"]
