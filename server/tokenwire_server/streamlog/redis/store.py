"""Writes batches of entries to Redis, and reads them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from enum import IntEnum
from importlib import resources
from typing import Any, NamedTuple

import redis.asyncio
from redis.asyncio.client import Pipeline
from redis.exceptions import NoScriptError, RedisError

from ...errors import SHARED_LOG, Failure, StoreUnavailable
from ...events import Event, Finished
from ..entries import Batch, StreamFacts, decode_batch, decode_facts, encode_batch, encode_facts
from .messages import BATCH, DeletedMessage, Message, encode_message

PREFIX = "tokenwire:"
EPOCH_BYTES = 8
DELETED = "deleted"
"""The epoch of a stream that was deleted."""
DELETED_S = 3600.0
"""How long a deletion is stored. The owner of the stream may be out of reach until then."""
MAX_READ_BATCHES = 512
"""Maximum number of batches in one read."""

_STATE_FIELDS = ["epoch", "facts", "earliest", "last", "sealed"]
_APPEND = resources.files(__package__).joinpath("append.lua").read_bytes()
_LEASE = resources.files(__package__).joinpath("lease.lua").read_bytes()
_APPEND_SHA = hashlib.sha1(_APPEND, usedforsecurity=False).hexdigest()
_LEASE_SHA = hashlib.sha1(_LEASE, usedforsecurity=False).hexdigest()


class DamagedLog(Exception):
    """Entries that the state of a stored log names are missing."""

    owner = ""
    """The process that stores the log, if it is known."""


class MissingLog(DamagedLog):
    """There is no stored log."""


class Unstorable(Exception):
    """Entries have no stored form, for example because of a number with more than 64 bits."""

    def __init__(self, log: LogId) -> None:
        super().__init__(f"the entries of stream {log.stream_id} have no stored form")
        self.log = log


class LogId(NamedTuple):
    """A stored log: the stream, and the epoch in which its owner writes it.

    A log that another process writes later has another epoch, so that no reader takes entries of one for
    entries of the other.
    """

    stream_id: str
    """32 hexadecimal digits."""
    epoch: str
    """16 hexadecimal digits: the id of the owner, a process."""

    @property
    def header(self) -> bytes:
        """The beginning of a message that carries a batch of this log."""
        return BATCH + bytes.fromhex(self.stream_id + self.epoch)

    @classmethod
    def of_header(cls, data: bytes) -> LogId:
        """Return the log whose `header` the data begins with."""
        return cls(data[1:17].hex(), data[17:25].hex())


class Outcome(IntEnum):
    """The result of storing a batch."""

    STORED = 1
    """It is stored, now or since an earlier attempt."""
    GAP = 0
    """It was not stored, because entries before it are missing."""
    DISPLACED = -1
    """It was not stored, because the log belongs to another epoch."""
    DELETED = -2
    """It was not stored, because a caller deleted the stream."""


class Result(NamedTuple):
    outcome: Outcome
    last_sequence: int
    """The last sequence that is stored. After GAP, append the entries that follow it."""


class Append(NamedTuple):
    """Consecutive entries of a log, to be stored."""

    log: LogId
    facts: StreamFacts
    first_sequence: int
    entries: Sequence[Event]
    earliest_sequence: int
    """The sequence of the oldest entry in the owner's log. Older batches are dropped."""
    ttl_s: float
    """How long the log is kept. It counts from the first batch, and again from the end."""
    failure: Failure | None = None
    end_time: float | None = None
    """When the stream ended, in seconds since the epoch."""
    replaces: bool = False
    """Whether what is stored is replaced. Otherwise the entries are added to it."""

    @property
    def last_sequence(self) -> int:
        """The sequence of the last entry. Without entries, that of the entry before."""
        return self.first_sequence + len(self.entries) - 1

    @property
    def has_end(self) -> bool:
        """Whether the end of the stream is a part of it."""
        is_finished = bool(self.entries) and isinstance(self.entries[-1], Finished)
        return is_finished or self.failure is not None


class StoredPart(NamedTuple):
    """A part of a stored log, as it was at one moment."""

    epoch: str
    facts: StreamFacts
    earliest_sequence: int
    last_sequence: int
    """The last sequence of the whole log."""
    is_sealed: bool
    batches: list[Batch]
    """Those with entries after a sequence, oldest first. The first may begin before it. If the last one ends
    before `last_sequence`, there are more."""


class Position(NamedTuple):
    """How much of a log is stored."""

    epoch: str
    last_sequence: int
    is_sealed: bool
    earliest_sequence: int = 1

    @property
    def is_deleted(self) -> bool:
        """Whether a caller deleted the stream."""
        return self.epoch == DELETED


class LogStore:
    """The stored logs of streams. All methods raise StoreUnavailable if Redis does not serve them.

    A stream has three keys with one hash tag, so that they are on the same server of a cluster. Methods for
    several streams return StoreUnavailable in the place of those that their server does not serve.
    """

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client

    async def append(self, appends: Sequence[Append]) -> list[Result | StoreUnavailable]:
        """Store batches with one round trip. Return the result of each.

        Storing a batch, and publishing it to the processes that read its stream, is one step. It can be
        repeated: after an error or a cancellation, append the same entries again. Raises Unstorable, and then
        nothing is stored.
        """
        pipeline = self._client.pipeline(transaction=False)
        for append in appends:
            try:
                arguments = _arguments(append)
            except (ValueError, OverflowError, TypeError) as error:
                raise Unstorable(append.log) from error
            pipeline.execute_command("EVALSHA", _APPEND_SHA, *arguments)
        found = await self._execute(pipeline, _APPEND)
        return [
            each if isinstance(each, StoreUnavailable) else Result(Outcome(each[0]), each[1])
            for each in found
        ]

    async def read(self, stream_id: str, after_sequence: int) -> StoredPart | None:
        """Return the entries of a log after a sequence.

        Return None if the stream is unknown, or has expired, or was deleted.
        Raises UnknownFormat, and DamagedLog if entries are missing.
        """
        entries, state, _ = keys(stream_id)
        pipeline = self._client.pipeline(transaction=True)
        pipeline.hmget(state, _STATE_FIELDS)
        pipeline.xrange(entries, min=f"({after_sequence}-0", count=MAX_READ_BATCHES)
        try:
            (epoch, facts, earliest, last, sealed), found = await pipeline.execute()
        except RedisError as error:
            raise unavailable(error) from error
        part = _part(epoch, facts, earliest, last, sealed, found)
        if part is not None:
            _check(part, after_sequence)
        return part

    async def read_end(self, stream_id: str) -> StoredPart | None:
        """Return the last batch of a log, in which it ends if it is sealed. See `read`."""
        entries, state, _ = keys(stream_id)
        pipeline = self._client.pipeline(transaction=True)
        pipeline.hmget(state, _STATE_FIELDS)
        pipeline.xrevrange(entries, count=1)
        try:
            (epoch, facts, earliest, last, sealed), found = await pipeline.execute()
        except RedisError as error:
            raise unavailable(error) from error
        part = _part(epoch, facts, earliest, last, sealed, found)
        if part is not None and [batch.last_sequence for batch in part.batches] != [
            part.last_sequence
        ]:
            raise DamagedLog(f"the stored log lacks sequence {part.last_sequence}")
        return part

    async def lease(
        self, leases: Sequence[tuple[str, str, Message]], process: str, lease_s: float
    ) -> list[Position | StoreUnavailable | None]:
        """Let a process get the batches of streams that are stored from now on, for `lease_s`.

        They are published to the channel of the process, see `channel`. All processes use the same
        `lease_s`, measured by the clock of Redis. 0 ends the lease. `leases` has the id of each stream, its
        tenant, and a message for its owner, which is sent unless the log is sealed. Return how much of each
        log is stored, or None if the tenant has no such stream: then this has no effect.
        """
        pipeline = self._client.pipeline(transaction=False)
        for stream_id, tenant, message in leases:
            _, state, readers = keys(stream_id)
            data = encode_message(message)
            pipeline.execute_command(
                *("EVALSHA", _LEASE_SHA, 2, readers, state),
                *(process, int(lease_s * 1000), channel(""), data, tenant),
            )
        found = await self._execute(pipeline, _LEASE)
        return [
            each
            if each is None or isinstance(each, StoreUnavailable)
            else Position(each[0].decode(), each[1], each[2] == 1, each[3])
            for each in found
        ]

    async def delete(self, stream_id: str, tenant: str, owner: str | None = None) -> None:
        """Delete a stored log of a tenant, and tell its owner and the processes that have a copy of it.

        Idempotent. `owner` gets a message even if Redis has lost the log. The deletion is stored for
        DELETED_S, so that an owner that is out of reach now does not store it again later.
        """
        stored_keys = keys(stream_id)
        reading = self._client.pipeline(transaction=True)
        reading.zrange(stored_keys[2], 0, -1)
        reading.hget(stored_keys[1], "epoch")
        deleting = self._client.pipeline(transaction=True)
        deleting.unlink(*stored_keys)
        deleting.hset(stored_keys[1], mapping={"epoch": DELETED, "tenant": tenant})
        deleting.pexpire(stored_keys[1], int(DELETED_S * 1000))
        try:
            processes, epoch = await reading.execute()
            to = {each.decode() for each in (*processes, epoch) if each is not None} - {DELETED}
            if owner is not None:
                to.add(owner)
            for process in to:
                deleting.publish(channel(process), encode_message(DeletedMessage(stream_id)))
            await deleting.execute()
        except RedisError as error:
            raise unavailable(error) from error

    async def send(self, messages: Sequence[tuple[str, Message]]) -> None:
        """Publish messages to processes. They are lost if the process does not listen."""
        if not messages:
            return
        pipeline = self._client.pipeline(transaction=False)
        for process, message in messages:
            pipeline.publish(channel(process), encode_message(message))
        try:
            await pipeline.execute()
        except RedisError as error:
            raise unavailable(error) from error

    async def _execute(self, pipeline: Pipeline, script: bytes) -> list[Any]:
        """Execute a pipeline of calls of one script, which is loaded first if Redis does not have it.

        Return the results, or StoreUnavailable for single calls.
        """
        commands = list(pipeline.command_stack)
        try:
            found: list[Any] = await pipeline.execute(raise_on_error=False)
            missed = [index for index, each in enumerate(found) if isinstance(each, NoScriptError)]
            if missed:
                await self._client.script_load(script)
                pipeline.command_stack = [commands[index] for index in missed]
                again = await pipeline.execute(raise_on_error=False)
                for index, each in zip(missed, again, strict=True):
                    found[index] = each
        except RedisError as error:
            raise unavailable(error) from error
        return [unavailable(each) if isinstance(each, Exception) else each for each in found]


def keys(stream_id: str) -> tuple[str, str, str]:
    """Return the keys of a stream: its entries, its state, its readers."""
    tag = f"{PREFIX}{{{stream_id}}}:"
    return f"{tag}entries", f"{tag}state", f"{tag}readers"


def channel(process: str) -> str:
    """Return the channel on which a process gets the batches of the streams that it reads."""
    return f"{PREFIX}to:{process}"


def _arguments(append: Append) -> list[Any]:
    last = append.last_sequence
    # A failure has no sequence. Its id follows that of the last entry, so that it is read after that entry,
    # whether it comes in the same batch or alone.
    id = f"{last}-{0 if append.failure is None else 1}"
    batch = encode_batch(append.first_sequence, append.entries, append.failure, append.end_time)
    starts = append.first_sequence == append.earliest_sequence
    stored_keys = keys(append.log.stream_id)
    return [
        len(stored_keys),
        *stored_keys,
        append.log.epoch,
        append.first_sequence,
        last,
        id,
        batch,
        append.earliest_sequence,
        "1" if append.has_end else "",
        int(append.ttl_s * 1000),
        channel(""),
        append.log.header,
        encode_facts(append.facts) if starts else b"",
        "1" if append.replaces else "",
        append.facts.tenant,
    ]


def _part(
    epoch: bytes | None,
    facts: bytes | None,
    earliest: bytes | None,
    last: bytes | None,
    sealed: bytes | None,
    found: Sequence[tuple[bytes, dict[bytes, bytes]]],
) -> StoredPart | None:
    """Return what was read of a log. Raises UnknownFormat, and DamagedLog if its state is incomplete."""
    if epoch is None or epoch.decode() == DELETED:
        return None
    if facts is None:
        raise DamagedLog("the stored log lacks the facts about its stream")
    if earliest is None or last is None:
        raise DamagedLog("the state of the stored log is incomplete")
    batches = [decode_batch(fields.get(b"b", b"")) for _, fields in found]
    return StoredPart(
        epoch.decode(), decode_facts(facts), int(earliest), int(last), sealed == b"1", batches
    )


def _check(part: StoredPart, after_sequence: int) -> None:
    """Check that the batches of a part follow each other. Raises DamagedLog."""
    expected = max(after_sequence + 1, part.earliest_sequence)
    for number, batch in enumerate(part.batches):
        is_next = batch.first_sequence == expected
        if not is_next and (number or batch.first_sequence > expected):
            break
        expected = batch.last_sequence + 1
    else:
        if expected > part.last_sequence or len(part.batches) == MAX_READ_BATCHES:
            return
    raise DamagedLog(
        f"the stored log lacks sequence {expected}: it names {part.earliest_sequence} to "
        f"{part.last_sequence}"
    )


def unavailable(error: Exception) -> StoreUnavailable:
    found = StoreUnavailable(f"Redis: {error}", store=SHARED_LOG)
    found.__cause__ = error
    return found
