"""`/v1/ws`."""

from __future__ import annotations

import asyncio
import contextlib

from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.websockets import WebSocket

from tokenwire.connect.key import call_metadata as metadata_of_key

from ..http.credentials import call_metadata
from ..problems import Problem
from ..settings import Settings
from . import handshake
from .session import Metadata, Session

PATH = "/v1/ws"

router = APIRouter()


@router.get(PATH, include_in_schema=False)
async def without_upgrade(_request: Request) -> Response:
    """Refuse a request that is not a WebSocket handshake, such as one whose proxy dropped `Upgrade`."""
    problem = Problem(
        426, "UPGRADE_REQUIRED", f"{PATH} is a WebSocket: the request must upgrade to it"
    )
    headers = problem.headers() | {"upgrade": "websocket", "connection": "upgrade"}
    return Response(problem.body(), problem.status, headers)


@router.websocket(PATH)
async def websocket_endpoint(websocket: WebSocket) -> None:
    """Serve one socket, from its handshake until it is closed. See `docs/websocket.md`."""
    state = websocket.app.state
    settings: Settings = state.settings
    offered = websocket.scope["subprotocols"]
    headers = websocket.headers
    try:
        handshake.check_origin(
            headers.get("origin"), headers.get("host", ""), settings.cors_origins
        )
        subprotocol = handshake.choose_subprotocol(offered)
    except Problem as problem:
        await _deny(websocket, problem)
        return
    await websocket.accept(subprotocol)
    session = Session(websocket, state.channel, settings, state.shutdown)
    with contextlib.suppress(asyncio.CancelledError):  # The process ends. uvicorn would log it.
        await session.run(_credentials(websocket))


@router.websocket("/{path:path}")
async def elsewhere(websocket: WebSocket) -> None:
    """Refuse a handshake for another path. Without a route, it would get 403."""
    problem = Problem(404, "NOT_FOUND", f"there is no WebSocket at {websocket.scope['path']}")
    await _deny(websocket, problem)


async def _deny(websocket: WebSocket, problem: Problem) -> None:
    response = Response(problem.body(), problem.status, problem.headers())
    await websocket.send_denial_response(response)


def _credentials(websocket: WebSocket) -> Metadata | Problem | None:
    """Return the metadata with the key of the handshake, the problem with that key, or None without a key.

    A problem is not a status here, because browsers cannot read one: see Session.run.
    """
    try:
        key = handshake.bearer_key(websocket.scope["subprotocols"])
        if key is not None:
            return metadata_of_key(key)
        if "authorization" in websocket.headers:
            return call_metadata(websocket.headers)
    except Problem as problem:
        return problem
    except ValueError as error:
        return Problem(401, "UNAUTHENTICATED", str(error))
    return None
