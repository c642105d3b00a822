"""Whether a stream that broke off is resumed, and when. Pure: no I/O, no clock.

A stream with ON_DISCONNECT_CONTINUE outlives its readers for its `linger`, so a reader that lost its
connection can resume from its cursor. The price: a caller that dies, or loses the network for good,
cannot cancel the generation, which then runs and costs for up to `linger`. The same is true of a caller
that loses the connection before it has received the stream's id.
"""

from __future__ import annotations

from collections.abc import Callable

from ..errors import (
    AnswerUnchecked,
    ConnectionLost,
    Draining,
    Overloaded,
    ProducerLost,
    RequestError,
    ServerStopped,
    SlowReader,
    StoreUnavailable,
    TokenwireError,
    UpstreamError,
)
from ..wire.requests import LINGER_S
from .retry import random_fraction

MAX_ATTEMPTS = 10
"""Consecutive attempts without a new event after which the client gives up."""

FIRST_WAIT_S = 0.2
"""Longest wait before the second attempt. It doubles with each further attempt."""

MAX_WAIT_S = 5.0
"""Longest wait before any attempt, unless the server names a later time."""


def is_resumable(error: TokenwireError) -> bool:
    """Return whether only the way to the stream broke, so that the stream may still be readable.

    Overloaded and StoreUnavailable count when they answer an attempt to resume: the server cannot accept
    a reader now, or cannot check its key. An unknown reason is judged by its code, as the documentation
    of ErrorReason requires.
    """
    if isinstance(error, ConnectionLost | Draining | SlowReader | Overloaded | StoreUnavailable):
        return True
    return type(error) is TokenwireError and error.code is ConnectionLost.default_code


def has_ended(error: TokenwireError) -> bool:
    """Return whether the generation has ended. After any other error it may still run."""
    return isinstance(
        error, UpstreamError | RequestError | ProducerLost | ServerStopped | AnswerUnchecked
    )


class ResumePolicy:
    """Decides about the attempts to resume one stream. Times are seconds of one monotonic clock.

    The first attempt after a new event is immediate. Each further one waits twice as long as the one
    before, less a random part of up to half, so that many readers that were disconnected together do not
    return together. The policy gives up after MAX_ATTEMPTS attempts without a new event (a heartbeat is
    not new), when no attempt was accepted for `linger_s`, after which the stream would be gone, and on
    every error that is not `is_resumable`.
    """

    def __init__(
        self, *, linger_s: float = LINGER_S, jitter: Callable[[], float] = random_fraction
    ) -> None:
        self.is_over = False
        """The stream has ended, or is left to be resumed by hand: there is nothing to cancel."""
        self._linger_s = linger_s
        self._jitter = jitter
        self._attempts = 0
        self._lost_at: float | None = None

    def accepted(self) -> None:
        """Record that the server accepted the reader: the stream does not linger."""
        self._lost_at = None

    def progressed(self) -> None:
        """Record a new event of the stream."""
        self._attempts = 0
        self._lost_at = None

    def wait_s(self, error: TokenwireError, *, now: float) -> float | None:
        """Return how long to wait before the next attempt after this error. None: give up."""
        if not is_resumable(error):
            self.is_over = has_ended(error)
            return None
        if self._lost_at is None:
            self._lost_at = now
        wait_s = error.retry_after_s or 0.0
        if self._attempts:
            longest_s = min(FIRST_WAIT_S * 2 ** (self._attempts - 1), MAX_WAIT_S)
            wait_s = max(wait_s, longest_s * (1 + self._jitter()) / 2)
        if self._attempts >= MAX_ATTEMPTS or now + wait_s > self._lost_at + self._linger_s:
            self.is_over = True
            return None
        self._attempts += 1
        return wait_s

    def patience_s(self, *, now: float) -> float:
        """Return how long to wait for the server's answer to an attempt that starts now."""
        return self._linger_s if self._lost_at is None else self._lost_at + self._linger_s - now

    def unanswered(self) -> None:
        """Record that an attempt got no answer within `patience_s`. It was the last one."""
        self.is_over = True
