"""Recognition of events that differ only in their text, as most events of an answer do.

Decoding the JSON of an event takes longer than all other work of a decoder. In most answers, the bytes around
the text are the same in each event. So these bytes are compared with those of an earlier event, and only the
text between them is read. Events of Responses are numbered: skipping the number would take as long as
decoding the event.
"""

from __future__ import annotations

import re

MAX_TEXT_BYTES = 4096
MAX_ENVELOPE_BYTES = 4096
MAX_ATTEMPTS = 4
"""Number of templates that are tried until an event is like one of them. Some servers pad their events, so
that no two are alike."""


class RepeatedEvent:
    """The bytes of an event around its text. `member` is the name of the JSON member with the text."""

    __slots__ = ("_attempts", "_end", "_key", "_prefix", "_start", "_suffix")

    def __init__(self, member: str) -> None:
        self._key = re.compile(rb'"%b"\s*:\s*"([^"\\]+)"' % member.encode())
        self._prefix = self._suffix = b""
        self._start = self._end = 0
        self._attempts = 0

    def is_new(self, data: bytes) -> bool:
        """Return whether to call `learn` with an event, if it has text and nothing else.

        An event like the template whose text is escaped is not new.
        """
        if self._attempts >= MAX_ATTEMPTS:
            self._prefix = b""  # no more events are compared with it
            return False
        prefix = self._prefix
        return not prefix or not (data.startswith(prefix) and data.endswith(self._suffix))

    def learn(self, data: bytes, text: str) -> bool:
        """Use an event as the template of later ones. Return whether it can be used, see `text_of`.

        `data` is the whole event with its blank line. With other text in the place of `text`, it must mean
        the same apart from that text.
        """
        self._attempts += 1
        found = self._key.search(data)
        if (
            found is None
            or found[1] != text.encode(errors="replace")
            or data.count(found[0].partition(b":")[0].rstrip()) != 1
            or len(data) > MAX_ENVELOPE_BYTES
            or not data.endswith(b"\n\n")
        ):
            return False
        self._prefix, self._suffix = data[: found.start(1)], data[found.end(1) :]
        self._start, self._end = found.start(1), found.end(1) - len(data)
        return True

    def text_of(self, data: bytes) -> str | None:
        """Return the text of an event that differs from the template only in its text. None: it does not.

        `data` must begin with a new event.
        """
        prefix = self._prefix
        if not prefix or not data.startswith(prefix) or not data.endswith(self._suffix):
            return None
        content = data[self._start : self._end]  # empty if the two overlap
        if b'"' in content or b"\\" in content or not 0 < len(content) <= MAX_TEXT_BYTES:
            return None
        try:
            text = content.decode()
        except UnicodeDecodeError:
            return None
        if not text.isprintable():
            return None
        self._attempts = 0
        return text
