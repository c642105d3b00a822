"""What happens to connections above `max_connections`."""

from __future__ import annotations

import logging

from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, Scope

from ..problems import Problem

logger = logging.getLogger(__name__)

MAX_EXCESS = 256
"""Connections above the limit whose request is still read: health checks are answered, others get 503.
Further connections get 503 as soon as they are accepted. A caller that is sending then may not receive it."""
LOG_INTERVAL_S = 10.0


class Overload:
    """The refusals of a process."""

    problem = Problem(
        503, "OVERLOADED", "too many connections are open: try again", retry_after_s=1.0
    )

    def __init__(self) -> None:
        self._refused = 0
        self._logged_at: float | None = None

    def log(self, now: float, max_connections: int) -> None:
        """Count a refusal at `now`, in seconds. Log at most one line for each LOG_INTERVAL_S."""
        self._refused += 1
        if self._logged_at is not None and now - self._logged_at < LOG_INTERVAL_S:
            return
        logger.warning(
            "all %d connections of max_connections are open: %d refused since this was last logged",
            max_connections,
            self._refused,
        )
        self._refused = 0
        self._logged_at = now


async def respond_overloaded(
    _scope: Scope, _receive: ASGIReceiveCallable, send: ASGISendCallable
) -> None:
    """Respond with the problem: an ASGI application."""
    problem = Overload.problem
    body = problem.body()
    headers = [(name.encode(), value.encode()) for name, value in problem.headers().items()]
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
