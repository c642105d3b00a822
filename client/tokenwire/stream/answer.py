"""The answer of a model, as a value. Pure: no I/O, no gRPC."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from google.protobuf.message import Message as ProtoMessage

from tokenwire.v1.chat_pb2 import ChatResponse, Message
from tokenwire.v1.event_pb2 import (
    Citation,
    Finished,
    InvalidToolCall,
    JsonResult,
    Logprobs,
    Refusal,
)
from tokenwire.v1.usage_pb2 import Usage

from .._json import ParsedT_co
from ..enums import FinishReason
from ..structured.answer_type import AnswerType
from .parsed import Position, parse_answer

MAX_REPR_CHARS = 40
"""Maximum number of characters of the content in a repr."""

_ProtoT = TypeVar("_ProtoT", bound=ProtoMessage)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A complete call of a tool. Its arguments are a JSON object."""

    id: str
    """The provider's id of the call, for `tokenwire.tool_result`."""
    name: str
    """Name of the tool."""
    arguments_json: str
    """The arguments, exactly as the model wrote them."""

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments as a new dict. Each access parses them again.

        Raises:
            ValueError: Python cannot parse them, for example an integer of more than 4,300 digits.
        """
        arguments = json.loads(self.arguments_json)
        if not isinstance(arguments, dict):
            raise ValueError(f"the arguments of {self.name!r} are not a JSON object")  # noqa: TRY004
        return arguments

    def __repr__(self) -> str:
        return f"ToolCall({self.id!r}, {self.name!r}, {shortened(self.arguments_json)})"


class AnswerState(NamedTuple):
    """The parts of an answer other than its content."""

    stream_id: str = ""
    last_sequence: int = 0
    model: str = ""
    provider: str = ""
    usage: Usage | None = None
    finished: Finished | None = None
    json_result: JsonResult | None = None
    has_beginning: bool = True
    """The answer was read from its beginning."""
    json_text: str | None = None
    """Text of the JSON answer. None: the text of the message has it."""
    answer_type: AnswerType[Any] | None = None
    """The class of `parsed`. None: `parsed` is JSON."""
    text_before: str = ""
    """Text of the answer that this one continues. It is the beginning of the JSON."""


class Answer(Generic[ParsedT_co]):
    """An answer of a model, complete or as far as it was read. It is immutable.

    `client.chat()` and `stream.final()` return it, and `stream.answer` is the answer so far. Each access to
    a property returns new protobuf messages and new lists.
    """

    __slots__ = ("_build", "_parsed", "_response", "_state")

    def __init__(self, build: Callable[[], ChatResponse], state: AnswerState) -> None:
        self._build = build
        self._state = state
        self._response: ChatResponse | None = None
        self._parsed: tuple[ParsedT_co] | None = None

    @classmethod
    def from_response(
        cls, response: ChatResponse, answer_type: AnswerType[Any] | None = None
    ) -> Answer[ParsedT_co]:
        """Return the answer that `Chat` returned."""
        finished = response.finished if response.HasField("finished") else None
        result = response.json_result if response.HasField("json_result") else None
        state = AnswerState(
            stream_id=response.stream_id,
            finished=finished,
            json_result=result,
            answer_type=answer_type,
        )
        answer = cls(ChatResponse, state)
        answer._response = response
        return answer

    @property
    def text(self) -> str:
        """The text of the answer, without its reasoning. "" if it has none, for example only tool calls."""
        return "".join(part.text for part in self._content.message.parts)

    @property
    def reasoning(self) -> str:
        """The reasoning of the model, if the provider sends it."""
        return "".join(part.reasoning.text for part in self._content.message.parts)

    @property
    def tool_calls(self) -> list[ToolCall]:
        """The complete tool calls, in order."""
        return [
            ToolCall(part.tool_call.id, part.tool_call.name, part.tool_call.arguments_json)
            for part in self._content.message.parts
            if part.HasField("tool_call")
        ]

    @property
    def invalid_tool_calls(self) -> list[InvalidToolCall]:
        """Tool calls whose arguments are not a JSON object. They are not in the message."""
        return [copied(call) for call in self._content.invalid_tool_calls]

    @property
    def citations(self) -> list[Citation]:
        """The sources of the answer. `index` is that of a content block, not of a part of the message."""
        return [copied(citation) for citation in self._content.citations]

    @property
    def logprobs(self) -> list[Logprobs]:
        """Log probabilities of tokens, if the request has `generation.logprobs`."""
        return [copied(logprobs) for logprobs in self._content.logprobs]

    @property
    def message(self) -> Message:
        """The assistant's message, to append to the messages of the next request.

        It has the parts in the order of the content blocks, and the data that the provider needs back, such
        as signatures. Tool calls that are incomplete or invalid are left out.
        """
        return copied(self._content.message)

    @property
    def response(self) -> ChatResponse:
        """The answer as a ChatResponse. Its `finished` is unset if that event was not read."""
        return copied(self._content)

    @property
    def stream_id(self) -> str:
        """Id of the stream at the server that produced the answer."""
        return self._state.stream_id

    @property
    def last_sequence(self) -> int:
        """Sequence of the last event that was read. 0: none, or the answer is from `chat()`."""
        return self._state.last_sequence

    @property
    def finished(self) -> Finished | None:
        """The event `finished`, with timings and the provider's own finish reason. None: it was not read."""
        return None if self._state.finished is None else copied(self._state.finished)

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the answer ended. None: it was not read to its end, for example because the block was left."""
        finished = self._state.finished
        return None if finished is None else FinishReason(finished.reason)

    @property
    def refusal(self) -> Refusal | None:
        """Why the model refused. None: it did not refuse, or the provider gave no details."""
        finished = self._state.finished
        if finished is None or not finished.HasField("refusal"):
            return None
        return copied(finished.refusal)

    @property
    def usage(self) -> Usage:
        """Tokens and cost. Before `finished`: the newest figures that were read, or an empty message."""
        finished = self._state.finished
        if finished is not None and finished.HasField("usage"):
            return copied(finished.usage)
        return Usage() if self._state.usage is None else copied(self._state.usage)

    @property
    def model(self) -> str:
        """Name of the model, without the provider."""
        finished = self._state.finished
        return (finished.model if finished is not None else "") or self._state.model

    @property
    def provider(self) -> str:
        """Name of the provider."""
        finished = self._state.finished
        return (finished.provider if finished is not None else "") or self._state.provider

    @property
    def json_result(self) -> JsonResult | None:
        """Whether a JSON answer follows the schema. None: it was not checked or not read to its end."""
        result = self._state.json_result
        return None if result is None else copied(result)

    @property
    def parsed(self) -> ParsedT_co:
        """The answer as an object of the class in `response_format`, or as JSON without a class.

        Raises:
            InvalidAnswer: the answer is not JSON, does not follow the schema, or is not valid for the class.
            AnswerCut: the answer was cut off before its JSON was complete.
            AnswerRefused: the model refused.
            IncompleteStream: the answer was not read from its beginning to its end, or has no JSON: the model
                called tools instead, or the request does not ask for JSON with `stream_values`.
        """
        if self._parsed is None:
            state = self._state
            text = state.json_text
            if state.text_before:
                text = state.text_before + self.text
            elif text is None and state.has_beginning:
                text = _json_text(self._content.message)
            position: Position = {
                "stream_id": state.stream_id,
                "last_sequence": state.last_sequence,
            }
            parsed = parse_answer(
                text, state.answer_type, state.finished, state.json_result, position
            )
            self._parsed = (parsed,)
        return self._parsed[0]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Answer):
            return NotImplemented
        return self._content == other._content and self.last_sequence == other.last_sequence

    __hash__ = None  # type: ignore[assignment]  # protobuf messages have no hash

    def __repr__(self) -> str:
        calls = [call.name for call in self.tool_calls]
        facts = (
            ("text", shortened(self.text)),
            ("tool_calls", calls and shortened(calls)),
            ("finish_reason", self.finish_reason and str(self.finish_reason)),
            ("model", self.model and shortened(self.model)),
            ("stream_id", self.stream_id and shortened(self.stream_id)),
        )
        return f"Answer({', '.join(f'{name}={fact}' for name, fact in facts if fact)})"

    @property
    def _content(self) -> ChatResponse:
        if self._response is None:
            self._response = self._build()
        return self._response


def _json_text(message: Message) -> str:
    """Return the text part that is JSON: the only one, or the last one that can be parsed.

    Other text parts are blank, or comments of the model.
    """
    texts = [part.text for part in message.parts if part.text.strip()]
    for text in reversed(texts if len(texts) > 1 else ()):
        with suppress(ValueError, RecursionError):
            json.loads(text)
            return text
    return "".join(texts)


def shortened(value: object) -> str:
    """Return the repr of a value on one line, with at most MAX_REPR_CHARS characters of the value."""
    text = repr(value[: MAX_REPR_CHARS + 1] if isinstance(value, str) else value)
    return text if len(text) <= MAX_REPR_CHARS else f"{text[: MAX_REPR_CHARS - 1]}…"


def copied(message: _ProtoT) -> _ProtoT:
    """Return a copy of a protobuf message."""
    copy = type(message)()
    copy.CopyFrom(message)
    return copy
