"""The playground, the page at `/`, and the browser client: the files under `/static`."""

from __future__ import annotations

import os
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

DIRECTORY = Path(__file__).parent.parent / "static"

CLIENT_FILES = frozenset(
    (
        *("tokenwire.js", "tokenwire.d.ts"),
        *("answer.js", "errors.js", "http.js", "partial_json.js"),
        *("socket.js", "sse.js", "stream.js"),
    )
)
"""The browser client: what callers import, its types, and the modules that it imports."""

CONTENT_SECURITY_POLICY = (
    "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "object-src 'none'; "
    # No script may turn text into HTML or into a script.
    "require-trusted-types-for 'script'; trusted-types 'none'"
)

_HEADERS = {
    # Browsers check each file for changes before they use it, so that they never mix two versions.
    "cache-control": "no-cache",
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "cross-origin-opener-policy": "same-origin",
}
"""Beside those of every response: browsers follow both content policies."""

router = APIRouter()


@router.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
async def playground() -> FileResponse:
    """Serve the page."""
    return FileResponse(DIRECTORY / "index.html", headers=_HEADERS)


class Files(StaticFiles):
    """The browser client, and with `with_page` also the page's files. To be mounted at `/static`."""

    def __init__(self, *, with_page: bool) -> None:
        super().__init__(directory=DIRECTORY)
        self._with_page = with_page

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        if not self._with_page and path not in CLIENT_FILES:
            return "", None
        return super().lookup_path(path)

    def file_response(
        self,
        full_path: str | os.PathLike[str],
        stat_result: os.stat_result,
        scope: Scope,
        status_code: int = 200,
    ) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers.update(_HEADERS)
        if str(full_path).endswith(".ts"):  # the system may take it for something else
            response.headers["content-type"] = "application/typescript"
        return response
