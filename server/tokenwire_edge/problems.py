"""Errors as HTTP responses: `application/problem+json` (RFC 9457) with the server's reason and facts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from tokenwire.errors import TokenwireError

MEDIA_TYPE = "application/problem+json"

_STATUS_OF_REASON: Mapping[str, int] = {
    "INVALID_REQUEST": 400,
    "CONTEXT_TOO_LONG": 400,
    "UPSTREAM_REJECTED": 400,
    "UNAUTHENTICATED": 401,
    "BUDGET_EXCEEDED": 402,
    "PERMISSION_DENIED": 403,
    "UNKNOWN_MODEL": 404,
    "STREAM_NOT_FOUND": 404,
    "REQUEST_ID_REUSED": 409,
    "RESUME_POINT_EXPIRED": 410,
    "RESUME_POINT_AHEAD": 416,
    "RATE_LIMITED": 429,
    "TOO_MANY_STREAMS": 429,
    "QUOTA_EXHAUSTED": 429,
    "INTERNAL": 500,
    "ANSWER_TOO_LARGE": 502,
    "PRODUCER_LOST": 502,
    "UPSTREAM_AUTH": 502,
    "UPSTREAM_BROKEN": 502,
    "UPSTREAM_STALLED": 504,
    "DEADLINE": 504,
}
_STATUS_OF_CODE: Mapping[str, int] = {
    "CANCELLED": 499,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "UNAUTHENTICATED": 401,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 400,
    "ABORTED": 409,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
}


class Problem(Exception):
    """An error that becomes a response, or the last event of one that has begun."""

    def __init__(
        self,
        status: int,
        reason: str,
        detail: str,
        *,
        facts: Mapping[str, str] | None = None,
        violations: Sequence[tuple[str, str]] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.reason = reason
        self.detail = detail
        self.facts = dict(facts or {})
        self.violations = tuple(violations)
        """Field paths and what is wrong with each."""
        self.retry_after_s = retry_after_s

    def content(self) -> dict[str, Any]:
        """Return the members of the JSON object."""
        content: dict[str, Any] = {
            "type": "about:blank",
            "title": self.reason.replace("_", " ").capitalize(),
            "status": self.status,
            "reason": self.reason,
            "detail": self.detail,
        }
        if self.facts:
            content["facts"] = self.facts
        if self.violations:
            content["violations"] = [
                {"field": field, "description": description}
                for field, description in self.violations
            ]
        if self.retry_after_s is not None:
            content["retryAfterS"] = self.retry_after_s
        return content

    def body(self) -> bytes:
        """Return the JSON object."""
        return msgspec.json.encode(self.content())

    def headers(self) -> dict[str, str]:
        """Return the headers that belong to the error."""
        headers = {"content-type": MEDIA_TYPE, "cache-control": "no-store"}
        if self.retry_after_s is not None:
            headers["retry-after"] = str(math.ceil(self.retry_after_s))
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return headers


def problem_of(error: TokenwireError) -> Problem:
    """Return the HTTP form of an error of the server or of the connection to it."""
    status = _STATUS_OF_REASON.get(error.reason) or _STATUS_OF_CODE.get(error.code.name, 500)
    facts = dict(error.metadata)
    if error.stream_id:
        facts["stream_id"] = error.stream_id
    if error.last_sequence:
        facts["last_sequence"] = str(error.last_sequence)
    retry_after_s = error.retry_after_s
    if status == 503 and retry_after_s is None:
        retry_after_s = 1.0
    return Problem(
        status,
        error.reason or error.code.name,
        error.message,
        facts=facts,
        violations=[(each.field, each.description) for each in error.violations],
        retry_after_s=retry_after_s,
    )
