"""The client for code without an event loop: gRPC's own synchronous stack, not a loop in hiding."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Self, Unpack

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
from .chat_stream import ChatStream, Patience, Resume, StreamCall
from .usage import UsageCalls


class Client(UsageCalls):
    """A client of one Tokenwire server, for threads.

        with tokenwire.Client() as client:
            response = client.chat("openai/demo", "Hello")

    Arguments and errors are those of `AsyncClient`. Threads may share it. Closing it from another
    thread ends the calls still open with `Cancelled`.
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

    @property
    def target(self) -> str:
        """The server's address, as gRPC takes it."""
        return self._connection.target

    @property
    def allowances(self) -> tuple[Allowance, ...]:
        """What was left of the caller's limits at the newest answer: see `AsyncClient.allowances`."""
        return self._newest.newest

    def chat_stream(
        self,
        model: str | ChatRequest,
        messages: MessageLike | Iterable[MessageLike] | None = None,
        *,
        timeout: float | None = None,
        resumable: bool | None = None,
        **fields: Unpack[RequestFields],
    ) -> ChatStream:
        """Generate an answer and read it as it comes: see `AsyncClient.chat_stream`."""
        request = build_request(model, messages, **fields)
        resume = None
        if self._resumable if resumable is None else resumable:
            request = outliving_its_readers(request)
            policy = Resumption(linger_s=linger_s(request))
            resume = self._resume(policy, request.delivery, cancels=True)

        def start(timeout_s: float | None) -> StreamCall:
            self._check_open()
            return self._chat.ChatStream(request, timeout=timeout_s, metadata=self._metadata)

        return ChatStream(start, timeout_s=timeout, resume=resume, newest=self._newest)

    def resume(
        self,
        stream_id: str,
        after_sequence: int = 0,
        *,
        timeout: float | None = None,
        resumable: bool | None = None,
        delivery: DeliveryLike | None = None,
    ) -> ChatStream:
        """Read a stream on from a cursor, or from its beginning: see `AsyncClient.resume`."""
        request = build_resume(stream_id, after_sequence, delivery)
        resume = None
        if self._resumable if resumable is None else resumable:
            resume = self._resume(Resumption(), request.delivery, cancels=False)

        def start(timeout_s: float | None) -> StreamCall:
            self._check_open()
            return self._chat.ResumeStream(request, timeout=timeout_s, metadata=self._metadata)

        return ChatStream(
            start,
            timeout_s=timeout,
            resume=resume,
            stream_id=stream_id,
            after_sequence=after_sequence,
            newest=self._newest,
        )

    def cancel(self, stream_id: str, *, timeout: float | None = LOOKUP_TIMEOUT_S) -> StreamInfo:
        """Stop a generation for all its readers; how it ended: see `AsyncClient.cancel`."""
        request = CancelStreamRequest(stream_id=stream_id)
        return self._response(self._chat.CancelStream, request, timeout).stream

    def delete(self, stream_id: str, *, timeout: float | None = LOOKUP_TIMEOUT_S) -> None:
        """Cancel a stream, and have its content forgotten now: see `AsyncClient.delete`."""
        request = DeleteStreamRequest(stream_id=stream_id)
        self._response(self._chat.DeleteStream, request, timeout)

    def get_stream(self, stream_id: str, *, timeout: float | None = LOOKUP_TIMEOUT_S) -> StreamInfo:
        """Where a stream stands: see `AsyncClient.get_stream`."""
        request = GetStreamRequest(stream_id=stream_id)
        return self._response(self._chat.GetStream, request, timeout)

    def chat(
        self,
        model: str | ChatRequest,
        messages: MessageLike | Iterable[MessageLike] | None = None,
        *,
        timeout: float | None = None,
        **fields: Unpack[RequestFields],
    ) -> ChatResponse:
        """The same request, answered whole: see `AsyncClient.chat`."""
        return self._response(self._chat.Chat, build_request(model, messages, **fields), timeout)

    def list_models(self, *, timeout: float | None = LOOKUP_TIMEOUT_S) -> list[Model]:
        """The models and aliases that the server's configuration names, by id."""
        return list(self._response(self._model.ListModels, ListModelsRequest(), timeout).models)

    def get_model(self, model: str, *, timeout: float | None = LOOKUP_TIMEOUT_S) -> Model:
        """What the server knows of one model: see `AsyncClient.get_model`."""
        return self._response(self._model.GetModel, GetModelRequest(id=model), timeout)

    def get_caller(self, *, timeout: float | None = LOOKUP_TIMEOUT_S) -> Caller:
        """Who the server says that you are, and what you may. It counts against no limit."""
        return self._response(self._caller.GetCaller, GetCallerRequest(), timeout)

    def close(self) -> None:
        """End the connection and the calls still open on it. Idempotent."""
        self._closed = True
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _resume(self, policy: Resumption, delivery: DeliveryLike, *, cancels: bool) -> Resume:
        def start(stream_id: str, after_sequence: int, timeout_s: float | None) -> StreamCall:
            if self._closed:
                raise Cancelled(
                    "the client was closed", stream_id=stream_id, last_sequence=after_sequence
                )
            request = build_resume(stream_id, after_sequence, delivery)
            return self._chat.ResumeStream(request, timeout=timeout_s, metadata=self._metadata)

        return Resume(policy, start, self._end_generation if cancels else None)

    def _end_generation(self, call: StreamCall, stream_id: str) -> None:
        deadline = time.monotonic() + CANCEL_TIMEOUT_S
        try:
            if not stream_id:
                with Patience(call, CANCEL_TIMEOUT_S):
                    stream_id = stream_id_in(call.initial_metadata() or ())
        finally:
            call.cancel()
        if not stream_id or self._closed:
            return
        with contextlib.suppress(TokenwireError):  # its linger ends it
            try:
                self.cancel(stream_id, timeout=deadline - time.monotonic())
            except (
                ConnectionLost
            ):  # on a wire that was just cut; idempotent, so once more on another
                self.cancel(stream_id, timeout=deadline - time.monotonic())
