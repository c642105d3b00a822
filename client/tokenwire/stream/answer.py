"""What a stream has said so far, put together from its events. Pure: no I/O, no gRPC."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tokenwire.v1.chat_pb2 import ROLE_ASSISTANT, ChatResponse, Message, Part, Reasoning
from tokenwire.v1.event_pb2 import Finished, TokenEvent, ToolCall

STREAM_ID_KEY = "tokenwire-stream-id"
"""Key of the stream's id in initial metadata."""

_MADE_FOR_ONE_READER = frozenset({"heartbeat", "usage"})


def stream_id_in(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """The stream's id in a call's initial metadata, or "" when it was refused."""
    for key, value in metadata:
        if key == STREAM_ID_KEY:
            return value if isinstance(value, str) else value.decode("ascii", "replace")
    return ""


@dataclass(slots=True)
class _Block:
    """One content block: pieces of text, of reasoning, or of a tool call's arguments."""

    kind: str
    pieces: list[str] = field(default_factory=list)
    signature: str = ""
    tool_call_id: str = ""
    tool_name: str = ""
    whole_tool_call: ToolCall | None = None

    def to_part(self) -> Part | None:
        """The part of a message, or None while there is nothing in it."""
        text = "".join(self.pieces)
        match self.kind:
            case "text":
                return Part(text=text) if text else None
            case "reasoning":
                if not text and not self.signature:
                    return None
                return Part(reasoning=Reasoning(text=text, signature=self.signature))
        return Part(
            tool_call=self.whole_tool_call
            or ToolCall(id=self.tool_call_id, name=self.tool_name, arguments_json=text)
        )


class Answer:
    """An answer as it grows.

    How the server cut or joined the deltas makes no difference to it. Events of a type unknown here
    change nothing but `last_sequence`; heartbeats and running usage, which the server makes for one
    reader and keeps in no log, not even that. It holds the whole answer in memory; the server bounds that
    (`max_output_tokens`, and its limit for one stream).
    """

    def __init__(self, stream_id: str = "", last_sequence: int = 0) -> None:
        self.stream_id = stream_id
        self.last_sequence = last_sequence
        """Sequence of the last event of the stream's log, whatever its type. 0: none came yet."""
        self.finished: Finished | None = None
        """How the stream ended. None: it has not, or not deliberately."""
        self._blocks: dict[tuple[int, str], _Block] = {}

    def add(self, event: TokenEvent) -> None:
        """Take the next event of the stream."""
        kind = event.WhichOneof("event")
        if kind in _MADE_FOR_ONE_READER:
            return
        self.last_sequence = event.sequence
        match kind:
            case "text":
                self._block(event.text.index, "text").pieces.append(event.text.text)
            case "reasoning":
                block = self._block(event.reasoning.index, "reasoning")
                block.pieces.append(event.reasoning.text)
                block.signature = event.reasoning.signature or block.signature
            case "tool_call_delta":
                delta = event.tool_call_delta
                self._block(delta.index, "tool_call").pieces.append(delta.arguments_json)
            case "tool_call_started":
                started = event.tool_call_started
                block = self._block(started.index, "tool_call")
                block.tool_call_id, block.tool_name = started.id, started.name
            case "tool_call":
                block = self._block(event.tool_call.index, "tool_call")
                block.whole_tool_call = event.tool_call.tool_call
            case "started":
                self.stream_id = event.started.stream_id
            case "finished":
                self.finished = event.finished

    def message(self) -> Message:
        """The assistant's message so far, parts in the order of their blocks.

        A tool call that is not complete yet holds the arguments that came so far: no valid JSON,
        not to be called. Once the answer has finished, a call that was cut off in it is left out.
        """
        blocks = sorted(self._blocks.items(), key=lambda item: item[0][0])
        parts = (
            block.to_part()
            for _, block in blocks
            if self.finished is None or block.kind != "tool_call" or block.whole_tool_call
        )
        return Message(role=ROLE_ASSISTANT, parts=[part for part in parts if part is not None])

    def response(self) -> ChatResponse:
        """The answer as `Chat` would have returned it. `finished` is unset if it is."""
        return ChatResponse(
            stream_id=self.stream_id, message=self.message(), finished=self.finished
        )

    def _block(self, index: int, kind: str) -> _Block:
        block = self._blocks.get((index, kind))
        if block is None:
            block = self._blocks[index, kind] = _Block(kind)
        return block
