"""The JSON of events: protobuf's JSON mapping, with faster encoders for the events of single tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from google.protobuf import json_format
from google.protobuf.message import Message as ProtoMessage
from msgspec.json import Encoder

from tokenwire.v1.event_pb2 import ReasoningDelta, TextDelta, TokenEvent, ToolCallDelta

_encode = Encoder().encode


class EncodedEvent(NamedTuple):
    """One event, ready for every format."""

    sequence: int
    kind: str
    """Name of the event's field in TokenEvent, such as `tool_call_delta`. Empty for an unknown event."""
    data: bytes
    """The TokenEvent in protobuf's JSON mapping, on one line."""


def encode(message: bytes) -> EncodedEvent:
    """Return the event of a serialized TokenEvent. An event of an unknown type has only a sequence.

    Raises google.protobuf.message.DecodeError if the bytes are not a TokenEvent.
    """
    event = TokenEvent.FromString(message)
    kind = event.WhichOneof("event") or ""
    encoder = _ENCODERS.get(kind)
    content = None if encoder is None else encoder(getattr(event, kind))
    if content is None:
        return EncodedEvent(event.sequence, kind, to_json(event))
    return EncodedEvent(event.sequence, kind, b'{"sequence":"%d",%b}' % (event.sequence, content))


def to_json(message: ProtoMessage) -> bytes:
    """Return a message in protobuf's JSON mapping, on one line."""
    return _encode(json_format.MessageToDict(message))


def _text(delta: TextDelta) -> bytes | None:
    if delta.phase or delta.provider_state:
        return None
    text, index = _encode(delta.text), delta.index
    if index:
        return b'"text":{"text":%b,"index":%d}' % (text, index)
    return b'"text":{"text":%b}' % text


def _reasoning(delta: ReasoningDelta) -> bytes | None:
    if delta.signature or delta.provider_state:
        return None
    text, index = _encode(delta.text), delta.index
    if index:
        return b'"reasoning":{"text":%b,"index":%d}' % (text, index)
    return b'"reasoning":{"text":%b}' % text


def _tool_call_delta(delta: ToolCallDelta) -> bytes | None:
    arguments, index = _encode(delta.arguments_json), delta.index
    if index:
        return b'"toolCallDelta":{"index":%d,"argumentsJson":%b}' % (index, arguments)
    return b'"toolCallDelta":{"argumentsJson":%b}' % arguments


_ENCODERS: dict[str, Callable[..., bytes | None]] = {
    "text": _text,
    "reasoning": _reasoning,
    "tool_call_delta": _tool_call_delta,
}
