"""Usage in the last 60 seconds. Pure: the caller passes the time, which never goes back."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

WINDOW_S = 60.0
BUCKET_S = 1.0


class Bucket(msgspec.Struct, gc=False):
    """Usage within one second."""

    full_time: float
    """When the next bucket begins."""
    leave_time: float
    """When the bucket stops counting: 60 seconds after the last usage in it."""
    requests: int = 0
    tokens: int = 0


class Window:
    """Counts requests and tokens over 60 seconds, in at most 61 buckets.

    A bucket begins with its first usage, and is removed as a whole 60 seconds after its last usage. So no 60
    seconds ever have more usage than was allowed. Single usage stops counting exactly on time, and usage that
    shares a bucket up to one second late.
    """

    __slots__ = ("_buckets", "requests", "tokens")

    def __init__(self) -> None:
        self.requests = 0
        self.tokens = 0
        self._buckets: list[Bucket] = []

    @classmethod
    def of(cls, buckets: Sequence[int]) -> Window:
        """Return a window as it is at the time 0.

        `buckets` has for each bucket the milliseconds until it stops counting, its requests and its tokens.
        """
        window = cls()
        for index in range(0, len(buckets), 3):
            leave_ms, requests, tokens = buckets[index : index + 3]
            window._buckets.append(Bucket(0.0, leave_ms / 1000, requests, tokens))
            window.requests += requests
            window.tokens += tokens
        return window

    def remove_expired(self, now: float) -> None:
        """Remove the buckets that no longer count. The counts are as of the last call."""
        buckets = self._buckets
        while buckets and buckets[0].leave_time <= now:
            gone = buckets.pop(0)
            self.requests -= gone.requests
            self.tokens -= gone.tokens

    def empty(self, now: float) -> bool:
        """Return whether nothing counts any more."""
        return not self._buckets or self._buckets[-1].leave_time <= now

    def take(self, now: float, requests: int, tokens: int) -> Bucket:
        """Count usage. Return its bucket, for `put_back`."""
        if self._buckets and now < self._buckets[-1].full_time:
            bucket = self._buckets[-1]
            bucket.leave_time = now + WINDOW_S
        else:
            bucket = Bucket(now + BUCKET_S, now + WINDOW_S)
            self._buckets.append(bucket)
        bucket.requests += requests
        bucket.tokens += tokens
        self.requests += requests
        self.tokens += tokens
        return bucket

    def put_back(self, bucket: Bucket, now: float, requests: int, tokens: int) -> None:
        """Subtract usage from its bucket, if the bucket still counts."""
        if bucket.leave_time <= now:
            return
        bucket.requests -= requests
        bucket.tokens -= tokens
        self.requests -= requests
        self.tokens -= tokens

    def wait_s(self, now: float, *, requests: int = 0, tokens: int = 0) -> float:
        """Return in how many seconds this much of the current usage stops counting."""
        leave_time = now
        for bucket in self._buckets:
            leave_time = bucket.leave_time
            requests -= bucket.requests
            tokens -= bucket.tokens
            if requests <= 0 and tokens <= 0:
                break
        return surely_s(leave_time - now)


def surely_s(wait_s: float) -> float:
    """Round a wait up to whole milliseconds and add one, so that no later rounding makes it too short."""
    return (math.ceil(wait_s * 1000) + 1) / 1000
