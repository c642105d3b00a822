"""The tasks of one socket: one receives, one reads each open stream, and one group owns all of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Sequence
from typing import NoReturn

from starlette.websockets import WebSocket, WebSocketDisconnect

from tokenwire.connect.key import call_metadata
from tokenwire.errors import IncompleteStream, TokenwireError
from tokenwire.v1.chat_pb2 import CancelStreamRequest, ResumeStreamRequest
from tokenwire.wire.metadata import parse_initial_metadata

from ..grpc_client.channel import Channel
from ..http.shutdown import Shutdown
from ..problems import Problem, problem_of
from ..relay.events import encode
from ..requests import parse_chat_request, parse_without_blocking
from ..settings import Settings
from . import frames, protocol
from .connection import EdgeWebSocketProtocol
from .stream import OpenStream
from .writer import Writer

Metadata = Sequence[tuple[str, str]]

_CANCEL_STREAM = "tokenwire.v1.ChatService/CancelStream"
_CHAT_STREAM = "tokenwire.v1.ChatService/ChatStream"
_RESUME_STREAM = "tokenwire.v1.ChatService/ResumeStream"
_GET_CALLER = "tokenwire.v1.CallerService/GetCaller"

_CANCEL_UNSTARTED_S = 10.0
"""Seconds for which a cancel waits until the server has accepted the stream. Then the call is ended."""

_logger = logging.getLogger(__name__)


class _SocketEnded(Exception):
    """Ends all tasks of a socket. `close` is None if the caller has closed it."""

    def __init__(self, close: protocol.Close | None = None) -> None:
        super().__init__()
        self.close = close


class Session:
    """One accepted socket. `run` returns when it is closed, and no call to the server is open then."""

    def __init__(
        self, websocket: WebSocket, channel: Channel, settings: Settings, shutdown: Shutdown
    ) -> None:
        self._websocket = websocket
        self._channel = channel
        self._settings = settings
        self._shutdown = shutdown
        self._connection = EdgeWebSocketProtocol.of(websocket)
        self._protocol = protocol.SocketProtocol(max_streams=settings.max_streams_per_socket)
        self._writer = Writer(websocket)
        self._streams: dict[str, OpenStream] = {}
        self._metadata: Metadata = ()
        self._tasks = asyncio.TaskGroup()
        self._authentication = asyncio.timeout(settings.socket_auth_timeout_s)

    async def run(self, credentials: Metadata | Problem | None) -> None:
        """Serve the socket until one side closes it.

        Args:
            credentials: Metadata with the key of the handshake, the problem with that key, or None if the
                handshake had no key. Then the first frame must be `authenticate`.
        """
        if self._connection is not None:
            self._connection.on_shutdown = self._end_streams
            self._connection.limit(
                max_bytes_held=self._settings.max_body_bytes_held,
                write_stall_s=self._settings.write_stall_s,
            )
        close: protocol.Close | None = None
        try:
            async with self._tasks as tasks:
                tasks.create_task(self._writer.run())
                tasks.create_task(self._send_pings())
                tasks.create_task(self._close_at_shutdown())
                await self._authenticate(credentials)
                while True:
                    await self._receive()
        except* _SocketEnded as ended:
            reasons = [each for each in ended.exceptions if isinstance(each, _SocketEnded)]
            close = reasons[0].close
        except* WebSocketDisconnect:
            close = None
        if close is not None:
            await self._close(close)

    async def _authenticate(self, credentials: Metadata | Problem | None) -> None:
        try:
            async with self._authentication:
                if isinstance(credentials, Problem):
                    raise _refusal(credentials)
                if credentials is not None:
                    await self._check(credentials)
                while not self._protocol.is_authenticated:
                    await self._receive()
        except TimeoutError:
            problem = Problem(
                401,
                "UNAUTHENTICATED",
                f"no key within {self._settings.socket_auth_timeout_s:g} s",
            )
            raise _refusal(problem) from None
        if self._connection is not None:
            self._connection.allow_large_messages()

    async def _check(self, metadata: Metadata) -> None:
        """Let the server check the key. It does so again with every call."""
        self._authentication.reschedule(None)  # The caller is in time. The call has its own limit.
        try:
            await self._channel.unary(
                _GET_CALLER, b"", metadata=metadata, timeout_s=self._settings.call_timeout_s
            )
        except TokenwireError as error:
            raise _refusal(problem_of(error)) from None
        self._metadata = metadata
        await self._writer.reply(self._protocol.authenticated())

    async def _receive(self) -> None:
        """Receive one message and carry out its action."""
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise _SocketEnded
        text = message.get("text")
        action = self._protocol.receive_binary() if text is None else self._protocol.receive(text)
        match action:
            case None:
                pass
            case protocol.Reply(frame):
                await self._writer.reply(frame)
            case protocol.Authenticate(key):
                try:
                    metadata = call_metadata(key)
                except ValueError as error:
                    raise _refusal(Problem(401, "UNAUTHENTICATED", str(error))) from None
                await self._check(metadata)
            case protocol.Chat() | protocol.Resume():
                self._start(action)
            case protocol.Cancel(id):
                self._cancel(self._streams[id])
            case protocol.Leave(id):
                self._leave(self._streams[id])
            case protocol.Close():
                raise _SocketEnded(action)

    def _start(self, start: protocol.Chat | protocol.Resume) -> None:
        if isinstance(start, protocol.Resume):
            stream = OpenStream(
                start.id, stream_id=start.stream_id, after_sequence=start.after_sequence
            )
        else:
            interrupted = None if start.interrupt is None else self._streams[start.interrupt]
            stream = OpenStream(start.id, request_json=start.request_json, interrupted=interrupted)
        self._streams[start.id] = stream
        self._tasks.create_task(self._run_stream(stream))

    async def _run_stream(self, stream: OpenStream) -> None:
        """Send all frames of a stream: its events, and the one that ends it."""
        problem: Problem | None = None
        try:
            async with stream.scope():
                await self._relay(stream)
        except Problem as raised:
            problem = raised
        except TokenwireError as error:
            problem = problem_of(error)
        except (WebSocketDisconnect, asyncio.CancelledError):
            raise
        except Exception:
            error_id = secrets.token_hex(8)
            _logger.exception("error_id=%s", error_id)
            problem = Problem(500, "INTERNAL", "internal error", facts={"error_id": error_id})
        del self._streams[stream.id]
        if problem is None:
            last_frame = self._protocol.end(stream.id)
        else:
            if stream.stream_id:
                problem.facts.setdefault("stream_id", stream.stream_id)
            last_frame = self._protocol.fail(stream.id, problem)
        stream.has_id_or_ended.set()
        await self._writer.send(last_frame)
        stream.ended.set()

    async def _relay(self, stream: OpenStream) -> None:
        """Call the server and send the events, until the stream has finished."""
        kind, sequence = "", 0
        method, request = await self._request(stream)
        async with self._channel.stream(
            method, request, metadata=self._metadata, timeout_s=self._settings.stream_timeout_s
        ) as call:
            del request
            if not stream.stream_id:
                metadata = parse_initial_metadata(await call.initial_metadata())
                stream.stream_id = metadata.stream_id
                stream.has_id_or_ended.set()
            while messages := await call.read():
                for message in messages:
                    event = encode(message)
                    if event.kind == "heartbeat" and not stream.sends_heartbeats:
                        continue
                    kind, sequence = event.kind, event.sequence
                    await self._writer.send(self._protocol.event(stream.id, sequence, event.data))
        # A stream that is resumed at its end has no further events.
        if kind != "finished" and sequence > stream.after_sequence:
            raise IncompleteStream("the stream ended without a finished event")

    async def _request(self, stream: OpenStream) -> tuple[str, bytes]:
        """Return the method and the request of a stream. First ends the stream that it interrupts."""
        if stream.request_json is None:
            resume = ResumeStreamRequest(
                stream_id=stream.stream_id, after_sequence=stream.after_sequence
            )
            return _RESUME_STREAM, resume.SerializeToString()
        # A large request is not kept while its stream is read.
        request_json, stream.request_json = stream.request_json, b""
        chat = await parse_without_blocking(parse_chat_request, request_json)
        stream.sends_heartbeats = chat.delivery.HasField("heartbeat_interval")
        if stream.interrupted is not None:
            await self._interrupt(stream.interrupted)
            stream.interrupted = None
        return _CHAT_STREAM, chat.SerializeToString()

    async def _interrupt(self, stream: OpenStream) -> None:
        """Stop a generation and wait until its last frame is sent. Raises Problem if it continues."""
        try:
            async with asyncio.timeout(self._settings.call_timeout_s):
                error = await asyncio.shield(self._stop(stream))
                if error is None:
                    await stream.ended.wait()
                    return
                problem = problem_of(error)
        except TimeoutError:
            problem = Problem(
                504, "DEADLINE_EXCEEDED", "the interrupted stream did not end in time"
            )
        problem.facts["interrupt"] = stream.id
        raise problem

    def _cancel(self, stream: OpenStream) -> None:
        """Stop a generation, unless it is being stopped already."""
        if not stream.is_stopping:
            self._tasks.create_task(self._report(stream, self._stop(stream)))

    def _leave(self, stream: OpenStream) -> None:
        """End a stream here. One whose generation is being stopped ends by itself."""
        if not stream.is_stopping:
            stream.abandon(Problem(499, "CANCELLED", "the caller left the stream"))

    async def _report(self, stream: OpenStream, stop: asyncio.Task[TokenwireError | None]) -> None:
        """Send the error of a cancel. It is not the end of the stream, which continues."""
        error = await stop
        if error is not None and not stream.ended.is_set():
            problem = problem_of(error)
            problem.facts["id"] = stream.id
            await self._writer.reply(frames.error(problem))

    def _stop(self, stream: OpenStream) -> asyncio.Task[TokenwireError | None]:
        """Stop a generation for all of its readers, once. Its reader here still gets its last events."""
        if stream.stop is None or not stream.is_stopping:
            stream.stop = self._tasks.create_task(self._stop_now(stream))
        return stream.stop

    async def _stop_now(self, stream: OpenStream) -> TokenwireError | None:
        """Stop the generation, or end a stream that has not started. Return the error if that failed."""
        if not stream.has_id_or_ended.is_set() and stream.interrupted is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CANCEL_UNSTARTED_S):
                    await stream.has_id_or_ended.wait()
        if not stream.has_id_or_ended.is_set():
            stream.abandon(Problem(499, "CANCELLED", "cancelled before the stream started"))
        if stream.stream_id:
            request = CancelStreamRequest(stream_id=stream.stream_id)
            try:
                await self._channel.unary(
                    _CANCEL_STREAM,
                    request.SerializeToString(),
                    metadata=self._metadata,
                    timeout_s=self._settings.call_timeout_s,
                )
            except TokenwireError as error:
                return error
        return None

    async def _send_pings(self) -> NoReturn:
        while True:
            await asyncio.sleep(self._settings.socket_ping_interval_s)
            self._writer.ping(frames.PING)

    async def _close_at_shutdown(self) -> NoReturn:
        """Close the socket once its streams have ended, for which they have the grace period."""
        await self._shutdown.refuses.wait()
        self._protocol.drain()
        for stream in list(self._streams.values()):
            await stream.ended.wait()
        raise _SocketEnded(protocol.Close(protocol.SERVICE_RESTART, "this edge is shutting down"))

    def _end_streams(self) -> None:
        """End all streams because the grace period is over. Their callers resume them elsewhere."""
        for stream in self._streams.values():
            stream.abandon(self._shutdown.problem())

    async def _close(self, close: protocol.Close) -> None:
        with contextlib.suppress(WebSocketDisconnect, TimeoutError):
            async with asyncio.timeout(self._settings.write_stall_s):
                if close.frame:
                    await self._writer.send(close.frame)
                await self._websocket.close(close.code, close.reason)


def _refusal(problem: Problem) -> _SocketEnded:
    """Return the end of a socket that could not authenticate."""
    is_final = problem.status in {401, 403}
    return _SocketEnded(
        protocol.Close(
            protocol.UNAUTHENTICATED if is_final else protocol.TRY_AGAIN_LATER,
            "not authenticated" if is_final else "the key could not be checked",
            frames.error(problem),
        )
    )
