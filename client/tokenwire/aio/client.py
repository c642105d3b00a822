"""The asyncio client."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from types import TracebackType
from typing import Self, Unpack
from weakref import WeakSet

from tokenwire.v1.caller_pb2 import Caller, GetCallerRequest
from tokenwire.v1.chat_pb2 import (
    CancelStreamRequest,
    ChatRequest,
    ChatResponse,
    DeleteStreamRequest,
    GetStreamRequest,
    StreamInfo,
)
from tokenwire.v1.model_pb2 import GetModelRequest, ListModelsRequest, Model

from ..connect.channel import CANCEL_TIMEOUT_S, LOOKUP_TIMEOUT_S, ChannelOptions
from ..connect.connection import connection_to
from ..connect.tls import Tls
from ..errors import Cancelled, ConnectionLost, TokenwireError
from ..messages import MessageLike
from ..stream.answer import stream_id_in
from ..stream.resume import Resumption
from ..wire.metadata import Allowance
from ..wire.requests import (
    DeliveryLike,
    RequestFields,
    build_request,
    build_resume,
    linger_s,
    outliving_its_readers,
)
from .chat_stream import AsyncChatStream, AsyncResume, StreamCall
from .usage import AsyncUsageCalls


class AsyncClient(AsyncUsageCalls):
    """A client of one Tokenwire server, for one event loop.

        async with tokenwire.AsyncClient() as client:
            response = await client.chat("openai/demo", "Hello")

    `target` is a gRPC name (`host:port`); default: TOKENWIRE_TARGET, or 127.0.0.1:50051.
    `key` shows the server who calls, with every call; default: TOKENWIRE_KEY. "" sends none.
    `tls`: True, False for plaintext, or a `Tls` with files of your own. By default what stays on this
    machine (127.0.0.1, localhost, unix:) goes in plaintext, and everything else over TLS;
    TOKENWIRE_PLAINTEXT (1 or 0), TOKENWIRE_TLS_CA, TOKENWIRE_TLS_CLIENT_CERT and
    TOKENWIRE_TLS_CLIENT_KEY decide it for a whole environment. In plaintext everybody on the way can
    read the key.
    `options` are gRPC channel arguments, over those of `channel.channel_options`. The connection is
    made by the first call, kept, and shared by all calls; `close()`, or leaving the block, ends it
    and the calls still open on it.

    `timeout` of a call is its gRPC deadline in seconds: it bounds the whole generation, reaches the
    provider, and ends as DeadlineExceeded. Without one, the server's limits bound a generation, and
    keepalive finds a server that is gone.

    `resumable` makes every stream resumable that does not say otherwise: see `chat_stream`.

    Raises:
        ValueError: the key cannot be one, or a TLS file is missing or not what it should be.
    """

    def __init__(
        self,
        target: str | None = None,
        *,
        key: str | None = None,
        tls: bool | Tls | None = None,
        resumable: bool = False,
        options: ChannelOptions = (),
    ) -> None:
        super().__init__(connection_to(target, key=key, tls=tls, options=options))
        self._resumable = resumable
        self._calls = WeakSet[StreamCall]()
        self._leaving: set[asyncio.Task[None]] = set()

    @property
    def target(self) -> str:
        """The server's address, as gRPC takes it."""
        return self._connection.target

    @property
    def allowances(self) -> tuple[Allowance, ...]:
        """What was left of the caller's limits at the newest answer that told. (): none did so far."""
        return self._newest.newest

    def chat_stream(
        self,
        model: str | ChatRequest,
        messages: MessageLike | Iterable[MessageLike] | None = None,
        *,
        timeout: float | None = None,
        resumable: bool | None = None,
        **fields: Unpack[RequestFields],
    ) -> AsyncChatStream:
        """Generate an answer and read it as it comes. Nothing is sent before the block is entered.

        `messages` is what the user says, a message, or a list of these: see `MessageLike`. A whole
        ChatRequest can stand in place of model, messages and fields.

        A stream is cancelled when its reader leaves, and a server cannot tell a cut wire from that.
        With `resumable` (default: the client's) it is asked to CONTINUE without a reader, for 30
        seconds unless `retention` has another `linger`. A broken connection, a server that goes away
        (Draining) and SlowReader are then not seen: the stream is resumed where it broke, within
        `timeout`, which is the deadline of the whole. When that does not succeed, the last error is
        raised, and `resume(stream_id, last_sequence)` is left to the caller. Leaving the block before
        the end cancels the generation with a call of its own, which takes 3 seconds at most, and goes
        out too when the reading task is cancelled.

        What it costs: a caller who dies, or loses the network for good, cancels nothing. The model
        then goes on, and is paid for, for up to `linger` more.

        Raises:
            TypeError, ValueError: the arguments do not make a ChatRequest, or contradict `resumable`.
        """
        request = build_request(model, messages, **fields)
        resume = None
        if self._resumable if resumable is None else resumable:
            request = outliving_its_readers(request)
            policy = Resumption(linger_s=linger_s(request))
            resume = self._resume(policy, request.delivery, cancels=True)

        def start(timeout_s: float | None) -> StreamCall:
            self._check_open()
            return self._kept(
                self._chat.ChatStream(request, timeout=timeout_s, metadata=self._metadata)
            )

        return AsyncChatStream(start, timeout_s=timeout, resume=resume, newest=self._newest)

    def resume(
        self,
        stream_id: str,
        after_sequence: int = 0,
        *,
        timeout: float | None = None,
        resumable: bool | None = None,
        delivery: DeliveryLike | None = None,
    ) -> AsyncChatStream:
        """Read a stream on from a cursor, or from its beginning: what follows it, then live.

        The cursor is the `last_sequence` of whoever read it before. Any number of readers may read
        one stream. Leaving the block ends this reader alone; what becomes of the stream then, its own
        `retention` says. With `resumable` (default: the client's) a broken connection is not seen, as
        in `chat_stream`. Entering the block raises StreamNotFound, ResumePointExpired and
        ResumePointAhead. From the very end of a finished stream there is nothing to read: that is a
        normal end.

        Raises:
            TypeError, ValueError: the arguments do not make a ResumeStreamRequest.
        """
        request = build_resume(stream_id, after_sequence, delivery)
        resume = None
        if self._resumable if resumable is None else resumable:
            resume = self._resume(Resumption(), request.delivery, cancels=False)

        def start(timeout_s: float | None) -> StreamCall:
            self._check_open()
            return self._kept(
                self._chat.ResumeStream(request, timeout=timeout_s, metadata=self._metadata)
            )

        return AsyncChatStream(
            start,
            timeout_s=timeout,
            resume=resume,
            stream_id=stream_id,
            after_sequence=after_sequence,
            newest=self._newest,
        )

    async def cancel(
        self, stream_id: str, *, timeout: float | None = LOOKUP_TIMEOUT_S
    ) -> StreamInfo:
        """Stop a generation for all its readers; how it ended. One that had ended stays as it was.

        Raises:
            StreamNotFound: no such stream, or no more.
        """
        request = CancelStreamRequest(stream_id=stream_id)
        return (await self._response(self._chat.CancelStream, request, timeout)).stream

    async def delete(self, stream_id: str, *, timeout: float | None = LOOKUP_TIMEOUT_S) -> None:
        """Cancel a stream, and have its content forgotten now.

        Raises:
            StreamNotFound: no such stream, or no more.
        """
        request = DeleteStreamRequest(stream_id=stream_id)
        await self._response(self._chat.DeleteStream, request, timeout)

    async def get_stream(
        self, stream_id: str, *, timeout: float | None = LOOKUP_TIMEOUT_S
    ) -> StreamInfo:
        """Where a stream stands. Looking does not count as reading.

        Raises:
            StreamNotFound: no such stream, or no more.
        """
        request = GetStreamRequest(stream_id=stream_id)
        return await self._response(self._chat.GetStream, request, timeout)

    async def chat(
        self,
        model: str | ChatRequest,
        messages: MessageLike | Iterable[MessageLike] | None = None,
        *,
        timeout: float | None = None,
        **fields: Unpack[RequestFields],
    ) -> ChatResponse:
        """The same request, answered whole. Cancelling the awaiting task cancels the call.

        Raises:
            TokenwireError: there is no answer.
            TypeError, ValueError: the arguments do not make a ChatRequest.
        """
        request = build_request(model, messages, **fields)
        return await self._response(self._chat.Chat, request, timeout)

    async def list_models(self, *, timeout: float | None = LOOKUP_TIMEOUT_S) -> list[Model]:
        """The models and aliases that the server's configuration names, by id."""
        response = await self._response(self._model.ListModels, ListModelsRequest(), timeout)
        return list(response.models)

    async def get_model(self, model: str, *, timeout: float | None = LOOKUP_TIMEOUT_S) -> Model:
        """What the server knows of one model: a listed one, an alias, or any `provider/model`.

        Raises:
            UnknownModel: no such provider or alias.
        """
        return await self._response(self._model.GetModel, GetModelRequest(id=model), timeout)

    async def get_caller(self, *, timeout: float | None = LOOKUP_TIMEOUT_S) -> Caller:
        """Who the server says that you are, and what you may. It counts against no limit."""
        return await self._response(self._caller.GetCaller, GetCallerRequest(), timeout)

    async def close(self) -> None:
        """End the connection and the calls still open on it, which get `Cancelled`. Idempotent.

        Cancellations of streams that are on their way are waited for: 3 seconds at most. Cancelled
        before, it may leave the connection open: call it again.
        """
        self._closed = True
        if self._leaving:
            await asyncio.wait(self._leaving)
        for call in self._calls:  # the channels of older grpcio close without them
            call.cancel()
        if self._channel is not None:
            await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def _resume(self, policy: Resumption, delivery: DeliveryLike, *, cancels: bool) -> AsyncResume:
        def start(stream_id: str, after_sequence: int, timeout_s: float | None) -> StreamCall:
            if self._closed:
                raise Cancelled(
                    "the client was closed", stream_id=stream_id, last_sequence=after_sequence
                )
            request = build_resume(stream_id, after_sequence, delivery)
            return self._kept(
                self._chat.ResumeStream(request, timeout=timeout_s, metadata=self._metadata)
            )

        return AsyncResume(policy, start, self._leave if cancels else None)

    async def _leave(self, call: StreamCall, stream_id: str) -> None:
        """End a generation that nobody else ends; cancelled, do so behind the caller's back."""
        if self._closed:
            call.cancel()
            return
        leaving = asyncio.create_task(self._end_generation(call, stream_id))
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)
        await asyncio.wait([leaving])

    async def _end_generation(self, call: StreamCall, stream_id: str) -> None:
        try:
            async with asyncio.timeout(CANCEL_TIMEOUT_S):
                stream_id = stream_id or stream_id_in(await call.initial_metadata())
                call.cancel()
                if stream_id:
                    await self._cancel_stream(stream_id)
        except (TokenwireError, TimeoutError):
            pass  # its linger ends it
        finally:
            call.cancel()

    async def _cancel_stream(self, stream_id: str) -> None:
        request = CancelStreamRequest(stream_id=stream_id)
        try:
            await self._answer(self._chat.CancelStream, request, CANCEL_TIMEOUT_S)
        except ConnectionLost:  # on a wire that was just cut; idempotent, so once more on another
            await self._answer(self._chat.CancelStream, request, CANCEL_TIMEOUT_S)

    def _kept(self, call: StreamCall) -> StreamCall:
        self._calls.add(call)
        return call
