"""The asyncio client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack, overload

from tokenwire.v1.caller_pb2 import Caller, GetCallerRequest
from tokenwire.v1.chat_pb2 import (
    CancelStreamRequest,
    ChatRequest,
    DeleteStreamRequest,
    GetStreamRequest,
    ResumeStreamRequest,
    StreamInfo,
)
from tokenwire.v1.model_pb2 import GetModelRequest, ListModelsRequest, Model
from tokenwire.v1.usage_pb2 import ListUsageRecordsRequest, UsageRecord, UsageSummary

from ..connect.channel import (
    LOOKUP_TIMEOUT_S,
    SUMMARY_TIMEOUT_S,
    ChannelOptions,
    connection_to,
)
from ..connect.tls import Tls
from ..messages import Content, MessageLike
from ..stream.answer import Answer
from ..stream.continuation import check_model
from ..stream.reading import Reading
from ..stream.retry import MAX_RETRIES, Retries, check_max_retries
from ..structured.answer_type import AnswerType, answer_type_of
from ..tools import MAX_CONCURRENCY, MAX_ROUNDS, TOOL_TIMEOUT_S
from ..wire.metadata import Allowance
from ..wire.requests import (
    DeliveryLike,
    FieldsWithoutFormat,
    RequestFields,
    ResponseFormatLike,
    RunFields,
    build_request,
    build_resume,
    conversation_fields,
    request_and_type,
)
from ..wire.styles import to_messages
from ..wire.usage import (
    PAGE_SIZE,
    TokenCount,
    UsageFields,
    UsageGroupName,
    count_request,
    first_page,
    next_page,
    summary_request,
    token_count,
)
from .chat_stream import AsyncChatStream
from .transport import AsyncTransport

if TYPE_CHECKING:
    from ..stream.history import OnCut
    from ..stream.tool_loop import OnToolError
    from ..stream.trimming import TrimPolicy
    from ..tools.function_tool import FunctionTool, ToolFunction
    from .conversation import AsyncConversation
    from .tool_run import AsyncToolRun

T = TypeVar("T")


class AsyncClient:
    """A client of one Tokenwire server, for one event loop.

        async with tokenwire.AsyncClient() as client:
            answer = await client.chat("openai/demo", "Hello")

    The first call opens the connection. All calls share it. `close()`, or leaving the block, closes it
    and ends the open calls.

    Args:
        target: The server as a gRPC name, such as `host:port`. Default: TOKENWIRE_TARGET, or
            127.0.0.1:50051.
        key: The caller's key, sent with every call. Default: TOKENWIRE_KEY. "" sends none.
        tls: True, False for plaintext, or a `Tls` with your own files. By default a target on this
            machine (127.0.0.1, localhost, unix:) is in plaintext, and any other over TLS.
            TOKENWIRE_PLAINTEXT (1 or 0), TOKENWIRE_TLS_CA, TOKENWIRE_TLS_CLIENT_CERT and
            TOKENWIRE_TLS_CLIENT_KEY set it for a whole environment. A plaintext connection exposes the
            key to everyone on its way.
        resumable: Whether streams are resumable by default: see `chat_stream`.
        max_retries: Number of retries if the server refuses a request temporarily, if the provider fails
            before it has sent or used anything, or if no connection can be made. 0: none.
        options: gRPC channel arguments. They override those of
            `tokenwire.connect.channel.channel_options`.

    The `timeout` of a call is its gRPC deadline in seconds. It limits the whole generation, applies to
    the provider too, and ends the call with DeadlineExceeded. Without a timeout, the server's limits apply
    to a generation, and keepalive detects a server that has disappeared.

    Retries are safe: a request is sent again only if the error proves that no part of it is running and that
    it has used nothing. Before a retry, the client waits for the error's `retry_after_s` plus a random time:
    0.2 to 0.4 seconds, and twice as much for each further retry. If this is more than 20 seconds, or more
    than the rest of `timeout`, the error is raised immediately. `stream.retries` has the errors,
    `error.attempts` the number of attempts, and the logger `tokenwire` records each retry at level INFO.
    `cancel`, `delete` and `usage_records` are not retried.

    Raises:
        ValueError: `max_retries` is negative, the target is a URL, the key is malformed, or a TLS file is
            missing or invalid.
    """

    def __init__(
        self,
        target: str | None = None,
        *,
        key: str | None = None,
        tls: bool | Tls | None = None,
        resumable: bool = False,
        max_retries: int = MAX_RETRIES,
        options: ChannelOptions = (),
    ) -> None:
        self._max_retries = check_max_retries(max_retries)
        connection = connection_to(target, key=key, tls=tls, options=options)
        self._transport = AsyncTransport(connection, self._max_retries)
        self._resumable = resumable

    def __repr__(self) -> str:
        closed = ", closed" if self._transport.is_closed else ""
        return f"<AsyncClient of {self.target}{closed}>"

    @property
    def target(self) -> str:
        """The server's gRPC name."""
        return self._transport.target

    @property
    def allowances(self) -> tuple[Allowance, ...]:
        """What remained of the caller's limits, from the newest response that reported it."""
        return self._transport.allowances

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
        `resume(stream_id, last_sequence)`. Leaving the block early cancels the generation with a call that
        takes at most 3 seconds. The client makes this call even if the reading task is cancelled. If the
        caller's process or network fails for good, nothing is cancelled: the generation then continues, and
        is billed, for up to `linger`.

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
        stream: AsyncChatStream,
        *,
        timeout: float | None = None,
        resumable: bool | None = None,
        max_retries: int | None = None,
    ) -> AsyncChatStream:
        """Return a stream that continues an answer that was cut off, for example by UpstreamBroken.

            async with await client.continue_from(stream) as rest:
                async for piece in rest.text:
                    print(piece, end="")

        It is another generation with its own id, usage and cost. The model gets the request of `stream`, with
        the text that arrived as the last message, and continues it. `rest.text_before` is that text, without
        white space at its end. The answer of `rest` has only the text after it. If `rest` is cut off too, it
        can be continued in the same way: `text_before` then has the text of both. The request_id and the
        fallback models of the first request are not used again.

        Only a model with the capability PREFILL can continue: other models would begin a new answer. The
        model is looked up with `get_model`; then the call starts when the block is entered, as in
        `chat_stream`.

        Raises:
            CannotContinue: the answer has finished, has no text, or has more than text; its call is open;
                the stream was read by `resume`; or the model does not have the capability PREFILL.
        """
        request = stream.continuation()
        text = (stream.text_before + stream.text_so_far).rstrip()
        check_model(await self.get_model(request.model))
        return self._stream(request, timeout, resumable, max_retries, text_before=text)

    async def cancel(
        self, stream_id: str, *, timeout: float | None = LOOKUP_TIMEOUT_S
    ) -> StreamInfo:
        """Stop a generation for all its readers, and return how it ended.

        A stream that has already ended is not changed.

        Raises:
            StreamNotFound: the stream is unknown or expired.
        """
        method, request = (
            self._transport.chat.CancelStream,
            CancelStreamRequest(stream_id=stream_id),
        )
        return (await self._transport.unary(method, request, timeout, max_retries=0)).stream

    async def delete(self, stream_id: str, *, timeout: float | None = LOOKUP_TIMEOUT_S) -> None:
        """Cancel a stream and delete its content now.

        Raises:
            StreamNotFound: the stream is unknown or expired.
        """
        method, request = (
            self._transport.chat.DeleteStream,
            DeleteStreamRequest(stream_id=stream_id),
        )
        await self._transport.unary(method, request, timeout, max_retries=0)

    async def get_stream(
        self, stream_id: str, *, timeout: float | None = LOOKUP_TIMEOUT_S
    ) -> StreamInfo:
        """Return the state of a stream. This does not count as a reader.

        Raises:
            StreamNotFound: the stream is unknown or expired.
        """
        request = GetStreamRequest(stream_id=stream_id)
        return await self._transport.unary(self._transport.chat.GetStream, request, timeout)

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

    @overload
    def run_tools(
        self,
        model: str,
        messages: MessageLike | Iterable[MessageLike],
        *,
        tools: Iterable[FunctionTool | ToolFunction],
        response_format: type[T],
        max_rounds: int = MAX_ROUNDS,
        max_cost_microusd: int | None = None,
        max_concurrency: int = MAX_CONCURRENCY,
        tool_timeout: float | None = TOOL_TIMEOUT_S,
        on_tool_error: OnToolError = "report",
        timeout: float | None = None,
        resumable: bool | None = None,
        max_retries: int | None = None,
        **fields: Unpack[RunFields],
    ) -> AsyncToolRun[T]: ...

    @overload
    def run_tools(
        self,
        model: str,
        messages: MessageLike | Iterable[MessageLike],
        *,
        tools: Iterable[FunctionTool | ToolFunction],
        response_format: ResponseFormatLike | None = None,
        max_rounds: int = MAX_ROUNDS,
        max_cost_microusd: int | None = None,
        max_concurrency: int = MAX_CONCURRENCY,
        tool_timeout: float | None = TOOL_TIMEOUT_S,
        on_tool_error: OnToolError = "report",
        timeout: float | None = None,
        resumable: bool | None = None,
        max_retries: int | None = None,
        **fields: Unpack[RunFields],
    ) -> AsyncToolRun: ...

    @overload
    def run_tools(
        self,
        model: str,
        messages: MessageLike | Iterable[MessageLike],
        *,
        tools: Iterable[FunctionTool | ToolFunction],
        response_format: ResponseFormatLike | type[Any] | None,
        max_rounds: int = MAX_ROUNDS,
        max_cost_microusd: int | None = None,
        max_concurrency: int = MAX_CONCURRENCY,
        tool_timeout: float | None = TOOL_TIMEOUT_S,
        on_tool_error: OnToolError = "report",
        timeout: float | None = None,
        resumable: bool | None = None,
        max_retries: int | None = None,
        **fields: Unpack[RunFields],
    ) -> AsyncToolRun[Any]: ...

    def run_tools(
        self,
        model: str,
        messages: MessageLike | Iterable[MessageLike],
        *,
        tools: Iterable[FunctionTool | ToolFunction],
        max_rounds: int = MAX_ROUNDS,
        max_cost_microusd: int | None = None,
        max_concurrency: int = MAX_CONCURRENCY,
        tool_timeout: float | None = TOOL_TIMEOUT_S,
        on_tool_error: OnToolError = "report",
        timeout: float | None = None,
        resumable: bool | None = None,
        max_retries: int | None = None,
        response_format: ResponseFormatLike | type[Any] | None = None,
        **fields: Unpack[RunFields],
    ) -> AsyncToolRun[Any]:
        """Let the model call Python functions until it answers. The run starts when its block is entered.

            answer = await client.run_tools("openai/demo", question, tools=[get_weather]).final()

        The calls of one answer run at the same time. The model gets their results, and also errors: of a
        tool, of invalid arguments, and of a tool that does not exist. A tool can raise `ToolError` to set the
        text of the error, and `StopRun` to end the run. `docs/tools.md` has the details.

        Args:
            model: The model of all requests.
            messages: The conversation, as in `chat_stream`. It is not changed: see `AsyncToolRun.messages`.
            tools: Functions with type hints, or the results of `function_tool`.
            max_rounds: Maximum number of requests.
            max_cost_microusd: Maximum cost of all requests together, in millionths of a US dollar.
            max_concurrency: Maximum number of calls that run at the same time.
            tool_timeout: Time limit of each call in seconds. None: no limit.
            on_tool_error: "report": the model gets the error of a tool. "raise": it is raised as ToolFailed,
                unless it is a ToolError.
            timeout: Time limit of the run in seconds.
            resumable: Make the streams of the run resumable: see `chat_stream`.
            max_retries: Retries of each request: see `chat_stream`.
            response_format: Format of the answers, as in `chat_stream`.
            **fields: Fields of all requests. A `tool_choice` that requires a call applies only to the first
                one. From the second one on, the number of the round is appended to a `request_id`.

        Raises:
            TypeError, ValueError: the arguments are not a valid request, or a function cannot be a tool.
            ImportError: msgspec is missing: `pip install "tokenwire[structured]"`.
        """
        from ..tools.function_tool import to_function_tools
        from .tool_run import AsyncToolRun

        made = to_function_tools(tools)
        request, kind = request_and_type(
            model,
            messages,
            response_format,
            tools=[each.definition for each in made.values()],
            **fields,
        )
        return AsyncToolRun(
            partial(
                self._stream,
                resumable=resumable,
                max_retries=self._retry_count(max_retries),
                answer_type=kind,
            ),
            request,
            made,
            max_rounds=max_rounds,
            max_cost_microusd=max_cost_microusd,
            max_concurrency=max_concurrency,
            tool_timeout_s=tool_timeout,
            timeout_s=timeout,
            on_tool_error=on_tool_error,
        )

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

        It starts no generation, costs nothing and counts against no limit. With `ask_provider` the
        provider counts, if it has an endpoint for that. Otherwise the server counts.

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

    @overload
    def conversation(
        self,
        model: str,
        *,
        response_format: type[T],
        system: Content | None = None,
        messages: MessageLike | Iterable[MessageLike] = (),
        trim: TrimPolicy | None = None,
        count_for_trim: bool = False,
        on_cut: OnCut = "hold",
        **fields: Unpack[FieldsWithoutFormat],
    ) -> AsyncConversation[T]: ...

    @overload
    def conversation(
        self,
        model: str,
        *,
        system: Content | None = None,
        messages: MessageLike | Iterable[MessageLike] = (),
        trim: TrimPolicy | None = None,
        count_for_trim: bool = False,
        on_cut: OnCut = "hold",
        response_format: ResponseFormatLike | None = None,
        **fields: Unpack[FieldsWithoutFormat],
    ) -> AsyncConversation: ...

    @overload
    def conversation(
        self,
        model: str,
        *,
        system: Content | None = None,
        messages: MessageLike | Iterable[MessageLike] = (),
        trim: TrimPolicy | None = None,
        count_for_trim: bool = False,
        on_cut: OnCut = "hold",
        **fields: Unpack[RequestFields],
    ) -> AsyncConversation[Any]: ...

    def conversation(
        self,
        model: str,
        *,
        system: Content | None = None,
        messages: MessageLike | Iterable[MessageLike] = (),
        trim: TrimPolicy | None = None,
        count_for_trim: bool = False,
        on_cut: OnCut = "hold",
        **fields: Unpack[RequestFields],
    ) -> AsyncConversation[Any]:
        """Return a conversation, which appends each question and its answer. This sends nothing.

        Args:
            model: The model that answers.
            system: Instructions, as the first message.
            messages: The messages so far, such as `conversation.messages` of an earlier conversation.
            trim: A function that returns which messages to keep, called before each question is sent, such
                as `keep_last(20)`. When the answer has finished, the other messages are removed.
            count_for_trim: Let the server count the input tokens for `trim` before each question: one more
                call, which counts against the limit of requests.
            on_cut: What happens to a turn whose answer was cut off, see `AsyncConversation`: `"hold"`,
                `"keep"` or `"drop"`.
            fields: Fields of each request, as in `chat`.

        Raises:
            TypeError, ValueError: the arguments are invalid.
        """
        from ..stream.history import History
        from .conversation import AsyncConversation

        fields = conversation_fields(model, fields)
        first = [] if system is None else [*to_messages({"role": "system", "content": system})]
        history = History(on_cut=on_cut)
        history.append([*first, *to_messages(messages)])
        return AsyncConversation(
            self, model, history, trim=trim, count_for_trim=count_for_trim, fields=fields
        )

    async def list_models(self, *, timeout: float | None = LOOKUP_TIMEOUT_S) -> list[Model]:
        """Return the models and aliases in the server's configuration, ordered by id."""
        request = ListModelsRequest()
        response = await self._transport.unary(self._transport.model.ListModels, request, timeout)
        return list(response.models)

    async def get_model(self, model: str, *, timeout: float | None = LOOKUP_TIMEOUT_S) -> Model:
        """Return one model: a listed one, an alias, or any `provider/model`.

        Raises:
            UnknownModel: the provider or alias is unknown.
        """
        request = GetModelRequest(id=model)
        return await self._transport.unary(self._transport.model.GetModel, request, timeout)

    async def get_caller(self, *, timeout: float | None = LOOKUP_TIMEOUT_S) -> Caller:
        """Return the caller's identity, permissions and limits. It counts against no limit."""
        request = GetCallerRequest()
        return await self._transport.unary(self._transport.caller.GetCaller, request, timeout)

    def usage_records(
        self,
        *,
        page_size: int = PAGE_SIZE,
        timeout: float | None = SUMMARY_TIMEOUT_S,
        **fields: Unpack[UsageFields],
    ) -> AsyncIterator[UsageRecord]:
        """Return the tenant's usage records that match, newest first. They are fetched page by page.

        One page is in memory. Each record is returned exactly once; records of streams that are opened
        meanwhile are not. `timeout` is the deadline of each page, in seconds. Nothing is retried: after an
        error the list is incomplete.

        Raises:
            InvalidRequest: the server refuses the filter.
            StoreUnavailable: the server cannot reach its database.
            TypeError, ValueError: the arguments are not a valid filter.
        """
        return self._usage_records(first_page(page_size, **fields), timeout)

    async def usage_summary(
        self,
        *,
        group_by: UsageGroupName | Iterable[UsageGroupName] = (),
        label_key: str = "",
        timeout: float | None = SUMMARY_TIMEOUT_S,
        **fields: Unpack[UsageFields],
    ) -> list[UsageSummary]:
        """Return sums of the usage records that match, by day (UTC), model, label or key.

        There is one summary for each group that has records, ordered by day, model, label value and key;
        without `group_by`, one for all records. `label_key` names the label for `group_by="label"`. A cost
        is the sum of the known costs; `unpriced_count` is the number of records without one.

        Raises:
            InvalidRequest: the server refuses the filter, or there are more than 10,000 groups.
            StoreUnavailable: the server cannot reach its database.
            TypeError, ValueError: the arguments are not a valid filter.
        """
        request = summary_request(group_by, label_key, **fields)
        method = self._transport.usage.GetUsageSummary
        response = await self._transport.unary(method, request, timeout)
        return list(response.summaries)

    async def close(self) -> None:
        """Close the connection. Open calls end with `Cancelled`. Calling it again has no effect.

        Leave resumable streams first: if one is still open, its generation continues for its `linger`.
        It waits for the cancellation of streams that are being left, 3 seconds at most. If it is cancelled
        before that, the connection may stay open: call it again.
        """
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _stream(
        self,
        request: ChatRequest | ResumeStreamRequest,
        timeout_s: float | None,
        resumable: bool | None,
        max_retries: int | None,
        answer_type: AnswerType[Any] | None = None,
        *,
        is_json: bool = False,
        text_before: str = "",
    ) -> AsyncChatStream[Any]:
        reading = Reading(
            request,
            timeout_s=timeout_s,
            is_resumable=self._resumable if resumable is None else resumable,
            retries=Retries(self._retry_count(max_retries)),
            answer_type=answer_type,
            is_json=is_json,
        )
        return AsyncChatStream(self._transport, reading, text_before)

    def _retry_count(self, max_retries: int | None) -> int:
        return self._max_retries if max_retries is None else check_max_retries(max_retries)

    async def _usage_records(
        self, request: ListUsageRecordsRequest | None, timeout_s: float | None
    ) -> AsyncIterator[UsageRecord]:
        while request is not None:
            method = self._transport.usage.ListUsageRecords
            page = await self._transport.unary(method, request, timeout_s, max_retries=0)
            for record in page.usage_records:
                yield record
            request = next_page(request, page)
