"""The caller's bytes as a checked ChatRequest, or every violation at once, each with its path.

Requests are parsed here and not in gRPC's deserializer, whose errors say UNKNOWN with Python's text.
"""

from __future__ import annotations

import math
import re
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message
from google.protobuf.struct_pb2 import Struct, Value

from tokenwire.v1 import chat_pb2, event_pb2

from ..config import Limits
from ..errors import InvalidRequest
from ..request import (
    ChatRequest,
    Effort,
    Generation,
    Image,
    JsonFormat,
    JsonSchemaFormat,
    Part,
    Reasoning,
    Role,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Violation,
)
from ..request import Message as ChatMessage
from .options import OptionsParser
from .schema import json_object_fault, json_schema_fault

MAX_MODEL_CHARS = 256
MAX_MESSAGES = 10_000
MAX_PARTS = 10_000
MAX_TOOLS = 512
MAX_STOP_SEQUENCES = 16
MIN_REASONING_BUDGET_TOKENS = 1024
MAX_TOKENS = 2**31 - 1

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_MEDIA_TYPE = re.compile(r"image/[a-zA-Z0-9.+-]{1,64}")

_ROLES: dict[int, Role] = {
    chat_pb2.ROLE_SYSTEM: "system",
    chat_pb2.ROLE_USER: "user",
    chat_pb2.ROLE_ASSISTANT: "assistant",
    chat_pb2.ROLE_TOOL: "tool",
}
_PARTS_OF_ROLE: dict[Role, frozenset[str]] = {
    "system": frozenset({"text"}),
    "user": frozenset({"text", "image"}),
    "assistant": frozenset({"text", "reasoning", "tool_call"}),
    "tool": frozenset({"tool_result"}),
}
_EFFORTS: dict[int, Effort] = {
    chat_pb2.REASONING_EFFORT_NONE: "none",
    chat_pb2.REASONING_EFFORT_MINIMAL: "minimal",
    chat_pb2.REASONING_EFFORT_LOW: "low",
    chat_pb2.REASONING_EFFORT_MEDIUM: "medium",
    chat_pb2.REASONING_EFFORT_HIGH: "high",
}

M = TypeVar("M", bound=Message)


def parse_message(kind: type[M], data: bytes, *, max_bytes: int) -> M:
    """Bytes as a message of the proto. Raises InvalidRequest, with "" as the path of the whole."""
    if len(data) > max_bytes:
        raise InvalidRequest(
            [Violation("", f"the request has {len(data)} bytes; this server takes {max_bytes}")]
        )
    message = kind()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise InvalidRequest(
            [Violation("", f"not a {kind.DESCRIPTOR.full_name}, or text that is not UTF-8")]
        ) from error
    return message


def parse_chat_request(data: bytes, limits: Limits) -> tuple[ChatRequest, list[Violation]]:
    """A request and what is wrong with it. Only without violations is the request fit for use.

    Raises InvalidRequest at once for bytes that are no ChatRequest at all.
    """
    proto = parse_message(chat_pb2.ChatRequest, data, max_bytes=limits.max_request_bytes)
    parser = _Parser(limits)
    return parser.request(proto), parser.violations


class _Parser:
    """Collects violations while it walks a request."""

    def __init__(self, limits: Limits) -> None:
        self.violations: list[Violation] = []
        self._options = OptionsParser(limits, self.wrong)

    def wrong(self, field: str, description: str) -> None:
        self.violations.append(Violation(field, description))

    def request(self, proto: chat_pb2.ChatRequest) -> ChatRequest:
        if not proto.model:
            self.wrong("model", "is required: provider/model, or an alias")
        elif len(proto.model) > MAX_MODEL_CHARS:
            self.wrong("model", f"is longer than {MAX_MODEL_CHARS} characters")
        request_id, body_hash = self._options.request_id(proto)
        return ChatRequest(
            model=proto.model,
            messages=self._messages(proto),
            generation=self._generation(proto.generation),
            tools=self._tools(proto),
            tool_choice=self._tool_choice(proto) if proto.HasField("tool_choice") else None,
            response_format=self._response_format(proto.response_format),
            provider_options=plain(proto.provider_options),
            delivery=self._options.delivery(proto.delivery),
            retention=self._options.retention(proto.retention),
            budget=self._options.budget(proto.budget),
            cache=self._options.cache(proto),
            request_id=request_id,
            labels=self._options.labels(proto.labels),
            asks_provider=self._asks_provider(proto),
            body_hash=body_hash,
        )

    def _asks_provider(self, proto: chat_pb2.ChatRequest) -> bool:
        if proto.token_counting not in chat_pb2.TokenCounting.values():
            self.wrong("token_counting", f"{proto.token_counting} is no such choice")
        return proto.token_counting == chat_pb2.TOKEN_COUNTING_PROVIDER

    def _messages(self, proto: chat_pb2.ChatRequest) -> tuple[ChatMessage, ...]:
        if not proto.messages:
            self.wrong("messages", "is required")
        if len(proto.messages) > MAX_MESSAGES:
            self.wrong("messages", f"has {len(proto.messages)}; at most {MAX_MESSAGES} are taken")
            return ()
        if sum(len(message.parts) for message in proto.messages) > MAX_PARTS:
            self.wrong("messages", f"have more than {MAX_PARTS} parts together")
            return ()
        messages: list[ChatMessage] = []
        for i, message in enumerate(proto.messages):
            path = f"messages[{i}]"
            role = _ROLES.get(message.role)
            if role is None:
                self.wrong(f"{path}.role", "is required: one of SYSTEM, USER, ASSISTANT, TOOL")
            if not message.parts:
                self.wrong(f"{path}.parts", "is required")
            parts = tuple(
                part
                for j, piece in enumerate(message.parts)
                if (part := self._part(piece, role, f"{path}.parts[{j}]")) is not None
            )
            messages.append(ChatMessage(role or "user", parts))
        return tuple(messages)

    def _part(self, proto: chat_pb2.Part, role: Role | None, path: str) -> Part | None:
        kind = proto.WhichOneof("content")
        if kind is None:
            self.wrong(path, "is empty: one of text, image, tool_call, tool_result, reasoning")
            return None
        if role is not None and kind not in _PARTS_OF_ROLE[role]:
            allowed = ", ".join(sorted(_PARTS_OF_ROLE[role]))
            self.wrong(
                f"{path}.{kind}", f"cannot stand in a message of role {role}, only {allowed}"
            )
            return None
        hint = proto.cache_hint
        match kind:
            case "text":
                if not proto.text:
                    self.wrong(f"{path}.text", "is empty")
                return Text(proto.text, hint)
            case "image":
                return self._image(proto.image, hint, f"{path}.image")
            case "tool_call":
                return self._tool_call(proto.tool_call, hint, f"{path}.tool_call")
            case "tool_result":
                result = proto.tool_result
                if not result.tool_call_id:
                    self.wrong(f"{path}.tool_result.tool_call_id", "is required")
                return ToolResult(result.tool_call_id, result.text, result.is_error, hint)
            case "reasoning":
                if not proto.reasoning.text and not proto.reasoning.signature:
                    self.wrong(f"{path}.reasoning", "is empty")
                return Reasoning(proto.reasoning.text, proto.reasoning.signature, hint)

    def _image(self, proto: chat_pb2.Image, hint: bool, path: str) -> Image:
        match proto.WhichOneof("source"):
            case "uri":
                if not proto.uri.startswith(("https://", "http://")):
                    self.wrong(
                        f"{path}.uri", "must begin with https:// or http://; send files as data"
                    )
                if proto.media_type:
                    self.wrong(f"{path}.media_type", "goes with data, not with uri")
            case "data":
                if not proto.data:
                    self.wrong(f"{path}.data", "is empty")
                if not _MEDIA_TYPE.fullmatch(proto.media_type):
                    self.wrong(f"{path}.media_type", 'is required with data, such as "image/png"')
            case None:
                self.wrong(path, "needs uri or data")
        return Image(proto.uri, proto.data, proto.media_type, hint)

    def _tool_call(self, proto: event_pb2.ToolCall, hint: bool, path: str) -> ToolCall:
        if not proto.id:
            self.wrong(f"{path}.id", "is required")
        if not proto.name:
            self.wrong(f"{path}.name", "is required")
        arguments = proto.arguments_json or "{}"
        if fault := json_object_fault(arguments):
            self.wrong(f"{path}.arguments_json", fault)
        return ToolCall(proto.id, proto.name, arguments, hint)

    def _generation(self, proto: chat_pb2.GenerationConfig) -> Generation:
        path = "generation"
        stops = tuple(proto.stop_sequences)
        if len(stops) > MAX_STOP_SEQUENCES:
            self.wrong(
                f"{path}.stop_sequences",
                f"has {len(stops)}; at most {MAX_STOP_SEQUENCES} are taken",
            )
        for i, stop in enumerate(stops):
            if not stop:
                self.wrong(f"{path}.stop_sequences[{i}]", "is empty")
        reasoning = proto.reasoning
        if reasoning.effort and reasoning.effort not in _EFFORTS:
            self.wrong(f"{path}.reasoning.effort", f"{reasoning.effort} is no effort")
        return Generation(
            max_output_tokens=self._number(proto, "max_output_tokens", path, 1, MAX_TOKENS),
            temperature=self._number(proto, "temperature", path, 0, 2),
            top_p=self._number(proto, "top_p", path, 0, 1, above=True),
            top_k=self._number(proto, "top_k", path, 1, MAX_TOKENS),
            seed=self._number(proto, "seed", path, -(2**63), 2**63 - 1),
            presence_penalty=self._number(proto, "presence_penalty", path, -2, 2),
            frequency_penalty=self._number(proto, "frequency_penalty", path, -2, 2),
            stop_sequences=stops,
            reasoning_effort=_EFFORTS.get(reasoning.effort),
            reasoning_budget_tokens=self._number(
                reasoning,
                "budget_tokens",
                f"{path}.reasoning",
                MIN_REASONING_BUDGET_TOKENS,
                MAX_TOKENS,
            ),
        )

    def _number(
        self, proto: Message, name: str, path: str, low: int, high: int, *, above: bool = False
    ) -> Any:
        """An optional number within its bounds; `above` leaves the lower bound itself out."""
        if not proto.HasField(name):
            return None
        value = getattr(proto, name)
        if not low <= value <= high or (above and value == low):
            begin = f"above {low}" if above else f"{low}"
            self.wrong(f"{path}.{name}", f"is {value}; it must be {begin} to {high}")
        return value

    def _tools(self, proto: chat_pb2.ChatRequest) -> tuple[Tool, ...]:
        if len(proto.tools) > MAX_TOOLS:
            self.wrong("tools", f"has {len(proto.tools)}; at most {MAX_TOOLS} are taken")
            return ()
        seen: set[str] = set()
        for i, tool in enumerate(proto.tools):
            path = f"tools[{i}]"
            if not _NAME.fullmatch(tool.name):
                self.wrong(f"{path}.name", "must be 1 to 64 of a-z A-Z 0-9 _ -")
            elif tool.name in seen:
                self.wrong(f"{path}.name", f"{tool.name!r} stands here twice")
            seen.add(tool.name)
            if tool.parameters_json_schema:
                fault = json_schema_fault(tool.parameters_json_schema, of_type="object")
                if fault:
                    self.wrong(f"{path}.parameters_json_schema", fault)
        return tuple(
            Tool(tool.name, tool.description, tool.parameters_json_schema) for tool in proto.tools
        )

    def _tool_choice(self, proto: chat_pb2.ChatRequest) -> ToolChoice:
        choice = proto.tool_choice
        if not proto.tools:
            self.wrong("tool_choice", "needs tools")
        named = choice.mode == chat_pb2.TOOL_CHOICE_MODE_TOOL
        if choice.mode not in chat_pb2.ToolChoiceMode.values():
            self.wrong("tool_choice.mode", f"{choice.mode} is no mode")
        if choice.tool_name and not named:
            self.wrong("tool_choice.tool_name", "goes with TOOL_CHOICE_MODE_TOOL only")
        if named and proto.tools and choice.tool_name not in {tool.name for tool in proto.tools}:
            self.wrong(
                "tool_choice.tool_name", f"{choice.tool_name!r} is none of the request's tools"
            )
        match choice.mode:
            case chat_pb2.TOOL_CHOICE_MODE_NONE:
                return ToolChoice("none")
            case chat_pb2.TOOL_CHOICE_MODE_REQUIRED:
                return ToolChoice("required")
            case chat_pb2.TOOL_CHOICE_MODE_TOOL:
                return ToolChoice("tool", choice.tool_name)
            case _:
                return ToolChoice("auto")

    def _response_format(
        self, proto: chat_pb2.ResponseFormat
    ) -> JsonFormat | JsonSchemaFormat | None:
        match proto.WhichOneof("format"):
            case "json":
                return JsonFormat()
            case "json_schema":
                path = "response_format.json_schema"
                schema = proto.json_schema
                if not _NAME.fullmatch(schema.name):
                    self.wrong(f"{path}.name", "must be 1 to 64 of a-z A-Z 0-9 _ -")
                if fault := json_schema_fault(schema.schema_json):
                    self.wrong(f"{path}.schema_json", fault)
                return JsonSchemaFormat(schema.name, schema.schema_json, schema.strict)
            case _:
                return None


def plain(struct: Struct) -> dict[str, Any]:
    """A Struct as JSON values. Its numbers are doubles: whole ones become integers again."""
    return {key: _plain_value(value) for key, value in struct.fields.items()}


def _plain_value(value: Value) -> Any:
    match value.WhichOneof("kind"):
        case "number_value":
            number = value.number_value
            return int(number) if math.isfinite(number) and number == int(number) else number
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return plain(value.struct_value)
        case "list_value":
            return [_plain_value(item) for item in value.list_value.values]
        case _:
            return None
