# Generated from aio/client.py by scripts/generate_sync.py. Do not edit.
"""The client for threads."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Never, Self, TypeVar, Unpack, overload

from ..connect.channel import (
    ChannelOptions,
    connection_to,
)
from ..connect.tls import Tls
from ..messages import Content, MessageLike
from ..stream.retry import MAX_RETRIES, check_max_retries
from ..tools import MAX_CONCURRENCY, MAX_ROUNDS, TOOL_TIMEOUT_S
from ..wire.metadata import Allowance
from ..wire.requests import (
    FieldsWithoutFormat,
    RequestFields,
    ResponseFormatLike,
    RunFields,
    conversation_fields,
    request_and_type,
)
from ..wire.spelling import CLIENT_HINTS, refuse_unknown
from ..wire.styles import to_messages
from .chat_methods import ChatMethods
from .transport import Transport

if TYPE_CHECKING:
    from ..stream.history import OnCut
    from ..stream.tool_loop import OnToolError
    from ..stream.trimming import TrimPolicy
    from ..tools.function_tool import FunctionTool, ToolFunction
    from .conversation import Conversation
    from .tool_run import ToolRun

T = TypeVar("T")

_ARGUMENTS = ("key", "max_retries", "options", "resumable", "target", "tls")
"""The arguments of the client, to suggest for an unknown one."""


class Client(ChatMethods):
    """A client of one Tokenwire server, for any number of threads.

        with tokenwire.Client() as client:
            answer = client.chat("openai/demo", "Hello")

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
    `error.attempts` the number of attempts. The logger `tokenwire` records each retry, and each wait before a
    stream is resumed, at level INFO. `cancel`, `delete` and `usage_records` are not retried.

    Raises:
        TypeError: an argument is unknown or of the wrong type. For a name that other clients use, such as
            `base_url`, the error names the right argument.
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
        **others: Never,
    ) -> None:
        refuse_unknown(others, _ARGUMENTS, hints=CLIENT_HINTS)
        retries = check_max_retries(max_retries)
        connection = connection_to(target, key=key, tls=tls, options=options)
        super().__init__(Transport(connection, retries), retries, is_resumable=resumable)

    def __repr__(self) -> str:
        closed = ", closed" if self._transport.is_closed else ""
        return f"<Client of {self.target}{closed}>"

    @property
    def target(self) -> str:
        """The server's gRPC name."""
        return self._transport.target

    @property
    def allowances(self) -> tuple[Allowance, ...]:
        """What remained of the caller's limits, from the newest response that reported it."""
        return self._transport.allowances

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
    ) -> ToolRun[T]: ...

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
    ) -> ToolRun: ...

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
    ) -> ToolRun[Any]: ...

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
    ) -> ToolRun[Any]:
        """Let the model call Python functions until it answers. The run starts when its block is entered.

            answer = client.run_tools("openai/demo", question, tools=[get_weather]).final()

        The calls of one answer run at the same time. The model gets their results, and also errors: of a
        tool, of invalid arguments, and of a tool that does not exist. A tool can raise `ToolError` to set the
        text of the error, and `StopRun` to end the run. `docs/tools.md` has the details.

        Args:
            model: The model of all requests.
            messages: The conversation, as in `chat_stream`. It is not changed: see `ToolRun.messages`.
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
        from .tool_run import ToolRun

        made = to_function_tools(tools)
        request, kind = request_and_type(
            model,
            messages,
            response_format,
            tools=[each.definition for each in made.values()],
            **fields,
        )
        return ToolRun(
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
    ) -> Conversation[T]: ...

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
    ) -> Conversation: ...

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
    ) -> Conversation[Any]: ...

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
    ) -> Conversation[Any]:
        """Return a conversation, which appends each question and its answer. This sends nothing.

        Args:
            model: The model that answers.
            system: Instructions, as the first message.
            messages: The messages so far, such as `conversation.messages` of an earlier conversation.
            trim: A function that returns which messages to keep, called before each question is sent, such
                as `keep_last(20)`. When the answer has finished, the other messages are removed.
            count_for_trim: Let the server count the input tokens for `trim` before each question: one more
                call, which counts against the limit of requests.
            on_cut: What happens to a turn whose answer was cut off, see `Conversation`: `"hold"`,
                `"keep"` or `"drop"`.
            fields: Fields of each request, as in `chat`.

        Raises:
            TypeError, ValueError: the arguments are invalid.
        """
        from ..stream.history import History
        from .conversation import Conversation

        fields = conversation_fields(model, fields)
        first = [] if system is None else [*to_messages({"role": "system", "content": system})]
        history = History(on_cut=on_cut)
        history.append([*first, *to_messages(messages)])
        return Conversation(
            self, model, history, trim=trim, count_for_trim=count_for_trim, fields=fields
        )

    def close(self) -> None:
        """Close the connection. Open calls end with `Cancelled`. Calling it again has no effect.

        The generation of an open resumable stream is cancelled, as when its block is left, unless the stream
        is detached. It waits for such cancellations, 3 seconds at most.
        """
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
