"""The floor: the minimum cost of streaming the same tokens by grpc.aio.

It validates nothing, logs nothing and calls no provider. It writes events from memory with one
`context.write` each, on an absolute schedule. The additional cost of a server is the cost of its work.
"""

from __future__ import annotations

import asyncio
import sys
import time
from urllib.parse import parse_qs

import bare_server
import uvloop
from bare_server import Context

from tokenwire.v1 import chat_pb2, event_pb2
from tokenwire_server.simulator import generated_text

MOST_TOKENS = 5000


async def serve() -> None:
    """Serve until the process is ended."""
    texts = [
        event_pb2.TokenEvent(sequence=number + 2, text=event_pb2.TextDelta(text=text))
        for number, text in enumerate(generated_text(MOST_TOKENS))
    ]
    started = event_pb2.TokenEvent(sequence=1, started=event_pb2.Started(stream_id="floor"))

    async def chat_stream(request: chat_pb2.ChatRequest, context: Context) -> None:
        scenario = parse_qs(request.model.partition("?")[2])
        tokens = int(scenario["tokens"][0])
        interval_s = float(scenario.get("itl_ms", ["0"])[0]) / 1000
        await context.write(started)
        if interval_s:
            start = time.monotonic()
            for number in range(tokens):
                await asyncio.sleep(start + number * interval_s - time.monotonic())
                await context.write(texts[number])
        else:
            for number in range(tokens):
                await context.write(texts[number])
        finished = event_pb2.Finished(reason=event_pb2.FINISH_REASON_STOP)
        await context.write(event_pb2.TokenEvent(sequence=tokens + 2, finished=finished))

    await bare_server.serve("floor", chat_stream)


if __name__ == "__main__":
    sys.exit(uvloop.run(serve()))
