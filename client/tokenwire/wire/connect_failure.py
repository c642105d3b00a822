"""Why a connection could not be made, from gRPC's error text. Pure: no I/O.

gRPC reports all of these as UNAVAILABLE with a text. The texts are those of grpcio 1.72 to 1.85.
"""

from __future__ import annotations

import re
from enum import Enum


class ConnectFailure(Enum):
    """Why a connection could not be made. The value is a sentence for people."""

    UNKNOWN_SCHEME = "the target has a scheme that gRPC does not support: use host:port"
    NAME_NOT_FOUND = "the target's host name could not be resolved"
    NO_TLS = "the server speaks no TLS"
    NO_GRPC = "the target is not a gRPC server"
    UNTRUSTED = "the server's certificate is not from a trusted authority"
    OUT_OF_DATE = "the server's certificate is expired, or not valid yet"
    OTHER_NAME = "the server's certificate is for another name"
    REFUSED = "the server closed the connection at once: it may speak TLS, or want a certificate"


_RESOLVING = re.compile(r"(?:errors resolving|DNS resolution failed for) (\S*://)?")
_FAILED_TO_CONNECT = "failed to connect"
_VERIFY_FAILED = "CERTIFICATE_VERIFY_FAILED"

_TEXTS = (  # the first one that occurs decides
    ("WRONG_VERSION_NUMBER", ConnectFailure.NO_TLS),
    ("missing selected ALPN property", ConnectFailure.NO_GRPC),
    ("Trying to connect an http1.x server", ConnectFailure.NO_GRPC),
    (f"{_VERIFY_FAILED}: certificate has expired", ConnectFailure.OUT_OF_DATE),
    (f"{_VERIFY_FAILED}: certificate is not yet valid", ConnectFailure.OUT_OF_DATE),
    (_VERIFY_FAILED, ConnectFailure.UNTRUSTED),
    ("Hostname Verification Check failed", ConnectFailure.OTHER_NAME),
    ("is not in peer certificate", ConnectFailure.OTHER_NAME),
    ("Socket closed", ConnectFailure.REFUSED),
    ("Connection reset by peer", ConnectFailure.REFUSED),
)


def connect_failure(message: str) -> ConnectFailure | None:
    """Return the cause. None: nothing answered, or the connection broke later."""
    if resolving := _RESOLVING.search(message):
        return ConnectFailure.UNKNOWN_SCHEME if resolving[1] else ConnectFailure.NAME_NOT_FOUND
    if _FAILED_TO_CONNECT in message:
        for text, failure in _TEXTS:
            if text in message:
                return failure
    return None
