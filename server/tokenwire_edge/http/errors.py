"""Problems for errors that no route handles: unknown paths, wrong methods, bugs."""

from __future__ import annotations

import asyncio
import logging
import secrets

from fastapi.exceptions import RequestValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..problems import Problem
from .shutdown import Shutdown

logger = logging.getLogger(__name__)

_REASONS = {404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED"}


def problem_response(problem: Problem) -> Response:
    """Return `problem` as a response."""
    return Response(problem.body(), problem.status, problem.headers())


def add_error_handlers(app: Starlette) -> None:
    """Let `app` answer unknown paths, wrong methods and invalid parameters with problems."""
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid_parameters)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  # for mypy
    status = error.status_code
    detail = error.detail
    if status == 404:
        detail = f"there is nothing at {request.scope['path']}"
    elif status == 405:
        detail = f"{request.scope['path']} does not support {request.method}"
    response = problem_response(Problem(status, _REASONS.get(status, "INVALID_REQUEST"), detail))
    response.headers.update(error.headers or {})  # Allow
    return response


async def _invalid_parameters(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101  # for mypy
    violations = [
        (".".join(str(part) for part in each["loc"]), str(each["msg"])) for each in error.errors()
    ]
    detail = "; ".join(f"{field}: {text}" for field, text in violations)
    return problem_response(Problem(400, "INVALID_REQUEST", detail, violations=violations))


class InternalErrors:
    """Middleware: turn an unexpected exception into 500 INTERNAL with an id that is also in the log.

    The caller does not get the exception's text. A response that has begun is cut off. A request that is
    cancelled because the process ends gets 503 DRAINING.
    """

    def __init__(self, app: ASGIApp, shutdown: Shutdown) -> None:
        self._app = app
        self._shutdown = shutdown

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_started = False

        async def observe(message: Message) -> None:
            nonlocal is_started
            is_started = True
            await send(message)

        try:
            await self._app(scope, receive, observe)
        except ClientDisconnect:
            return
        except asyncio.CancelledError:
            if is_started or not self._shutdown.is_ending:
                raise
            problem = self._shutdown.problem()
        except Exception:
            error_id = secrets.token_hex(8)
            logger.exception("internal error %s", error_id)
            problem = Problem(
                500, "INTERNAL", "an internal error occurred", facts={"error_id": error_id}
            )
        else:
            return
        if not is_started:
            await problem_response(problem)(scope, receive, send)
