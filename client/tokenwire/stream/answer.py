"""The answer of a stream, built from its events. Pure: no I/O, no gRPC."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field

from tokenwire.v1.chat_pb2 import ROLE_ASSISTANT, ChatResponse, Message, Part, Reasoning
from tokenwire.v1.event_pb2 import (
    Citation,
    Finished,
    InvalidToolCall,
    JsonResult,
    Logprobs,
    TokenEvent,
    ToolCall,
)

from ..errors import IncompleteStream, InvalidAnswer, Violation
from .json_values import Json, PartialJson

_NOT_IN_THE_LOG = frozenset({"heartbeat", "usage"})


@dataclass(slots=True)
class _Block:
    """One content block: pieces of text, of reasoning, or of the arguments of a tool call."""

    kind: str
    pieces: list[str] = field(default_factory=list)
    signature: str = ""
    provider_state: bytes = b""
    is_invalid_call: bool = False
    tool_call_id: str = ""
    tool_name: str = ""
    complete_tool_call: ToolCall | None = None

    def to_part(self) -> Part | None:
        """Return the block as a part of a message, or None while it is empty."""
        text = "".join(self.pieces)
        match self.kind:
            case "text":
                if not text and not self.provider_state:
                    return None
                return Part(text=text, provider_state=self.provider_state)
            case "reasoning":
                if not text and not self.signature and not self.provider_state:
                    return None
                return Part(
                    reasoning=Reasoning(
                        text=text, signature=self.signature, provider_state=self.provider_state
                    )
                )
        if self.is_invalid_call:
            return None
        return Part(
            tool_call=self.complete_tool_call
            or ToolCall(id=self.tool_call_id, name=self.tool_name, arguments_json=text)
        )


class Answer:
    """An answer that is built event by event.

    The result does not depend on how the server split or merged the deltas. Events of an unknown type
    change only `last_sequence`. Heartbeats, interval usage and the notices CAUGHT_UP and DRAINING change
    nothing: the server makes them for one reader, and they repeat the sequence of the event before them.
    Notices are not kept: read them as events. The whole answer is in memory; the server limits its size
    (`max_output_tokens`, and the limit for one stream).
    """

    def __init__(self, stream_id: str = "", last_sequence: int = 0) -> None:
        self.stream_id = stream_id
        self.last_sequence = last_sequence
        """Sequence of the last event of the log, of any type. 0: none yet."""
        self.finished: Finished | None = None
        """The event `finished`. None: it has not been read."""
        self.citations: list[Citation] = []
        """The sources of the answer. `index` is that of a content block, not of a part of the message."""
        self.invalid_tool_calls: list[InvalidToolCall] = []
        """Calls whose arguments are not a JSON object. They are not in the message."""
        self.logprobs: list[Logprobs] = []
        """Log probabilities of tokens, if the request has `generation.logprobs`."""
        self.partial_json = PartialJson()
        """The JSON answer as far as it is complete, if the request has `json_schema.stream_values`."""
        self.json_result: JsonResult | None = None
        """Whether the JSON answer follows the schema. None: the event `json_result` has not been read."""
        self._json_index: int | None = None
        self._has_beginning = last_sequence <= 1  # the first event is `started`
        self._blocks: dict[tuple[int, str], _Block] = {}

    def add(self, event: TokenEvent) -> None:
        """Add the next event of the stream."""
        kind = event.WhichOneof("event")
        if kind in _NOT_IN_THE_LOG:
            return
        self.last_sequence = event.sequence
        match kind:
            case "text":
                block = self._block(event.text.index, "text")
                block.pieces.append(event.text.text)
                block.provider_state = event.text.provider_state or block.provider_state
            case "reasoning":
                block = self._block(event.reasoning.index, "reasoning")
                block.pieces.append(event.reasoning.text)
                block.signature = event.reasoning.signature or block.signature
                block.provider_state = event.reasoning.provider_state or block.provider_state
            case "tool_call_delta":
                delta = event.tool_call_delta
                self._block(delta.index, "tool_call").pieces.append(delta.arguments_json)
            case "tool_call_started":
                started = event.tool_call_started
                block = self._block(started.index, "tool_call")
                block.tool_call_id, block.tool_name = started.id, started.name
            case "tool_call":
                block = self._block(event.tool_call.index, "tool_call")
                block.complete_tool_call = event.tool_call.tool_call
            case "invalid_tool_call":
                self._block(event.invalid_tool_call.index, "tool_call").is_invalid_call = True
                self.invalid_tool_calls.append(event.invalid_tool_call)
            case "citation":
                self.citations.append(event.citation)
            case "logprobs":
                self.logprobs.append(event.logprobs)
            case "json_value":
                self._json_index = event.json_value.index
                with suppress(ValueError):  # it says nothing about the rest of the stream
                    self.partial_json.add(event.json_value)
            case "json_result":
                self.json_result = event.json_result
                if self._has_beginning:
                    self.partial_json.complete(self._json_text())
            case "started":
                self.stream_id = event.started.stream_id
            case "finished":
                self.finished = event.finished

    def message(self) -> Message:
        """Return the assistant's message so far, with its parts in the order of the content blocks.

        An incomplete tool call has the arguments so far, which are not valid JSON: do not execute it. After
        `finished`, an incomplete tool call is left out. An invalid one is always left out.
        """
        blocks = sorted(self._blocks.items(), key=lambda item: item[0][0])
        parts = (
            block.to_part()
            for _, block in blocks
            if self.finished is None or block.kind != "tool_call" or block.complete_tool_call
        )
        return Message(role=ROLE_ASSISTANT, parts=[part for part in parts if part is not None])

    def response(self) -> ChatResponse:
        """Return the answer as `Chat` would return it. `finished` is unset if it was not read."""
        return ChatResponse(
            stream_id=self.stream_id,
            message=self.message(),
            finished=self.finished,
            invalid_tool_calls=self.invalid_tool_calls,
            citations=self.citations,
            logprobs=self.logprobs,
            json_result=self.json_result,
        )

    def json(self) -> Json:
        """Return the JSON answer, which follows the request's schema.

        Raises:
            InvalidAnswer: the answer is not JSON, or does not follow the schema.
            IncompleteStream: the event `json_result` has not been read, or the answer was not read from its
                beginning.
        """
        result = self.json_result
        if result is None:
            raise self._incomplete(
                "`json_result` has not been read; it follows the text if the request has "
                "`json_schema.stream_values`"
            )
        if not result.is_valid:
            error = InvalidAnswer(
                "the answer was not checked with the schema"
                if result.is_unchecked and not result.violations
                else "the answer does not follow the schema",
                stream_id=self.stream_id,
                last_sequence=self.last_sequence,
            )
            self.explain(error)
            raise error
        if not self._has_beginning:
            raise self._incomplete(
                "the stream was read from a cursor, so the beginning of the answer is missing"
            )
        value: Json = json.loads(self._json_text())
        return value

    def explain(self, error: InvalidAnswer) -> None:
        """Set the text and the violations of an error to those that were read."""
        if self._has_beginning:
            error.text = self._json_text()
        if self.json_result is not None:
            error.violations = tuple(
                Violation(each.pointer, each.description) for each in self.json_result.violations
            )

    def _json_text(self) -> str:
        """Return the text of the JSON answer, or all text if no value was found in it."""
        return "".join(
            piece
            for (index, kind), block in sorted(self._blocks.items(), key=lambda item: item[0])
            if kind == "text" and self._json_index in (None, index)
            for piece in block.pieces
        )

    def _incomplete(self, message: str) -> IncompleteStream:
        return IncompleteStream(message, stream_id=self.stream_id, last_sequence=self.last_sequence)

    def _block(self, index: int, kind: str) -> _Block:
        block = self._blocks.get((index, kind))
        if block is None:
            block = self._blocks[index, kind] = _Block(kind)
        return block
