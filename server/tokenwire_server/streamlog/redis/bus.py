"""The messages that this process receives from others, on one connection."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from typing import Protocol

import redis.asyncio
from redis.exceptions import RedisError

from .cluster import ClusterClient
from .messages import BATCH, Message, UnknownMessage, decode_message
from .store import LogId, channel

logger = logging.getLogger(__name__)

SILENCE_S = 5.0
"""The longest silence of the connection. Then it is replaced: it may be dead."""
PING_EVERY_S = 1.5
FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.1, 1.0
"""The longest pause before the connection is replaced. It doubles with each failure. Much shorter than
READER_LEASE_S of the copies, so that their readers survive an outage that ends in time."""
SHARE = 64
"""Messages that are handled before other tasks run."""


class Receiver(Protocol):
    """What gets the messages. Each method is one synchronous step, and does not raise."""

    def subscribed(self) -> None:
        """Messages arrive from now on. Those that were sent before may be lost."""
        ...

    def unsubscribed(self) -> None:
        """The connection was lost. Messages are lost until `subscribed`."""
        ...

    def got_batch(self, log: LogId, data: bytes) -> None:
        """A batch of a log was stored, in its stored form."""
        ...

    def got_message(self, message: Message) -> None:
        """Another process sent a message."""
        ...


class Bus:
    """Subscribes to the channel of this process. Belongs to one event loop."""

    def __init__(self, client: redis.asyncio.Redis, process: str, receiver: Receiver) -> None:
        self._client = client
        self._channel = channel(process)
        self._receiver = receiver
        self._heard = 0.0  # when something arrived last
        self._backoff_s = FIRST_BACKOFF_S

    async def run(self) -> None:
        """Receive messages until cancelled. A lost connection is replaced."""
        while True:
            try:
                await self._receive()
            except (RedisError, OSError) as error:
                logger.warning("the connection for messages of other processes was lost: %r", error)
            pause_s, self._backoff_s = self._backoff_s, min(2 * self._backoff_s, LONGEST_BACKOFF_S)
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311  # not a secret

    async def _receive(self) -> None:
        """Connect, subscribe and receive until the connection is lost. Raises RedisError."""
        # All servers of a cluster get what is published at one of them.
        client = self._client
        pool = client.pool() if isinstance(client, ClusterClient) else client.connection_pool
        async with asyncio.timeout(
            SILENCE_S
        ):  # redis-py waits for the replies to a login without a limit
            connection = await pool.get_connection()  # type: ignore[no-untyped-call]
        pings: asyncio.Task[None] | None = None
        is_subscribed = False
        try:
            async with asyncio.timeout(SILENCE_S):
                await connection.send_command("SUBSCRIBE", self._channel)
                await connection.read_response(push_request=True)  # the confirmation
            self._heard = time.monotonic()
            pings = asyncio.create_task(self._ping(connection), name="Redis pings")
            is_subscribed = True
            self._backoff_s = FIRST_BACKOFF_S
            self._receiver.subscribed()
            count = 0
            while True:
                response = await connection.read_response(timeout=math.inf, push_request=True)
                self._heard = time.monotonic()
                if len(response) == 3 and response[0] == b"message":
                    self._handle(response[2])
                count += 1
                if count % SHARE == 0:
                    await asyncio.sleep(0)
        finally:
            if pings is not None:
                pings.cancel()
            if is_subscribed:
                self._receiver.unsubscribed()
            await connection.disconnect(nowait=True)
            await pool.release(connection)

    async def _ping(self, connection: redis.asyncio.Connection) -> None:
        """Send pings, and close the connection after a silence, which ends a read from it."""
        while time.monotonic() - self._heard < SILENCE_S:
            try:
                async with asyncio.timeout(SILENCE_S):
                    await connection.send_command("PING")
            except (RedisError, OSError):
                break
            await asyncio.sleep(PING_EVERY_S)
        await connection.disconnect(nowait=True)

    def _handle(self, data: bytes) -> None:
        if data[:1] == BATCH:
            log = LogId.of_header(data)
            self._receiver.got_batch(log, data[len(log.header) :])
            return
        try:
            message = decode_message(data)
        except UnknownMessage as error:  # of a later version
            logger.warning("a message of another process was ignored: %s", error)
        else:
            self._receiver.got_message(message)
