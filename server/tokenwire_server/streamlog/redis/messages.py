"""Messages between the processes that share the logs of streams. Each process has a channel of its own.

A message can get lost, if Redis or a process is away. Therefore leases and cancellations are repeated.
"""

from __future__ import annotations

from typing import Final

import msgspec

from ...events import Usage

LOG_ID_BYTES = 24
"""A stream's id and an epoch, as bytes."""
BATCH: Final = b"B"
"""The first byte of a message with a batch, which follows the id of its log."""
_CONTROL: Final = b"C1"
"""The first bytes of all other messages: their kind, and their version."""


class ReadersMessage(msgspec.Struct, frozen=True, array_like=True, tag="readers"):
    """To the owner of a stream: the readers that the stream has in a process, for the length of a lease."""

    stream_id: str
    process: str
    count: int
    left_s: float | None = None
    """Seconds until the latest deadline of these readers. None: one of them has no deadline."""


class StatusMessage(msgspec.Struct, frozen=True, array_like=True, tag="status"):
    """From the owner of a stream, as the answer to ReadersMessage."""

    stream_id: str
    is_known: bool
    """Whether the owner still has the stream."""
    usage: Usage
    other_reader_count: int
    """The number of readers in all other processes than the one that gets this message."""
    last_sequence: int = 0
    """The last sequence of the owner's log, stored or not, and one more if the log is sealed."""


class CancelMessage(msgspec.Struct, frozen=True, array_like=True, tag="cancel"):
    """To the owner of a stream: end it with CANCELLED."""

    stream_id: str


class RestoreMessage(msgspec.Struct, frozen=True, array_like=True, tag="restore"):
    """To the owner of a stream: Redis has lost its log, or a part of it. Store it again."""

    stream_id: str
    process: str = ""
    """The sender. If the owner does not have the stream, it answers with a StatusMessage."""


class DeletedMessage(msgspec.Struct, frozen=True, array_like=True, tag="deleted"):
    """To the processes that have a stream or a copy of it: a caller deleted it."""

    stream_id: str


class AnswerReplacedMessage(msgspec.Struct, frozen=True, array_like=True, tag="answer_replaced"):
    """To the process that ran a stream: another answer was cached in place of that stream's."""

    stream_id: str


Message = (
    ReadersMessage
    | StatusMessage
    | CancelMessage
    | RestoreMessage
    | DeletedMessage
    | AnswerReplacedMessage
)

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


class UnknownMessage(Exception):
    """The data is no message in a version that this process reads."""


def encode_message(message: Message) -> bytes:
    """Return the form in which a message is published."""
    return _CONTROL + _encoder.encode(message)


def decode_message(data: bytes) -> Message:
    """Return the message with this form. Raises UnknownMessage."""
    if data[:2] != _CONTROL:
        raise UnknownMessage(
            f"expected a message that begins with {_CONTROL!r}, found {data[:2]!r}"
        )
    try:
        return _decoder.decode(memoryview(data)[2:])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnknownMessage(str(error)) from error
