"""The metadata that a server sends before its response: stream id and remaining limits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from .._int64 import parse_count, parse_int64

Metadata = Iterable[tuple[str, str | bytes]]

STREAM_ID_KEY = "tokenwire-stream-id"

_LIMIT_PREFIX = "tokenwire-limit-"
_REMAINING = "-remaining"


class Allowance(NamedTuple):
    """One limit of the caller, and what remained of it when the response began."""

    limit: str
    """`requests_per_minute`, `tokens_per_minute` or `concurrent_streams`; newer servers may add more."""
    allowed: int
    """Size of the limit. If the key and the tenant both have it, the one of which less remains."""
    remaining: int | None
    """Negative if answers took more than was estimated. None: not reported."""


class InitialMetadata(NamedTuple):
    """What the initial metadata of a call contains."""

    stream_id: str
    """Empty if the call was refused."""
    allowances: tuple[Allowance, ...]
    """Every limit that applies to the caller. Empty if the server reported none."""


def parse_initial_metadata(metadata: Metadata) -> InitialMetadata:
    """Parse the initial metadata of a call. Malformed limits are left out."""
    stream_id = ""
    limits: dict[str, str] = {}
    for key, value in metadata:
        if key == STREAM_ID_KEY:
            stream_id = stream_id or (
                value if isinstance(value, str) else value.decode("ascii", "replace")
            )
        elif key.startswith(_LIMIT_PREFIX) and isinstance(value, str):
            limits[key.removeprefix(_LIMIT_PREFIX)] = value
    allowances = (
        Allowance(name.replace("-", "_"), allowed, parse_int64(limits.get(name + _REMAINING)))
        for name, text in limits.items()
        if name and not name.endswith(_REMAINING) and (allowed := parse_count(text)) is not None
    )
    return InitialMetadata(stream_id, tuple(allowances))
