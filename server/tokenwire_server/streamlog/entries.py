"""The stored form of a log's entries, with a format version."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import msgspec

from ..errors import Failure
from ..events import AnswerEntry, Event, Finished

FORMAT = 1
"""The version that is written. It is the first byte of each batch.

Servers of two releases share streams while one replaces the other. These changes need no new version,
because msgspec ignores fields that it does not know, and fills those that are missing: a new field with a
default at the end of `Batch`, `StreamFacts`, `Answer` or an entry, and a new field with a default anywhere in
`Failure`, `Usage` or `Timings`. Everything else needs a new version, also a new kind of entry. It takes two
releases: the first one reads the new version, the second one writes it.
"""
READ_FORMATS = frozenset({FORMAT})
"""The versions that are read."""


class UnknownFormat(Exception):
    """The data is no batch of entries in a version that this process reads."""


class Batch(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Consecutive entries of one log."""

    first_sequence: int
    """The sequence of the first entry. Without entries, that of the next one."""
    entries: list[Event]
    failure: Failure | None = None
    """Why the stream failed, if the log was sealed with a failure after these entries."""
    end_time: float | None = None
    """When the stream ended, in seconds since the epoch, if the log was sealed with these entries."""

    @property
    def last_sequence(self) -> int:
        """The sequence of the last entry. Without entries, that of the entry before."""
        return self.first_sequence + len(self.entries) - 1


class StreamFacts(msgspec.Struct, frozen=True, array_like=True):
    """What other processes must know of a stream besides its log."""

    tenant: str
    created_time: float
    """Seconds since the epoch."""
    log_ttl_s: float
    linger_s: float | None = None
    request_id: str = ""
    body_hash: bytes = b""


class Answer(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A finished answer that is kept to be replayed."""

    entries: list[AnswerEntry]
    """Its entries without Started and Finished."""
    finished: Finished
    ttl_s: float
    """How long it is kept. It counts from the end of its stream."""


Stored = TypeVar("Stored", Batch, StreamFacts, Answer)

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Batch)
_facts_decoder = msgspec.msgpack.Decoder(StreamFacts)
_answer_decoder = msgspec.msgpack.Decoder(Answer)


def encode_batch(
    first_sequence: int,
    entries: Sequence[Event],
    failure: Failure | None = None,
    end_time: float | None = None,
) -> bytes:
    """Return the stored form of a batch: the version, and the batch as MessagePack."""
    return _encode(Batch(first_sequence, list(entries), failure, end_time))


def decode_batch(data: bytes) -> Batch:
    """Return the batch with this stored form. Raises UnknownFormat."""
    return _decode(data, _decoder, "entries")


def encode_facts(facts: StreamFacts) -> bytes:
    """Return the stored form of facts about a stream."""
    return _encode(facts)


def decode_facts(data: bytes) -> StreamFacts:
    """Return the facts with this stored form. Raises UnknownFormat."""
    return _decode(data, _facts_decoder, "facts")


def encode_answer(answer: Answer) -> bytes:
    """Return the stored form of an answer."""
    return _encode(answer)


def decode_answer(data: bytes) -> Answer:
    """Return the answer with this stored form. Raises UnknownFormat."""
    return _decode(data, _answer_decoder, "an answer")


def _encode(value: Batch | StreamFacts | Answer) -> bytes:
    data = bytearray((FORMAT,))
    _encoder.encode_into(value, data, 1)
    return bytes(data)


def _decode(data: bytes, decoder: msgspec.msgpack.Decoder[Stored], what: str) -> Stored:
    if not data or data[0] not in READ_FORMATS:
        found = f"format {data[0]}" if data else "no data"
        known = " or ".join(map(str, sorted(READ_FORMATS)))
        raise UnknownFormat(f"expected {what} in format {known}, found {found}")
    try:
        return decoder.decode(memoryview(data)[1:])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnknownFormat(f"{what} in format {data[0]} are damaged: {error}") from error
