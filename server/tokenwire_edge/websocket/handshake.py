"""Checks of a WebSocket handshake: the origin, the subprotocol and the key in it."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

from ..problems import Problem

SUBPROTOCOL = "tokenwire.v1"
_BEARER = "bearer."
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def check_origin(origin: str | None, host: str, allowed: Sequence[str]) -> None:
    """Raise Problem for a page of a foreign origin.

    Browsers send `Origin` with each handshake, and do not apply CORS to WebSockets. The check protects
    servers without keys: otherwise any page could use those that its reader's machine can reach. A server
    with keys needs no check, because there are no cookies that would authenticate a foreign page.

    Args:
        origin: The header `Origin`, or None if the caller is not a browser.
        host: The header `Host`. A proxy must pass it on as the browser sent it.
        allowed: Origins of the setting `cors_origins`.
    """
    if origin is None or origin in allowed or "*" in allowed:
        return
    scheme, _, page_host = origin.lower().partition("://")
    port = _DEFAULT_PORTS.get(scheme)
    if port and page_host and page_host.removesuffix(port) == host.lower().removesuffix(port):
        return
    raise Problem(
        403, "PERMISSION_DENIED", "the origin of the page is not in cors_origins of the edge"
    )


def choose_subprotocol(offered: Sequence[str]) -> str | None:
    """Return the subprotocol to answer with, or None if the caller offered none.

    Raises Problem if the caller offered only others: browsers would close the socket without a reason.
    """
    if SUBPROTOCOL in offered:
        return SUBPROTOCOL
    if offered:
        raise Problem(400, "INVALID_REQUEST", f"the subprotocol {SUBPROTOCOL} has to be offered")
    return None


def bearer_key(offered: Sequence[str]) -> str | None:
    """Return the key in the subprotocol `bearer.`, or None. There it is encoded as base64url.

    Raises Problem if it cannot be decoded.
    """
    encoded = next((each[len(_BEARER) :] for each in offered if each.startswith(_BEARER)), None)
    if encoded is None:
        return None
    padded = encoded.encode() + b"=" * (-len(encoded) % 4)
    try:
        return base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, UnicodeDecodeError):
        raise Problem(
            401, "UNAUTHENTICATED", "the subprotocol bearer.KEY is not base64url of a key"
        ) from None
