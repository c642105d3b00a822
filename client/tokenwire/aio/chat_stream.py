"""One stream, read with asyncio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Generic, Self

from tokenwire.v1.chat_pb2 import CancelStreamRequest, ChatRequest, Message
from tokenwire.v1.event_pb2 import TokenEvent

from .._json import Json, ParsedT_co
from ..connect.channel import CANCEL_TIMEOUT_S
from ..errors import ConnectionLost, TokenwireError
from ..stream.answer import Answer
from ..stream.continuation import CannotContinue
from ..stream.json_values import FieldValue
from ..stream.reading import Reading, StreamCursor
from ..wire.metadata import Allowance
from .transport import AsyncStreamCall, AsyncTransport


class AsyncChatStream(Generic[ParsedT_co]):
    """One stream, read from the server while the model generates.

        async with client.chat_stream("openai/demo", "Hello") as stream:
            async for piece in stream.text:
                print(piece, end="", flush=True)

    Entering the block starts the call and waits until the server has accepted it. Then `stream_id` is set.
    If the server refuses the call, the error is raised. Leaving the block always ends the call. The server
    then closes the provider's connection, unless the stream was started with ON_DISCONNECT_CONTINUE.

    Iterating returns every event in order, including those of a type that this version does not recognize
    (`event.WhichOneof("event") is None`), and ends after `finished`. Any other end raises a
    TokenwireError. Events, `text` and `final()` read the same stream: each event is returned once. Only
    one reader at a time may use the object.

    A resumable stream continues after a broken connection, see `AsyncClient.chat_stream`. After the notice
    DRAINING it is read from another server, if the target has several. Leaving its block cancels the
    generation at the server, unless `detach()` was called.

    Cancelling the task that reads cancels the call. `asyncio.CancelledError` passes through.
    """

    def __init__(self, transport: AsyncTransport, reading: Reading) -> None:
        self._transport = transport
        self._reading = reading
        self._call: AsyncStreamCall | None = None
        self._has_begun = False
        self._awaits_block = False
        self._has_left = False
        self._cancelled = asyncio.Event()

    def __repr__(self) -> str:
        if self._call is None:
            return "<AsyncChatStream, not entered>"
        return (
            f"<AsyncChatStream {self.stream_id or 'refused'}, read to event {self.last_sequence}>"
        )

    @property
    def stream_id(self) -> str:
        """Id of the stream at the server, with which it can be resumed, looked up, cancelled or deleted."""
        return self._reading.stream_id

    @property
    def last_sequence(self) -> int:
        """Sequence of the last event returned: the cursor to resume after. 0: none."""
        return self._reading.cursor.last_sequence

    @property
    def message(self) -> Message:
        """The assistant's message as far as it was read: see `Answer.message`."""
        return self.answer.message

    @property
    def answer(self) -> Answer[ParsedT_co]:
        """The answer as far as it was read. It does not change when more is read.

        Creating it is cheap, but each access to its content copies the content: in a loop over events, use
        `text_so_far`.
        """
        return self._reading.answer.build()

    @property
    def text_so_far(self) -> str:
        """The text as far as it was read. Accessing it after each event is cheap."""
        return self._reading.answer.text_so_far

    @property
    def text_before(self) -> str:
        """The text that this stream continues. Empty unless `continue_from` returned the stream."""
        return self._reading.answer.text_before

    @property
    def allowances(self) -> tuple[Allowance, ...]:
        """What remained of the caller's limits when the stream began. Empty before, or without limits."""
        return self._reading.allowances

    @property
    def retries(self) -> list[TokenwireError]:
        """The errors that were followed by a retry, see `AsyncClient`. Usually empty."""
        return list(self._reading.retries.errors)

    @property
    def text(self) -> AsyncIterator[str]:
        """The text of the answer, piece by piece."""
        return _TextPieces(self)

    @property
    def values(self) -> AsyncIterator[FieldValue]:
        """The values of a JSON answer, each as soon as it is complete.

        The request needs `json_schema.stream_values`, see `json_format`.
        """
        return _Values(self, self._reading)

    @property
    def partial(self) -> Json:
        """The JSON answer as far as it was read, including the beginning of an unfinished string.

        None: nothing yet. It is a dict or another JSON value, also if `response_format` is a class: an object
        with missing fields would be invalid. It changes with the next event: copy it to keep it. A number is
        included when it is complete. Each event takes time in proportion to its text, and each access to
        `partial` in proportion to the length of the unfinished string.

        A stream of `AsyncClient.resume` has only complete values, unless `response_format` was passed and
        the stream is read from the beginning.
        """
        return self._reading.answer.partial

    @property
    def result(self) -> ParsedT_co:
        """The whole answer, after it was read, as an object of the class in `response_format`, or as JSON.

        It is the same as `answer.parsed`, and raises the same errors. Each access parses the answer again.
        """
        return self.answer.parsed

    async def final(self) -> Answer[ParsedT_co]:
        """Read to the end, and return the whole answer, including what was read before.

        The answer of a stream of `AsyncClient.resume` has only what follows the cursor. At the very end of a
        finished stream this is nothing, and `finished` is `None`.

        Raises:
            TokenwireError: the stream did not end with `finished`. `answer` has what was read.
        """
        async for _ in self:
            pass
        return self.answer

    def continuation(self) -> ChatRequest:
        """Return the request that lets a model continue this answer: see `AsyncClient.continue_from`.

        Its last message is the text that arrived.

        Raises:
            CannotContinue: the answer has finished, was not read from its beginning, has more than text, or
                the call is still open.
        """
        request = self._reading.continuation()
        if self._call is not None and self._call.is_open:
            raise CannotContinue("the call is still open: leave the block of the stream first")
        return request

    async def until_first_content(self) -> Self:
        """Read until the answer begins: its first text, reasoning or tool call. Return the stream.

        It raises the error that ends the stream before that, such as UpstreamUnavailable after the server's
        retries and fallbacks. So a server that relays the answer can still choose its status. It also returns
        if the answer ends without content. No events are lost: iterating returns those that it read.

        If it is called before the block, it starts the call, and ends it on an error or a cancellation.
        Otherwise enter the block, which ends the call. The stream can be read only inside the block. If the
        block is never entered, the call ends when the stream is garbage-collected or the client is closed.

            stream = await client.chat_stream("openai/demo", "Hello").until_first_content()
            async with stream:
                async for piece in stream.text:
                    print(piece, end="", flush=True)

        Raises:
            TokenwireError: the call was refused, or the stream failed.
        """
        if self._call is None:
            await self._open()
            self._awaits_block = True
        try:
            while not self._reading.has_content and self._call is not None:
                event = await self._read(self._call)
                if event is None:
                    break
                self._reading.put_back(event)
        except BaseException:
            if self._awaits_block and self._call is not None:
                self._awaits_block = False
                await self._leave(self._call)
            raise
        return self

    def detach(self) -> StreamCursor:
        """Let the generation continue when the block is left. Return the cursor to resume after.

        `client.resume(*cursor)` continues to read, in this process or another one, until `linger` has passed
        without a reader. Leaving the block still ends this reader. The stream can also be read after this
        call; then resume after `last_sequence` instead. For a stream of `client.resume`, this only returns
        the cursor: leaving such a stream never cancels it.

        Raises:
            RuntimeError: the block was not entered. Or the generation ends with its last reader, because the
                stream is neither resumable nor started with `tokenwire.retention("continue")`.
        """
        return self._reading.detach()

    def cancel_when_left(self) -> None:
        """Cancel the generation when the block is left, as for a resumable stream. Undoes `detach()`.

        So a stream that was started with `tokenwire.retention("continue")` outlives a broken connection, but
        not its reader. Other streams end with their last reader anyway. No effect on a stream of
        `client.resume`: leaving such a stream never cancels it.
        """
        self._reading.cancel_when_left()

    def cancel(self) -> None:
        """End the call at once. Its reader gets `Cancelled`. No effect after the call has ended.

        If the server has not accepted a resumable stream yet, the reader waits for this for at most 3
        seconds: without the stream's id, the generation cannot be cancelled.
        """
        if self._has_begun:
            self._cancelled.set()
            if self._call is not None:  # otherwise another thread is about to start it
                self._end_cancelled(self._call)

    async def __aenter__(self) -> Self:
        if self._call is None:
            await self._open()
        elif not self._awaits_block:
            raise RuntimeError("a stream can be entered only once: create another with the client")
        self._awaits_block = False
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._call is not None:
            await self._leave(self._call)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TokenEvent:
        if self._call is None or self._awaits_block:
            raise RuntimeError(
                "a stream can be read only inside its block: enter it with `async with`"
            )
        event = self._reading.take_unread()
        if event is None:
            event = await self._read(self._call)
            if event is None:
                raise StopAsyncIteration
            self._reading.take(event)
        return event

    async def _open(self) -> None:
        """Start the call, and wait until the server has accepted it. Raise the error if it refuses."""
        self._transport.check_open()
        self._reading.begin(time.monotonic())
        self._has_begun = True
        self._transport.open_streams[id(self)] = self
        self._call = self._start_call()
        if self._cancelled.is_set():  # by another thread, just now
            self._end_cancelled(self._call)
        try:
            metadata = await self._call.initial_metadata()
            is_accepted = metadata is not None and self._reading.accept(metadata)
            if self._cancelled.is_set():
                raise self._reading.cancelled()
            if not is_accepted:
                event = await self._read(self._call)  # raises the refusal
                if event is not None:
                    self._reading.put_back(event)
        except BaseException:
            await self._leave(self._call)
            raise

    async def _read(self, call: AsyncStreamCall) -> TokenEvent | None:
        """Return the next event, or None at the end of the answer. Resumes the stream if it has to."""
        if not self._has_left and self._reading.takes_move():
            call = await self._move(call)
        while True:
            try:
                event = await call.read(self._reading.stream_id, self._reading.last_sequence)
            except TokenwireError as error:
                if self._reading.is_complete:
                    return None  # whatever happened to the connection afterwards
                self._reading.explain(error)
                if self._has_left:
                    raise  # nothing would end another call
                call = await self._resume(error)
                continue
            if event is None:
                self._reading.end()
            return event

    async def _move(self, old: AsyncStreamCall) -> AsyncStreamCall:
        """Return a new call that reads on, or the old one if the new one is not accepted.

        The old call ends only then, because the stream may end when it has no reader.
        """
        if self._transport.is_closed:
            raise self._reading.client_closed()
        self._call = call = self._start_call()
        is_accepted = False
        try:
            metadata = await call.initial_metadata(self._reading.patience_s(time.monotonic()))
            is_accepted = metadata is not None and self._reading.accept(metadata)
        except TokenwireError:
            pass  # the old call reports the end
        finally:
            unused = old if is_accepted else call
            unused.cancel()
            if not is_accepted:
                self._call = old
        if self._cancelled.is_set():
            self._call.cancel()
        return self._call

    async def _resume(self, error: TokenwireError) -> AsyncStreamCall:
        """Return a new call that resumes the stream or retries the request.

        If neither is possible, raise the error that ended the last call.
        """
        pause = self._reading.pause_after(error, time.monotonic())
        is_cancelled = await self._transport.wait_until_set(self._cancelled, pause.seconds)
        if self._transport.is_closed:
            raise self._reading.client_closed() from error
        if is_cancelled:
            raise self._reading.cancelled() from error
        if pause.reaches_deadline:
            raise self._reading.deadline_passed() from error
        self._call = call = self._start_call()
        if self._cancelled.is_set():  # by another thread, which cancelled the last call
            self._end_cancelled(call)
        metadata = await call.initial_metadata(self._reading.patience_s(time.monotonic()))
        if metadata is None:
            self._reading.give_up()
            raise error
        self._reading.accept(metadata)
        if self._cancelled.is_set():
            raise self._reading.cancelled() from error
        return call

    def _start_call(self) -> AsyncStreamCall:
        remaining_s = self._reading.remaining_s(time.monotonic())
        return self._transport.stream(self._reading.next_request(), remaining_s)

    def _end_cancelled(self, call: AsyncStreamCall) -> None:
        """End a call after `cancel`, but wait for the id of a generation that must be cancelled too."""
        if not self.stream_id and self._reading.must_cancel(is_call_open=call.is_open):
            call.cancel_later(CANCEL_TIMEOUT_S)
        else:
            call.cancel()

    async def _leave(self, call: AsyncStreamCall) -> None:
        """End the call, and also the generation unless it should continue."""
        self._has_left = True
        self._transport.open_streams.pop(id(self), None)
        must_cancel = self._reading.must_cancel(is_call_open=call.is_open)
        if must_cancel and not self._transport.is_closed:
            await self._transport.run_to_end(self._cancel_generation, call)
        else:
            call.cancel()

    async def end_with_client(self) -> None:
        """Cancel the generation if leaving the stream would do so. The client calls it when it is closed."""
        call = self._call
        if call is not None and self._reading.must_cancel(is_call_open=call.is_open):
            await self._cancel_generation(call)

    async def _cancel_generation(self, call: AsyncStreamCall) -> None:
        """Cancel the generation, within CANCEL_TIMEOUT_S. If that fails, the stream ends by its linger."""
        deadline = time.monotonic() + CANCEL_TIMEOUT_S
        stream_id = self._reading.stream_id
        try:
            if not stream_id:
                metadata = await call.initial_metadata(CANCEL_TIMEOUT_S)
                stream_id = "" if metadata is None else metadata.stream_id
        except TokenwireError:
            return
        finally:
            call.cancel()
        if not stream_id:
            return
        with suppress(TokenwireError):
            try:
                await self._cancel_stream(stream_id, deadline)
            except ConnectionLost:  # of a connection that was just cut: try again on a new one
                await self._cancel_stream(stream_id, deadline)

    async def _cancel_stream(self, stream_id: str, deadline: float) -> None:
        request = CancelStreamRequest(stream_id=stream_id)
        timeout_s = deadline - time.monotonic()
        method = self._transport.chat.CancelStream
        await self._transport.unary(method, request, timeout_s, max_retries=0, even_if_closed=True)


class _TextPieces:
    """An iterator over the text. Unlike a generator, it does not have to be closed."""

    def __init__(self, stream: AsyncChatStream[Any]) -> None:
        self._stream = stream

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        async for event in self._stream:
            if event.WhichOneof("event") == "text" and event.text.text:
                return event.text.text
        raise StopAsyncIteration


class _Values:
    """An iterator over the values of a JSON answer."""

    def __init__(self, stream: AsyncChatStream[Any], reading: Reading) -> None:
        self._stream = stream
        self._reading = reading

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> FieldValue:
        async for event in self._stream:
            if event.WhichOneof("event") == "json_value":
                return self._reading.answer.partial_json.last  # a retry replaces the answer
        raise StopAsyncIteration
