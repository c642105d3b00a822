"""The response that relays a stream."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tokenwire.errors import TokenwireError
from tokenwire.wire.metadata import parse_initial_metadata

from ..grpc_client.call import Call
from ..http.body_writer import BodyWriter, body_writer_of
from ..http.shutdown import Shutdown
from ..problems import Problem
from .events import encode
from .formats import Format

STREAM_ID_HEADER = "tokenwire-stream-id"

_Result = TypeVar("_Result")


class RelayResponse(Response):
    """The events of one call, in one format, each sent when it arrives.

    The head is sent once the server has accepted the call, before the provider answers. If the server
    refuses the call, the error is raised, and becomes a response of its own. If the call fails later, the
    error is the response's last event. In a format that has no place for an error, the head waits for the
    first bytes, so that a failure before them can be a status. When the caller leaves, the call is
    cancelled at once, also while nothing is sent.
    """

    def __init__(
        self,
        call: Call,
        form: Format,
        *,
        shows_heartbeats: bool = False,
        preamble: bytes = b"",
        is_empty_without_events: bool = False,
    ) -> None:
        """`preamble` is sent with the head.

        With `is_empty_without_events` the head waits for the first event, and the status is 204 if the
        call ends with OK before one.
        """
        super().__init__(media_type=form.media_type)
        self._call = call
        self._form = form
        self._shows_heartbeats = shows_heartbeats
        self._preamble = preamble
        self._waits_for_event = is_empty_without_events
        self._last_sequence = 0
        self._stream_id = ""
        self._writer: BodyWriter | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        shutdown: Shutdown = scope["app"].state.shutdown
        self._writer = body_writer_of(scope)
        with shutdown.ended_by(self._call.cancel), suppress(ClientDisconnect):
            try:
                # The relay runs in a task of its own, because it is resumed for each token. In this task,
                # each resumption would pass through the 25 coroutines of the application's layers.
                await until_disconnect(receive, self._run(send, shutdown))
            except TokenwireError as error:
                raise self._problem(error, shutdown) from None

    async def _run(self, send: Send, shutdown: Shutdown) -> None:
        async with self._call as call:
            metadata = parse_initial_metadata(await call.initial_metadata())
            self._stream_id = metadata.stream_id
            body = b""
            if self._waits_for_event or self._form.is_cut_off_by_errors:
                messages = await call.read()
                if self._waits_for_event and not messages:
                    await _send_empty(send)
                    return
                body = self._joined(messages)
                while self._form.is_cut_off_by_errors and messages and not body:
                    messages = await call.read()
                    body = self._joined(messages)
            await self._send_head(body, send)
            await self._relay(call, send, shutdown)

    async def _relay(self, call: Call, send: Send, shutdown: Shutdown) -> None:
        is_complete = True
        try:
            while True:
                if self._writer is not None:
                    await call.push(self._push)
                if not (messages := await call.read()):
                    break
                if body := self._joined(messages):
                    await send({"type": "http.response.body", "body": body, "more_body": True})
        except TokenwireError as error:
            body = self._form.error(self._problem(error, shutdown))
            is_complete = not self._form.is_cut_off_by_errors
        else:
            body = b""
        if is_complete:
            await send({"type": "http.response.body", "body": body, "more_body": False})

    def _problem(self, error: TokenwireError, shutdown: Shutdown) -> Problem:
        error.stream_id = error.stream_id or self._stream_id
        error.last_sequence = error.last_sequence or self._last_sequence
        return shutdown.problem_instead_of(error)

    def _joined(self, messages: list[bytes]) -> bytes:
        return b"".join(map(self._bytes, messages))

    def _push(self, messages: list[bytes]) -> bool:
        assert self._writer is not None  # noqa: S101  # for the type checker
        return self._writer.write(self._joined(messages))

    def _bytes(self, message: bytes) -> bytes:
        event = encode(message)
        self._last_sequence = event.sequence
        if event.kind == "heartbeat" and not self._shows_heartbeats:
            return self._form.keep_alive(event)
        return self._form.event(event)

    async def _send_head(self, body: bytes, send: Send) -> None:
        headers = {
            "content-type": self._form.media_type,
            "cache-control": "no-cache",
            "x-accel-buffering": "no",
            STREAM_ID_HEADER: self._stream_id,
        }
        await send({"type": "http.response.start", "status": 200, "headers": _raw(headers)})
        body = self._preamble + body
        await send({"type": "http.response.body", "body": body, "more_body": True})


async def until_disconnect(receive: Receive, coroutine: Coroutine[Any, Any, _Result]) -> _Result:
    """Run a coroutine as a task until it returns or the caller leaves. Return its result.

    If the caller leaves, the task is cancelled, and ClientDisconnect is raised.
    """
    task = asyncio.create_task(coroutine)
    watcher = asyncio.create_task(wait_for_disconnect(receive))
    try:
        await asyncio.wait([task, watcher], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        watcher.cancel()
        await asyncio.wait([task, watcher])


async def wait_for_disconnect(receive: Receive) -> None:
    """Return when the caller has closed the connection. The request's body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send_empty(send: Send) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _raw(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode("latin-1")) for name, value in headers.items() if value]
