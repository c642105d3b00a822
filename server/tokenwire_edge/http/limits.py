"""The body of a request: its type, its size, its time, and the memory of all bodies together."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect, Request

from ..problems import Problem
from ..settings import Settings

ACCEPTED_TYPE = "application/json"


class RequestBodies:
    """The bodies that are being received by this process. One object: `app.state.bodies`."""

    def __init__(self, settings: Settings) -> None:
        self._max_bytes = settings.max_request_bytes
        self._max_bytes_held = settings.max_body_bytes_held
        self._timeout_s = settings.body_timeout_s
        self._bytes_held = 0

    @property
    def bytes_held(self) -> int:
        """Bytes of bodies that have been received in part."""
        return self._bytes_held

    async def read(self, request: Request) -> bytes:
        """Return the body of `request`, or b"" if it has none.

        If the headers are already reason enough to refuse the request, nothing is read. Raises Problem: 413
        BODY_TOO_LARGE, 415 UNSUPPORTED_MEDIA_TYPE, 408 REQUEST_TIMEOUT or 503 OVERLOADED. Raises
        ClientDisconnect if the caller leaves. Cancellation discards what has been received.
        """
        if not _has_body(request):
            return b""
        _check_type(request)
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._max_bytes:
            raise self._too_large()
        body = bytearray()
        try:
            async with asyncio.timeout(self._timeout_s):
                while await self._receive(request, body):
                    pass
        except TimeoutError:
            raise Problem(
                408,
                "REQUEST_TIMEOUT",
                f"the request's body did not arrive within {self._timeout_s:g} seconds",
            ) from None
        finally:
            self._bytes_held -= len(body)
        return bytes(body)

    async def _receive(self, request: Request, body: bytearray) -> bool:
        """Append the next part. Return whether there are more."""
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part: bytes = message.get("body", b"")
        if len(body) + len(part) > self._max_bytes:
            raise self._too_large()
        if self._bytes_held + len(part) > self._max_bytes_held:
            raise Problem(
                503,
                "OVERLOADED",
                "too many request bodies are being received at once",
                retry_after_s=1.0,
            )
        self._bytes_held += len(part)
        body += part
        more: bool = message.get("more_body", False)
        return more

    def _too_large(self) -> Problem:
        return Problem(
            413,
            "BODY_TOO_LARGE",
            f"the request's body is larger than {self._max_bytes} bytes",
            facts={"allowed": str(self._max_bytes)},
        )


async def read_body(request: Request) -> bytes:
    """Return the JSON body of `request`, or b"" if it has none. See `RequestBodies.read` for the errors."""
    bodies: RequestBodies = request.app.state.bodies
    return await bodies.read(request)


def _has_body(request: Request) -> bool:
    headers = request.headers
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


def _check_type(request: Request) -> None:
    """Raise Problem 415 unless the body is JSON in UTF-8 without a content coding."""
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise Problem(
            415,
            "UNSUPPORTED_MEDIA_TYPE",
            f"content-encoding {coding!r} is not supported: send the body without one",
            facts={"accepted": "identity"},
        )
    sent = request.headers.get("content-type", "")
    media_type, *parameters = (part.strip().lower() for part in sent.split(";"))
    charsets = {
        value.strip(' "')
        for name, _, value in (parameter.partition("=") for parameter in parameters)
        if name.strip() == "charset"
    }
    if media_type != ACCEPTED_TYPE or charsets - {"utf-8", "utf8"}:
        raise Problem(
            415,
            "UNSUPPORTED_MEDIA_TYPE",
            f"content-type is {sent!r}: send JSON in UTF-8 as {ACCEPTED_TYPE}"
            if sent
            else f"content-type is missing: send JSON in UTF-8 as {ACCEPTED_TYPE}",
            facts={"accepted": ACCEPTED_TYPE},
        )
