"""The interface of the three wire formats, and functions for server-sent events.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Protocol

import msgspec

from .answer import Answer
from .errors import ANY_FAILURE, Failure
from .scenario import Scenario
from .state import Seals

TEXT = f"place-{uuid.uuid4().hex}"
"""Placeholder for a string in a template. Random, so that no part of a request equals it."""
NUMBER = f"{TEXT}-number"
"""Placeholder for a number in a template."""
_TEXT_BYTES = TEXT.encode()
_NUMBER_BYTES = f'"{NUMBER}"'.encode()


class BadRequest(Exception):
    """A request that the provider would refuse. `body` is the whole answer, of a provider with its own format
    of errors.
    """

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        failure: Failure = ANY_FAILURE,
        body: object = None,
    ) -> None:
        self.param = param
        self.failure = failure
        self.body = body
        super().__init__(message)


class ToolSpec(msgspec.Struct, frozen=True):
    """A tool in the request."""

    name: str
    schema: dict[str, Any]


class ToolResult(msgspec.Struct, frozen=True):
    """The result of a tool call."""

    tool: str
    text: str


class Conversation(msgspec.Struct, frozen=True):
    """The end of a conversation."""

    question: str
    """Text of the user's last message."""
    tool_results: tuple[ToolResult, ...] = ()
    """Tool results after the question. Empty if the model has not answered yet, or has not called a tool."""


class ToolChoice(msgspec.Struct, frozen=True):
    """Whether the model must call a tool, and which."""

    mode: Literal["auto", "none", "required", "tool"] = "auto"
    name: str = ""
    """Name of the tool, with mode "tool" only."""


class ProviderRequest(msgspec.Struct, frozen=True):
    """The parts of a request that a scenario depends on, independent of the format."""

    model: str
    stream: bool
    body: dict[str, Any]
    input_bytes: int
    """Size of the fields that the model reads, as they were sent."""
    tools: tuple[ToolSpec, ...]
    tool_choice: ToolChoice
    conversation: Conversation
    max_output_tokens: int | None
    stop_sequence: str | None
    """The first stop sequence of the request."""


class AnswerStream(Protocol):
    """One streamed answer, as bytes of the body.

    The body is `opening`, then all `deltas`, then `closing`. An item of `deltas` is one token, with the
    structural events before it. The other methods may be called between items.
    """

    def opening(self) -> bytes: ...
    def deltas(self) -> Iterator[bytes]: ...
    def closing(self) -> bytes: ...
    def ping(self) -> bytes: ...
    def unknown(self) -> bytes: ...
    def error(self) -> bytes: ...


class WireFormat(Protocol):
    """A wire format of a provider, implemented by a module."""

    PATH: str
    ID_PREFIX: str
    """Prefix of the ids of answers."""
    STOP_REASONS: Mapping[str, str]
    """The provider's word for each stop reason of a scenario. The format does not support the others."""
    CITATIONS: frozenset[str]
    """The kinds of citation that the format has."""
    STATES: frozenset[str]
    """The kinds of provider state that the format has."""
    REQUEST_ID_HEADER: str
    INPUT_FIELDS: frozenset[str]
    """Fields of a request that the model reads. Input tokens are counted from them."""

    def read(self, body: dict[str, Any], input_bytes: int) -> ProviderRequest:
        """Check a request. Raises BadRequest."""
        ...

    def check_state(self, scenario: Scenario, body: dict[str, Any]) -> Seals:
        """Check the provider state in a request, see `state`. Raises BadRequest.

        Returns the `Seals` of the next answer.
        """
        ...

    def error(
        self, status: int, message: str, *, param: str | None = None, failure: Failure = ANY_FAILURE
    ) -> dict[str, Any]:
        """Return the body of an error."""
        ...

    def whole(self, answer: Answer, request: ProviderRequest) -> dict[str, Any]:
        """Return the body of an answer that is not streamed."""
        ...

    def stream(self, answer: Answer, request: ProviderRequest) -> AnswerStream: ...

    def api_key(self, headers: Mapping[str, str]) -> str:
        """Return the key in a request, or "" if there is none."""
        ...


class CountingFormat(WireFormat, Protocol):
    """A wire format with an endpoint that counts input tokens."""

    COUNT_PATH: str

    def read_count(self, body: dict[str, Any], input_bytes: int) -> ProviderRequest:
        """Check a request to count. Raises BadRequest, also for fields that the endpoint does not accept."""
        ...

    def counted(self, input_tokens: int) -> dict[str, Any]:
        """Return the body of the answer."""
        ...


def input_bytes(body: bytes, fields: frozenset[str]) -> int:
    """Return the size of these fields of a JSON object. Raises msgspec's errors for invalid JSON."""
    written = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    return sum(memoryview(written[name]).nbytes for name in fields & written.keys())


def data_event(payload: object) -> bytes:
    """Return an event without a name."""
    return b"data: %b\n\n" % msgspec.json.encode(payload)


def named_event(name: str, payload: object) -> bytes:
    """Return an event with a name."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode(payload))


def template(payload: object, *, name: str = "") -> tuple[bytes, ...]:
    """Return an event that is split at its placeholders, so that a token takes one concatenation.

    `TEXT` is the placeholder for the inside of a string, `NUMBER` for a number.
    """
    event = named_event(name, payload) if name else data_event(payload)
    return tuple(event.replace(_NUMBER_BYTES, _TEXT_BYTES).split(_TEXT_BYTES))


def require(body: Mapping[str, Any], name: str, kind: type, what: str) -> Any:
    """Return a required field. Raises BadRequest with the providers' message."""
    if body.get(name) is None:
        raise BadRequest(f"Missing required parameter: '{name}'.", param=name)
    return typed(body, name, kind, what)


def typed(body: Mapping[str, Any], name: str, kind: type | tuple[type, ...], what: str) -> Any:
    """Return an optional field, or None if it is absent or null. Raises BadRequest if it has another type."""
    value = body.get(name)
    is_wrong_bool = isinstance(value, bool) and kind is not bool
    if value is not None and (is_wrong_bool or not isinstance(value, kind)):
        raise BadRequest(f"Invalid type for '{name}': expected {what}.", param=name)
    return value
