"""One stream, read without an event loop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import grpc

from tokenwire.v1.chat_pb2 import ChatResponse
from tokenwire.v1.event_pb2 import TokenEvent

from ..errors import TokenwireError
from ..stream.reading import Reading
from ..stream.resume import Resumption
from ..wire.metadata import NewestAllowances
from ..wire.status import from_status


class StreamCall(Protocol):
    """What gRPC returns for a call whose responses are a stream."""

    def __next__(self) -> TokenEvent: ...
    def cancel(self) -> bool: ...
    def is_active(self) -> bool: ...
    def initial_metadata(self) -> Iterable[tuple[str, str | bytes]] | None: ...


Start = Callable[[float | None], StreamCall]
"""Starts the first call, with what is left until its deadline in seconds, if it has one."""


@dataclass(frozen=True, slots=True)
class Resume:
    """How a stream is resumed and ended: see `AsyncResume`."""

    policy: Resumption
    start: Callable[[str, int, float | None], StreamCall]
    cancel: Callable[[StreamCall, str], None] | None = None


class ChatStream(Reading):
    """One stream, read from the server as the model speaks.

        with client.chat_stream("openai/demo", "Hello") as stream:
            for piece in stream.text:
                print(piece, end="", flush=True)

    It behaves as `AsyncChatStream` does: entering waits for the server's acceptance, leaving ends
    the call. `cancel()` may be called from another thread.
    """

    def __init__(
        self,
        start: Start,
        *,
        timeout_s: float | None,
        resume: Resume | None = None,
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
        self._cancelled = threading.Event()

    @property
    def text(self) -> Iterator[str]:
        """The answer's text alone, piece by piece as it comes."""
        return (event.text.text for event in self if event.WhichOneof("event") == "text")

    def final(self) -> ChatResponse:
        """Read to the end; the whole answer, what was read before included: see `AsyncChatStream`.

        Raises:
            TokenwireError: the stream did not end with `finished`. `message` has what came.
        """
        for _ in self:
            pass
        return self._answer.response()

    def cancel(self) -> None:
        """End the call at once. Whoever reads it gets `Cancelled`. After its end: no effect."""
        if self._call is not None:
            self._cancelled.set()
            self._call.cancel()

    def __enter__(self) -> Self:
        if self._call is not None:
            raise RuntimeError("a stream is entered once; ask the client for another")
        self._begin()
        self._call = self._start(self._rest_s())
        try:
            if not self._accepted(self._call):
                # Refusals have no initial metadata: reading on raises them.
                self._first = self._read(self._call)
        except BaseException:
            self._leave(self._call)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._call is not None:
            self._leave(self._call)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> TokenEvent:
        if self._call is None:
            raise RuntimeError("a stream is read inside `with`")
        event, self._first = self._first, None
        if event is None:
            event = self._read(self._call)
        if event is None:
            raise StopIteration
        self._took(event)
        return event

    def _read(self, call: StreamCall) -> TokenEvent | None:
        """The next event, or None after a deliberate end."""
        while True:
            try:
                return self._read_call(call)
            except TokenwireError as error:
                call = self._resumed(error)

    def _read_call(self, call: StreamCall) -> TokenEvent | None:
        try:
            return next(call)
        except StopIteration:
            self._ended_well()
            return None
        except grpc.RpcError as error:
            if self._answer.finished is not None:
                return None  # the answer is complete, whatever befell the connection after it
            raise failure(error, self.stream_id, self.last_sequence) from error

    def _resumed(self, error: TokenwireError) -> StreamCall:
        """A new call that reads on where this error ended the last one. Raises it otherwise."""
        resume = self._resume
        if resume is None or self._cancelled.is_set():
            raise error
        wait_s, in_time = self._wait_to_resume_s(resume.policy, error)
        if self._cancelled.wait(wait_s):
            raise self._cancelled_here() from error
        if not in_time:
            raise self._deadline_passed() from error
        self._call = call = resume.start(self.stream_id, self.last_sequence, self._rest_s())
        if self._cancelled.is_set():  # meanwhile, and so the call before
            call.cancel()
        with Patience(call, resume.policy.patience_s(now=time.monotonic())) as patience:
            if self._accepted(call):
                resume.policy.attached()
        if patience.ended:
            resume.policy.unanswered()
            raise error
        return call

    def _accepted(self, call: StreamCall) -> bool:
        """Wait for the server's answer. False: it is a refusal, or has no stream id; read on."""
        return self._answered(call.initial_metadata() or ())

    def _leave(self, call: StreamCall) -> None:
        """End the call, and the generation if leaving is to end it."""
        resume = self._resume
        if (
            resume is None
            or resume.cancel is None
            or resume.policy.over
            or self._answer.finished is not None
            or not (self.stream_id or call.is_active())
        ):
            call.cancel()
        else:
            resume.cancel(call, self.stream_id)


class Patience:
    """A block in which a call is waited for; it is cancelled when that takes longer than `limit_s`."""

    def __init__(self, call: StreamCall, limit_s: float) -> None:
        self.ended = False
        """The call was cancelled."""
        self._call = call
        self._timer = threading.Timer(limit_s, self._end)
        self._timer.daemon = True

    def _end(self) -> None:
        self.ended = True
        self._call.cancel()

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._timer.cancel()


def failure(error: grpc.RpcError, stream_id: str = "", last_sequence: int = 0) -> TokenwireError:
    """What a failed call stands for, with what its reader knows of the stream."""
    return from_status(
        error.code(),
        error.details() or "",
        ((entry.key, entry.value) for entry in error.trailing_metadata() or ()),
        stream_id=stream_id,
        last_sequence=last_sequence,
    )
