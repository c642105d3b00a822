"""A bare Starlette server: the minimum cost of streaming the same events as the edge by Server-Sent Events.

It validates nothing, calls no server and has no heartbeats. It writes the bytes that the edge writes from
memory, one chunk for each event, on an absolute schedule. It runs on uvicorn with httptools and uvloop.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import AsyncIterator
from urllib.parse import parse_qs

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from tokenwire.v1 import event_pb2
from tokenwire_edge.relay.events import encode
from tokenwire_edge.relay.formats import ServerSentEvents
from tokenwire_server.simulator import generated_text

MOST_TOKENS = 5000
HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


def main() -> None:
    """Listen on a free port, print the address, and serve until the process is ended."""
    format_ = ServerSentEvents()

    def written(event: event_pb2.TokenEvent) -> bytes:
        encoded = encode(event.SerializeToString())
        assert encoded is not None
        return format_.event(encoded)

    started = written(event_pb2.TokenEvent(sequence=1, started=event_pb2.Started(stream_id="bare")))
    texts = [
        written(event_pb2.TokenEvent(sequence=number + 2, text=event_pb2.TextDelta(text=text)))
        for number, text in enumerate(generated_text(MOST_TOKENS))
    ]
    finished = event_pb2.Finished(reason=event_pb2.FINISH_REASON_STOP)

    async def events(model: str) -> AsyncIterator[bytes]:
        scenario = parse_qs(model.partition("?")[2])
        tokens = int(scenario["tokens"][0])
        interval_s = float(scenario["itl_ms"][0]) / 1000
        yield started
        start = time.monotonic()
        for number in range(tokens):
            await asyncio.sleep(start + number * interval_s - time.monotonic())
            yield texts[number]
        yield written(event_pb2.TokenEvent(sequence=tokens + 2, finished=finished))

    async def chat_stream(request: Request) -> StreamingResponse:
        model = msgspec.json.decode(await request.body())["model"]
        return StreamingResponse(events(model), media_type=format_.media_type, headers=HEADERS)

    app = Starlette(routes=[Route("/v1/chat/stream", chat_stream, methods=["POST"])])
    config = uvicorn.Config(
        app, loop="uvloop", http="httptools", lifespan="off", access_log=False, log_level="warning"
    )
    listening = socket.create_server(("127.0.0.1", 0))
    print(f"bare server listens on 127.0.0.1:{listening.getsockname()[1]}", flush=True)
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    sys.exit(main())
