"""The one place that writes to a socket."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import NoReturn

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketDisconnected

MAX_REPLIES = 64
"""Replies that wait to be sent. With so many, no more frames are read from the caller."""


class Writer:
    """Sends the frames of all streams of one socket, one at a time.

    `send` waits while the socket accepts no more data, so the task that reads a stream pauses.
    Only replies are queued: the receiver must not wait for a slow socket, because the next frame may be a
    `cancel`. Replies go first, so they keep their order before any later frame of a stream.
    """

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket
        self._turn = asyncio.Lock()
        self._replies: deque[bytes] = deque()
        self._has_replies = asyncio.Event()
        self._has_space = asyncio.Event()

    async def send(self, frame: bytes) -> None:
        """Send a frame. Returns once the socket's buffer had space for it.

        Raises WebSocketDisconnect if the socket is closed.
        """
        async with self._turn:
            if self._replies:
                await self._send_replies()
            await self._write(frame)

    async def reply(self, frame: bytes) -> None:
        """Queue a frame. Waits while the queue is full."""
        while len(self._replies) >= MAX_REPLIES:
            self._has_space.clear()
            await self._has_space.wait()
        self._replies.append(frame)
        self._has_replies.set()

    def ping(self, frame: bytes) -> None:
        """Queue a frame, unless others are waiting already."""
        if not self._replies:
            self._replies.append(frame)
            self._has_replies.set()

    async def run(self) -> NoReturn:
        """Send the replies, until cancelled."""
        while True:
            await self._has_replies.wait()
            self._has_replies.clear()
            async with self._turn:
                await self._send_replies()

    async def _send_replies(self) -> None:
        while self._replies:
            await self._write(self._replies.popleft())
            self._has_space.set()

    async def _write(self, frame: bytes) -> None:
        try:
            await self._websocket.send({"type": "websocket.send", "text": frame.decode()})
        except WebSocketDisconnected:  # another task's frame has found that out
            raise WebSocketDisconnect from None
