"""Errors of the caller's limits."""

from __future__ import annotations

from .._int64 import parse_int64
from .base import Retry, TokenwireError


class LimitExceeded(TokenwireError):
    """The request exceeds a limit of the caller. Without `retry_after_s`, waiting does not help."""

    _retry = Retry.IF_RETRY_INFO

    @property
    def limit(self) -> str:
        """Name of the limit, such as `requests_per_minute`. Empty: not reported."""
        return self.metadata.get("limit", "")

    @property
    def scope(self) -> str:
        """Owner of the limit: `key` or `tenant`. Empty: not reported."""
        return self.metadata.get("scope", "")

    @property
    def allowed(self) -> int | None:
        """Size of the limit. None: not reported."""
        return parse_int64(self.metadata.get("allowed"))

    @property
    def remaining(self) -> int | None:
        """What remained of the limit. Negative if answers took more than estimated. None: not reported."""
        return parse_int64(self.metadata.get("remaining"))

    @property
    def asked(self) -> int | None:
        """What the request needed. None: not reported."""
        return parse_int64(self.metadata.get("asked"))


class RateLimited(LimitExceeded):
    """Too many requests or tokens in a minute."""


class TooManyStreams(LimitExceeded):
    """Too many streams at once."""

    _retry = Retry.YES


class QuotaExhausted(LimitExceeded):
    """A quota is used up: for one request, or for a day or month (UTC)."""
