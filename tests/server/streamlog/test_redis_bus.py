"""The connection for messages of other processes."""

import asyncio

import redis.asyncio

from tokenwire_server.streamlog.redis import bus as bus_module
from tokenwire_server.streamlog.redis.bus import Bus

LIMIT_S = 20


async def test_a_server_that_accepts_connections_and_never_answers_is_tried_again(monkeypatch):
    monkeypatch.setattr(bus_module, "SILENCE_S", 0.05)
    accepted = asyncio.Queue()

    async def accept(reader, writer):
        accepted.put_nowait(None)
        await reader.read()
        writer.close()

    async with await asyncio.start_server(accept, "127.0.0.1") as server:
        port = server.sockets[0].getsockname()[1]
        client = redis.asyncio.Redis(port=port, socket_timeout=None, retry=None)
        running = asyncio.create_task(Bus(client, "p", None).run())
        async with asyncio.timeout(LIMIT_S):
            for _ in range(3):
                await accepted.get()
        running.cancel()
        await asyncio.wait((running,))
        await client.aclose()
