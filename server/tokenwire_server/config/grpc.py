"""The settings of the connections of callers."""

from __future__ import annotations

from .bounds import Seconds, SecondsOrZero
from .section import Section


class GrpcConfig(Section):
    """Lifetime of the connections of callers, and the HTTP/2 pings on them."""

    max_connection_age_s: Seconds | None = None
    """Seconds after which the server closes a connection, with a random deviation of up to 10 %: open calls
    continue, and the client sends new calls on another connection. By default connections have no maximum
    age."""
    max_connection_age_grace_s: SecondsOrZero | None = None
    """Seconds for which calls may continue on a connection that has reached its age. Then they are cut off,
    and clients get UNAVAILABLE. By default a minute longer than `limits.max_stream_duration_s`, so that no
    stream is cut off."""
    keepalive_time_s: Seconds = 30.0
    """Seconds without data from a client, after which the server sends it a ping."""
    keepalive_timeout_s: Seconds = 10.0
    """Seconds in which a client must answer a ping. Otherwise the server closes the connection, and its calls
    are cancelled."""
    min_client_ping_interval_s: Seconds = 10.0
    """Minimum interval of the pings of a client, in seconds. A client that pings more often is disconnected
    with ENHANCE_YOUR_CALM."""
