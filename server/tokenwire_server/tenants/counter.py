"""What a key or a tenant has used, compared with its limits. Pure: the caller passes the time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from ..errors import LimitExceeded, RateLimited, TooManyStreams
from .limits import Allowance, Holder, allowances_of
from .window import Bucket, Window

SLOT_RETRY_S = 1.0
"""Retry delay for a concurrent stream: it is not known when one ends."""


class Counter:
    """The usage of a key or a tenant: open streams, and requests and tokens in the last minute."""

    __slots__ = ("streams", "window")

    def __init__(self, streams: int = 0, window: Window | None = None) -> None:
        self.streams = streams
        self.window = Window() if window is None else window

    def take(self, now: float, tokens: int) -> Bucket:
        self.streams += 1
        return self.window.take(now, 1, tokens)

    def allowances(self, holder: Holder) -> Iterator[Allowance]:
        """Yield every limit of a holder and what is left of it."""
        window = self.window
        return allowances_of(
            holder, requests=window.requests, tokens=window.tokens, streams=self.streams
        )

    def request_refusals(self, holder: Holder, now: float) -> Iterator[LimitExceeded]:
        """Yield the reasons why a request that starts no stream cannot be accepted now."""
        limits, window = holder.limits, self.window
        if (allowed := limits.requests_per_minute) is not None and window.requests >= allowed:
            yield RateLimited(
                "requests_per_minute",
                scope=holder.scope,
                subject=holder.subject,
                allowed=allowed,
                asked=1,
                remaining=allowed - window.requests,
                retry_after_s=window.wait_s(now, requests=window.requests + 1 - allowed),
            )

    def refusals(self, holder: Holder, tokens: int, now: float) -> Iterator[LimitExceeded]:
        """Yield the reasons why a request with this number of tokens cannot be accepted now."""
        yield from self.request_refusals(holder, now)
        limits, window = holder.limits, self.window
        if (allowed := limits.tokens_per_minute) is not None and window.tokens + tokens > allowed:
            yield RateLimited(
                "tokens_per_minute",
                scope=holder.scope,
                subject=holder.subject,
                allowed=allowed,
                asked=tokens,
                remaining=allowed - window.tokens,
                retry_after_s=window.wait_s(now, tokens=window.tokens + tokens - allowed)
                if tokens <= allowed
                else None,
            )
        if (allowed := limits.concurrent_streams) is not None and self.streams >= allowed:
            yield TooManyStreams(
                "concurrent_streams",
                scope=holder.scope,
                subject=holder.subject,
                allowed=allowed,
                asked=1,
                remaining=allowed - self.streams,
                retry_after_s=SLOT_RETRY_S,
            )


def longest_wait(refusals: Iterable[LimitExceeded]) -> LimitExceeded | None:
    """Return the refusal with the longest wait, or None if there is none."""
    return max(refusals, key=_wait_s, default=None)


def _wait_s(refusal: LimitExceeded) -> float:
    """Return how long to wait; infinity if waiting does not help."""
    return math.inf if refusal.retry_after_s is None else refusal.retry_after_s
