"""Building of complete answers from events."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from tokenwire.v1 import chat_pb2

from ..events import (
    CaughtUp,
    Citation,
    DrainNotice,
    Finished,
    Heartbeat,
    InvalidToolCall,
    JsonResult,
    JsonValue,
    Logprobs,
    Notice,
    ReaderEvent,
    ReasoningDelta,
    Started,
    TextDelta,
    TextInfo,
    ToolCall,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)
from .codec import (
    citation_message,
    finished_message,
    invalid_tool_call_message,
    json_result_message,
    logprobs_message,
    tool_call_message,
)

MAX_ANSWER_BYTES = 64 * 2**20
"""The largest bound on the answer of Chat that the settings allow."""
UNCOUNTED_ITEMS = 1000
ITEM_BYTES = 512
"""Size that is counted for each block, citation and invalid call of an answer, after the first
UNCOUNTED_ITEMS. It takes that much memory, even if its content is one character."""


class AnswerBuilder:
    """Builds a ChatResponse from a stream's events: one part for each content block, in order.

    Content beyond `max_bytes` is counted, not kept.
    """

    def __init__(self, max_bytes: int = MAX_ANSWER_BYTES) -> None:
        self._max_bytes = max_bytes
        self._text: dict[int, bytearray] = {}  # UTF-8
        self._parts: dict[int, chat_pb2.Part] = {}
        self._besides = chat_pb2.ChatResponse()  # what the answer has besides its message
        self._items = 0
        self.content_bytes = 0
        """Size of the content so far, with that of ITEM_BYTES. The message of a usual answer is larger."""

    @property
    def is_too_large(self) -> bool:
        """Whether the content exceeds `max_bytes`. There is no response then."""
        return self.content_bytes > self._max_bytes

    def add(self, events: Iterable[ReaderEvent]) -> None:
        """Add the next events."""
        for event in events:
            match event:
                case TextDelta():
                    self._append(event.index, event.text)
                case TextInfo():
                    part = self._part(event.index)
                    part.provider_state = event.provider_state or part.provider_state
                    self.content_bytes += len(event.provider_state)
                case ReasoningDelta():
                    reasoning = self._part(event.index, is_reasoning=True).reasoning
                    self._append(event.index, event.text)
                    reasoning.signature = event.signature or reasoning.signature
                    reasoning.provider_state = event.provider_state or reasoning.provider_state
                    self.content_bytes += len(event.signature) + len(event.provider_state)
                case ToolCall():
                    part = chat_pb2.Part(tool_call=tool_call_message(event))
                    self._parts[event.index] = part
                    self._count_item(part.ByteSize())
                case InvalidToolCall():  # the provider would refuse it in the next request
                    invalid = invalid_tool_call_message(event)
                    self._besides.invalid_tool_calls.append(invalid)
                    self._count_item(invalid.ByteSize())
                case Citation():
                    citation = citation_message(event)
                    self._besides.citations.append(citation)
                    self._count_item(citation.ByteSize())
                case Logprobs():
                    logprobs = logprobs_message(event)
                    self._besides.logprobs.append(logprobs)
                    self.content_bytes += logprobs.ByteSize()
                case JsonResult():
                    result = json_result_message(event)
                    self._besides.json_result.CopyFrom(result)
                    self.content_bytes += result.ByteSize()
                case Started():
                    self._besides.stream_id = event.stream_id
                case Finished():
                    self._besides.finished.CopyFrom(finished_message(event))
                case ToolCallStarted() | ToolCallDelta():
                    pass  # the complete call follows, unless the answer was cut off
                case JsonValue():
                    pass  # the text has it
                case Notice() | Usage() | Heartbeat() | CaughtUp() | DrainNotice():
                    pass  # not part of the answer
        if self.is_too_large:
            self._text.clear()
            self._parts.clear()
            self._besides.Clear()

    def response(self) -> chat_pb2.ChatResponse:
        """Return the complete answer of a finished stream. Empty blocks are left out."""
        for index, text in self._text.items():
            part = self._parts[index]
            # protobuf accepts bytes for a string, but its stubs do not.
            if part.WhichOneof("content") == "text":
                part.text = cast("str", bytes(text))
            else:
                part.reasoning.text = cast("str", bytes(text))
        response = chat_pb2.ChatResponse(
            message=chat_pb2.Message(
                role=chat_pb2.ROLE_ASSISTANT,
                parts=[part for _, part in sorted(self._parts.items()) if not _is_empty(part)],
            ),
        )
        response.MergeFrom(self._besides)
        return response

    def _part(self, index: int, *, is_reasoning: bool = False) -> chat_pb2.Part:
        part = self._parts.get(index)
        if part is None:
            part = (
                chat_pb2.Part(reasoning=chat_pb2.Reasoning())
                if is_reasoning
                else chat_pb2.Part(text="")
            )
            self._parts[index] = part
            self._count_item(0)
        return part

    def _count_item(self, byte_count: int) -> None:
        self._items += 1
        self.content_bytes += byte_count + (ITEM_BYTES if self._items > UNCOUNTED_ITEMS else 0)

    def _append(self, index: int, text: str) -> None:
        self._part(index)
        utf8 = text.encode()
        self._text.setdefault(index, bytearray()).extend(utf8)
        self.content_bytes += len(utf8)


def _is_empty(part: chat_pb2.Part) -> bool:
    match part.WhichOneof("content"):
        case "text":
            return not part.text and not part.provider_state
        case "reasoning":
            return not part.reasoning.ByteSize()
    return False
