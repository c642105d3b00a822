"""One stream, read with asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc

from tokenwire.v1.chat_pb2 import ChatResponse
from tokenwire.v1.event_pb2 import TokenEvent

from ..errors import TokenwireError
from ..stream.answer import stream_id_in
from ..stream.reading import Reading
from ..stream.resume import Resumption
from ..wire.metadata import NewestAllowances
from ..wire.status import from_status

StreamCall = grpc.aio.UnaryStreamCall[Any, TokenEvent]

Start = Callable[[float | None], StreamCall]
"""Starts the first call, with what is left until its deadline in seconds, if it has one."""


@dataclass(frozen=True, slots=True)
class AsyncResume:
    """How a stream is resumed and ended."""

    policy: Resumption
    start: Callable[[str, int, float | None], StreamCall]
    """Starts a call that reads a stream from a cursor, with what is left until its deadline."""
    cancel: Callable[[StreamCall, str], Awaitable[None]] | None = None
    """Ends the generation that a call reads, in a bounded time; raises nothing of what befalls it. It
    asks the call for the stream's id if that is empty. None: leaving the stream lets it go on."""


class AsyncChatStream(Reading):
    """One stream, read from the server as the model speaks.

        async with client.chat_stream("openai/demo", "Hello") as stream:
            async for piece in stream.text:
                print(piece, end="", flush=True)

    Entering the block starts the call and waits until the server has accepted it: `stream_id` is
    known inside, and a refusal is raised there. Leaving the block ends the call, however it is
    left; the server then closes the provider's connection, unless the stream was asked to CONTINUE.
    Iterating gives every event in order, those of a type unknown here included
    (`event.WhichOneof("event") is None`), and ends after `finished`; any other end raises a
    TokenwireError. Events, `text` and `final()` read the same stream: what one has taken, the others
    do not see again. For one reader at a time.

    A resumable stream reads on where a broken connection left it, and nobody notices: see
    `AsyncClient.chat_stream`. Leaving its block cancels the generation at the server.

    Cancelling the task that reads cancels the call, and `asyncio.CancelledError` passes through.
    """

    def __init__(
        self,
        start: Start,
        *,
        timeout_s: float | None,
        resume: AsyncResume | None = None,
        stream_id: str = "",
        after_sequence: int = 0,
        newest: NewestAllowances | None = None,
    ) -> None:
        super().__init__(
            timeout_s=timeout_s,
            stream_id=stream_id,
            after_sequence=after_sequence,
            policy=None if resume is None else resume.policy,
            newest=newest,
        )
        self._start = start
        self._resume = resume
        self._call: StreamCall | None = None
        self._first: TokenEvent | None = None
        self._cancelled = asyncio.Event()

    @property
    def text(self) -> AsyncIterator[str]:
        """The answer's text alone, piece by piece as it comes."""
        return _TextPieces(self)

    async def final(self) -> ChatResponse:
        """Read to the end; the whole answer, what was read before included.

        Of a stream that was resumed by hand it has what followed the cursor; after a resume from the
        very end of a finished stream, nothing follows, and `finished` is unset.

        Raises:
            TokenwireError: the stream did not end with `finished`. `message` has what came.
        """
        async for _ in self:
            pass
        return self._answer.response()

    def cancel(self) -> None:
        """End the call at once. Whoever reads it gets `Cancelled`. After its end: no effect."""
        if self._call is not None:
            self._cancelled.set()
            self._call.cancel()

    async def __aenter__(self) -> Self:
        if self._call is not None:
            raise RuntimeError("a stream is entered once; ask the client for another")
        self._begin()
        self._call = self._start(self._rest_s())
        try:
            if not await self._accepted(self._call):
                # Refusals have no initial metadata: reading on raises them.
                self._first = await self._read(self._call)
        except BaseException:
            await self._leave(self._call)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._call is not None:
            await self._leave(self._call)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TokenEvent:
        if self._call is None:
            raise RuntimeError("a stream is read inside `async with`")
        event, self._first = self._first, None
        if event is None:
            event = await self._read(self._call)
        if event is None:
            raise StopAsyncIteration
        self._took(event)
        return event

    async def _read(self, call: StreamCall) -> TokenEvent | None:
        """The next event, or None after a deliberate end."""
        while True:
            try:
                return await self._read_call(call)
            except TokenwireError as error:
                call = await self._resumed(error)

    async def _read_call(self, call: StreamCall) -> TokenEvent | None:
        try:
            event = await call.read()
        except grpc.aio.AioRpcError as error:
            if self._answer.finished is not None:
                return None  # the answer is complete, whatever befell the connection after it
            raise failure(error, self.stream_id, self.last_sequence) from error
        except asyncio.CancelledError:
            if not cancelled_by_us(call):
                raise
            raise self._cancelled_here() from None
        if isinstance(event, TokenEvent):
            return event
        self._ended_well()
        return None

    async def _resumed(self, error: TokenwireError) -> StreamCall:
        """A new call that reads on where this error ended the last one. Raises it otherwise."""
        resume = self._resume
        if resume is None or self._cancelled.is_set():
            raise error
        wait_s, in_time = self._wait_to_resume_s(resume.policy, error)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._cancelled.wait()
        if self._cancelled.is_set():
            raise self._cancelled_here() from error
        if not in_time:
            raise self._deadline_passed() from error
        self._call = call = resume.start(self.stream_id, self.last_sequence, self._rest_s())
        answered = False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(resume.policy.patience_s(now=time.monotonic())):
                if await self._accepted(call):
                    resume.policy.attached()
                answered = True
        if not answered:
            call.cancel()
            resume.policy.unanswered()
            raise error
        return call

    async def _accepted(self, call: StreamCall) -> bool:
        """Wait for the server's answer. False: it is a refusal, or has no stream id; read on."""
        try:
            metadata = await call.initial_metadata()
        except asyncio.CancelledError:
            if not cancelled_by_us(call):
                raise
            raise self._cancelled_here() from None
        return self._answered(metadata)

    async def _leave(self, call: StreamCall) -> None:
        """End the call, and the generation if leaving is to end it."""
        resume = self._resume
        if (
            resume is None
            or resume.cancel is None
            or resume.policy.over
            or self._answer.finished is not None
            or (call.done() and not self.stream_id)
        ):
            call.cancel()
        else:
            await resume.cancel(call, self.stream_id)


class _TextPieces:
    """A plain iterator and no generator: one left half-way has nothing to be closed."""

    def __init__(self, stream: AsyncChatStream) -> None:
        self._stream = stream

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        async for event in self._stream:
            if event.WhichOneof("event") == "text":
                return event.text.text
        raise StopAsyncIteration


def failure(
    error: grpc.aio.AioRpcError, stream_id: str = "", last_sequence: int = 0
) -> TokenwireError:
    """What a failed call stands for, with what its reader knows of the stream."""
    return from_status(
        error.code(),
        error.details() or "",
        error.trailing_metadata() or (),
        stream_id=stream_id or stream_id_in(error.initial_metadata() or ()),
        last_sequence=last_sequence,
    )


def cancelled_by_us(call: grpc.aio.Call) -> bool:
    """Whether a CancelledError tells of the call, and not of a cancelled task.

    gRPC raises the same one for both. A task that is being cancelled must be left to it.
    """
    task = asyncio.current_task()
    return call.cancelled() and not (task is not None and task.cancelling())
