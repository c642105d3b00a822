"""Errors of the connection and of the call. No server sends most of them: they have no reason."""

from __future__ import annotations

from enum import Enum

import grpc

from .base import TokenwireError


class ConnectFailure(Enum):
    """Why a connection could not be made. The value is a description."""

    UNKNOWN_SCHEME = "the target has a scheme that gRPC does not support: use host:port"
    NAME_NOT_FOUND = "the host name could not be resolved"
    REFUSED = "the connection was refused: no server listens there"
    NO_ROUTE = "there is no route to the host"
    NO_ANSWER = "the host did not answer in time"
    CLOSED = "the server closed the connection at once: it may require TLS, or a client certificate"
    NO_TLS = "the server does not use TLS"
    NO_GRPC = "the target is not a gRPC server: it does not speak HTTP/2"
    UNTRUSTED = "the server's certificate is not from a trusted authority"
    OUT_OF_DATE = "the server's certificate is expired, or not valid yet"
    OTHER_NAME = "the server's certificate is for another name"
    OTHER = "the connection could not be made"

    @property
    def is_transient(self) -> bool:
        """Whether another attempt can succeed without a change of the configuration."""
        return self in _TRANSIENT


_TRANSIENT = frozenset(
    {
        ConnectFailure.NAME_NOT_FOUND,
        ConnectFailure.REFUSED,
        ConnectFailure.NO_ROUTE,
        ConnectFailure.NO_ANSWER,
        ConnectFailure.OTHER,
    }
)


class TransportError(TokenwireError):
    """The connection broke, or the stream arrived incomplete. The stream may be resumable."""


class ConnectionLost(TransportError, ConnectionError):
    """The server is unreachable, or the connection to it broke."""

    default_code = grpc.StatusCode.UNAVAILABLE
    _is_resumable = True

    failure: ConnectFailure | None = None
    """Why no connection could be made: nothing was sent. None: the connection broke later."""
    detail: str = ""
    """gRPC's own text, for reports of bugs."""

    @property
    def is_transient(self) -> bool:
        """Whether no connection could be made for a reason that may be temporary.

        False if the connection broke later: the server may have received the request.
        """
        return self.failure is not None and self.failure.is_transient


class SlowReader(TransportError):
    """The events were not read fast enough. The stream's `retention` decides whether it continues."""

    _is_resumable = True


class IncompleteStream(TransportError):
    """The stream ended without `finished` and without an error. It may be incomplete."""


class CallEnded(TokenwireError):
    """The call was ended by the caller's own deadline or by a cancellation."""


class DeadlineExceeded(CallEnded, TimeoutError):
    """The deadline passed. `reason` is empty if the client noticed it, not the server."""

    default_code = grpc.StatusCode.DEADLINE_EXCEEDED
    _is_resumable = True


class Cancelled(CallEnded):
    """The call was cancelled, by `stream.cancel()`, by closing the client, or by the server."""

    default_code = grpc.StatusCode.CANCELLED
