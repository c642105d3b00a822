"""Errors of this server."""

from __future__ import annotations

import random

from .base import TokenwireError


class Overloaded(TokenwireError):
    """The delay is between 1 and 2 seconds, at random: callers that were refused together do not come back
    together.
    """

    reason = "OVERLOADED"

    def __init__(self, what: str, *, limit: float, limit_name: str = "") -> None:
        self.limit = limit
        self.limit_name = limit_name
        self.retry_after_s = random.uniform(1.0, 2.0)  # noqa: S311  # not a secret
        super().__init__(f"this server is full: {what} ({limit_name or 'limit'} {limit})")

    def facts(self) -> dict[str, str]:
        facts = {"limit": str(self.limit)}
        if self.limit_name:
            facts["limit_name"] = self.limit_name
        return facts


class ProviderBusy(Overloaded):
    """All connections that this server may have to a provider are in use. Nothing was sent."""

    provider_text = ""

    def __init__(self, provider: str, *, limit: int) -> None:
        self.provider = provider
        super().__init__(
            f"all connections to provider {provider!r} are in use",
            limit=limit,
            limit_name="max_connections",
        )

    def facts(self) -> dict[str, str]:
        return super().facts() | {"provider": self.provider}


DATABASE = "this server's database"
SHARED_LOG = "the log of streams that servers share"


class StoreUnavailable(TokenwireError):
    """A store is unavailable. Callers get a fixed text with its name, without addresses, users, paths or
    messages of the driver; `detail` has the cause.
    """

    reason = "STORE_UNAVAILABLE"

    def __init__(self, detail: str, *, store: str = DATABASE, retry_after_s: float = 1.0) -> None:
        """`store` is DATABASE or SHARED_LOG."""
        self.detail = detail
        """One line for the operator: the store, and what is wrong with it."""
        self.retry_after_s = retry_after_s
        super().__init__(f"{store} is not available")


def operator_text(error: BaseException) -> str:
    """Return an error's text for the log and the operator's terminal. It must not reach callers."""
    return error.detail if isinstance(error, StoreUnavailable) else str(error)


class Draining(TokenwireError):
    """The server drains: it starts no new stream. Open streams can still be read."""

    reason = "DRAINING"

    def __init__(self) -> None:
        super().__init__("this server is about to stop: send the request to another one")


class ServerStopped(TokenwireError):
    reason = "SERVER_STOPPED"


class ResumeDisabled(TokenwireError):
    reason = "RESUME_DISABLED"


class InternalFault(TokenwireError):
    reason = "INTERNAL"

    def __init__(self, error_id: str) -> None:
        self.error_id = error_id
        super().__init__("internal error; the operator can find it in the log by its error_id")

    def facts(self) -> dict[str, str]:
        return {"error_id": self.error_id}
