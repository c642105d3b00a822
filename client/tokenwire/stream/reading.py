"""What both chat streams have in common: the answer so far, the deadline, the end."""

from __future__ import annotations

import time
from collections.abc import Iterable

from tokenwire.v1.chat_pb2 import Message
from tokenwire.v1.event_pb2 import TokenEvent

from ..errors import Cancelled, DeadlineExceeded, IncompleteStream, TokenwireError
from ..wire.metadata import Allowance, NewestAllowances
from .answer import Answer, stream_id_in
from .resume import Resumption


class Reading:
    """One stream as far as it was read, from `after_sequence` on."""

    def __init__(
        self,
        *,
        timeout_s: float | None,
        stream_id: str = "",
        after_sequence: int = 0,
        policy: Resumption | None = None,
        newest: NewestAllowances | None = None,
    ) -> None:
        self._answer = Answer(stream_id, after_sequence)
        self._after_sequence = after_sequence
        self._timeout_s = timeout_s
        self._deadline: float | None = None
        self._policy = policy
        self._newest = newest or NewestAllowances()
        self._allowances: tuple[Allowance, ...] = ()

    @property
    def stream_id(self) -> str:
        """Id of the stream at the server: to resume, look at, cancel or delete it."""
        return self._answer.stream_id

    @property
    def last_sequence(self) -> int:
        """Sequence of the last event read, and the cursor to resume after. 0: none yet."""
        return self._answer.last_sequence

    @property
    def message(self) -> Message:
        """The assistant's message as far as it was read: see `Answer.message`."""
        return self._answer.message()

    @property
    def allowances(self) -> tuple[Allowance, ...]:
        """What was left of the caller's limits when the stream began. (): it has not, or none hold."""
        return self._allowances

    def _begin(self) -> None:
        """The deadline of all the calls that read this stream counts from here."""
        if self._timeout_s is not None:
            self._deadline = time.monotonic() + self._timeout_s

    def _rest_s(self) -> float | None:
        """What is left until the deadline, 0 after it. None: there is none."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def _answered(self, metadata: Iterable[tuple[str, str | bytes]]) -> bool:
        """Take a call's initial metadata. False: it is a refusal, or has no stream id."""
        told = tuple(metadata)
        stream_id = stream_id_in(told)
        self._answer.stream_id = stream_id or self._answer.stream_id
        self._allowances = self._newest.take(told) or self._allowances
        return bool(stream_id)

    def _took(self, event: TokenEvent) -> None:
        before = self._answer.last_sequence
        self._answer.add(event)
        if self._policy is not None and self._answer.last_sequence > before:
            self._policy.progressed()

    def _ended_well(self) -> None:
        """The call ended with OK. Raises IncompleteStream unless that can be."""
        resumed_at_the_end = 0 < self._after_sequence == self._answer.last_sequence
        if self._answer.finished is None and not resumed_at_the_end:
            raise IncompleteStream(
                "the stream ended without saying how",
                stream_id=self.stream_id,
                last_sequence=self.last_sequence,
            )

    def _wait_to_resume_s(self, policy: Resumption, error: TokenwireError) -> tuple[float, bool]:
        """How long to wait, and whether there is then time for an attempt, or the deadline passes.

        Raises `error` when the stream is not to be resumed.
        """
        wait_s = policy.wait_s(error, now=time.monotonic()) if self.stream_id else None
        if wait_s is None:
            raise error
        rest_s = self._rest_s()
        if rest_s is None or wait_s < rest_s:
            return wait_s, True
        return rest_s, False

    def _cancelled_here(self) -> Cancelled:
        return Cancelled(
            "the call was cancelled here",
            stream_id=self.stream_id,
            last_sequence=self.last_sequence,
        )

    def _deadline_passed(self) -> DeadlineExceeded:
        return DeadlineExceeded(
            "the deadline passed before the stream could be resumed",
            stream_id=self.stream_id,
            last_sequence=self.last_sequence,
        )
