"""The state of one stream that a client reads. Pure: no I/O except log records, no clock.

Both clients drive it: they do the I/O, and pass the time in seconds of one monotonic clock.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Any, NamedTuple, TypedDict

from tokenwire.v1.chat_pb2 import ChatRequest, ResumeStreamRequest
from tokenwire.v1.event_pb2 import TokenEvent

from .._checks import check_seconds
from ..enums import NoticeKind
from ..errors import (
    Cancelled,
    DeadlineExceeded,
    IncompleteStream,
    InvalidAnswer,
    TokenwireError,
)
from ..structured.answer_type import AnswerType
from ..wire.metadata import Allowance, InitialMetadata
from ..wire.requests import build_resume, linger_s, outlives_its_readers, outliving_its_readers
from ..wire.status import CALL_CANCELLED, CLIENT_CLOSED
from .answer_builder import AnswerBuilder, is_content
from .continuation import CannotContinue, continuation_of
from .resume import ResumePolicy, has_ended, is_resumable
from .retry import Retries

logger = logging.getLogger("tokenwire")

MAX_MOVES = 3
"""Consecutive moves without a new event. A load balancer may choose the server that drains again: after so
many moves, the stream is read there."""

_REPEATED = frozenset({"heartbeat", "usage"})


class _Position(TypedDict):
    """Where the reader is, as keyword arguments of an error."""

    request_id: str
    stream_id: str
    last_sequence: int


class StreamCursor(NamedTuple):
    """A position in a stream, to resume after: `client.resume(*cursor)`."""

    stream_id: str
    last_sequence: int
    """Sequence of the last event that the reader returned. 0: none."""


class Pause(NamedTuple):
    """The wait before the next call, which resumes the stream or retries the request."""

    seconds: float
    reaches_deadline: bool
    """The deadline passes before the attempt."""


class Reading:
    """One stream, as far as it was read: its answer, its deadline, and what to send next.

    `request` starts the stream, or resumes it from a cursor. With `is_resumable`, the stream is resumed
    after a broken connection, and a stream that this reading started is cancelled when it is left.
    `retries` decides whether the request is retried if it fails before the first content.
    `answer_type` is the class of the answer. `is_json` is for a stream that is resumed: the answer is JSON.
    `rest` is for a stream that continues an answer: the builder that `AnswerBuilder.of_rest` returned.

    Raises:
        ValueError: the request asks for CANCEL, which contradicts `is_resumable`.
    """

    def __init__(
        self,
        request: ChatRequest | ResumeStreamRequest,
        *,
        timeout_s: float | None,
        is_resumable: bool,
        retries: Retries,
        answer_type: AnswerType[Any] | None = None,
        is_json: bool = False,
        rest: AnswerBuilder | None = None,
    ) -> None:
        self.retries = retries
        self._policy: ResumePolicy | None = None
        self._cancels_when_left = False
        self._is_over = False
        """Like `ResumePolicy.is_over`, for a stream without a policy."""
        self._outlives_readers = True  # after `resume`, the client does not have the request
        self._given_request = request
        if isinstance(request, ResumeStreamRequest):
            self._after_sequence = request.after_sequence
            self.answer = AnswerBuilder(
                request.stream_id,
                request.after_sequence,
                is_json=is_json,
                answer_type=answer_type,
            )
            if is_resumable:
                self._policy = ResumePolicy()
        else:
            self._after_sequence = 0
            is_json = request.response_format.WhichOneof("format") in ("json", "json_schema")
            self.answer = (
                AnswerBuilder(is_json=is_json, answer_type=answer_type) if rest is None else rest
            )
            if is_resumable:
                request = outliving_its_readers(request)
                self._policy = self._policy_for(request)
                self._cancels_when_left = True
            self._outlives_readers = outlives_its_readers(request)
        self._unread: deque[TokenEvent] = deque()
        self._request = request
        self._timeout_s = check_seconds(timeout_s, "timeout")
        self._deadline: float | None = None
        self.allowances: tuple[Allowance, ...] = ()
        self._must_move = False
        self._moves = 0

    @property
    def stream_id(self) -> str:
        """Id of the stream. Empty until the server has accepted the request."""
        return self.answer.stream_id

    @property
    def request_id(self) -> str:
        """The id of the request. Empty if it has none, or resumes a stream."""
        return self._request.request_id if isinstance(self._request, ChatRequest) else ""

    @property
    def last_sequence(self) -> int:
        """Sequence of the last event received: the next call continues after it. 0: none."""
        if self._unread:
            for event in reversed(self._unread):
                if event.WhichOneof("event") not in _REPEATED:
                    return event.sequence
        return self.answer.last_sequence

    @property
    def is_complete(self) -> bool:
        """Whether `finished` was received."""
        if self.answer.finished is not None:
            return True
        return bool(self._unread) and self._unread[-1].HasField("finished")

    @property
    def cursor(self) -> StreamCursor:
        """The cursor to resume after the events that were taken."""
        return StreamCursor(self.stream_id, self.answer.last_sequence)

    def begin(self, now: float) -> None:
        """Start the time until the deadline, which all calls of this reading share."""
        if self._timeout_s is not None:
            self._deadline = now + self._timeout_s

    def remaining_s(self, now: float) -> float | None:
        """Return the time until the deadline, 0 after it. None: there is no deadline."""
        return None if self._deadline is None else max(0.0, self._deadline - now)

    def next_request(self) -> ChatRequest | ResumeStreamRequest:
        """Return the request of the next call: the first, or one that resumes after the last event."""
        if not self.stream_id:
            return self._request
        return build_resume(self.stream_id, self.last_sequence, self._request.delivery)

    def accept(self, metadata: InitialMetadata) -> bool:
        """Take the initial metadata of a call. Return False for a refusal: reading on raises it."""
        self.allowances = metadata.allowances or self.allowances
        if not metadata.stream_id:
            return False
        self.answer.stream_id = metadata.stream_id
        if self._policy is not None:
            self._policy.accepted()
        return True

    @property
    def has_content(self) -> bool:
        """Whether the answer has begun, as far as it was received. Also if it has ended without content."""
        if self.answer.has_content or self.is_complete:
            return True
        return bool(self._unread) and is_content(self._unread[-1])

    def take(self, event: TokenEvent) -> None:
        """Take the next event of a call into the answer."""
        before = self.answer.last_sequence
        self.answer.add(event)
        if self._policy is not None:
            self._progress(self._policy, event, is_new=self.answer.last_sequence > before)

    def put_back(self, event: TokenEvent) -> None:
        """Keep the next event of a call for `take_unread`. Only the last heartbeat and usage are kept.

        So the server's retries and fallbacks bound the number of events before the first content.
        """
        kind = event.WhichOneof("event")
        is_new = kind not in _REPEATED and event.sequence > self.last_sequence
        if kind in _REPEATED:
            self._drop_older(kind)
        self._unread.append(event)
        if self._policy is not None:
            self._progress(self._policy, event, is_new=is_new)

    def take_unread(self) -> TokenEvent | None:
        """Take the oldest event that was put back into the answer. None: there is none."""
        if not self._unread:
            return None
        event = self._unread.popleft()
        self.answer.add(event)
        return event

    def detach(self) -> StreamCursor:
        """Let the generation continue when the stream is left. Return the cursor to resume after.

        Raises:
            RuntimeError: the stream was not accepted yet, or it ends with its last reader.
        """
        if not self.stream_id:
            raise RuntimeError("a stream can be detached only inside its block")
        if not self._outlives_readers and not self.is_complete:
            raise RuntimeError(
                "this generation ends with its last reader: to detach from it, start it with"
                " resumable=True or with retention=tokenwire.retention('continue')"
            )
        self._cancels_when_left = False
        return self.cursor

    def cancel_when_left(self) -> None:
        """Cancel the generation when the stream is left, even if it would outlive its readers.

        No effect on a stream that is read from a cursor: another reader started it.
        """
        if isinstance(self._request, ChatRequest):
            self._cancels_when_left = self._outlives_readers

    def takes_move(self) -> bool:
        """Return whether the stream is to be read at another server from here on. True once for each move.

        The server has sent the notice DRAINING: it waits for its readers, and then cuts them off.
        """
        must_move, self._must_move = self._must_move, False
        return must_move and bool(self.stream_id)

    def end(self) -> None:
        """Take the end of a call with status OK.

        Raises:
            IncompleteStream: `finished` is missing.
        """
        resumed_at_the_end = 0 < self._after_sequence == self.last_sequence
        if not self.is_complete and not resumed_at_the_end:
            raise IncompleteStream("the stream ended without `finished`", **self._position())

    def explain(self, error: TokenwireError) -> None:
        """Add what was read to the error that ended a call."""
        error.request_id = error.request_id or self.request_id
        error.attempts = 1 + len(self.retries.errors)
        if isinstance(error, InvalidAnswer):
            self.answer.explain(error)

    def pause_after(self, error: TokenwireError, now: float) -> Pause:
        """Return the wait before the next call after this error. `next_request` is its request.

        Raises:
            TokenwireError: the given error, if there is no next call.
        """
        wait_s = None
        if self._policy is not None and self.stream_id:
            wait_s = self._policy.wait_s(error, now=now)
        if wait_s is None:
            return Pause(self._retry_wait_s(error, now), reaches_deadline=False)
        remaining_s = self.remaining_s(now)
        if remaining_s is not None and wait_s >= remaining_s:
            logger.info(
                "the stream %s cannot be resumed before the deadline in %.1f s: %s",
                self.stream_id,
                remaining_s,
                error,
                extra={"wait_s": remaining_s},
            )
            return Pause(remaining_s, reaches_deadline=True)
        logger.log(
            logging.INFO if wait_s else logging.DEBUG,
            "the stream %s will be resumed in %.1f s, after event %d: %s",
            self.stream_id,
            wait_s,
            self.last_sequence,
            error,
            extra={"wait_s": wait_s},
        )
        return Pause(wait_s, reaches_deadline=False)

    def patience_s(self, now: float) -> float | None:
        """Return how long to wait for the server's answer to an attempt to resume that starts now."""
        if self._policy is None or not self.stream_id:
            return None
        return self._policy.patience_s(now=now)

    def give_up(self) -> None:
        """Record that an attempt to resume got no answer within `patience_s`."""
        if self._policy is not None:
            self._policy.unanswered()

    def must_cancel(self, *, is_call_open: bool) -> bool:
        """Return whether the generation has to be cancelled when the stream is left now."""
        if not self._cancels_when_left or self.is_complete:
            return False
        is_over = self._is_over if self._policy is None else self._policy.is_over
        return (bool(self.stream_id) or is_call_open) and not is_over

    def continuation(self) -> ChatRequest:
        """Return the request that lets a model continue the answer.

        Raises:
            CannotContinue: the answer has finished, was not read from its beginning, or has more than text.
        """
        if isinstance(self._given_request, ResumeStreamRequest):
            raise CannotContinue("the stream was read by `resume`, so its request is not known")
        if self.is_complete:
            raise CannotContinue("the answer has finished")
        return continuation_of(self._given_request, self.answer.build().message)

    def cancelled(self) -> Cancelled:
        """Return the error for a reader that was cancelled while no call was open."""
        return Cancelled(CALL_CANCELLED, **self._position())

    def client_closed(self) -> Cancelled:
        """Return the error for a reader whose client was closed while no call was open."""
        return Cancelled(CLIENT_CLOSED, **self._position())

    def deadline_passed(self) -> DeadlineExceeded:
        """Return the error for a deadline that passed while no call was open."""
        return DeadlineExceeded(
            "the deadline passed before the stream could be resumed", **self._position()
        )

    def _drop_older(self, kind: str) -> None:
        """Drop the unread event that a newer one of its kind replaces: at most one, among the last two."""
        for position in (-1, -2):
            if len(self._unread) < -position:
                return
            older = self._unread[position].WhichOneof("event")
            if older == kind:
                del self._unread[position]
                return
            if older not in _REPEATED:
                return

    def _progress(self, policy: ResumePolicy, event: TokenEvent, *, is_new: bool) -> None:
        if is_new:
            policy.progressed()
            self._moves = 0
        elif event.notice.kind == NoticeKind.DRAINING and self._moves < MAX_MOVES:
            self._must_move = True
            self._moves += 1

    def _retry_wait_s(self, error: TokenwireError, now: float) -> float:
        """Return the wait before a retry of the request. Raise the error if there is no retry."""
        self._is_over = has_ended(error) or is_resumable(error)
        only_reads = isinstance(self._request, ResumeStreamRequest)
        if self.has_content or (only_reads and self._policy is not None):
            raise error
        wait_s = self.retries.wait_s(
            error, remaining_s=self.remaining_s(now), only_reads=only_reads
        )
        if wait_s is None:
            raise error
        if isinstance(self._request, ChatRequest):
            self.answer = self.answer.of_same_kind()  # of another stream
            self._unread.clear()
            self._must_move = self._is_over = False
            self._policy = self._policy and self._policy_for(self._request)
        return wait_s

    @staticmethod
    def _policy_for(request: ChatRequest) -> ResumePolicy:
        return ResumePolicy(linger_s=linger_s(request))

    def _position(self) -> _Position:
        return {
            "request_id": self.request_id,
            "stream_id": self.stream_id,
            "last_sequence": self.last_sequence,
        }
