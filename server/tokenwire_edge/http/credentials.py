"""The caller's key: taken from the request's headers, and passed to the server unchanged."""

from __future__ import annotations

from starlette.datastructures import Headers

from ..problems import Problem

MAX_AUTHORIZATION_BYTES = 4096

CallMetadata = list[tuple[str, str]]


def call_metadata(headers: Headers) -> CallMetadata:
    """Return the gRPC metadata of a request's calls: its `Authorization`, if there is one.

    The server decides whether a key is needed and valid. Raises Problem if the header is malformed.
    """
    found = headers.getlist("authorization")
    if len(found) > 1:
        raise Problem(401, "UNAUTHENTICATED", "Authorization is given more than once")
    return authorization_metadata(found[0] if found else "")


def authorization_metadata(authorization: str) -> CallMetadata:
    """Return the gRPC metadata for the value of an `Authorization` header, which may be empty.

    Raises Problem if it is malformed.
    """
    if not authorization:
        return []
    scheme, _, key = authorization.partition(" ")
    if (
        scheme.lower() != "bearer"
        or not key.strip()
        or len(authorization) > MAX_AUTHORIZATION_BYTES
        or not (authorization.isascii() and authorization.isprintable())
    ):
        raise Problem(401, "UNAUTHENTICATED", "Authorization must be: Bearer KEY")
    return [("authorization", f"Bearer {key.strip()}")]
