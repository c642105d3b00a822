"""A bare relay: the minimum of a gRPC server in Python that passes on the stream of a provider.

Like the floor, it writes one event for each token. Its tokens come from the provider, by aiohttp, and only
their text is decoded. It has no errors, limits, log, metering or keys, and supports Chat Completions only.
"""

from __future__ import annotations

import os
import sys

import aiohttp
import bare_server
import msgspec
import uvloop
from bare_server import Context

from tokenwire.v1 import chat_pb2, event_pb2

MAX_IDLE_CONNECTIONS = 4096


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []


_decode = msgspec.json.Decoder(_Chunk).decode


async def serve() -> None:
    """Serve until the process is ended."""
    url = f"{os.environ['OPENAI_BASE_URL']}/chat/completions"
    connector = aiohttp.TCPConnector(limit=MAX_IDLE_CONNECTIONS)
    headers = {"authorization": "Bearer sk-bench"}
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:

        async def chat_stream(request: chat_pb2.ChatRequest, context: Context) -> None:
            await context.write(event_pb2.TokenEvent(sequence=1))
            body = {
                "model": request.model,
                "stream": True,
                "messages": [{"role": "user", "content": request.messages[0].parts[0].text}],
            }
            sequence, rest = 1, b""
            async with session.post(url, json=body) as response:
                async for data in response.content.iter_any():
                    *events, rest = (rest + data).split(b"\n\n")
                    for event in events:
                        payload = event.removeprefix(b"data: ")
                        if payload == b"[DONE]":
                            continue
                        choices = _decode(payload).choices
                        text = choices[0].delta.content if choices else None
                        if text:
                            sequence += 1
                            delta = event_pb2.TextDelta(text=text)
                            await context.write(event_pb2.TokenEvent(sequence=sequence, text=delta))
            finished = event_pb2.Finished(reason=event_pb2.FINISH_REASON_STOP)
            await context.write(event_pb2.TokenEvent(sequence=sequence + 1, finished=finished))

        await bare_server.serve("relay", chat_stream)


if __name__ == "__main__":
    sys.exit(uvloop.run(serve()))
