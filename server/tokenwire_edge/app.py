"""The ASGI application: the routes, and the objects that they share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from starlette.requests import ClientDisconnect

from tokenwire.connect.channel import connection_to
from tokenwire.connect.tls import Tls
from tokenwire.errors import TokenwireError

from . import openapi
from .grpc_client.channel import Channel
from .http.errors import problem_response
from .http.middleware import add_middleware
from .problems import Problem, problem_of
from .requests import parse_chat_request
from .routes import chat, health, playground, streams, unary
from .settings import Settings
from .tickets import tickets_of
from .websocket import routes as websocket


def create_app(settings: Settings) -> FastAPI:
    """Return the application. It connects to the server with the first request.

    Raises ValueError if the target, a TLS file, an origin or a secret of tickets is invalid.
    """
    channel = Channel(
        connection_to(settings.target, key=None, tls=_tls(settings), options=()),
        connect_timeout_s=settings.connect_timeout_s,
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:  # noqa: ARG001  # FastAPI's signature
        # Builds the tables for reading messages, which would delay the first request by 50 ms.
        parse_chat_request(b'{"model": "none", "prompt": "none"}')
        yield
        await channel.close()

    app = FastAPI(
        title="Tokenwire",
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a redirect would send the caller to the host in the header Host
    )
    app.state.settings = settings
    app.state.channel = channel
    app.state.tickets = tickets_of(settings)
    app.state.readiness = health.Readiness()
    add_middleware(app, settings)
    app.add_exception_handler(Problem, _problem_response)
    app.add_exception_handler(TokenwireError, _problem_response)
    app.add_exception_handler(ClientDisconnect, _no_response)
    app.include_router(chat.router)
    app.include_router(streams.router)
    app.include_router(unary.router)
    app.include_router(health.router)
    app.include_router(websocket.router)
    app.mount("/static", playground.Files(with_page=settings.playground))
    if settings.playground:
        app.include_router(playground.router)
    openapi.install(app)
    return app


def _tls(settings: Settings) -> bool | Tls | None:
    if settings.tls_ca or settings.tls_cert or settings.tls_key:
        return Tls(settings.tls_ca, settings.tls_cert, settings.tls_key)
    return settings.tls


async def _no_response(request: Request, error: Exception) -> Response:  # noqa: ARG001
    return Response(status_code=499)  # nginx's status for a caller that left; nobody reads it


async def _problem_response(request: Request, error: Exception) -> Response:  # noqa: ARG001
    problem = problem_of(error) if isinstance(error, TokenwireError) else error
    assert isinstance(problem, Problem)  # noqa: S101  # for the type checker
    return problem_response(problem)
