"""The channel between the supervisor and one worker: a socket pair that carries messages.

Both ends are processes of the same user and the same version, so messages are pickled. A worker's end is its
standard input. The channel closes when one of the processes ends, however it ends.
"""

from __future__ import annotations

import asyncio
import pickle
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import Settings, WorkerConfig

MAX_MESSAGE_BYTES = 2**28
"""Far more than the metrics of a worker."""

_LENGTH = struct.Struct("!I")


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """To a worker, first: what it serves."""

    settings: Settings
    """The settings that are in use."""
    config: Path | None
    flags: Mapping[str, Any]
    """Where a reload reads the settings, as `config.load` takes them."""
    is_demo: bool
    worker: WorkerConfig


@dataclass(frozen=True, slots=True)
class Collect:
    """To a worker: send the metrics."""


@dataclass(frozen=True, slots=True)
class Reload:
    """To a worker: read the configuration again."""


@dataclass(frozen=True, slots=True)
class Drain:
    """To a worker: drain, then stop."""

    is_interrupt: bool
    """Whether the supervisor was interrupted, as by Ctrl-C."""


@dataclass(frozen=True, slots=True)
class Hurry:
    """To a worker: stop without waiting for streams to end."""


@dataclass(frozen=True, slots=True)
class Ready:
    """From a worker: it answers calls."""


@dataclass(frozen=True, slots=True)
class Failed:
    """From a worker: it cannot start."""

    why: str
    """One line for the operator."""


@dataclass(frozen=True, slots=True)
class Collected:
    """From a worker: its metrics."""

    metrics: list[bytes]
    """Each is a pickled `prometheus_client.Metric`."""


Message = Start | Collect | Reload | Drain | Hurry | Ready | Failed | Collected


class Channel:
    """One end of a channel. Belongs to one event loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def of(cls, end: socket.socket) -> Channel:
        """Return the channel of one end of a socket pair, which is closed with it."""
        return cls(*await asyncio.open_unix_connection(sock=end))

    def send(self, message: Message) -> None:
        """Send a message. Does not wait. If the other process has ended, the message is lost."""
        data = pickle.dumps(message)
        self._writer.write(_LENGTH.pack(len(data)) + data)

    async def receive(self) -> Message | None:
        """Return the next message, or None if the channel is closed. Cancellation may lose a message."""
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            if length > MAX_MESSAGE_BYTES:
                return None
            message: Message = pickle.loads(await self._reader.readexactly(length))  # noqa: S301  # see above
        except (asyncio.IncompleteReadError, OSError):
            return None
        return message

    async def aclose(self) -> None:
        """Send what is buffered, if the other process reads it within a second, and close the channel."""
        try:
            async with asyncio.timeout(1.0):
                await self._writer.drain()
                self._writer.close()
                await self._writer.wait_closed()
        except (TimeoutError, OSError):
            self._writer.transport.abort()
