"""The journal of the simulator: what happened to each request. Tests check a client's behaviour with it.

Times are `time.monotonic()`, which is the same for all processes of a machine.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping

import msgspec

MAX_ENTRIES = 20_000
"""Maximum number of requests in the journal. Beyond it, the oldest are removed."""
MAX_BODY_BYTES = 2**20
"""Maximum size of a body that is kept."""
MAX_KEPT_BYTES = 64 * 2**20
"""Maximum size of all bodies and headers that are kept. Beyond it, the oldest are removed; their entries
stay."""


class Entry(msgspec.Struct, eq=False):
    """One request."""

    key: str
    path: str
    model: str
    attempt: int
    """Number of requests with this key, including this one."""
    opened_at: float
    """When the request was complete."""
    headers: dict[str, str] | None
    """Headers as received, with names in lower case. None if they are no longer kept."""
    body: bytes | None
    """Body as received. None if it is too large or no longer kept."""
    closed_at: float | None = None
    """When the complete answer was passed to the socket, the answer was broken off, or the client
    disconnected."""
    aborted: bool = False
    """Whether the client disconnected before the end."""
    tokens_sent: int = 0


class Stats(msgspec.Struct, frozen=True):
    """Counters since the start, and what is open now."""

    connections_open: int
    """Number of sockets, including idle ones and the one of this request."""
    connections_total: int
    requests_open: int
    """Number of answers in progress. The simulator's own endpoints do not count."""
    requests_open_peak: int
    """Maximum of `requests_open` since the start."""
    requests_total: int
    requests_aborted: int
    tokens_sent: int
    last_closed_at: float | None


class Journal:
    """The last `MAX_ENTRIES` requests, and counters of all requests."""

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque()
        self._by_key: dict[str, Entry] = {}
        self._open: set[Entry] = set()
        self._kept: deque[tuple[Entry, int]] = deque()
        self._kept_bytes = 0
        self._peak = 0
        self._total = 0
        self._aborted = 0
        self._tokens_sent = 0
        self._last_closed_at: float | None = None

    def open(
        self, *, key: str, path: str, model: str, headers: Mapping[str, str], body: bytes
    ) -> Entry:
        """Record a request that has arrived."""
        before = self._by_key.get(key)
        entry = Entry(
            key=key,
            path=path,
            model=model,
            attempt=1 if before is None else before.attempt + 1,
            opened_at=time.monotonic(),
            headers=dict(headers),
            body=body if len(body) <= MAX_BODY_BYTES else None,
        )
        self._total += 1
        self._open.add(entry)
        self._peak = max(self._peak, len(self._open))
        self._entries.append(entry)
        self._by_key[key] = entry
        self._keep(entry)
        while len(self._entries) > MAX_ENTRIES:
            gone = self._entries.popleft()
            if self._by_key.get(gone.key) is gone:
                del self._by_key[gone.key]
        return entry

    def close(self, entry: Entry, *, aborted: bool) -> None:
        """Record the end of a request. Only the first end counts."""
        if entry.closed_at is not None:
            return
        entry.closed_at = self._last_closed_at = time.monotonic()
        entry.aborted = aborted
        self._open.discard(entry)
        self._aborted += aborted
        self._tokens_sent += entry.tokens_sent

    def find(self, key: str) -> Entry | None:
        """Return the latest request with this key."""
        return self._by_key.get(key)

    def stats(self, *, connections_open: int, connections_total: int) -> Stats:
        return Stats(
            connections_open=connections_open,
            connections_total=connections_total,
            requests_open=len(self._open),
            requests_open_peak=self._peak,
            requests_total=self._total,
            requests_aborted=self._aborted,
            tokens_sent=self._tokens_sent + sum(entry.tokens_sent for entry in self._open),
            last_closed_at=self._last_closed_at,
        )

    def _keep(self, entry: Entry) -> None:
        headers = entry.headers or {}
        size = sum(len(name) + len(value) for name, value in headers.items())
        size += len(entry.body or b"")
        self._kept.append((entry, size))
        self._kept_bytes += size
        while self._kept_bytes > MAX_KEPT_BYTES or len(self._kept) > MAX_ENTRIES:
            oldest, oldest_size = self._kept.popleft()
            oldest.headers = oldest.body = None
            self._kept_bytes -= oldest_size
