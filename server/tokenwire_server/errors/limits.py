"""Errors at the limits of callers."""

from __future__ import annotations

import math

from .base import TokenwireError


class LimitExceeded(TokenwireError):
    """A limit of the caller was reached. Without `retry_after_s`, waiting does not help."""

    def __init__(
        self,
        limit: str,
        *,
        scope: str,
        subject: str,
        allowed: int,
        asked: int,
        remaining: int,
        retry_after_s: float | None = None,
        field: str | None = None,
        why: str = "",
    ) -> None:
        self.limit = limit
        """Name of the limit in the settings."""
        self.scope = scope
        """What shares the limit: "key" or "tenant"."""
        self.subject = subject
        """Prefix of the key, or name of the tenant."""
        self.allowed = allowed
        self.asked = asked
        self.remaining = remaining
        self.retry_after_s = retry_after_s
        self.field = field
        """Path of the field that is too large. None if the limit is not on a single request."""
        hint = why or "waiting does not help"
        if retry_after_s is not None:
            hint = f"retry in {math.ceil(retry_after_s * 10) / 10:g} s"  # never too early
        super().__init__(
            f"{limit} of this {scope} is {allowed}: {remaining} left, {asked} requested; {hint}"
        )

    def facts(self) -> dict[str, str]:
        return {
            "limit": self.limit,
            "scope": self.scope,
            "allowed": str(self.allowed),
            "remaining": str(self.remaining),
            "asked": str(self.asked),
        }


class RateLimited(LimitExceeded):
    reason = "RATE_LIMITED"


class TooManyStreams(LimitExceeded):
    reason = "TOO_MANY_STREAMS"


class QuotaExhausted(LimitExceeded):
    reason = "QUOTA_EXHAUSTED"


class BudgetExceeded(TokenwireError):
    reason = "BUDGET_EXCEEDED"

    def __init__(self, limit: str, *, allowed: int, estimated: int) -> None:
        self.limit = limit
        """Name of the field in the request's budget."""
        self.allowed = allowed
        self.estimated = estimated
        super().__init__(
            f"budget.{limit} is {allowed}, but the request's input is estimated at {estimated}"
        )

    def facts(self) -> dict[str, str]:
        return {
            "limit": self.limit,
            "allowed": str(self.allowed),
            "estimated": str(self.estimated),
        }
