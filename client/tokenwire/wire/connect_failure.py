"""Why a connection could not be made, or was lost, from gRPC's error text. Pure: no I/O.

gRPC reports all of these as UNAVAILABLE with a text. The texts are those of grpcio 1.72 to 1.85.
"""

from __future__ import annotations

import re

from ..errors import ConnectFailure

_RESOLVING = re.compile(r"(?:errors resolving|DNS resolution failed for) (\S*://)?")
_FAILED_TO_CONNECT = "failed to connect"
_VERIFY_FAILED = "CERTIFICATE_VERIFY_FAILED"

_TEXTS = (  # the first one that occurs decides
    ("WRONG_VERSION_NUMBER", ConnectFailure.NO_TLS),
    ("missing selected ALPN property", ConnectFailure.NO_GRPC),
    ("Trying to connect an http1.x server", ConnectFailure.NO_GRPC),
    ("Expected SETTINGS frame", ConnectFailure.NO_GRPC),
    (f"{_VERIFY_FAILED}: certificate has expired", ConnectFailure.OUT_OF_DATE),
    (f"{_VERIFY_FAILED}: certificate is not yet valid", ConnectFailure.OUT_OF_DATE),
    (_VERIFY_FAILED, ConnectFailure.UNTRUSTED),
    ("Hostname Verification Check failed", ConnectFailure.OTHER_NAME),
    ("is not in peer certificate", ConnectFailure.OTHER_NAME),
    ("Connection refused", ConnectFailure.REFUSED),
    ("No such file or directory", ConnectFailure.REFUSED),  # of a Unix socket
    ("No route to host", ConnectFailure.NO_ROUTE),
    ("Network is unreachable", ConnectFailure.NO_ROUTE),
    ("timed out", ConnectFailure.NO_ANSWER),
    ("Timeout occurred", ConnectFailure.NO_ANSWER),
    ("Endpoint closing", ConnectFailure.NO_ANSWER),  # of a TLS handshake that takes too long
    ("Socket closed", ConnectFailure.CLOSED),
    ("Connection reset by peer", ConnectFailure.CLOSED),
)

_HTTP_STATUS = re.compile(r"Received http2 header with status: (\d{3})")
_LOSSES = (
    ("ping timeout", "the server stopped answering"),
    ("keepalive watchdog timeout", "the server stopped answering"),
    ("Socket closed", "the other side closed it"),
    ("Connection reset by peer", "the other side closed it"),
    ("Broken pipe", "the other side closed it"),
    ("GOAWAY", "the other side shuts down"),
    ("RST_STREAM", "the server or a proxy reset the call"),
)


def connect_failure(message: str) -> ConnectFailure | None:
    """Return why no connection was made. None: the connection broke later."""
    if resolving := _RESOLVING.search(message):
        return ConnectFailure.UNKNOWN_SCHEME if resolving[1] else ConnectFailure.NAME_NOT_FOUND
    if _FAILED_TO_CONNECT not in message:
        return None
    for text, failure in _TEXTS:
        if text in message:
            return failure
    return ConnectFailure.OTHER


def connection_loss(message: str) -> str | None:
    """Return why a connection broke. None: the text is an unknown one."""
    if status := _HTTP_STATUS.search(message):
        return f"a proxy answered with the HTTP status {status[1]}"
    return next((cause for text, cause in _LOSSES if text in message), None)
