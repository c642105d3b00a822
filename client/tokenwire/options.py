"""Short ways to write how a stream is delivered, kept and cached. Times are in seconds.

Each returns the proto message it stands for. What is left out keeps the server's default; limits are
the server's too, and said by it.
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
    """How this reader wants to be served: a heartbeat after so much silence, usage so often.

    Raises:
        ValueError: a time is no number.
    """
    return DeliveryOptions(heartbeat_interval=_span(heartbeat_s), usage_interval=_span(usage_s))


def retention(
    on_disconnect: Literal["cancel", "continue"] | None = None,
    *,
    linger_s: float | None = None,
    log_ttl_s: float | None = None,
    soft_deadline_margin_s: float | None = None,
) -> RetentionOptions:
    """What happens when the last reader leaves, and how long the stream stays readable.

    "continue" goes on generating, and costing, for `linger_s` after the last reader left.

    Raises:
        ValueError: neither "cancel" nor "continue", or a time is no number.
    """
    if on_disconnect not in _ON_DISCONNECT:
        raise ValueError(f"on_disconnect must be 'cancel' or 'continue', not {on_disconnect!r}")
    return RetentionOptions(
        on_disconnect=_ON_DISCONNECT[on_disconnect],
        linger=_span(linger_s),
        log_ttl=_span(log_ttl_s),
        soft_deadline_margin=_span(soft_deadline_margin_s),
    )


def cache(
    mode: Literal["off", "read_write", "refresh"] = "read_write", *, ttl_s: float | None = None
) -> CacheOptions:
    """Whether a finished answer to the same request may be replayed, and how old it may be.

    Raises:
        ValueError: no such mode, or the time is no number.
    """
    if mode not in _CACHE_MODES:
        raise ValueError(f"mode must be one of {', '.join(_CACHE_MODES)}, not {mode!r}")
    return CacheOptions(mode=_CACHE_MODES[mode], ttl=_span(ttl_s))


def _span(seconds: float | None) -> Duration | None:
    if seconds is None:
        return None
    if not math.isfinite(seconds):
        raise ValueError(f"{seconds} is no number of seconds")
    span = Duration()
    span.FromNanoseconds(round(seconds * 1e9))
    return span
