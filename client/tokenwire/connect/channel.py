"""The connection to a server: address, encryption, credentials and gRPC channel options.

These are values. The transports of the clients create the channels from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .._checks import check_list
from .._version import __version__
from .key import CallMetadata, call_metadata
from .target import check_target, is_loopback, resolve_target
from .tls import Tls, TlsFiles, read_files, resolve_tls

MAX_RECEIVE_BYTES = 64 * 1024 * 1024
"""Largest message accepted from a server. A larger one ends the call with RESOURCE_EXHAUSTED."""

KEEPALIVE_TIME_S = 30
"""Time between two keepalive pings while a call is open and no data arrives."""
KEEPALIVE_TIMEOUT_S = 10
"""Time to answer a ping. After it the connection is closed, and its calls end with ConnectionLost."""

LOOKUP_TIMEOUT_S = 10.0
"""Default deadline of calls that only look something up."""

SUMMARY_TIMEOUT_S = 60.0
"""Default deadline of a page of usage records and of a usage summary, which may read many records."""

CANCEL_TIMEOUT_S = 3.0
"""Longest time that leaving a resumable stream may take, such as when the server is unreachable."""

CONNECT_TIMEOUT_S = 10
"""Longest time that a connection attempt may take (gRPC's default: 20 s)."""

RECONNECT_MIN_S = 0.1
RECONNECT_MAX_S = 5.0
"""Shortest and longest delay after a failed connection attempt. Calls fail at once in the meantime.
With gRPC's defaults, 1 s and 120 s, the delay could outlast the attempts to resume a stream."""

ChannelOptions = Sequence[tuple[str, str | int]]
"""gRPC channel arguments, as listed in `grpc_types.h`."""


@dataclass(frozen=True, slots=True)
class Connection:
    """How to connect to one server."""

    target: str
    metadata: CallMetadata
    """Sent with every call."""
    options: list[tuple[str, str | int]]
    tls: TlsFiles | None
    """None: the connection is in plaintext."""


def connection_to(
    target: str | None, *, key: str | None, tls: bool | Tls | None, options: ChannelOptions
) -> Connection:
    """Return the connection for a client's arguments. Environment variables replace missing ones.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: the target is a URL, the key is malformed, or a TLS file is missing or invalid.
    """
    target = resolve_target(target)
    check_target(target)
    metadata = call_metadata(key)
    chosen = resolve_tls(tls, target)
    files = None if chosen is None else read_files(chosen)
    check_list(options, "options")
    own: dict[str, str | int] = {}
    if is_loopback(target):
        # A proxy from the environment would receive the key in plaintext.
        own["grpc.enable_http_proxy"] = 0
    if files is not None and files.server_name:
        own["grpc.ssl_target_name_override"] = files.server_name
    return Connection(target, metadata, channel_options((*own.items(), *options)), files)


def channel_options(extra: ChannelOptions = ()) -> list[tuple[str, str | int]]:
    """Return the options of every channel. `extra` overrides the client's own.

    They contain no retry policy of gRPC. The client itself retries (`stream/retry.py`), because a policy
    cannot see whether a stream has used anything. gRPC's transparent retries stay enabled: they happen only
    if no handler has run.
    """
    options: dict[str, str | int] = {
        "grpc.primary_user_agent": f"tokenwire-python/{__version__}",
        "grpc.max_receive_message_length": MAX_RECEIVE_BYTES,
        "grpc.keepalive_time_ms": KEEPALIVE_TIME_S * 1000,
        "grpc.keepalive_timeout_ms": KEEPALIVE_TIMEOUT_S * 1000,
        # gRPC core applies this one, whatever keepalive_timeout_ms is (default: 60 s).
        "grpc.http2.ping_timeout_ms": KEEPALIVE_TIMEOUT_S * 1000,
        "grpc.min_reconnect_backoff_ms": CONNECT_TIMEOUT_S * 1000,  # bounds a connection attempt
        "grpc.initial_reconnect_backoff_ms": int(RECONNECT_MIN_S * 1000),
        "grpc.max_reconnect_backoff_ms": int(RECONNECT_MAX_S * 1000),
        # By default gRPC stops after two pings without data. A model may think for longer than that.
        "grpc.http2.max_pings_without_data": 0,
    }
    options.update(extra)
    return list(options.items())
