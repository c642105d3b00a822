"""The middleware around the routes, from the outside: access log, CORS, unexpected errors."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.middleware import Middleware

from ..settings import Settings
from .access_log import AccessLog
from .errors import InternalErrors, add_error_handlers
from .headers import cors
from .limits import RequestBodies
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
        *cors(settings.cors_origins),  # outside of InternalErrors: pages may read those errors too
        Middleware(InternalErrors, shutdown=shutdown),
    ]
