"""The handles of other processes' streams."""

from __future__ import annotations

import time

from ..events import Usage
from ..request import Retention
from ..streamlog.redis import copies, lookups
from ..streamlog.redis.copy import Copy
from .handle import ReaderHost, StreamHandle


class _Follower:
    """The control of another process's stream, see `StreamControl`."""

    def __init__(self, all_copies: copies.Copies, copy: Copy) -> None:
        self._copies = all_copies
        self._copy = copy

    def usage(self) -> Usage:
        return self._copy.usage

    def cancel(self) -> None:
        self._copies.cancel(self._copy)


def follow(copy: Copy, all_copies: copies.Copies, host: ReaderHost) -> StreamHandle:
    """Return the handle of another process's stream, of whose log there is a copy."""
    facts = copy.facts
    handle = StreamHandle(
        copy.stream_id,
        facts.tenant,
        copy.log,
        host,
        created_time=facts.created_time,
        request_id=facts.request_id,
        retention=Retention(linger_s=facts.linger_s, log_ttl_s=facts.log_ttl_s),
        body_hash=facts.body_hash,
    )
    handle.ends_unread = False  # that is for the owner to decide
    handle.attach(_Follower(all_copies, copy))

    def count_readers() -> tuple[int, float | None]:
        deadline = handle.latest_local_deadline
        left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
        return handle.local_reader_count, left_s

    def on_entry() -> None:
        if copy.log.sealed:
            handle.is_out_of_reach = copy.is_cut_off
            handle.detach(copy.usage, copy.end_time)

    copy.count_readers = count_readers
    copy.log.subscribe(on_entry)
    on_entry()
    return handle


def note_others(copy: Copy, handle: StreamHandle) -> None:
    """Note the readers in other processes."""
    handle.note_readers_of(copy.owner, copy.other_reader_count, for_s=lookups.READER_LEASE_S)
