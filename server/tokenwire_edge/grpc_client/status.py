"""The end of a call: HTTP/2 headers and trailers as the errors of `tokenwire`."""

from __future__ import annotations

import binascii
from urllib.parse import unquote

import grpc
from h2.errors import ErrorCodes

from tokenwire.errors import ConnectionLost, TokenwireError
from tokenwire.wire.status import from_status

from .connection import Headers

CONTENT_TYPE = b"application/grpc"

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_CODE_OF_HTTP = {
    400: grpc.StatusCode.INTERNAL,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.UNIMPLEMENTED,
    429: grpc.StatusCode.UNAVAILABLE,
    502: grpc.StatusCode.UNAVAILABLE,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.UNAVAILABLE,
}
"""As in gRPC's `http-grpc-status-mapping.md`, for answers of a proxy."""


def parse_metadata(headers: Headers) -> list[tuple[str, str | bytes]]:
    """Return the metadata of a response. The values of keys that end with `-bin` are bytes.

    Values that are not valid base64 are left out.
    """
    metadata: list[tuple[str, str | bytes]] = []
    for name, value in headers:
        key = name.decode("ascii", "replace")
        if key.startswith(":"):
            continue
        if not key.endswith("-bin"):
            metadata.append((key, value.decode("ascii", "replace")))
            continue
        for piece in value.split(b","):
            try:
                metadata.append((key, binascii.a2b_base64(piece + b"=" * (-len(piece) % 4))))
            except binascii.Error:
                continue
    return metadata


def response_error(headers: Headers) -> TokenwireError | None:
    """Return the error if these are not the headers of a gRPC response, such as those of a proxy."""
    found = dict(headers)
    status = found.get(b":status", b"")
    content_type = found.get(b"content-type", b"")
    if status == b"200" and content_type.startswith(CONTENT_TYPE):
        return None
    if status == b"200" or not status.isdigit():
        kind = content_type.decode("ascii", "replace") or "none"
        return from_status(
            grpc.StatusCode.UNKNOWN, f"the answer is not gRPC's (content type: {kind})"
        )
    code = _CODE_OF_HTTP.get(int(status), grpc.StatusCode.UNKNOWN)
    return from_status(code, f"the answer has the HTTP status {int(status)}")


def end_error(trailers: Headers) -> TokenwireError | None:
    """Return the error in a call's trailers, or None if the status is OK."""
    found = dict(trailers)
    text = found.get(b"grpc-status")
    if text is None or not text.isdigit():
        return from_status(grpc.StatusCode.UNKNOWN, "the answer has no grpc-status")
    code = _CODES.get(int(text), grpc.StatusCode.UNKNOWN)
    if code is grpc.StatusCode.OK:
        return None
    message = unquote(found.get(b"grpc-message", b"").decode("ascii", "replace"))
    return from_status(code, message, parse_metadata(trailers))


def reset_error(code: int) -> TokenwireError:
    """Return the error of a stream that the server, or a proxy, has reset."""
    name = ErrorCodes(code).name if code in ErrorCodes.__members__.values() else str(code)
    return ConnectionLost(f"the server reset the stream ({name})", code=grpc.StatusCode.UNAVAILABLE)
