"""Why a connection did not come about, read from gRPC's words. Pure: no I/O.

gRPC reports all of it as UNAVAILABLE, with a text. The words are those of grpcio 1.72 to 1.85.
"""

from __future__ import annotations

from enum import Enum


class Handshake(Enum):
    """How a connection failed although something answered; the value says so to people."""

    NO_TLS = "the server speaks no TLS"
    NO_GRPC = "what answers there is no gRPC server"
    UNTRUSTED = "the server's certificate is not from a trusted authority"
    OUT_OF_DATE = "the server's certificate is expired, or not valid yet"
    OTHER_NAME = "the server's certificate is for another name"
    REFUSED = "the server closed the connection at once: it may speak TLS, or want a certificate"


_FAILED_TO_CONNECT = "failed to connect"
_VERIFY_FAILED = "CERTIFICATE_VERIFY_FAILED"

_WORDS = (  # the first that occur decide
    ("WRONG_VERSION_NUMBER", Handshake.NO_TLS),
    ("missing selected ALPN property", Handshake.NO_GRPC),
    ("Trying to connect an http1.x server", Handshake.NO_GRPC),
    (f"{_VERIFY_FAILED}: certificate has expired", Handshake.OUT_OF_DATE),
    (f"{_VERIFY_FAILED}: certificate is not yet valid", Handshake.OUT_OF_DATE),
    (_VERIFY_FAILED, Handshake.UNTRUSTED),
    ("Hostname Verification Check failed", Handshake.OTHER_NAME),
    ("is not in peer certificate", Handshake.OTHER_NAME),
    ("Socket closed", Handshake.REFUSED),
    ("Connection reset by peer", Handshake.REFUSED),
)


def failed_handshake(message: str) -> Handshake | None:
    """What failed. None: nothing answered, or the connection broke later."""
    if _FAILED_TO_CONNECT in message:
        for words, handshake in _WORDS:
            if words in message:
                return handshake
    return None
