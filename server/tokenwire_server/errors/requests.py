"""Errors of requests that cannot be served as they are."""

from __future__ import annotations

from collections.abc import Sequence

from ..request import Violation
from .base import TokenwireError

MAX_VIOLATIONS = 20
"""Maximum number of violations that are listed for one request."""


class InvalidRequest(TokenwireError):
    reason = "INVALID_REQUEST"

    def __init__(
        self, violations: Sequence[Violation], *, all_found: bool = True, limit_name: str = ""
    ) -> None:
        self.limit_name = limit_name
        self.violations = tuple(violations[:MAX_VIOLATIONS])
        self.unlisted_count = len(violations) - len(self.violations)
        """Number of violations that were found and are not listed."""
        self.all_found = all_found
        """Whether checking was complete. If not, there may be more violations."""
        first = self.violations[0]
        others = len(violations) - 1
        at_least = "" if all_found else "at least "
        more = f" (and {at_least}{others} more)" if others else ""
        super().__init__(f"{first.field}: {first.description}{more}")


class UnknownModel(TokenwireError):
    reason = "UNKNOWN_MODEL"

    def __init__(
        self, model: str, *, why: str, nearest: Sequence[str] = (), provider_text: str = ""
    ) -> None:
        self.model = model
        self.why = why
        self.provider_text = provider_text
        self.nearest = tuple(nearest)
        hint = f"; did you mean {', '.join(nearest)}?" if nearest else ""
        super().__init__(f"{why}{hint}")

    def facts(self) -> dict[str, str]:
        return {"model": self.model, "nearest": ",".join(self.nearest)}


class Unauthenticated(TokenwireError):
    """`str(error)` never contains what was sent as a key, because that may be a mistyped key."""

    reason = "UNAUTHENTICATED"


class PermissionDenied(TokenwireError):
    reason = "PERMISSION_DENIED"

    def __init__(self, model: str, *, why: str = "") -> None:
        self.model = model
        super().__init__(why or f"this key may not call the model {model!r}")

    def facts(self) -> dict[str, str]:
        return {"model": self.model}


class RequestIdReused(TokenwireError):
    reason = "REQUEST_ID_REUSED"

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        super().__init__("a different request used this request_id")

    def facts(self) -> dict[str, str]:
        return {"request_id": self.request_id}
