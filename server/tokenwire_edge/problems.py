"""Errors as HTTP responses: `application/problem+json` (RFC 9457) with the server's reason and facts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from tokenwire.errors import TokenwireError

MEDIA_TYPE = "application/problem+json"

STATUS_OF_REASON: Mapping[str, int] = {
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
    "ANSWER_TOO_LARGE": 422,  # it was generated and billed: a retry as after 502 would pay for it twice
    "INVALID_ANSWER": 422,
    "RATE_LIMITED": 429,
    "TOO_MANY_STREAMS": 429,
    "QUOTA_EXHAUSTED": 429,
    "INTERNAL": 500,
    "RESUME_DISABLED": 501,
    "ANSWER_UNCHECKED": 502,
    "PRODUCER_LOST": 502,
    "UPSTREAM_AUTH": 502,
    "UPSTREAM_BROKEN": 502,
    "UPSTREAM_UNAVAILABLE": 502,
    "DRAINING": 503,
    "MODERATION_UNAVAILABLE": 503,
    "OVERLOADED": 503,
    "SERVER_STOPPED": 503,
    "SLOW_READER": 503,
    "STORE_UNAVAILABLE": 503,
    "UPSTREAM_RATE_LIMITED": 503,
    "DEADLINE": 504,
    "UPSTREAM_STALLED": 504,
}
"""Every ErrorReason, and reasons that servers of other versions send."""
_SIZE_LIMITS = frozenset({"bytes_per_request", "messages_per_request"})
"""Limits of QUOTA_EXHAUSTED on a single request: waiting does not help."""
_OWN_CURSOR = frozenset({"DRAINING", "SLOW_READER"})
"""Reasons with which the server sends the last sequence of the stream, not the last one of this reader."""

_STATUS_OF_CODE: Mapping[str, int] = {
    "CANCELLED": 499,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "UNAUTHENTICATED": 401,
    "RESOURCE_EXHAUSTED": 413,  # from the server's gRPC library: the message is larger than it accepts
    "FAILED_PRECONDITION": 400,
    "ABORTED": 409,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
}
_DETAIL_OF_STATUS: Mapping[int, str] = {
    413: "the request is larger than the server receives",
    499: "the call was cancelled",
    501: "the server does not have this method",
    503: "the server cannot be reached, or the connection to it broke",
    504: "the server did not answer in time",
}
"""Texts for errors without a reason. gRPC's own texts contain addresses behind the edge."""


class Problem(Exception):
    """An error that becomes a response, or the last event of one that has begun.

    `reason` is for programs: an ErrorReason without its prefix, the code of a gRPC error without one, or a
    reason of the edge itself. `detail` is for people. Neither contains a credential.
    """

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
            "title": _title(self.status),
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
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after_s)))
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return headers


def problem_of(error: TokenwireError) -> Problem:
    """Return the HTTP form of an error of the server, or of the connection to it.

    An error without a reason comes from gRPC or a proxy. The name of its code becomes the reason, and its
    text is not passed on.
    """
    reason = error.reason or error.code.name
    facts = dict(error.metadata)
    if error.reason:
        by_code = _STATUS_OF_CODE.get(error.code.name, 502)
        status = STATUS_OF_REASON.get(reason, 429 if by_code == 413 else by_code)
        if reason == "QUOTA_EXHAUSTED" and facts.get("limit") in _SIZE_LIMITS:
            status = 413
        detail = error.message
    else:
        status = _STATUS_OF_CODE.get(reason, 502)
        detail = _DETAIL_OF_STATUS.get(status, "the server gave an invalid answer")
    if error.stream_id:
        facts["stream_id"] = error.stream_id
    if error.last_sequence or reason in _OWN_CURSOR:
        facts["last_sequence"] = str(error.last_sequence)
    retry_after_s = error.retry_after_s
    if status == 503 and retry_after_s is None:
        retry_after_s = 1.0
    return Problem(
        status,
        reason,
        detail,
        facts=facts,
        violations=[(each.field, each.description) for each in error.violations],
        retry_after_s=retry_after_s,
    )


def _title(status: int) -> str:
    """Return the title that RFC 9457 gives to problems of type `about:blank`."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Client Closed Request"  # 499, as nginx calls it
