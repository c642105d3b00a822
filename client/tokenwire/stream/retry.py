"""Whether and when a failed request is retried. Pure: no I/O but log records, no clock.

A request is retried only if the error proves that no part of it is running and that it has used nothing:

- No connection could be made, so nothing was sent.
- The server refused the request before it opened a stream.
- The stream has failed before its first content, and has used nothing.

So a retry cannot start a second generation, and needs no `request_id`. If the connection broke later, the
request may be running: it is not retried. The stream is resumed instead, see `resume.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from .._checks import check_int
from ..errors import ConnectionLost, TokenwireError

logger = logging.getLogger("tokenwire")

MAX_RETRIES = 2
"""Default for the number of retries of a request."""

FIRST_WAIT_S = 0.4
"""Maximum wait before the first retry, in addition to `retry_after_s`. It doubles with each further retry. A
random part of up to half is subtracted, so that callers that were refused at the same time do not all retry
at the same time. Half of it is longer than the shortest pause between two connection attempts."""

MAX_WAIT_S = 20.0
"""Maximum wait before a retry. If the wait would be longer, the error is raised at once."""


def check_max_retries(max_retries: int) -> int:
    """Return the number of retries. Raise ValueError if it is negative."""
    if check_int(max_retries, "max_retries") < 0:
        raise ValueError(f"max_retries must be 0 or more, not {max_retries}")
    return max_retries


def random_fraction() -> float:
    """Return a random number from 0 to 1. The module `random` is imported on first use."""
    import random

    return random.random()  # noqa: S311  # it spreads retries


class Retries:
    """The retries of one request. Times are in seconds."""

    def __init__(
        self, max_retries: int = MAX_RETRIES, *, jitter: Callable[[], float] = random_fraction
    ) -> None:
        self.errors: list[TokenwireError] = []
        """The errors that were followed by a retry."""
        self.max_retries = max_retries
        self._jitter = jitter

    def wait_s(
        self, error: TokenwireError, *, remaining_s: float | None, only_reads: bool = False
    ) -> float | None:
        """Return how long to wait before the request is retried. None: it is not retried.

        `remaining_s` is the time until the deadline, None without one. A request that `only_reads` a stream
        cannot start one: it may be retried while the stream is running. `error.attempts` is set.
        """
        count = len(self.errors)
        error.attempts = count + 1
        is_safe = error.retryable or (only_reads and error.is_transient)
        if (
            count >= self.max_retries
            or error.code is not ConnectionLost.default_code
            or not is_safe
        ):
            return None
        longest_s: float = FIRST_WAIT_S * 2**count
        wait_s = (error.retry_after_s or 0.0) + longest_s * (1 + self._jitter()) / 2
        if wait_s > MAX_WAIT_S or (remaining_s is not None and wait_s >= remaining_s):
            return None
        self.errors.append(error)
        logger.info(
            "the request will be sent again in %.1f s (retry %d of %d): %s",
            wait_s,
            count + 1,
            self.max_retries,
            error,
            extra={"wait_s": wait_s},
        )
        return wait_s
