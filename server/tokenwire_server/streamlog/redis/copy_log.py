"""The entries of a copy, in the memory of this process."""

from __future__ import annotations

from collections.abc import Sequence

from ...events import Event
from ..memory import MemoryLog, entry_bytes
from ..space import LogSpace
from .store import StoredPart


class CopyLog(MemoryLog):
    """A log of which this process may have only the end, which is enough to tell its state.

    Call `prepend` with the rest before a reader joins.
    """

    __slots__ = ("_stored_earliest",)

    def __init__(self, max_bytes: int, space: LogSpace, tenant: str, part: StoredPart) -> None:
        """`part` is the first part of the log that will be appended."""
        first = part.batches[0].first_sequence if part.batches else part.earliest_sequence
        first = max(first, part.earliest_sequence)
        super().__init__(max_bytes, space, tenant, first_sequence=first)
        self._stored_earliest = part.earliest_sequence

    @property
    def is_partial(self) -> bool:
        """Whether the stored log has entries before those that are here, which were not read."""
        return self._stored_earliest <= self._evicted

    @property
    def first_sequence(self) -> int:
        """The sequence of the first entry that is here."""
        return self._evicted + 1

    @property
    def earliest_sequence(self) -> int:
        return min(self._stored_earliest, self._evicted + 1)

    def note_earliest(self, sequence: int) -> None:
        """Note the earliest sequence that is stored."""
        if self.is_partial:
            self._stored_earliest = sequence

    def prepend(self, first_sequence: int, entries: Sequence[Event]) -> None:
        """Add the entries before those that are here. If they do not reach that far, they are too old."""
        if self._taken and first_sequence + len(entries) > self._evicted:
            before = entries[: self._evicted + 1 - first_sequence]
            self._entries[:0] = before
            self._evicted -= len(before)
            byte_count = sum(map(entry_bytes, before))
            self.byte_count += byte_count
            if self.sealed:
                self._taken += byte_count
                self._space.take(byte_count, self._tenant)
            elif self.byte_count > self._room:
                self._grow()
        self._stored_earliest = self._evicted + 1

    def _evict(self) -> None:
        is_partial = self.is_partial
        super()._evict()
        if not is_partial:
            self._stored_earliest = self._evicted + 1

    def skip(self, first_sequence: int) -> None:
        super().skip(first_sequence)
        self._stored_earliest = first_sequence

    def drop(self) -> None:
        super().drop()
        self._stored_earliest = self._evicted + 1
