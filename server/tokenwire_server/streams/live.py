"""The streams that are alive in this process, and the tasks that produce them."""

from __future__ import annotations

import asyncio
import secrets

from ..config import Limits
from ..errors import Overloaded
from ..providers.registry import Route
from ..request import ChatRequest
from ..streamlog.memory import MemoryLog
from .producer import Producer
from .stream import Stream

DEFAULT_TENANT = "default"

STREAM_ID_BYTES = 16
"""128 random bits: an id cannot be guessed."""


class LiveStreams:
    """Admits streams, at most `limits.max_streams` at once, and forgets each when it is gone.

    Producers are tasks of `tasks`, whose owner outlives every RPC.
    """

    def __init__(self, limits: Limits, tasks: asyncio.TaskGroup) -> None:
        self._limits = limits
        self._tasks = tasks
        self._streams: dict[tuple[str, str], Stream] = {}
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._streams)

    def open(self, tenant: str = DEFAULT_TENANT) -> Stream:
        """Admit a new stream; nothing is asked of a provider yet. Raises Overloaded."""
        if len(self._streams) >= self._limits.max_streams:
            raise Overloaded("too many streams are open", limit=self._limits.max_streams)
        stream = Stream(
            secrets.token_urlsafe(STREAM_ID_BYTES),
            tenant,
            MemoryLog(self._limits.max_log_bytes),
            on_gone=self._forget,
        )
        self._streams[tenant, stream.id] = stream
        self._empty.clear()
        return stream

    def produce(self, stream: Stream, route: Route, request: ChatRequest) -> None:
        """Begin to generate: from here on the stream is sealed, whatever happens."""
        producer = Producer(stream, route, request, self._limits)
        producer.begin()
        task = self._tasks.create_task(producer.run(), name=f"producer {stream.id}")
        stream.produced_by(task, producer.usage)

    async def wait_until_none(self) -> None:
        """Return once no stream is left: produced or read. The caller bounds it."""
        await self._empty.wait()

    def stop_all(self) -> None:
        """End every stream: its readers get SERVER_STOPPED after what its log holds."""
        for stream in list(self._streams.values()):
            stream.stop()

    def _forget(self, stream: Stream) -> None:
        self._streams.pop((stream.tenant, stream.id), None)
        if not self._streams:
            self._empty.set()
