"""Errors as HTTP responses: a status for each reason, and `application/problem+json` (RFC 9457). Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from ..errors import AnswerError, TokenwireError
from ..tools.errors import ToolCostExceeded, ToolFailed, ToolRoundsExceeded, ToolTimeExceeded

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
    "ANSWER_TOO_LARGE": 422,  # it was generated and billed: a retry, as after 502, would be billed again
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
"""Reasons whose `last_sequence` is that of the stream, not that of this reader."""

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
"""Texts for errors without a reason. gRPC's own texts contain addresses of the internal network."""

_OF_RUN: Mapping[type[TokenwireError], tuple[int, str]] = {
    ToolCostExceeded: (402, "the run with tools reached its limit of cost"),
    ToolFailed: (500, "a tool failed"),
    ToolRoundsExceeded: (502, "the model still called tools after the last round"),
    ToolTimeExceeded: (504, "the run with tools reached its time limit"),
}
"""Status and text of an error of a run. Its own text may contain errors of the caller's functions."""


def status_of(error: TokenwireError) -> int:
    """Return the HTTP status for an error of a call: 400 to 504, or 499 if the call was cancelled.

    `tokenwire-edge` answers with the same status. For a run with tools it is 402, 500, 502 or 504.
    """
    if of_run := _OF_RUN.get(type(error)):
        return of_run[0]
    if not error.reason:
        if isinstance(error, AnswerError):
            return STATUS_OF_REASON["INVALID_ANSWER"]
        return _STATUS_OF_CODE.get(error.code.name, 502)
    if error.reason == "QUOTA_EXHAUSTED" and error.metadata.get("limit") in _SIZE_LIMITS:
        return 413
    by_code = _STATUS_OF_CODE.get(error.code.name, 502)
    return STATUS_OF_REASON.get(error.reason, 429 if by_code == 413 else by_code)


def problem_of(error: TokenwireError) -> dict[str, Any]:
    """Return an error as the object of an `application/problem+json` response, ready for `json.dumps`.

    Its members are those of RFC 9457, and `reason`, `facts`, `violations` and `retryAfterS` where they apply.
    It contains no addresses and no credentials.
    """
    status = status_of(error)
    problem: dict[str, Any] = {
        "type": "about:blank",
        "title": title_of(status),
        "status": status,
        "reason": error.reason or error.code.name,
        "detail": detail_of(error),
    }
    if facts := facts_of(error):
        problem["facts"] = facts
    if error.violations:
        problem["violations"] = [
            {"field": each.field, "description": each.description} for each in error.violations
        ]
    if (retry_after_s := retry_after_s_of(error)) is not None:
        problem["retryAfterS"] = retry_after_s
    return problem


def headers_of(error: TokenwireError) -> dict[str, str]:
    """Return the headers of the response for an error: the media type, and `Retry-After` where it applies."""
    headers = {"content-type": MEDIA_TYPE, "cache-control": "no-store"}
    if (retry_after_s := retry_after_s_of(error)) is not None:
        headers["retry-after"] = str(max(1, math.ceil(retry_after_s)))
    if status_of(error) == 401:
        headers["www-authenticate"] = "Bearer"
    return headers


def detail_of(error: TokenwireError) -> str:
    """Return the error's text, or a fixed text for errors of gRPC, proxies and runs with tools."""
    if of_run := _OF_RUN.get(type(error)):
        return of_run[1]
    if error.reason or isinstance(error, AnswerError):
        return error.message
    return _DETAIL_OF_STATUS.get(status_of(error), "the server gave an invalid answer")


def facts_of(error: TokenwireError) -> dict[str, str]:
    """Return the facts of an error, with the id of its stream and the position in it."""
    facts = dict(error.metadata)
    if error.stream_id:
        facts["stream_id"] = error.stream_id
    if error.last_sequence or error.reason in _OWN_CURSOR:
        facts["last_sequence"] = str(error.last_sequence)
    return facts


def retry_after_s_of(error: TokenwireError) -> float | None:
    """Return the seconds after which another attempt may succeed. None: waiting does not help."""
    if error.retry_after_s is None and status_of(error) == 503:
        return 1.0
    return error.retry_after_s


def title_of(status: int) -> str:
    """Return the title that RFC 9457 gives to problems of type `about:blank`."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Client Closed Request"  # 499, as nginx calls it
