"""Errors as HTTP responses: `application/problem+json` (RFC 9457) with the server's reason and facts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from tokenwire.errors import TokenwireError
from tokenwire.http.problems import (
    MEDIA_TYPE,
    detail_of,
    facts_of,
    retry_after_s_of,
    status_of,
    title_of,
)


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
            "title": title_of(self.status),
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
    return Problem(
        status_of(error),
        error.reason or error.code.name,
        detail_of(error),
        facts=facts_of(error),
        violations=[(each.field, each.description) for each in error.violations],
        retry_after_s=retry_after_s_of(error),
    )
