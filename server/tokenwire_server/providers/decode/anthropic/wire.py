"""The wire format of Anthropic's stream of events, as far as it is read.

https://platform.claude.com/docs/en/api/messages and the types of the `anthropic` SDK.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from .... import events
from ....events import Refusal
from .. import lenient
from ..base import MAX_NAME_CHARS
from ..json import join_surrogates, loads
from ..lenient import JsonText, Prose
from .usage import Usage

MAX_EXPLANATION_CHARS = 2000
"""Maximum length of the explanation of a refusal."""


class StopDetails(msgspec.Struct, gc=False):
    """Why the provider refused."""

    category: str | None = None
    explanation: str | None = None

    def refusal(self) -> Refusal | None:
        """Return why the provider refused, or None if it does not say why."""
        if not self.category and not self.explanation:
            return None
        return Refusal(
            join_surrogates((self.category or "")[:MAX_NAME_CHARS]),
            join_surrogates((self.explanation or "")[:MAX_EXPLANATION_CHARS]),
        )


class Citation(msgspec.Struct, gc=False):
    """A source of a piece of a text block. `type` determines which other fields are set."""

    type: str = ""
    cited_text: str | None = None
    document_index: Annotated[int, msgspec.Meta(ge=0, lt=2**31)] | None = None
    document_title: str | None = None
    source: str | None = None
    title: str | None = None
    url: str | None = None

    @property
    def has_source(self) -> bool:
        return bool(self.cited_text or self.url or self.source) or self.document_index is not None

    def event(self, index: int) -> events.Citation:
        """Return the citation as an event. The provider sends no offsets in the answer."""
        return events.Citation(
            index,
            _CITATION_KINDS.get(self.type, events.CitationKind.UNSPECIFIED),
            cited_text=self.cited_text or "",
            url=self.url or self.source or "",
            title=self.title or self.document_title or "",
            document_index=self.document_index,
        )


_CITATION_KINDS = {
    "char_location": events.CitationKind.DOCUMENT,
    "page_location": events.CitationKind.DOCUMENT,
    "content_block_location": events.CitationKind.DOCUMENT,
    "web_search_result_location": events.CitationKind.SEARCH_RESULT,
    "search_result_location": events.CitationKind.SEARCH_RESULT,
}


class Delta(msgspec.Struct, gc=False):
    """A delta of a block (`content_block_delta`) or of the message (`message_delta`)."""

    type: str = ""
    text: Prose | None = None
    thinking: Prose | None = None
    signature: str | None = None
    partial_json: JsonText | None = None
    citation: Citation | None = None
    content: str | None = None
    encrypted_content: str | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None
    stop_details: StopDetails | None = None


class Model(msgspec.Struct, gc=False):
    model: str | None = None


class Block(msgspec.Struct, gc=False):
    type: str = ""
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw = msgspec.Raw(b"{}")
    caller: msgspec.Raw = msgspec.Raw(b"{}")
    """The tool that makes a tool call, if it is not the model itself."""
    text: Prose | None = None
    thinking: Prose | None = None
    signature: str | None = None
    data: str | None = None
    citations: list[Citation] | None = None
    to: Model | None = None
    """The model that continues the answer after a fallback."""


class Message(msgspec.Struct, gc=False):
    id: str | None = None
    model: str | None = None
    usage: Usage | None = None


class Event(msgspec.Struct, gc=False):
    """An event of any type. `type` determines which other fields are set."""

    type: str = ""
    index: int | None = None
    delta: Delta | None = None
    content_block: Block | None = None
    message: Message | None = None
    usage: Usage | None = None


_KNOWN_EVENTS = frozenset(
    {"message_start", "message_delta", "message_stop", "error"}
    | {"content_block_start", "content_block_delta", "content_block_stop"}
)
_KNOWN_BLOCKS = frozenset({"text", "thinking", "redacted_thinking", "tool_use", "fallback"})
_DELTA_FIELDS = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "signature_delta": "signature",
    "input_json_delta": "partial_json",
    "citations_delta": "citation",
    "compaction_delta": "content",
}
"""The field of each type of delta that is read."""

_events = msgspec.json.Decoder(Event)


def read_event(payload: bytes) -> Event:
    """Decode one event. Raises msgspec.ValidationError if a field has another type than it should.

    Raises msgspec.DecodeError if it is not JSON.
    """
    return loads(_events, payload)


def read_odd_event(payload: bytes, name: str) -> tuple[Event, str]:
    """Decode an event whose fields are not all of the right types, or that has no type.

    `name` is the event's name outside of its data. Types that are missing are determined by what else
    there is. Fields of an event, a delta or a block of an unknown type may have other types than those
    defined here, so of them only the type is returned. Also returns what could not be read, for the log.
    Raises msgspec.DecodeError.
    """
    event, unreadable = lenient.read(_events, payload)
    if not event.type.isidentifier():
        event.type = name or _type_of_event(event)
    if event.type not in _KNOWN_EVENTS:
        return Event(event.type), ""
    delta, block = event.delta, event.content_block
    if delta is not None and event.type == "content_block_delta":
        if not delta.type.isidentifier():
            delta.type = type_of_delta(delta)
        if delta.type not in _DELTA_FIELDS:
            return Event(event.type, event.index, delta=Delta(delta.type)), ""
    if block is not None and event.type == "content_block_start":
        if not block.type.isidentifier():
            block.type = type_of_block(block)
        if block.type and block.type not in _KNOWN_BLOCKS:
            return Event(event.type, event.index, content_block=Block(block.type)), ""
    return event, unreadable


def _type_of_event(event: Event) -> str:
    if event.message is not None:
        return "message_start"
    if event.content_block is not None:
        return "content_block_start"
    if event.delta is not None:
        return "content_block_delta" if type_of_delta(event.delta) else "message_delta"
    return ""


def type_of_delta(delta: Delta) -> str:
    """Return the type of a delta without a type, or "" if it has none of the fields of a known type."""
    for type_, field in _DELTA_FIELDS.items():
        if getattr(delta, field) is not None:
            return type_
    return ""


def type_of_block(block: Block) -> str:
    """Return the type of a block without a type, or "" if it has none of the fields of a known type."""
    if block.name:
        return "tool_use"
    if block.data:
        return "redacted_thinking"
    if block.thinking is not None:
        return "thinking"
    return "text" if block.text is not None else ""
