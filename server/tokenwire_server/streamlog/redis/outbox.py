"""The messages that this process sends to others."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from ...errors import StoreUnavailable
from .messages import Message
from .store import LogStore

logger = logging.getLogger(__name__)

MAX_WAITING = 10_000
"""Messages that wait to be sent. The next one is dropped: the other process asks again."""
MAX_SENT = 256
"""Messages that are sent in one round trip."""


class Outbox:
    """Sends messages in the background. They can get lost. Belongs to one event loop."""

    def __init__(self, store: LogStore) -> None:
        self._store = store
        self._waiting = asyncio.Queue[tuple[str, Message]](MAX_WAITING)

    def put(self, process: str, message: Message) -> None:
        """Send a message to a process soon."""
        with suppress(asyncio.QueueFull):
            self._waiting.put_nowait((process, message))

    async def run(self) -> None:
        """Send messages until cancelled."""
        while True:
            messages = [await self._waiting.get()]
            while len(messages) < MAX_SENT and not self._waiting.empty():
                messages.append(self._waiting.get_nowait())
            try:
                await self._store.send(messages)
            except StoreUnavailable as error:
                logger.debug("messages to other processes were not sent: %s", error.detail)
