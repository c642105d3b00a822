"""Parsing and checking of the parts of messages."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable

from tokenwire.v1 import chat_pb2, event_pb2

from ..chats.violations import quoted
from ..providers.state import MAX_STATE_BYTES
from ..request import (
    Audio,
    Document,
    Image,
    Part,
    Reasoning,
    Role,
    Text,
    ToolCall,
    ToolResult,
)
from .schema import json_object_fault

_MEDIA_TYPE = re.compile(r"image/[a-zA-Z0-9.+-]{1,64}")

DOCUMENT_MEDIA_TYPES = ("application/pdf", "text/plain")
AUDIO_MEDIA_TYPES = ("audio/wav", "audio/mpeg")
MAX_TITLE_CHARS = 512
MAX_RESULT_PARTS = 100

_UTF8_DECODER = codecs.getincrementaldecoder("utf-8")
_PIECE_BYTES = 64 * 1024

_PARTS_OF_RESULT = frozenset({"text", "image", "document"})
_PARTS_OF_ROLE: dict[Role, frozenset[str]] = {
    "system": frozenset({"text"}),
    "user": frozenset({"text", "image", "document", "audio"}),
    "assistant": frozenset({"text", "reasoning", "tool_call"}),
    "tool": frozenset({"tool_result"}),
}


class PartsParser:
    """Parses parts. `report` gets the path and the text of each violation."""

    def __init__(self, report: Callable[[str, str], None]) -> None:
        self._report = report

    def part(self, proto: chat_pb2.Part, role: Role | None, path: str) -> Part | None:
        """Return the part, or None if it is empty or its kind is not allowed for the role."""
        kind = proto.WhichOneof("content")
        if kind is None:
            kinds = ", ".join(field.name for field in proto.DESCRIPTOR.oneofs[0].fields)
            self._report(path, f"is empty: one of {kinds}")
            return None
        if role is not None and kind not in _PARTS_OF_ROLE[role]:
            allowed = ", ".join(sorted(_PARTS_OF_ROLE[role]))
            self._report(
                f"{path}.{kind}", f"is not allowed in a message of role {role}, only {allowed}"
            )
            return None
        if proto.provider_state and kind != "text":
            self._report(f"{path}.provider_state", "is only for parts of kind text")
        hint = proto.cache_hint
        match kind:
            case "text":
                # A part of an answer may be quoted in another message. Its state means nothing there.
                state = self._state(proto, path) if role == "assistant" else None
                if not proto.text and not state:
                    self._report(f"{path}.text", "is empty")
                return Text(proto.text, hint, state)
            case "image":
                return self._image(proto.image, hint, f"{path}.image")
            case "document":
                return self._document(proto.document, hint, f"{path}.document")
            case "audio":
                return self._audio(proto.audio, hint, f"{path}.audio")
            case "tool_call":
                return self._tool_call(proto.tool_call, hint, f"{path}.tool_call")
            case "tool_result":
                return self._tool_result(proto.tool_result, hint, f"{path}.tool_result")
            case "reasoning":
                reasoning = proto.reasoning
                state = self._state(reasoning, f"{path}.reasoning")
                if not reasoning.text and not reasoning.signature and not state:
                    self._report(f"{path}.reasoning", "is empty")
                return Reasoning(reasoning.text, reasoning.signature, hint, state)

    def _image(self, proto: chat_pb2.Image, hint: bool, path: str) -> Image:
        match proto.WhichOneof("source"):
            case "uri":
                if not proto.uri.startswith(("https://", "http://")):
                    self._report(
                        f"{path}.uri", "must begin with https:// or http://; send files as data"
                    )
                if proto.media_type:
                    self._report(f"{path}.media_type", "is only allowed with data, not with uri")
            case "data":
                if not proto.data:
                    self._report(f"{path}.data", "is empty")
                if not proto.media_type:
                    self._report(f"{path}.media_type", 'is required with data, such as "image/png"')
                elif not _MEDIA_TYPE.fullmatch(proto.media_type):
                    what = f'{quoted(proto.media_type)} is not an image type, such as "image/png"'
                    self._report(f"{path}.media_type", what)
            case None:
                self._report(path, "needs uri or data")
        return Image(proto.uri, proto.data, proto.media_type, hint)

    def _document(self, proto: chat_pb2.Document, hint: bool, path: str) -> Document:
        match proto.WhichOneof("source"):
            case "uri":
                if not proto.uri.startswith("https://"):
                    self._report(f"{path}.uri", "must begin with https://; send files as data")
                if proto.media_type:
                    self._report(f"{path}.media_type", "is only allowed with data, not with uri")
            case "data":
                self._check_data(proto, path, DOCUMENT_MEDIA_TYPES)
                if proto.media_type == "text/plain" and not _is_utf8(proto.data):
                    self._report(f"{path}.data", "is not UTF-8 text")
            case None:
                self._report(path, "needs uri or data")
        if len(proto.title) > MAX_TITLE_CHARS:
            self._report(f"{path}.title", f"is longer than {MAX_TITLE_CHARS} characters")
        return Document(proto.uri, proto.data, proto.media_type, proto.title, hint)

    def _audio(self, proto: chat_pb2.Audio, hint: bool, path: str) -> Audio:
        self._check_data(proto, path, AUDIO_MEDIA_TYPES)
        return Audio(proto.data, proto.media_type, hint)

    def _check_data(
        self, proto: chat_pb2.Document | chat_pb2.Audio, path: str, media_types: tuple[str, ...]
    ) -> None:
        if not proto.data:
            self._report(f"{path}.data", "is empty")
        if proto.media_type not in media_types:
            self._report(f"{path}.media_type", f"must be one of {', '.join(media_types)}")

    def _tool_result(self, proto: chat_pb2.ToolResult, hint: bool, path: str) -> ToolResult:
        if not proto.tool_call_id:
            self._report(f"{path}.tool_call_id", "is required")
        parts: list[Text | Image | Document] = []
        if len(proto.parts) > MAX_RESULT_PARTS:
            what = f"has {len(proto.parts)}; at most {MAX_RESULT_PARTS} are allowed"
            self._report(f"{path}.parts", what)
        for i, piece in enumerate(proto.parts[:MAX_RESULT_PARTS]):
            path_of_part = f"{path}.parts[{i}]"
            if piece.WhichOneof("content") not in _PARTS_OF_RESULT:
                allowed = ", ".join(sorted(_PARTS_OF_RESULT))
                self._report(path_of_part, f"must be one of {allowed}")
                continue
            if piece.cache_hint:
                self._report(f"{path_of_part}.cache_hint", "set it on the tool result's own part")
            part = self.part(piece, None, path_of_part)
            if isinstance(part, Text | Image | Document):
                parts.append(part)
        return ToolResult(proto.tool_call_id, proto.text, proto.is_error, hint, tuple(parts))

    def _state(
        self, proto: chat_pb2.Part | chat_pb2.Reasoning | event_pb2.ToolCall, path: str
    ) -> bytes | None:
        """Return the provider state of a part, or None if it has none."""
        if len(proto.provider_state) > MAX_STATE_BYTES:
            self._report(f"{path}.provider_state", f"is longer than {MAX_STATE_BYTES} bytes")
        return proto.provider_state or None

    def _tool_call(self, proto: event_pb2.ToolCall, hint: bool, path: str) -> ToolCall:
        if not proto.id:
            self._report(f"{path}.id", "is required")
        if not proto.name:
            self._report(f"{path}.name", "is required")
        arguments = proto.arguments_json or "{}"
        if fault := json_object_fault(arguments):
            self._report(f"{path}.arguments_json", fault)
        return ToolCall(proto.id, proto.name, arguments, hint, self._state(proto, path))


def _is_utf8(data: bytes) -> bool:
    """Return whether data is UTF-8. Decodes a piece at a time: the text of a document may take 4 times as
    much memory.
    """
    decoder = _UTF8_DECODER()
    try:
        for start in range(0, len(data), _PIECE_BYTES):
            decoder.decode(data[start : start + _PIECE_BYTES])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True
