"""How gRPC is told to keep a connection."""

from __future__ import annotations

from collections.abc import Sequence

from .._version import __version__

MAX_RECEIVE_BYTES = 64 * 1024 * 1024
"""Largest message taken from a server; a larger one ends the call with RESOURCE_EXHAUSTED."""

KEEPALIVE_TIME_S = 30
"""While a call is open and silent, a ping goes out this often."""
KEEPALIVE_TIMEOUT_S = 10
"""A ping unanswered for this long ends the connection, and its calls with ConnectionLost."""

LOOKUP_TIMEOUT_S = 10.0
"""Deadline of calls that only look something up, unless the caller names another."""

SUMMARY_TIMEOUT_S = 60.0
"""The same of a page of usage records, or of a summary: a database may have to read many for it."""

CANCEL_TIMEOUT_S = 3.0
"""How long leaving a resumable stream may take: a server that cannot be reached is not waited for."""

CONNECT_TIMEOUT_S = 10
"""A connect that is not answered for this long has failed (gRPC's default: 20 s)."""

RECONNECT_MIN_S = 0.1
RECONNECT_MAX_S = 5.0
"""After a failed connect, the next is made this much later at the earliest, in between every call fails.
gRPC's own 1 s to 120 s would outlast the attempts to resume a stream."""

ChannelOptions = Sequence[tuple[str, str | int]]
"""gRPC channel arguments, as `grpc_types.h` lists them."""


def channel_options(extra: ChannelOptions = ()) -> list[tuple[str, str | int]]:
    """Arguments of every channel; `extra` wins over ours.

    No retry policy: the server retries, and only it knows whether a token was already paid for.
    gRPC's transparent retries stay: they happen only where no handler has run.
    """
    options: dict[str, str | int] = {
        "grpc.primary_user_agent": f"tokenwire-python/{__version__}",
        "grpc.max_receive_message_length": MAX_RECEIVE_BYTES,
        "grpc.keepalive_time_ms": KEEPALIVE_TIME_S * 1000,
        "grpc.keepalive_timeout_ms": KEEPALIVE_TIMEOUT_S * 1000,
        # gRPC core ends a connection on this one, whatever keepalive_timeout_ms says (default: 60 s).
        "grpc.http2.ping_timeout_ms": KEEPALIVE_TIMEOUT_S * 1000,
        "grpc.min_reconnect_backoff_ms": CONNECT_TIMEOUT_S * 1000,  # which is what it bounds
        "grpc.initial_reconnect_backoff_ms": int(RECONNECT_MIN_S * 1000),
        "grpc.max_reconnect_backoff_ms": int(RECONNECT_MAX_S * 1000),
        # By default pings stop after two without data: a model may think for longer than that.
        "grpc.http2.max_pings_without_data": 0,
    }
    options.update(extra)
    return list(options.items())
