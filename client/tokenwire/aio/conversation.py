"""A conversation, with asyncio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, Unpack, overload

from tokenwire.v1.chat_pb2 import Message

from .._json import ParsedT_co
from ..connect.channel import LOOKUP_TIMEOUT_S
from ..messages import MessageLike
from ..stream.answer import Answer
from ..stream.history import CutTurn, History, Turn
from ..stream.trimming import TrimPolicy
from ..wire.requests import FieldsWithoutFormat, RequestFields, ResponseFormatLike, repeatable
from ..wire.usage import TokenCount
from .chat_stream import AsyncChatStream

if TYPE_CHECKING:
    from .client import AsyncClient

T = TypeVar("T")


class AsyncConversation(Generic[ParsedT_co]):
    """A conversation with a model: each question is sent with all messages before it.

        conversation = client.conversation("openai/demo", system="Answer in one sentence.")
        answer = await conversation.chat("What is Tokenwire?")
        answer = await conversation.chat("Which providers does it support?")

    `AsyncClient.conversation` creates it. The question and the answer are appended when the answer has
    finished, with the state that the provider needs back. If a call is refused, or fails before the first
    content, the conversation is unchanged, and the question can be sent again.

    A question and its answer are a turn. An answer can be cut off: by a limit (MAX_TOKENS, TIME_LIMIT,
    BUDGET, CONTEXT_FULL), a filter, a refusal, a cancellation, an error after the first content, or because
    the block was left before the end. With `on_cut="hold"`, the turn is then in `cut`, and the next call
    raises RuntimeError until `keep_cut()` or `drop_cut()` was called. With `"keep"` and `"drop"`, this is
    done immediately.

    A conversation answers one question at a time. Use `fork()` to send several.
    """

    def __init__(
        self,
        client: AsyncClient,
        model: str,
        history: History,
        *,
        trim: TrimPolicy | None,
        count_for_trim: bool,
        fields: RequestFields,
    ) -> None:
        if trim is not None and not callable(trim):
            raise TypeError(
                f"trim: must be a function, such as keep_last(20), or None, not {type(trim).__name__}"
            )
        self._client = client
        self.model = model
        """The model that answers the next question."""
        self._history = history
        self._trim = trim
        self._count_for_trim = count_for_trim
        self._fields = fields

    def __repr__(self) -> str:
        return f"<{type(self).__name__} with {self.model}, {len(self._history.messages)} messages>"

    @property
    def messages(self) -> tuple[Message, ...]:
        """The messages so far, without the current turn and without `cut`. Do not change them."""
        return tuple(self._history.messages)

    @property
    def cut(self) -> CutTurn | None:
        """The turn whose answer was cut off, until it is kept or dropped. None: there is none."""
        return self._history.cut

    def keep_cut(self) -> None:
        """Append the turn in `cut`: its question, and its answer as far as it was read.

        Tool calls, and reasoning after the last text, are left out. So is an answer without text.

        Raises:
            RuntimeError: `cut` is `None`.
        """
        self._history.keep_cut()

    def drop_cut(self) -> CutTurn:
        """Remove and return the turn in `cut`. The conversation is as it was before the question.

        Raises:
            RuntimeError: `cut` is `None`.
        """
        return self._history.drop_cut()

    def append(self, messages: MessageLike | Iterable[MessageLike]) -> None:
        """Append messages without sending them.

        Raises:
            RuntimeError: a question is being answered, or `cut` is set.
            TypeError, ValueError: the messages are invalid.
        """
        self._history.append(messages)

    def fork(self) -> Self:
        """Return another conversation that begins with the same messages. `cut` is left out."""
        return type(self)(
            self._client,
            self.model,
            History(self._history.messages, on_cut=self._history.on_cut),
            trim=self._trim,
            count_for_trim=self._count_for_trim,
            fields=self._fields,
        )

    @overload
    async def chat(
        self,
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
        messages: MessageLike | Iterable[MessageLike] | None = None,
        *,
        timeout: float | None = None,
        max_retries: int | None = None,
        **fields: Unpack[FieldsWithoutFormat],
    ) -> Answer[ParsedT_co]: ...

    @overload
    async def chat(
        self,
        messages: MessageLike | Iterable[MessageLike] | None = None,
        *,
        response_format: ResponseFormatLike | type[Any] | None,
        timeout: float | None = None,
        max_retries: int | None = None,
        **fields: Unpack[FieldsWithoutFormat],
    ) -> Answer[Any]: ...

    async def chat(
        self,
        messages: MessageLike | Iterable[MessageLike] | None = None,
        *,
        timeout: float | None = None,
        max_retries: int | None = None,
        **fields: Unpack[RequestFields],
    ) -> Answer[Any]:
        """Send the next messages, and return the whole answer.

        Without messages, the conversation is sent as it is: after `append`, or to continue after PAUSED. The
        fields are those of `AsyncClient.chat`; they override those of the conversation for this question.

        Raises:
            RuntimeError: a question is being answered, or `cut` is set.
            TokenwireError: there is no answer. The conversation is unchanged.
            TypeError, ValueError: the arguments are invalid.
        """
        every_field = self._with(fields)
        with self._history.turn(messages) as turn:
            await self._apply_trim(turn, max_retries, every_field)
            answer = await self._client.chat(
                self.model,
                turn.messages,
                timeout=timeout,
                max_retries=max_retries,
                **every_field,
            )
            turn.finish(answer.message, answer.finish_reason)
        return answer

    @overload
    def chat_stream(
        self,
        messages: MessageLike | Iterable[MessageLike] | None = None,
        *,
        response_format: type[T],
        timeout: float | None = None,
        resumable: bool | None = None,
        max_retries: int | None = None,
        **fields: Unpack[FieldsWithoutFormat],
    ) -> AbstractAsyncContextManager[AsyncChatStream[T]]: ...

    @overload
    def chat_stream(
        self,
        messages: MessageLike | Iterable[MessageLike] | None = None,
        *,
        timeout: float | None = None,
        resumable: bool | None = None,
        max_retries: int | None = None,
        **fields: Unpack[FieldsWithoutFormat],
    ) -> AbstractAsyncContextManager[AsyncChatStream[ParsedT_co]]: ...

    @overload
    def chat_stream(
        self,
        messages: MessageLike | Iterable[MessageLike] | None = None,
        *,
        response_format: ResponseFormatLike | type[Any] | None,
        timeout: float | None = None,
        resumable: bool | None = None,
        max_retries: int | None = None,
        **fields: Unpack[FieldsWithoutFormat],
    ) -> AbstractAsyncContextManager[AsyncChatStream[Any]]: ...

    def chat_stream(
        self,
        messages: MessageLike | Iterable[MessageLike] | None = None,
        *,
        timeout: float | None = None,
        resumable: bool | None = None,
        max_retries: int | None = None,
        **fields: Unpack[RequestFields],
    ) -> AbstractAsyncContextManager[AsyncChatStream[Any]]:
        """Return a context manager that streams the answer: see `chat` and `AsyncClient.chat_stream`.

            async with conversation.chat_stream("Hello") as stream:
                async for piece in stream.text:
                    print(piece, end="", flush=True)

        Leaving the block appends the question and the answer if the answer was read to its end. Invalid
        arguments raise their errors when the block is entered.
        """
        return self._stream(messages, timeout, resumable, max_retries, fields)

    async def count_tokens(
        self,
        messages: MessageLike | Iterable[MessageLike] | None = None,
        *,
        ask_provider: bool = False,
        timeout: float | None = LOOKUP_TIMEOUT_S,
        max_retries: int | None = None,
        **fields: Unpack[RequestFields],
    ) -> TokenCount:
        """Return the tokens and the cost of sending the next messages: see `AsyncClient.count_tokens`.

        The messages are counted before they are trimmed. The conversation is not changed.
        """
        return await self._client.count_tokens(
            self.model,
            self._history.next_messages(messages),
            ask_provider=ask_provider,
            timeout=timeout,
            max_retries=max_retries,
            **self._with(fields),
        )

    def _with(self, fields: RequestFields) -> RequestFields:
        return {**self._fields, **repeatable(fields)}

    @asynccontextmanager
    async def _stream(
        self,
        messages: MessageLike | Iterable[MessageLike] | None,
        timeout_s: float | None,
        resumable: bool | None,
        max_retries: int | None,
        fields: RequestFields,
    ) -> AsyncIterator[AsyncChatStream[Any]]:
        every_field = self._with(fields)
        with self._history.turn(messages) as turn:
            await self._apply_trim(turn, max_retries, every_field)
            async with self._client.chat_stream(
                self.model,
                turn.messages,
                timeout=timeout_s,
                resumable=resumable,
                max_retries=max_retries,
                **every_field,
            ) as stream:
                try:
                    yield stream
                finally:
                    answer = stream.answer
                    turn.finish(answer.message, answer.finish_reason)

    async def _apply_trim(self, turn: Turn, max_retries: int | None, fields: RequestFields) -> None:
        if self._trim is None:
            return
        input_tokens = None
        if self._count_for_trim:
            count = await self._client.count_tokens(
                self.model, turn.messages, max_retries=max_retries, **fields
            )
            input_tokens = count.input_tokens
        turn.trim(self._trim, input_tokens)
