"""`/healthz`, whether the process is alive, and `/readyz`, whether it can serve requests now."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from fastapi import APIRouter, Request
from starlette.responses import Response

from tokenwire.errors import TokenwireError

from ..problems import Problem, problem_of

CACHE_S = 1.0
"""Seconds for which the server's answer is used again."""
TIMEOUT_S = 2.0
"""Seconds in which the server must answer."""

_SERVING = b"\x08\x01"
"""grpc.health.v1.HealthCheckResponse with the status SERVING."""


class UnaryChannel(Protocol):
    """The part of `Channel` that is used here."""

    async def unary(self, method: str, request: bytes, *, timeout_s: float) -> bytes: ...


class Readiness:
    """The last answer of the server's health service. One object: `app.state.readiness`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = asyncio.Lock()
        self._problem: Problem | None = None
        self._expires_at = float("-inf")

    async def check(self, channel: UnaryChannel) -> None:
        """Return if the server is ready. Raises Problem 503 if not.

        However many callers wait, the server is called once in CACHE_S. If the caller whose call it is gets
        cancelled, the next one calls.
        """
        async with self._lock:
            if self._clock() >= self._expires_at:
                self._problem = await _problem(channel)
                self._expires_at = self._clock() + CACHE_S
            problem = self._problem
        if problem is not None:
            raise problem.with_traceback(None)


async def _problem(channel: UnaryChannel) -> Problem | None:
    try:
        response = await channel.unary("grpc.health.v1.Health/Check", b"", timeout_s=TIMEOUT_S)
    except TokenwireError as error:
        problem = problem_of(error)
        return Problem(503, problem.reason, problem.detail, retry_after_s=CACHE_S)
    if response != _SERVING:
        return Problem(
            503, "DRAINING", "the server is not accepting requests", retry_after_s=CACHE_S
        )
    return None


router = APIRouter(tags=["Health"])


@router.api_route("/healthz", methods=["GET", "HEAD"], summary="Whether the process is alive")
async def healthz() -> Response:
    return _ok()


@router.api_route("/readyz", methods=["GET", "HEAD"], summary="Whether requests can be served")
async def readyz(request: Request) -> Response:
    """503 while the server is down or draining, and from the moment this process drains."""
    state = request.app.state
    if state.shutdown.requested.is_set():
        raise state.shutdown.problem()
    await state.readiness.check(state.channel)
    return _ok()


def _ok() -> Response:
    return Response(
        b"ok\n", media_type="text/plain; charset=utf-8", headers={"cache-control": "no-store"}
    )
