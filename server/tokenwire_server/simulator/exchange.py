"""The answering of one request: its connection, journal entry and timers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from .connection import Connection
from .journal import Entry, Journal

JSON = {"content-type": "application/json"}


class Exchange:
    """Base class of all answers. By itself, a provider that never answers."""

    def __init__(self, connection: Connection, journal: Journal, entry: Entry) -> None:
        self._connection = connection
        self._journal = journal
        self._entry = entry
        self._timer: asyncio.Handle | None = None
        connection.listener = self

    def resumed(self) -> None:
        """See Listener."""

    def peer_left(self) -> None:
        """See Listener."""
        self._close(aborted=True)

    def _close(self, *, aborted: bool) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._journal.close(self._entry, aborted=aborted)


class WholeAnswer(Exchange):
    """An answer that is sent in one piece, after a delay."""

    def __init__(self, connection: Connection, journal: Journal, entry: Entry) -> None:
        super().__init__(connection, journal, entry)
        self._answer: tuple[int, Mapping[str, str], bytes] = (500, JSON, b"")

    def start(
        self,
        status: int,
        body: bytes,
        *,
        headers: Mapping[str, str],
        delay_s: float = 0,
        token_count: int = 0,
    ) -> None:
        """Answer after `delay_s`. The body is JSON unless the headers name another type."""
        self._answer = (status, {**JSON, **headers}, body)
        self._token_count = token_count
        if delay_s:
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._send)
        else:
            self._send()

    def _send(self) -> None:
        self._entry.tokens_sent = self._token_count
        self._connection.send(*self._answer)
        self._close(aborted=False)
