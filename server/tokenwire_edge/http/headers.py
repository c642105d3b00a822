"""Headers of every response, and which web pages may call the edge."""

from __future__ import annotations

import re
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from ..problems import Problem

_CONTENT_POLICY = (
    "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
    "object-src 'none'"
)
STATIC_HEADERS = (
    ("x-content-type-options", "nosniff"),
    # URLs can contain tickets.
    ("referrer-policy", "no-referrer"),
    ("content-security-policy", _CONTENT_POLICY),
)
"""uvicorn writes them: also to responses that no middleware sees, and at no cost for each event."""

ALLOWED_METHODS = ("GET", "POST", "DELETE")
ALLOWED_HEADERS = ("Authorization", "Content-Type", "Last-Event-ID", "grpc-timeout")
EXPOSED_HEADERS = ("Tokenwire-Stream-Id", "Retry-After")

_ORIGIN = re.compile(
    r"https?://(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?"
)


class _Cors(CORSMiddleware):
    """Answers refused preflights with problems."""

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code != 200:
            text = bytes(response.body).decode().removeprefix("Disallowed CORS ")
            detail = f"pages of this origin may not send such requests: {text} not allowed"
            problem = Problem(403, "PERMISSION_DENIED", detail)
            kept = {
                name: each for name, each in response.headers.items() if name != "content-length"
            }
            response = Response(problem.body(), problem.status, kept | problem.headers())
        return response


def cors(origins: Sequence[str]) -> list[Middleware]:
    """Return the middleware that lets pages of `origins` call the edge, or an empty list for no origins.

    `*` alone allows every page. Cookies are never allowed: callers send their key. Raises ValueError if one
    of them is not an origin.
    """
    if not origins:
        return []
    for number, origin in enumerate(origins):
        if origin == "*":
            if len(origins) > 1:
                raise ValueError("cors_origins: '*' allows all origins: remove the others, or it")
        elif not _ORIGIN.fullmatch(origin):
            raise ValueError(
                f"cors_origins[{number}]: {origin!r} is not an origin: write it as browsers send it, "
                "in lower case and without a path, such as 'https://app.example.com'"
            )
    return [
        Middleware(
            _Cors,
            allow_origins=tuple(origins),
            allow_methods=ALLOWED_METHODS,
            allow_headers=ALLOWED_HEADERS,
            expose_headers=EXPOSED_HEADERS,
        )
    ]
