"""What is decided before a WebSocket is accepted: origin, subprotocol and the key in the handshake."""

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

    Browsers send `Origin` with each handshake, and do not apply CORS to WebSockets. Without cookies a foreign
    page could do nothing that its author could not do elsewhere. The check keeps pages from using a server
    without keys in the network of whoever opens them.

    Args:
        origin: The header, or None: the caller is no browser.
        host: The header. A proxy has to pass on what the browser sent.
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
    """Return the subprotocol to answer with. None: the caller offered none.

    Raises Problem if the caller offered others only: browsers would close the socket without a reason.
    """
    if SUBPROTOCOL in offered:
        return SUBPROTOCOL
    if offered:
        raise Problem(400, "INVALID_REQUEST", f"the subprotocol {SUBPROTOCOL} has to be offered")
    return None


def bearer_key(offered: Sequence[str]) -> str | None:
    """Return the key that is offered as a subprotocol, `bearer.` and its base64url form.

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
