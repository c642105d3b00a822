"""Whether to resume a stream that broke off, when, and when to give up. Pure: no I/O, no clock.

A stream asked to CONTINUE outlives its readers for a while, its `linger`: a reader whose wire was cut
can come back and read on from its cursor. That has a price. A caller who dies, or loses the network
for good, cannot cancel: the model then goes on, and costs, for up to `linger` more. The same holds
for a caller who is cut off in the moment before he learns his stream's id.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import grpc

from ..errors import (
    ConnectionLost,
    Draining,
    Overloaded,
    ResumePointError,
    ServerStopped,
    SlowReader,
    StoreUnavailable,
    StreamNotFound,
    TokenwireError,
    UpstreamError,
)

LINGER_S = 30.0
"""How long a resumable stream goes on without its reader, unless its request says otherwise."""

MAX_ATTEMPTS = 10
"""Attempts in a row that bring nothing new, before giving up."""

FIRST_WAIT_S = 0.2
"""At most this long before the second attempt; before each further one twice as long as before."""

MAX_WAIT_S = 5.0
"""And at most this long, unless the server says when to come back."""


def is_resumable(error: TokenwireError) -> bool:
    """Whether only the way to the stream broke: the stream itself may go on, or be read to its end.

    Overloaded and StoreUnavailable are so where they answer an attempt to resume: the server has no
    place for a reader now, or cannot check its key.
    A reason unknown here is judged by its code, as ErrorReason asks for.
    """
    if isinstance(error, ConnectionLost | Draining | SlowReader | Overloaded | StoreUnavailable):
        return True
    return type(error) is TokenwireError and error.code is grpc.StatusCode.UNAVAILABLE


class Resumption:
    """The attempts to come back to one stream. Times are seconds of one monotonic clock.

    The first attempt after something new came is made at once; each further one waits, twice as long
    as the one before and somewhere between half of that and all of it, so that many readers who were
    cut off together do not come back together. It gives up after MAX_ATTEMPTS attempts that brought no
    event of the stream (a heartbeat is none), when nobody has let it in for `linger_s`, after which
    the stream would be gone, and on every error that is not `is_resumable`.
    """

    def __init__(
        self, *, linger_s: float = LINGER_S, roll: Callable[[], float] = random.random
    ) -> None:
        self.over = False
        """The stream has ended, or is left to whoever resumes it by hand: nothing is to be cancelled."""
        self._linger_s = linger_s
        self._roll = roll
        self._attempts = 0
        self._lost_at: float | None = None

    def attached(self) -> None:
        """The server has let the reader in again: the stream does not linger."""
        self._lost_at = None

    def progressed(self) -> None:
        """An event of the stream came that had not come before."""
        self._attempts = 0
        self._lost_at = None

    def wait_s(self, error: TokenwireError, *, now: float) -> float | None:
        """How long to wait before the next attempt, after this error. None: no further one."""
        if not is_resumable(error):
            # What may still run after any other error is to be cancelled.
            self.over = isinstance(
                error, UpstreamError | ServerStopped | StreamNotFound | ResumePointError
            )
            return None
        if self._lost_at is None:
            self._lost_at = now
        wait_s = error.retry_after_s or 0.0
        if self._attempts:
            longest_s = min(FIRST_WAIT_S * 2 ** (self._attempts - 1), MAX_WAIT_S)
            wait_s = max(wait_s, longest_s * (1 + self._roll()) / 2)
        if self._attempts >= MAX_ATTEMPTS or now + wait_s > self._lost_at + self._linger_s:
            self.over = True
            return None
        self._attempts += 1
        return wait_s

    def patience_s(self, *, now: float) -> float:
        """How long an attempt that begins now may go unanswered."""
        return self._linger_s if self._lost_at is None else self._lost_at + self._linger_s - now

    def unanswered(self) -> None:
        """An attempt has outlasted `patience_s`: that was the last one."""
        self.over = True
