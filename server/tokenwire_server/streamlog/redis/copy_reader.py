"""Reads the stored entries that copies lack."""

from __future__ import annotations

from ...events import Event
from .copy import Copy
from .store import DamagedLog, LogStore, MissingLog, StoredPart


class CopyReader:
    """Reads entries from the store into copies.

    All methods raise StoreUnavailable, UnknownFormat, and DamagedLog if Redis does not have the entries.
    """

    def __init__(self, store: LogStore) -> None:
        self._store = store

    async def read_rest(self, copy: Copy) -> None:
        """Read the entries after those that a copy has, until it is sealed or has all that is stored."""
        while not copy.log.sealed:
            copy.begin_read()
            try:
                has_all = False
                while not has_all:
                    part = await self._read(copy, copy.log.last_sequence)
                    has_all = copy.take_part(part)
                    if not has_all and not part.batches:
                        raise DamagedLog("the stored log lacks its end")
            finally:
                has_all_since = copy.end_read()
            if has_all_since:
                break

    async def read_beginning(self, copy: Copy) -> None:
        """Read the entries before those that a copy has."""
        entries: list[Event] = []
        after, earliest = 0, 1
        while after + 1 < copy.log.first_sequence:
            part = await self._read(copy, after)
            if not part.batches:
                raise DamagedLog("the stored log lacks its end")
            if part.batches[0].first_sequence > after + 1:  # the entries before it are dropped
                entries.clear()
            for batch in part.batches:
                entries += batch.entries
            after, earliest = part.batches[-1].last_sequence, part.earliest_sequence
        first = after + 1 - len(entries)
        dropped = max(0, earliest - first)
        copy.log.prepend(first + dropped, entries[dropped:])

    async def _read(self, copy: Copy, after_sequence: int) -> StoredPart:
        part = await self._store.read(copy.stream_id, after_sequence)
        if part is None:
            raise MissingLog("Redis does not have the log")
        if part.epoch != copy.owner:
            raise DamagedLog("another process stores a log with this id")
        return part
