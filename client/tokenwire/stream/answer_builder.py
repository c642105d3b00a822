"""Builds the answer of a stream from its events. Pure: no I/O, no gRPC."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from tokenwire.v1.chat_pb2 import ROLE_ASSISTANT, ChatResponse, Message, Part, Reasoning
from tokenwire.v1.event_pb2 import (
    TEXT_PHASE_COMMENTARY,
    Citation,
    Finished,
    InvalidToolCall,
    JsonResult,
    Logprobs,
    TextDelta,
    TokenEvent,
)
from tokenwire.v1.event_pb2 import ToolCall as ProtoToolCall
from tokenwire.v1.usage_pb2 import Usage

from .._json import Json
from ..errors import InvalidAnswer
from ..structured.answer_type import AnswerType
from .answer import Answer, AnswerState
from .json_values import PartialJson
from .parsed import violations_of

if TYPE_CHECKING:
    from .growing_json import GrowingJson

_CONTENT_EVENTS = frozenset(
    {
        "text",
        "reasoning",
        "tool_call_started",
        "tool_call_delta",
        "tool_call",
        "invalid_tool_call",
    }
)


def is_content(event: TokenEvent) -> bool:
    """Return whether an event is content of the answer. Servers retry nothing after the first one."""
    return event.WhichOneof("event") in _CONTENT_EVENTS


class _BlockSoFar(NamedTuple):
    """A content block at the time of the snapshot: its first `piece_count` pieces."""

    ordinal: int
    kind: str
    pieces: list[str]
    piece_count: int
    signature: str
    provider_state: bytes
    tool_call: ProtoToolCall | None

    def to_part(self) -> Part | None:
        """Return the block as a part of a message, or None if it is empty."""
        text = "".join(self.pieces[: self.piece_count])
        match self.kind:
            case "text" if text or self.provider_state:
                return Part(text=text, provider_state=self.provider_state)
            case "reasoning" if text or self.signature or self.provider_state:
                reasoning = Reasoning(
                    text=text, signature=self.signature, provider_state=self.provider_state
                )
                return Part(reasoning=reasoning)
            case "tool_call":
                return Part(tool_call=self.tool_call)
        return None


class _Block:
    """A content block: pieces of text or of reasoning, or a complete tool call."""

    __slots__ = ("index", "kind", "pieces", "provider_state", "signature", "tool_call")

    def __init__(self, index: int, kind: str) -> None:
        self.index = index
        self.kind = kind
        self.pieces: list[str] = []
        self.signature = ""
        self.provider_state = b""
        self.tool_call: ProtoToolCall | None = None

    @property
    def text(self) -> str:
        """The pieces as one. They stay joined, so that the next call only appends to them."""
        if len(self.pieces) != 1:
            # Answers that were taken have the old list.
            self.pieces = ["".join(self.pieces)]
        return self.pieces[0]

    def so_far(self) -> _BlockSoFar:
        return _BlockSoFar(
            self.index,
            self.kind,
            self.pieces,
            len(self.pieces),
            self.signature,
            self.provider_state,
            self.tool_call,
        )


class AnswerBuilder:
    """Builds an answer event by event.

    The result does not depend on how the server split or merged the deltas. Events of an unknown type
    change only `last_sequence`. Heartbeats, interval usage and the notices CAUGHT_UP and DRAINING do not
    change it: the server sends them to one reader, with the sequence of the event before them. Notices are
    not part of the answer: read them as events. The whole answer is in memory; the server limits its size
    (`max_output_tokens`, and the limit for one stream).

    With `text_before`, it builds the rest of an answer that begins with this text. The JSON answer is then
    `text_before` and the text of the rest together.
    """

    def __init__(
        self,
        stream_id: str = "",
        last_sequence: int = 0,
        *,
        is_json: bool = False,
        answer_type: AnswerType[Any] | None = None,
        text_before: str = "",
    ) -> None:
        self.stream_id = stream_id
        self.last_sequence = last_sequence
        """Sequence of the last event of the log, of any type. 0: none yet."""
        self.text_before = text_before
        """The text that this answer continues."""
        self.finished: Finished | None = None
        """The event `finished`. None: it has not been read."""
        self.json_result: JsonResult | None = None
        """Whether the JSON answer follows the schema. None: the event `json_result` has not been read."""
        self.partial_json = PartialJson()
        """The JSON answer as far as it is complete, if the request has `json_schema.stream_values`."""
        self._blocks: dict[tuple[int, str], _Block] = {}
        self._invalid_tool_calls: list[InvalidToolCall] = []
        self._citations: list[Citation] = []
        self._logprobs: list[Logprobs] = []
        self._model = ""
        self._provider = ""
        self._usage: Usage | None = None
        self._has_begun_call = False
        self._text: str | None = ""
        self._json_index: int | None = None
        self._json_text: str | None = None
        self._has_beginning = last_sequence <= 1  # the first event is `started`
        self._answer_type = answer_type
        self._is_json = is_json
        self._growing = _growing_json() if is_json and self._has_beginning else None
        self._growing_index: int | None = None
        self._growing_pieces = [text_before] if text_before else []
        self._commentary: set[int] = set()

    @property
    def has_content(self) -> bool:
        """Whether the answer has begun: with text, reasoning or a tool call."""
        return bool(self._blocks or self._invalid_tool_calls) or self._has_begun_call

    @property
    def text_so_far(self) -> str:
        """The text as far as it was read. The first access after a new piece copies the text."""
        if self._text is None:
            blocks = sorted(
                (each for each in self._blocks.values() if each.kind == "text"),
                key=lambda block: block.index,
            )
            self._text = "".join([block.text for block in blocks])
        return self._text

    @property
    def partial(self) -> Json:
        """The JSON answer as far as it was read: see `AsyncChatStream.partial`."""
        growing = self._growing
        if growing is None or self._json_index not in (None, self._growing_index):
            return self.partial_json.value
        if self._growing_pieces:
            growing.add("".join(self._growing_pieces))
            self._growing_pieces.clear()
        return growing.value if growing.is_readable else self.partial_json.value

    def of_same_kind(self) -> AnswerBuilder:
        """Return an empty builder for another answer to the same request."""
        return AnswerBuilder(
            is_json=self._is_json, answer_type=self._answer_type, text_before=self.text_before
        )

    def of_rest(self) -> AnswerBuilder:
        """Return an empty builder for the answer that continues this one."""
        text = (self.text_before + self.text_so_far).rstrip()
        return AnswerBuilder(is_json=self._is_json, answer_type=self._answer_type, text_before=text)

    def add(self, event: TokenEvent) -> None:
        """Add the next event of the stream."""
        kind = event.WhichOneof("event")
        match kind:
            case "text":
                text = event.text
                block = self._block(text.index, "text")
                block.pieces.append(text.text)
                block.provider_state = text.provider_state or block.provider_state
                self._text = None
                if self._growing is not None:
                    self._grow(text)
            case "reasoning":
                reasoning = event.reasoning
                block = self._block(reasoning.index, "reasoning")
                block.pieces.append(reasoning.text)
                block.signature = reasoning.signature or block.signature
                block.provider_state = reasoning.provider_state or block.provider_state
            case "tool_call_started" | "tool_call_delta":
                self._has_begun_call = True
            case "tool_call":
                block = self._block(event.tool_call.index, "tool_call")
                block.tool_call = event.tool_call.tool_call
            case "invalid_tool_call":
                self._invalid_tool_calls.append(event.invalid_tool_call)
            case "citation":
                self._citations.append(event.citation)
            case "logprobs":
                self._logprobs.append(event.logprobs)
            case "json_value":
                self._json_index = event.json_value.index
                with suppress(ValueError):  # it says nothing about the rest of the stream
                    self.partial_json.add(event.json_value)
            case "json_result":
                self.json_result = event.json_result
                if self._has_beginning:
                    self._json_text = self._text_of_json()
                    self.partial_json.complete(self._json_text)
            case "notice":
                self._model = event.notice.model or self._model
                self._provider = event.notice.provider or self._provider
            case "started":
                self.stream_id = event.started.stream_id
                self._model, self._provider = event.started.model, event.started.provider
            case "finished":
                self.finished = event.finished
            case "usage":
                self._usage = event.usage
                return
            case "heartbeat":
                return
        self.last_sequence = event.sequence

    def build(self) -> Answer[Any]:
        """Return the answer as far as it was read. Later events do not change it.

        The cost grows with the number of content blocks, not with their length: the text is joined only when
        it is accessed.
        """
        build = partial(
            _build,
            self.stream_id,
            [block.so_far() for block in self._blocks.values()],
            self.finished,
            self.json_result,
            (self._invalid_tool_calls, len(self._invalid_tool_calls)),
            (self._citations, len(self._citations)),
            (self._logprobs, len(self._logprobs)),
        )
        state = AnswerState(
            stream_id=self.stream_id,
            last_sequence=self.last_sequence,
            model=self._model,
            provider=self._provider,
            usage=self._usage,
            finished=self.finished,
            json_result=self.json_result,
            json_text=self._json_text,
            has_beginning=self._has_beginning,
            answer_type=self._answer_type,
            text_before=self.text_before,
        )
        return Answer(build, state)

    def explain(self, error: InvalidAnswer) -> None:
        """Set the text and the violations of an error to those that were read."""
        if self._has_beginning:
            error.text = self._text_of_json()
        if self.json_result is not None:
            error.violations = violations_of(self.json_result)

    def _text_of_json(self) -> str:
        """Return the text of the JSON answer, or all text if no value was found in it."""
        if self._json_index is None:
            return self.text_so_far
        block = self._blocks.get((self._json_index, "text"))
        return "" if block is None else block.text

    def _grow(self, delta: TextDelta) -> None:
        """Keep the text of the first text block that is neither blank nor a commentary: it is the JSON."""
        if delta.phase == TEXT_PHASE_COMMENTARY:
            self._commentary.add(delta.index)
        if (
            self._growing_index is None
            and delta.index not in self._commentary
            and (self.text_before or delta.text.strip())
        ):
            self._growing_index = delta.index
        if delta.index == self._growing_index:
            self._growing_pieces.append(delta.text)

    def _block(self, index: int, kind: str) -> _Block:
        block = self._blocks.get((index, kind))
        if block is None:
            block = self._blocks[index, kind] = _Block(index, kind)
        return block


def _build(
    stream_id: str,
    blocks: Sequence[_BlockSoFar],
    finished: Finished | None,
    json_result: JsonResult | None,
    invalid_tool_calls: tuple[list[InvalidToolCall], int],
    citations: tuple[list[Citation], int],
    logprobs: tuple[list[Logprobs], int],
) -> ChatResponse:
    """Return an answer as `Chat` would return it. Of each list, use as many elements as given with it."""
    parts = [block.to_part() for block in sorted(blocks, key=lambda block: block.ordinal)]
    return ChatResponse(
        stream_id=stream_id,
        message=Message(role=ROLE_ASSISTANT, parts=[part for part in parts if part is not None]),
        finished=finished,
        invalid_tool_calls=invalid_tool_calls[0][: invalid_tool_calls[1]],
        citations=citations[0][: citations[1]],
        logprobs=logprobs[0][: logprobs[1]],
        json_result=json_result,
    )


def _growing_json() -> GrowingJson:
    """Return the parser of a JSON answer. Its module is imported on first use."""
    from .growing_json import GrowingJson

    return GrowingJson()
