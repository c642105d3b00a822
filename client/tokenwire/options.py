"""Functions that build the options of a request. Times are in seconds.

Each returns a protobuf message of `tokenwire.v1`. An argument that is left out keeps the server's default.
The server checks the limits.
"""

from __future__ import annotations

import math
from typing import Literal

from google.protobuf.duration_pb2 import Duration

from tokenwire.v1.chat_pb2 import (
    CACHE_MODE_OFF,
    CACHE_MODE_READ_WRITE,
    CACHE_MODE_REFRESH,
    ON_DISCONNECT_CANCEL,
    ON_DISCONNECT_CONTINUE,
    ON_DISCONNECT_UNSPECIFIED,
    CacheOptions,
    DeliveryOptions,
    RetentionOptions,
)

from ._checks import check_seconds

_ON_DISCONNECT = {
    None: ON_DISCONNECT_UNSPECIFIED,
    "cancel": ON_DISCONNECT_CANCEL,
    "continue": ON_DISCONNECT_CONTINUE,
}
_CACHE_MODES = {
    "off": CACHE_MODE_OFF,
    "read_write": CACHE_MODE_READ_WRITE,
    "refresh": CACHE_MODE_REFRESH,
}


def delivery(*, heartbeat_s: float | None = None, usage_s: float | None = None) -> DeliveryOptions:
    """Return how a stream is delivered to this reader.

    Args:
        heartbeat_s: Send a heartbeat after this time without an event.
        usage_s: Send the usage so far at this interval.

    Raises:
        TypeError, ValueError: a time is not a number, or is infinite.
    """
    return DeliveryOptions(
        heartbeat_interval=_span(heartbeat_s, "heartbeat_s"),
        usage_interval=_span(usage_s, "usage_s"),
    )


def retention(
    on_disconnect: Literal["cancel", "continue"] | None = None,
    *,
    linger_s: float | None = None,
    log_ttl_s: float | None = None,
    soft_deadline_margin_s: float | None = None,
) -> RetentionOptions:
    """Return what happens when the last reader leaves, and how long the stream stays readable.

    Args:
        on_disconnect: "cancel" ends the generation when the last reader leaves. "continue" lets it run,
            and cost, for `linger_s` more.
        linger_s: Time that the generation runs without a reader.
        log_ttl_s: Time that the stream stays readable after it has ended.
        soft_deadline_margin_s: End the generation with TIME_LIMIT this long before the deadline.

    Raises:
        TypeError, ValueError: `on_disconnect` is unknown, or a time is not a number, or is infinite.
    """
    if on_disconnect not in tuple(_ON_DISCONNECT):
        raise ValueError(f"on_disconnect must be 'cancel' or 'continue', not {on_disconnect!r}")
    return RetentionOptions(
        on_disconnect=_ON_DISCONNECT[on_disconnect],
        linger=_span(linger_s, "linger_s"),
        log_ttl=_span(log_ttl_s, "log_ttl_s"),
        soft_deadline_margin=_span(soft_deadline_margin_s, "soft_deadline_margin_s"),
    )


def cache(
    mode: Literal["off", "read_write", "refresh"] = "read_write", *, ttl_s: float | None = None
) -> CacheOptions:
    """Return whether a stored answer to the same request may be replayed, and how old it may be.

    Raises:
        TypeError, ValueError: the mode is unknown, or the time is not a number, or is infinite.
    """
    if mode not in tuple(_CACHE_MODES):
        raise ValueError(f"mode must be one of {', '.join(_CACHE_MODES)}, not {mode!r}")
    return CacheOptions(mode=_CACHE_MODES[mode], ttl=_span(ttl_s, "ttl_s"))


def _span(seconds: float | None, name: str) -> Duration | None:
    check_seconds(seconds, name)
    if seconds is None:
        return None
    if not math.isfinite(seconds):
        raise ValueError(f"{name}: {seconds} is not a number of seconds")
    span = Duration()
    span.FromNanoseconds(round(seconds * 1e9))
    return span
