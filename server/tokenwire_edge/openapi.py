"""The OpenAPI document of the routes, served at `/openapi.json`.

`make docs` writes the document, from the descriptors of the messages and their comments.
"""

from __future__ import annotations

from importlib.resources import files

from fastapi import FastAPI, Response

PATH = "/openapi.json"


def document() -> bytes:
    """Return the document, as JSON."""
    return (files(__package__) / "openapi.json").read_bytes()


def install(app: FastAPI) -> None:
    """Serve the document. FastAPI's own documents are off: they load scripts from other hosts."""
    content = document()

    async def serve() -> Response:
        return Response(content, media_type="application/json")

    app.add_api_route(PATH, serve, methods=["GET"], name="OpenAPI document")
