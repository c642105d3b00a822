"""What the three wire formats have in common: the shape of a format, and server-sent events.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Protocol

import msgspec

from .answer import Answer

TEXT = f"place-{uuid.uuid4().hex}"
"""Stands for a string in a template. Random, so that nothing in a request is mistaken for it."""
NUMBER = f"{TEXT}-number"
"""Stands for a number in a template."""
_TEXT_BYTES = TEXT.encode()
_NUMBER_BYTES = f'"{NUMBER}"'.encode()


class BadRequest(Exception):
    """The provider would refuse this request."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        self.param = param
        super().__init__(message)


class ToolSpec(msgspec.Struct, frozen=True):
    """A tool that the request offers."""

    name: str
    schema: dict[str, Any]


class ToolResult(msgspec.Struct, frozen=True):
    """What a tool call returned."""

    tool: str
    text: str


class Conversation(msgspec.Struct, frozen=True):
    """How a conversation ends."""

    question: str
    """Text of the user's last message."""
    tool_results: tuple[ToolResult, ...] = ()
    """Results that follow the question. Empty: the model has yet to answer or to call a tool."""


class ToolChoice(msgspec.Struct, frozen=True):
    """Whether and which tool the model must call."""

    mode: Literal["auto", "none", "required", "tool"] = "auto"
    name: str = ""
    """The tool, with mode "tool" only."""


class ProviderRequest(msgspec.Struct, frozen=True):
    """What the script needs to know of a request, whatever its format."""

    model: str
    stream: bool
    body: dict[str, Any]
    input_bytes: int
    """Of the fields that the model reads, as they were written."""
    tools: tuple[ToolSpec, ...]
    tool_choice: ToolChoice
    conversation: Conversation
    max_output_tokens: int | None
    stop_sequence: str | None
    """The first one asked for."""


class AnswerStream(Protocol):
    """One streamed answer, as bytes of the body.

    The body is `opening`, then all `deltas`, then `closing`. An item of `deltas` is one token,
    with the structural events that stand before it. The other methods may be called between items.
    """

    def opening(self) -> bytes: ...
    def deltas(self) -> Iterator[bytes]: ...
    def closing(self) -> bytes: ...
    def ping(self) -> bytes: ...
    def unknown(self) -> bytes: ...
    def error(self) -> bytes: ...


class WireFormat(Protocol):
    """A provider's wire format: a module."""

    PATH: str
    ID_PREFIX: str
    """Of the ids of its answers."""
    STOP_REASONS: Mapping[str, str]
    """A scenario's stop reason in the provider's words. What is not in it, the format cannot say."""
    REQUEST_ID_HEADER: str
    INPUT_FIELDS: frozenset[str]
    """Fields of a request that the model reads: what input tokens are counted by."""

    def read(self, body: dict[str, Any], input_bytes: int) -> ProviderRequest:
        """Check a request. Raises BadRequest."""
        ...

    def error(self, status: int, message: str, *, param: str | None = None) -> dict[str, Any]:
        """The body of an error."""
        ...

    def whole(self, answer: Answer, request: ProviderRequest) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        ...

    def stream(self, answer: Answer, request: ProviderRequest) -> AnswerStream: ...

    def api_key(self, headers: Mapping[str, str]) -> str:
        """The key that the request bears; empty: none."""
        ...


class CountingFormat(WireFormat, Protocol):
    """A wire format with an endpoint that counts input tokens."""

    COUNT_PATH: str

    def read_count(self, body: dict[str, Any], input_bytes: int) -> ProviderRequest:
        """Check a request to count. Raises BadRequest, for fields that it does not take too."""
        ...

    def counted(self, input_tokens: int) -> dict[str, Any]:
        """The body of the answer."""
        ...


def input_bytes(body: bytes, fields: frozenset[str]) -> int:
    """How many bytes those fields of a JSON object have. Raises as msgspec does for what is none."""
    written = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    return sum(memoryview(written[name]).nbytes for name in fields & written.keys())


def data_event(payload: object) -> bytes:
    """An event without a name."""
    return b"data: %b\n\n" % msgspec.json.encode(payload)


def named_event(name: str, payload: object) -> bytes:
    """An event with a name."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode(payload))


def template(payload: object, *, name: str = "") -> tuple[bytes, ...]:
    """An event cut at its places, so that a token costs a concatenation.

    A `TEXT` is the place for the inside of a string, a `NUMBER` for a number.
    """
    event = named_event(name, payload) if name else data_event(payload)
    return tuple(event.replace(_NUMBER_BYTES, _TEXT_BYTES).split(_TEXT_BYTES))


def require(body: Mapping[str, Any], name: str, kind: type, what: str) -> Any:
    """A field that must be there. Raises BadRequest in the words the providers use."""
    if body.get(name) is None:
        raise BadRequest(f"Missing required parameter: '{name}'.", param=name)
    return typed(body, name, kind, what)


def typed(body: Mapping[str, Any], name: str, kind: type | tuple[type, ...], what: str) -> Any:
    """A field that may be absent or null, then None. Raises BadRequest when of another type."""
    value = body.get(name)
    is_wrong_bool = isinstance(value, bool) and kind is not bool
    if value is not None and (is_wrong_bool or not isinstance(value, kind)):
        raise BadRequest(f"Invalid type for '{name}': expected {what}.", param=name)
    return value
