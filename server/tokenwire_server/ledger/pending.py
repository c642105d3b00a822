"""Records that wait to be written: the newest one of each stream. Pure: no clock, no I/O."""

from __future__ import annotations

from itertools import islice

from .record import Outcome, UsageRecord


class Pending:
    """At most `max_count` records. When it is full:

    - New figures of an open stream that has a row are dropped. Those that already wait are dropped to make
      room for other records.
    - The first record of a stream is dropped. The stream's next record is accepted if there is room by then.
      If not even the last one is, the stream is counted in `dropped_count`.
    - The end of a stream is accepted if an earlier record of it was. So the number of records exceeds the
      maximum at most by the number of open streams.

    Records that are being written count until they are written.
    """

    def __init__(self, max_count: int) -> None:
        self.max_count = max_count
        self.dropped_count = 0
        """Streams that have ended and of which no record was accepted."""
        self._missing = dict[str, UsageRecord]()  # the stream has no row, or its row has no end
        self._figures = dict[str, UsageRecord]()  # the stream has a row with older figures
        self._taken = dict[str, UsageRecord]()  # being written
        self._rows = set[str]()  # open streams that have a row

    def __len__(self) -> int:
        return len(self._missing) + len(self._figures) + len(self._taken)

    @property
    def stream_count(self) -> int:
        """Streams of the records. A stream has two records while one of them is being written."""
        return len(self._missing.keys() | self._figures.keys() | self._taken.keys())

    def begin(self, record: UsageRecord) -> None:
        """Add the first record of a stream."""
        if self._has_room():
            self._missing[record.stream_id] = record

    def checkpoint(self, record: UsageRecord) -> None:
        """Add newer figures of an open stream."""
        stream_id = record.stream_id
        missing = self._missing.get(stream_id)
        if missing is not None:
            if missing.outcome is Outcome.OPEN:
                self._missing[stream_id] = record
        elif stream_id in self._rows or stream_id in self._taken:
            if stream_id in self._figures or len(self) < self.max_count:
                self._figures[stream_id] = record
        elif self._has_room():
            self._missing[stream_id] = record

    def close(self, record: UsageRecord) -> None:
        """Add the last record of a stream."""
        stream_id = record.stream_id
        self._figures.pop(stream_id, None)
        known = stream_id in self._missing or stream_id in self._taken or stream_id in self._rows
        if known or self._has_room():
            self._missing[stream_id] = record
        else:
            self.dropped_count += 1

    def take(self, count: int) -> list[UsageRecord]:
        """Return at most `count` records to write, first those of streams without a row or an end.

        Call `written` or `not_written` next.
        """
        for waiting in (self._missing, self._figures):
            for stream_id in list(islice(waiting, count - len(self._taken))):
                # A stream has a record in only one of the two.
                self._taken[stream_id] = waiting.pop(stream_id)
        return list(self._taken.values())

    def is_figures(self, record: UsageRecord) -> bool:
        """Return whether the stream is open and has a row, so that only its figures are new."""
        return record.outcome is Outcome.OPEN and record.stream_id in self._rows

    def written(self) -> int:
        """Remove the records that were taken, which are in the database now. Return their number."""
        for record in self._taken.values():
            if record.outcome is Outcome.OPEN:
                self._rows.add(record.stream_id)
            else:
                self._rows.discard(record.stream_id)
        count = len(self._taken)
        self._taken.clear()
        return count

    def not_written(self) -> None:
        """Put the records that were taken back at the end, except those that have a newer one.

        At the end, because a record that the database rejects must not block the others for ever.
        """
        taken, self._taken = self._taken, {}
        for stream_id, record in taken.items():
            later = self._missing.pop(stream_id, None) or self._figures.pop(stream_id, None)
            newest = record if later is None or record.outcome is not Outcome.OPEN else later
            waiting = self._figures if self.is_figures(newest) else self._missing
            waiting[stream_id] = newest

    def _has_room(self) -> bool:
        if len(self) >= self.max_count and self._figures:
            self._figures.popitem()
        return len(self) < self.max_count
