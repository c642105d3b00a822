"""Recognition of an answer that is not an event stream, by its media type and its first bytes. Sans-IO.

Some providers and proxies answer a request for a stream with status 200 and an error in JSON, with the whole
answer in JSON, or with an HTML page. Others send an event stream with another media type, or without one. So
the first bytes decide whenever they can.
"""

from __future__ import annotations

import re
from typing import Literal

from .decode.sse import MAX_EVENT_BYTES, MAX_EVENT_OBJECTS

MAX_WHOLE_BYTES = MAX_EVENT_BYTES
"""Maximum size of a JSON body. It is decoded in one step, like an event."""
MAX_START_BYTES = 4096
"""How much of another body is kept for the log."""

Kind = Literal["stream", "json", "other"]

_BOM = b"\xef\xbb\xbf"
_FIELD = re.compile(rb"(?:data|event|id|retry|error)?:")
_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b"error:")
_MEDIA_TYPE = re.compile(r"[a-z0-9.+-]{1,60}/[a-z0-9.+-]{1,60}")


class Opening:
    """The beginning of a body until its kind is known, and all of a JSON body."""

    def __init__(self, content_type: str) -> None:
        """`content_type` is the header's value. Empty: the answer has none."""
        media_type = content_type.partition(";")[0].strip().lower()
        self.media_type = media_type if _MEDIA_TYPE.fullmatch(media_type) else ""
        """The media type without parameters. Empty if it is missing or invalid."""
        self.body = bytearray()
        """What has arrived."""
        self._object_count = 0
        self.kind: Kind | None = None
        """None until the first bytes decide."""

    @property
    def is_too_large(self) -> bool:
        """Whether the JSON is too large to be decoded in one step."""
        return len(self.body) > MAX_WHOLE_BYTES or self._object_count > MAX_EVENT_OBJECTS

    def add(self, data: bytes) -> None:
        """Add the next bytes; b"" is the end of the body."""
        self.body += data
        self._object_count += data.count(b"{") + data.count(b"[")
        if self.kind is None:
            self.kind = self._kind(is_end=not data)

    def _kind(self, *, is_end: bool) -> Kind | None:
        start = bytes(self.body[:MAX_START_BYTES]).removeprefix(_BOM).lstrip()
        is_event_stream = self.media_type == "text/event-stream"
        if start.startswith((b"{", b"[")):
            return "json"
        if start.startswith(b"<"):
            return "other"
        is_long = len(self.body) >= MAX_START_BYTES
        if not is_end and len(start) < len(_BOM) and _BOM.startswith(start) and not is_long:
            return None
        if is_end or _FIELD.match(start) or is_event_stream:
            return "stream"  # also an empty body: it is a stream without events
        is_undecided = not is_long and any(field.startswith(start) for field in _FIELDS)
        return None if is_undecided else "other"
