"""The base class of all errors that reach a caller."""

from __future__ import annotations

import msgspec

from ..events import Usage


class StreamPosition(msgspec.Struct, frozen=True):
    """The position and the usage of a stream when an error was raised."""

    stream_id: str
    last_sequence: int
    usage: Usage


class TokenwireError(Exception):
    """Base class of all errors that reach a caller with a reason."""

    reason: str
    retry_after_s: float | None = None
    """Delay before a retry makes sense. If it is set, the caller gets a RetryInfo."""
    limit_name: str = ""
    """Name of the limit of the server that was reached, as in the settings. Empty: it was none."""
    at: StreamPosition | None = None
    """Set if the call had opened or joined a stream. Callers get it in the metadata of the error."""

    def facts(self) -> dict[str, str]:
        """Return the metadata of the error's ErrorInfo, for programs."""
        return {}
