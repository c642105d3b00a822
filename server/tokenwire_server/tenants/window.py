"""What was taken in the last 60 seconds. Pure: whoever calls says what time it is, and never goes back."""

from __future__ import annotations

import math

import msgspec

WINDOW_S = 60.0
BUCKET_S = 1.0


class Bucket(msgspec.Struct, gc=False):
    """What was taken within one second."""

    full_time: float
    """From here on the next bucket is used."""
    leave_time: float
    """60 seconds after the last that went into it. From here on it does not count."""
    requests: int = 0
    tokens: int = 0


class Window:
    """Counts requests and tokens over 60 seconds, in at most 61 buckets however many there are.

    A bucket begins with the first that is taken and leaves as a whole, 60 seconds after the last: so no
    60 seconds ever hold more than was allowed, what was taken alone leaves to the instant, and what
    was taken in a bunch leaves up to a second later than it could.
    """

    __slots__ = ("_buckets", "requests", "tokens")

    def __init__(self) -> None:
        self.requests = 0
        self.tokens = 0
        self._buckets: list[Bucket] = []

    def forget(self, now: float) -> None:
        """Let go what has left by now. The counts are those of the last time that this was called."""
        buckets = self._buckets
        while buckets and buckets[0].leave_time <= now:
            gone = buckets.pop(0)
            self.requests -= gone.requests
            self.tokens -= gone.tokens

    def empty(self, now: float) -> bool:
        """Whether everything has left."""
        return not self._buckets or self._buckets[-1].leave_time <= now

    def take(self, now: float, requests: int, tokens: int) -> Bucket:
        """Count more. The bucket is where it can be put back."""
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
        """Count less of what went into a bucket, if that still counts."""
        if bucket.leave_time <= now:
            return
        bucket.requests -= requests
        bucket.tokens -= tokens
        self.requests -= requests
        self.tokens -= tokens

    def wait_s(self, now: float, *, requests: int = 0, tokens: int = 0) -> float:
        """In how many seconds so many will have left, of those that count now."""
        leave_time = now
        for bucket in self._buckets:
            leave_time = bucket.leave_time
            requests -= bucket.requests
            tokens -= bucket.tokens
            if requests <= 0 and tokens <= 0:
                break
        return surely_s(leave_time - now)


def surely_s(wait_s: float) -> float:
    """In whole milliseconds, and one more: neither floats nor the wire's rounding make it too short."""
    return (math.ceil(wait_s * 1000) + 1) / 1000
