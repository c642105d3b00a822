"""Records that are to be written: one for each stream, the newest. Pure: no clock, no I/O."""

from __future__ import annotations

from itertools import islice

from .record import Outcome, UsageRecord


class Pending:
    """At most `max_count` records. What happens at the bound:

    - Newer figures of an open stream of which there is a row are not taken, and those that were taken
      make room for what follows.
    - A record that is the first of its stream is not taken. Its stream's next one is, if there is room
      again; if not even the last one was, the stream is counted in `dropped_count`.
    - The end of a stream of which another record was taken is always taken: so there are at most as
      many more records as there were open streams.

    Records that were taken to be written count until they are.
    """

    def __init__(self, max_count: int) -> None:
        self.max_count = max_count
        self.dropped_count = 0
        """Streams that have ended, and none of whose records was taken."""
        self._owed = dict[
            str, UsageRecord
        ]()  # there is no row of the stream, or its end is not in it
        self._newer = dict[str, UsageRecord]()  # figures for a row that is there
        self._taken = dict[str, UsageRecord]()
        self._rows = set[str]()  # open streams of which there is a row

    def __len__(self) -> int:
        return len(self._owed) + len(self._newer) + len(self._taken)

    @property
    def stream_count(self) -> int:
        """Streams that they are of: while one is written there may be its next one."""
        return len(self._owed.keys() | self._newer.keys() | self._taken.keys())

    def begin(self, record: UsageRecord) -> None:
        if self._has_room():
            self._owed[record.stream_id] = record

    def checkpoint(self, record: UsageRecord) -> None:
        stream_id = record.stream_id
        owed = self._owed.get(stream_id)
        if owed is not None:
            if owed.outcome is Outcome.OPEN:
                self._owed[stream_id] = record
        elif stream_id in self._rows or stream_id in self._taken:
            if stream_id in self._newer or len(self) < self.max_count:
                self._newer[stream_id] = record
        elif self._has_room():
            self._owed[stream_id] = record

    def close(self, record: UsageRecord) -> None:
        stream_id = record.stream_id
        self._newer.pop(stream_id, None)
        known = stream_id in self._owed or stream_id in self._taken or stream_id in self._rows
        if known or self._has_room():
            self._owed[stream_id] = record
        else:
            self.dropped_count += 1

    def take(self, count: int) -> list[UsageRecord]:
        """At most `count` records to write, those first without which a stream has no record or no end.

        Whoever takes them says next whether they were `written` or not.
        """
        for waiting in (self._owed, self._newer):
            for stream_id in list(islice(waiting, count - len(self._taken))):
                # A stream has a record in one of the two: whatever is owed, replaces figures.
                self._taken[stream_id] = waiting.pop(stream_id)
        return list(self._taken.values())

    def is_figures(self, record: UsageRecord) -> bool:
        """Its stream is open and has a row, which says all but the figures already."""
        return record.outcome is Outcome.OPEN and record.stream_id in self._rows

    def written(self) -> int:
        """What was taken is in the database: how many records."""
        for record in self._taken.values():
            if record.outcome is Outcome.OPEN:
                self._rows.add(record.stream_id)
            else:
                self._rows.discard(record.stream_id)
        count = len(self._taken)
        self._taken.clear()
        return count

    def not_written(self) -> None:
        """What was taken is to be written still, save where there is something newer; after all others:
        a record that no database takes must not keep them from it for ever.
        """
        taken, self._taken = self._taken, {}
        for stream_id, record in taken.items():
            later = self._owed.pop(stream_id, None) or self._newer.pop(stream_id, None)
            newest = record if later is None or record.outcome is not Outcome.OPEN else later
            waiting = self._newer if self.is_figures(newest) else self._owed
            waiting[stream_id] = newest

    def _has_room(self) -> bool:
        if len(self) >= self.max_count and self._newer:
            self._newer.popitem()
        return len(self) < self.max_count
