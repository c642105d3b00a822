"""Parsing and checking of the parts of messages."""

from __future__ import annotations

import re
from collections.abc import Callable

from tokenwire.v1 import chat_pb2, event_pb2

from ..chats.violations import quoted
from ..request import Image, Part, Reasoning, Role, Text, ToolCall, ToolResult
from .schema import json_object_fault

_MEDIA_TYPE = re.compile(r"image/[a-zA-Z0-9.+-]{1,64}")

_PARTS_OF_ROLE: dict[Role, frozenset[str]] = {
    "system": frozenset({"text"}),
    "user": frozenset({"text", "image"}),
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
            self._report(path, "is empty: one of text, image, tool_call, tool_result, reasoning")
            return None
        if role is not None and kind not in _PARTS_OF_ROLE[role]:
            allowed = ", ".join(sorted(_PARTS_OF_ROLE[role]))
            self._report(
                f"{path}.{kind}", f"is not allowed in a message of role {role}, only {allowed}"
            )
            return None
        hint = proto.cache_hint
        match kind:
            case "text":
                if not proto.text:
                    self._report(f"{path}.text", "is empty")
                return Text(proto.text, hint)
            case "image":
                return self._image(proto.image, hint, f"{path}.image")
            case "tool_call":
                return self._tool_call(proto.tool_call, hint, f"{path}.tool_call")
            case "tool_result":
                result = proto.tool_result
                if not result.tool_call_id:
                    self._report(f"{path}.tool_result.tool_call_id", "is required")
                return ToolResult(result.tool_call_id, result.text, result.is_error, hint)
            case "reasoning":
                if not proto.reasoning.text and not proto.reasoning.signature:
                    self._report(f"{path}.reasoning", "is empty")
                return Reasoning(proto.reasoning.text, proto.reasoning.signature, hint)

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

    def _tool_call(self, proto: event_pb2.ToolCall, hint: bool, path: str) -> ToolCall:
        if not proto.id:
            self._report(f"{path}.id", "is required")
        if not proto.name:
            self._report(f"{path}.name", "is required")
        arguments = proto.arguments_json or "{}"
        if fault := json_object_fault(arguments):
            self._report(f"{path}.arguments_json", fault)
        return ToolCall(proto.id, proto.name, arguments, hint)
