"""The middleware around the routes, from the outside: access log, CORS, drain, unexpected errors."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..settings import Settings
from .access_log import AccessLog
from .errors import InternalErrors, add_error_handlers, problem_response
from .headers import cors
from .limits import RequestBodies
from .protocol import PROBES
from .shutdown import Shutdown


def add_middleware(app: Starlette, settings: Settings) -> None:
    """Add the middleware to `app`, and set `app.state.bodies` and `app.state.shutdown`.

    Raises ValueError if `settings.cors_origins` are invalid.
    """
    app.state.bodies = RequestBodies(settings)
    app.state.shutdown = shutdown = Shutdown()
    add_error_handlers(app)
    app.user_middleware[:0] = [
        Middleware(AccessLog),
        *cors(settings.cors_origins),  # outside of the others: pages may read their errors too
        Middleware(Refusal, shutdown=shutdown),
        Middleware(InternalErrors, shutdown=shutdown),
    ]


class Refusal:
    """Middleware: refuse new requests and WebSockets, except probes, while the process drains.

    Every response closes its connection, because the drain waits for open connections.
    """

    def __init__(self, app: ASGIApp, shutdown: Shutdown) -> None:
        self._app = app
        self._shutdown = shutdown

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._shutdown.refuses.is_set() or scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["path"] in PROBES:
            await self._app(scope, receive, _closing(send))
            return
        response = problem_response(self._shutdown.problem())
        response.headers["connection"] = "close"
        await response(scope, receive, send)


def _closing(send: Send) -> Send:
    """Return a `send` whose response closes the connection."""

    async def closing(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message)["connection"] = "close"
        await send(message)

    return closing
