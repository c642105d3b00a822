"""The connection for messages of other processes."""

import asyncio
import time

import redis.asyncio

from tokenwire_server.config import RedisConfig
from tokenwire_server.streamlog.redis import bus as bus_module
from tokenwire_server.streamlog.redis.bus import Bus
from tokenwire_server.streamlog.redis.connect import connected

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


class Receiver:
    def __init__(self):
        self.is_subscribed = asyncio.Event()

    def subscribed(self):
        self.is_subscribed.set()

    def unsubscribed(self):
        self.is_subscribed.clear()


async def test_the_connection_is_replaced_within_a_second_after_an_outage(own_redis, monkeypatch):
    monkeypatch.setattr(bus_module.random, "uniform", lambda _, longest: longest)
    receiver = Receiver()
    async with connected(RedisConfig(url=own_redis.url)) as client, asyncio.timeout(LIMIT_S):
        running = asyncio.create_task(Bus(client, "p", receiver).run())
        await receiver.is_subscribed.wait()
        own_redis.stop()
        await asyncio.sleep(2.4)
        own_redis.start()
        began = time.monotonic()
        await receiver.is_subscribed.wait()
        assert time.monotonic() - began < 1.2
        running.cancel()
        await asyncio.wait((running,))
