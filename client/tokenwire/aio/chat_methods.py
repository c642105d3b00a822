"""The methods of the asyncio client that send chat requests, and read streams."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar, Unpack, overload

from tokenwire.v1.chat_pb2 import (
    ChatRequest,
    ResumeStreamRequest,
)

from .._checks import check_type
from ..connect.channel import (
    LOOKUP_TIMEOUT_S,
)
from ..messages import MessageLike
from ..stream.answer import Answer
from ..stream.answer_builder import AnswerBuilder
from ..stream.continuation import check_model
from ..stream.reading import Reading
from ..stream.retry import Retries, check_max_retries
from ..structured.answer_type import AnswerType, answer_type_of
from ..wire.requests import (
    DeliveryLike,
    FieldsWithoutFormat,
    RequestFields,
    ResponseFormatLike,
    build_request,
    build_resume,
    request_and_type,
)
from ..wire.usage import (
    TokenCount,
    count_request,
    token_count,
)
from .chat_stream import AsyncChatStream
from .lookup_methods import AsyncLookupMethods
from .transport import AsyncTransport

T = TypeVar("T")


class AsyncChatMethods(AsyncLookupMethods):
    """The methods of a client that send chat requests, and read streams."""

    def __init__(self, transport: AsyncTransport, max_retries: int, *, is_resumable: bool) -> None:
        super().__init__(transport)
        self._max_retries = max_retries
        self._resumable = is_resumable

    @overload
    def chat_stream(
        self,
        model: str | ChatRequest,
        messages: MessageLike | Iterable[MessageLike] | None = None,
        *,
        response_format: type[T],
        timeout: float | None = None,
        resumable: bool | None = None,
        max_retries: int | None = None,
        **fields: Unpack[FieldsWithoutFormat],
    ) -> AsyncChatStream[T]: ...

    @overload
    def chat_stream(
        self,
        model: str | ChatRequest,
        messages: MessageLike | Iterable[MessageLike] | None = None,
        *,
        response_format: ResponseFormatLike | None = None,
        timeout: float | None = None,
        resumable: bool | None = None,
        max_retries: int | None = None,
        **fields: Unpack[FieldsWithoutFormat],
    ) -> AsyncChatStream: ...

    @overload
    def chat_stream(
        self,
        model: str | ChatRequest,
        messages: MessageLike | Iterable[MessageLike] | None = None,
        *,
        response_format: ResponseFormatLike | type[Any] | None,
        timeout: float | None = None,
        resumable: bool | None = None,
        max_retries: int | None = None,
        **fields: Unpack[FieldsWithoutFormat],
    ) -> AsyncChatStream[Any]: ...

    def chat_stream(
        self,
        model: str | ChatRequest,
        messages: MessageLike | Iterable[MessageLike] | None = None,
        *,
        response_format: ResponseFormatLike | type[Any] | None = None,
        timeout: float | None = None,
        resumable: bool | None = None,
        max_retries: int | None = None,
        **fields: Unpack[FieldsWithoutFormat],
    ) -> AsyncChatStream[Any]:
        """Start a generation and read it as it arrives. The call starts when the block is entered.

        `messages` is the user's text, a message, or a list of these: see `MessageLike`. A complete
        ChatRequest can be passed instead of model, messages and fields.

        `response_format` is `json_format(...)`, or a dataclass, TypedDict, msgspec Struct or pydantic model:
        then the answer is JSON, and `stream.result` is an object of that class.

        A stream is cancelled when its reader leaves, and a server cannot distinguish that from a broken
        connection. With `resumable` (default: the client's) the request has ON_DISCONNECT_CONTINUE: without
        a reader, the generation continues for 30 seconds, or for the `linger` of `retention`. After a broken
        connection, Draining or SlowReader, the client resumes the stream where it was interrupted. After the
        notice DRAINING it reads the stream from another server, if a load balancer chooses one. `timeout` is
        the deadline of the whole stream. If resuming fails, the last error is raised, and the caller can use
        `resume(stream_id, last_sequence)`. If the server is gone, the client tries for at most the `linger`,
        or until `timeout` has passed.

        Leaving the block of a resumable stream early cancels the generation with a call that takes at most
        3 seconds. The client makes this call even if the reading task is cancelled. If the caller's process
        or network fails for good, nothing is cancelled: the generation then continues, and is billed, for up
        to `linger`.

        If the provider fails before it has sent or used anything, the request is retried, up to `max_retries`
        times (default: the client's). The new stream has another `stream_id` and another event `started`.

        Raises:
            TypeError, ValueError: the arguments are not a valid ChatRequest, or contradict `resumable`.
            ImportError: the class in `response_format` needs the extra `structured`.
        """
        request, kind = request_and_type(model, messages, response_format, **fields)
        return self._stream(request, timeout, resumable, max_retries, kind)

    @overload
    def resume(
        self,
        stream_id: str,
        after_sequence: int = 0,
        *,
        response_format: type[T],
        timeout: float | None = None,
        resumable: bool | None = None,
        max_retries: int | None = None,
        delivery: DeliveryLike | None = None,
    ) -> AsyncChatStream[T]: ...

    @overload
    def resume(
        self,
        stream_id: str,
        after_sequence: int = 0,
        *,
        response_format: ResponseFormatLike | None = None,
        timeout: float | None = None,
        resumable: bool | None = None,
        max_retries: int | None = None,
        delivery: DeliveryLike | None = None,
    ) -> AsyncChatStream: ...

    def resume(
        self,
        stream_id: str,
        after_sequence: int = 0,
        *,
        response_format: ResponseFormatLike | type[Any] | None = None,
        timeout: float | None = None,
        resumable: bool | None = None,
        max_retries: int | None = None,
        delivery: DeliveryLike | None = None,
    ) -> AsyncChatStream[Any]:
        """Read a stream from a cursor: the stored events after it, then live ones. 0 is the beginning.

        The cursor is the `last_sequence` of an earlier reader. A stream can have any number of readers.
        Leaving the block ends this reader only; the stream's `retention` decides whether the generation
        continues. With `resumable` (default: the client's) the stream is resumed again after a broken
        connection, as in `chat_stream`. Entering the block can raise StreamNotFound, ResumePointExpired or
        ResumePointAhead. At the very end of a finished stream, iterating ends normally without an event.
        Pass the `response_format` of the request to get `result` and `partial` as from `chat_stream`.

        Raises:
            TypeError, ValueError: the arguments are not a valid ResumeStreamRequest.
        """
        request = build_resume(stream_id, after_sequence, delivery)
        kind = answer_type_of(response_format)
        is_json = response_format is not None
        return self._stream(request, timeout, resumable, max_retries, kind, is_json=is_json)

    async def continue_from(
        self,
        stream: AsyncChatStream[T],
        *,
        timeout: float | None = None,
        resumable: bool | None = None,
        max_retries: int | None = None,
    ) -> AsyncChatStream[T]:
        """Return a stream that continues an answer that was cut off, for example by UpstreamBroken.

            async with await client.continue_from(stream) as rest:
                async for piece in rest.text:
                    print(piece, end="")

        It is another generation with its own id, usage and cost. The model gets the request of `stream`, with
        the text that arrived as the last message, and continues it. `rest.text_before` is that text, without
        white space at its end. The answer of `rest` has only the text after it. If `rest` is cut off too, it
        can be continued in the same way: `text_before` then has the text of both. The request_id and the
        fallback models of the first request are not used again.

        If `response_format` was a class, `rest.result` is an object of this class, parsed from `text_before`
        and the text after it. The format is not sent again, because it describes the whole answer. So the
        server does not check the rest, and `rest.values` yields nothing. Without a class, `rest.result`
        raises IncompleteStream.

        Only a model with the capability PREFILL can continue: other models would begin a new answer. The
        model is looked up with `get_model`; then the call starts when the block is entered, as in
        `chat_stream`.

        Raises:
            CannotContinue: the answer has finished, has no text, or has more than text; its call is open;
                the stream was read by `resume`; or the model does not have the capability PREFILL.
            TypeError: `stream` is not a stream, for example an Answer.
        """
        check_type(stream, AsyncChatStream, "stream")
        request = stream.continuation()
        rest = stream._reading.answer.of_rest()
        check_model(await self.get_model(request.model))
        return self._stream(request, timeout, resumable, max_retries, rest=rest)

    @overload
    async def chat(
        self,
        model: str | ChatRequest,
        messages: MessageLike | Iterable[MessageLike] | None = None,
        *,
        response_format: type[T],
        timeout: float | None = None,
        max_retries: int | None = None,
        **fields: Unpack[FieldsWithoutFormat],
    ) -> Answer[T]: ...

    @overload
    async def chat(
        self,
        model: str | ChatRequest,
        messages: MessageLike | Iterable[MessageLike] | None = None,
        *,
        response_format: ResponseFormatLike | None = None,
        timeout: float | None = None,
        max_retries: int | None = None,
        **fields: Unpack[FieldsWithoutFormat],
    ) -> Answer: ...

    @overload
    async def chat(
        self,
        model: str | ChatRequest,
        messages: MessageLike | Iterable[MessageLike] | None = None,
        *,
        response_format: ResponseFormatLike | type[Any] | None,
        timeout: float | None = None,
        max_retries: int | None = None,
        **fields: Unpack[FieldsWithoutFormat],
    ) -> Answer[Any]: ...

    async def chat(
        self,
        model: str | ChatRequest,
        messages: MessageLike | Iterable[MessageLike] | None = None,
        *,
        response_format: ResponseFormatLike | type[Any] | None = None,
        timeout: float | None = None,
        max_retries: int | None = None,
        **fields: Unpack[FieldsWithoutFormat],
    ) -> Answer[Any]:
        """Return the whole answer. The arguments are those of `chat_stream`.

        If `response_format` is a class, `answer.parsed` is an object of it, or raises an error.

        Cancelling the awaiting task cancels the call.

        Raises:
            InvalidAnswer: the answer does not follow the schema, and `response_format` has
                `fails_if_invalid`. The error has no text: `resume` with its `stream_id` reads the answer.
            TokenwireError: there is no answer.
            TypeError, ValueError: the arguments are not a valid ChatRequest.
            ImportError: the class in `response_format` needs the extra `structured`.
        """
        request, kind = request_and_type(model, messages, response_format, **fields)
        response = await self._transport.unary(
            self._transport.chat.Chat,
            request,
            timeout,
            max_retries=self._retry_count(max_retries),
        )
        return Answer.from_response(response, kind)

    async def count_tokens(
        self,
        model: str | ChatRequest,
        messages: MessageLike | Iterable[MessageLike] | None = None,
        *,
        ask_provider: bool = False,
        timeout: float | None = LOOKUP_TIMEOUT_S,
        max_retries: int | None = None,
        **fields: Unpack[RequestFields],
    ) -> TokenCount:
        """Return the tokens and the cost of a request before it runs. The arguments are those of `chat`.

        It starts no generation and costs nothing. It counts as a request for the limit
        `requests_per_minute`. With `ask_provider` the provider counts, if it has an endpoint for that.
        Otherwise the server counts.

        Raises:
            InvalidRequest, UnknownModel, PermissionDenied: `chat` would raise it too.
            UpstreamError: the provider failed, with `ask_provider`.
            TypeError, ValueError: the arguments are not a valid ChatRequest.
        """
        request = count_request(build_request(model, messages, **fields), ask_provider=ask_provider)
        response = await self._transport.unary(
            self._transport.chat.CountTokens,
            request,
            timeout,
            max_retries=self._retry_count(max_retries),
        )
        return token_count(response)

    def _stream(
        self,
        request: ChatRequest | ResumeStreamRequest,
        timeout_s: float | None,
        resumable: bool | None,
        max_retries: int | None,
        answer_type: AnswerType[Any] | None = None,
        *,
        is_json: bool = False,
        rest: AnswerBuilder | None = None,
    ) -> AsyncChatStream[Any]:
        reading = Reading(
            request,
            timeout_s=timeout_s,
            is_resumable=self._resumable if resumable is None else resumable,
            retries=Retries(self._retry_count(max_retries)),
            answer_type=answer_type,
            is_json=is_json,
            rest=rest,
        )
        return AsyncChatStream(self._transport, reading)

    def _retry_count(self, max_retries: int | None) -> int:
        return self._max_retries if max_retries is None else check_max_retries(max_retries)
