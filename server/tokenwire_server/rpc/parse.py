"""Parsing of chat requests: a checked ChatRequest, or its violations, each with its path.

Requests are not parsed in gRPC's deserializer, because its errors are UNKNOWN with the text of Python.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Generator
from typing import TypeVar

from google.protobuf.message import DecodeError

from tokenwire.v1 import chat_pb2

from ..chats.violations import Violations, quoted
from ..config import Limits
from ..content.choice import compiled_schema
from ..content.structured.schema_graph import SchemaRefused
from ..request import (
    ChatRequest,
    GrammarFormat,
    JsonFormat,
    JsonSchemaFormat,
    Part,
    RegexFormat,
    ResponseFormat,
    Role,
    Tool,
    ToolChoice,
)
from ..request import Message as ChatMessage
from ..turns import Turns
from .generation import NO_SETTINGS, GenerationParser
from .options import OptionsParser, plain
from .parts import PartsParser
from .schema import check_json_schema
from .wire import STEP_FIELDS, check_size, count_fields, malformed, too_many_fields

MAX_MODEL_CHARS = 256
MAX_FALLBACKS = 8
MAX_MESSAGES = 10_000
MAX_PARTS = 10_000
MAX_TOOLS = 512
MAX_PATTERN_CHARS = 65_536
MAX_GRAMMAR_CHARS = 262_144

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


_ROLES: dict[int, Role] = {
    chat_pb2.ROLE_SYSTEM: "system",
    chat_pb2.ROLE_USER: "user",
    chat_pb2.ROLE_ASSISTANT: "assistant",
    chat_pb2.ROLE_TOOL: "tool",
}

_TOKEN_COUNTING = frozenset(chat_pb2.TokenCounting.values())

_MAX_UNCOUNTED_FIELDS = 32 * 1024
"""Parsing so many takes 5 ms at most: requests of 64 KiB and less need not be counted."""
_FIELDS_OF_PART = 4
"""Cost of checking one part, as the number of fields that can be counted in the same time."""
_BYTES_OF_FIELD = 256
"""Bytes that can be copied in the time of counting one field."""
_MAX_WAITING_REQUESTS = 32
"""Requests of `max_request_fields` each that may wait to be parsed, some 3 s of work. The waiting tenants
share this number. A tenant that has used its share gets OVERLOADED."""

Result = TypeVar("Result")
Parsed = tuple[ChatRequest, Violations]
Steps = Generator[int, None, Parsed]
"""Work in steps of a few milliseconds, between which other tasks can run. Each step yields an upper bound
of the remaining work; the unit is the time of counting one field."""


class ChatRequestParser:
    """Parses chat requests without blocking the event loop for long. Belongs to one event loop."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._turns = Turns(
            max_waiting=_MAX_WAITING_REQUESTS * limits.max_request_fields,
            refusal="too many large requests wait to be parsed",
        )

    async def parse(self, data: bytes, tenant: str) -> Parsed:
        """Parse like parse_chat_request. Requests that take more than one step are parsed in turns.

        Also raises Overloaded. Cancellation leaves nothing behind.
        """
        steps = parse_steps(data, self._limits)
        try:
            work = next(steps)
        except StopIteration as done:
            return _parsed(done)
        async with self._turns.turn(tenant, work):
            while True:
                await asyncio.sleep(0)
                try:
                    next(steps)
                except StopIteration as done:
                    return _parsed(done)


def parse_chat_request(data: bytes, limits: Limits) -> Parsed:
    """Return a request and its violations. If there are any, the request must not be used.

    Raises InvalidRequest at once for bytes that are not a ChatRequest, for too many fields, and for more
    violations than are listed.
    """
    steps = parse_steps(data, limits)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return _parsed(done)


def _yielding(
    steps: Generator[None, None, Result], remaining: Callable[[], int]
) -> Generator[int, None, Result]:
    """Run a generator. Yield the remaining work after each of its steps, and return its result."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            result: Result = done.value
            return result
        yield remaining()


def _parsed(done: StopIteration) -> Parsed:
    parsed: Parsed = done.value
    return parsed


def parse_steps(data: bytes, limits: Limits) -> Steps:
    """Parse like parse_chat_request, in steps."""
    kind = chat_pb2.ChatRequest
    check_size(kind.DESCRIPTOR, data, limits.max_request_bytes, limit_name="max_request_bytes")
    fields = 0  # a small request is not counted: each field takes at least 2 bytes
    if len(data) // 2 > min(_MAX_UNCOUNTED_FIELDS, limits.max_request_fields):
        counting = count_fields(kind.DESCRIPTOR, data, limits.max_request_fields)
        fields = yield from _yielding(counting, lambda: limits.max_request_fields)
    proto = kind()
    try:
        proto.ParseFromString(data)
    except DecodeError:
        raise malformed(kind.DESCRIPTOR.full_name) from None
    parser = _Parser(limits, fields, copy_work=len(data) // _BYTES_OF_FIELD)
    request = yield from parser.request(proto)
    return request, parser.violations


class _Parser:
    """Collects violations while it walks a request."""

    def __init__(self, limits: Limits, fields: int, *, copy_work: int) -> None:
        self.violations = Violations()
        self._report = self.violations.add
        self._max_fields = limits.max_request_fields
        self._fields = fields
        self._copy_work = copy_work
        self._work = 0
        self._options = OptionsParser(limits, self._report)
        self._parts = PartsParser(self._report)
        self._generation = GenerationParser(self.violations)

    def _ends_step(self, work: int) -> bool:
        """Add work to the current step; return whether the step is over."""
        self._work += work
        if self._work < STEP_FIELDS:
            return False
        self._work = 0
        return True

    @property
    def _remaining(self) -> int:
        """An upper bound of the remaining work."""
        return self._fields + self._copy_work

    def _take_fields(self, count: int, path: str) -> None:
        """Count the nodes of a JSON text, which are not fields on the wire. Raises InvalidRequest."""
        self._fields += count
        if self._fields > self._max_fields:
            self.violations.all_found = False
            self.violations.insert(0, too_many_fields(path, self._max_fields).violations[0])
            raise self.violations.error()

    def request(self, proto: chat_pb2.ChatRequest) -> Generator[int, None, ChatRequest]:
        model = proto.model
        if not model:
            self._report("model", "is required: provider/model, or an alias")
        elif len(model) > MAX_MODEL_CHARS:
            self._report("model", f"is longer than {MAX_MODEL_CHARS} characters")
            model = ""
        copy_work = self._fields + self._copy_work  # and hashing
        if self._ends_step(copy_work):
            yield self._remaining
        request_id, body_hash = self._options.request_id(proto)
        if body_hash and self._ends_step(copy_work):
            yield self._remaining
        messages = yield from self._messages(proto)
        generation = (
            self._generation.generation(proto.generation)
            if proto.HasField("generation")
            else NO_SETTINGS
        )
        tools = yield from self._tools(proto)
        tool_choice = self._tool_choice(proto) if proto.HasField("tool_choice") else None
        response_format = self._response_format(proto.response_format)
        provider_options = yield from _yielding(
            plain(proto.provider_options), lambda: self._remaining
        )
        delivery = self._options.delivery(proto.delivery)
        retention = self._options.retention(proto.retention)
        budget = self._options.budget(proto.budget)
        if proto.HasField("cache") and self._ends_step(copy_work):
            yield self._remaining
        return ChatRequest(
            model=model,
            fallback_models=self._fallback_models(proto),
            messages=messages,
            generation=generation,
            tools=tools,
            tool_choice=tool_choice,
            response_format=response_format,
            provider_options=provider_options,
            delivery=delivery,
            retention=retention,
            budget=budget,
            cache=self._options.cache(proto),
            request_id=request_id,
            labels=self._options.labels(proto.labels),
            asks_provider=self._asks_provider(proto),
            body_hash=body_hash,
        )

    def _fallback_models(self, proto: chat_pb2.ChatRequest) -> tuple[str, ...]:
        names = tuple(proto.fallback_models)
        if len(names) > MAX_FALLBACKS:
            self._report(
                "fallback_models", f"has {len(names)}; at most {MAX_FALLBACKS} are allowed"
            )
            return ()
        for index, name in enumerate(names):
            path = f"fallback_models[{index}]"
            if not name:
                self._report(path, "is empty: provider/model, or an alias, is required")
            elif len(name) > MAX_MODEL_CHARS:
                self._report(path, f"is longer than {MAX_MODEL_CHARS} characters")
            elif name == proto.model or name in names[:index]:
                self._report(path, f"repeats {quoted(name)}")
        return names

    def _asks_provider(self, proto: chat_pb2.ChatRequest) -> bool:
        if proto.token_counting not in _TOKEN_COUNTING:
            self._report("token_counting", f"{proto.token_counting} is not a choice")
        return proto.token_counting == chat_pb2.TOKEN_COUNTING_PROVIDER

    def _messages(
        self, proto: chat_pb2.ChatRequest
    ) -> Generator[int, None, tuple[ChatMessage, ...]]:
        if not proto.messages:
            self._report("messages", "is required")
        if len(proto.messages) > MAX_MESSAGES:
            self._report(
                "messages", f"has {len(proto.messages)}; at most {MAX_MESSAGES} are allowed"
            )
            return ()
        if sum(len(message.parts) for message in proto.messages) > MAX_PARTS:
            self._report("messages", f"has more than {MAX_PARTS} parts in total")
            return ()
        messages: list[ChatMessage] = []
        for i, message in self.violations.checking(proto.messages):
            path = f"messages[{i}]"
            role = _ROLES.get(message.role)
            if role is None:
                self._report(f"{path}.role", "is required: one of SYSTEM, USER, ASSISTANT, TOOL")
            if not message.parts and role != "assistant":
                self._report(f"{path}.parts", "is required")
            parts: list[Part] = []
            for j, piece in self.violations.checking(message.parts):
                part = self._parts.part(piece, role, f"{path}.parts[{j}]")
                if part is not None:
                    parts.append(part)
                if self._ends_step(_FIELDS_OF_PART * (1 + len(piece.tool_result.parts))):
                    yield self._remaining
            messages.append(ChatMessage(role or "user", tuple(parts)))
        return tuple(messages)

    def _tools(self, proto: chat_pb2.ChatRequest) -> Generator[int, None, tuple[Tool, ...]]:
        if len(proto.tools) > MAX_TOOLS:
            self._report("tools", f"has {len(proto.tools)}; at most {MAX_TOOLS} are allowed")
            return ()
        seen: set[str] = set()
        for i, tool in self.violations.checking(proto.tools):
            path = f"tools[{i}]"
            if not _NAME.fullmatch(tool.name):
                self._report(f"{path}.name", "must be 1 to 64 of a-z A-Z 0-9 _ -")
            elif tool.name in seen:
                self._report(f"{path}.name", f"{quoted(tool.name)} is given twice")
            seen.add(tool.name)
            if tool.parameters_json_schema:
                path = f"{path}.parameters_json_schema"
                nodes = self._check_schema(tool.parameters_json_schema, path, of_type="object")
                if self._ends_step(_FIELDS_OF_PART * nodes):
                    yield self._remaining
        return tuple(
            Tool(tool.name, tool.description, tool.parameters_json_schema) for tool in proto.tools
        )

    def _tool_choice(self, proto: chat_pb2.ChatRequest) -> ToolChoice:
        choice = proto.tool_choice
        if not proto.tools:
            self._report("tool_choice", "needs tools")
        named = choice.mode == chat_pb2.TOOL_CHOICE_MODE_TOOL
        if choice.mode not in chat_pb2.ToolChoiceMode.values():
            self._report("tool_choice.mode", f"{choice.mode} is not a mode")
        if choice.tool_name and not named:
            self._report("tool_choice.tool_name", "is only allowed with TOOL_CHOICE_MODE_TOOL")
        if named and proto.tools and choice.tool_name not in {tool.name for tool in proto.tools}:
            self._report(
                "tool_choice.tool_name",
                f"{quoted(choice.tool_name)} is not one of the request's tools",
            )
        parallel = choice.parallel if choice.HasField("parallel") else None
        match choice.mode:
            case chat_pb2.TOOL_CHOICE_MODE_NONE:
                return ToolChoice("none", parallel=parallel)
            case chat_pb2.TOOL_CHOICE_MODE_REQUIRED:
                return ToolChoice("required", parallel=parallel)
            case chat_pb2.TOOL_CHOICE_MODE_TOOL:
                return ToolChoice("tool", choice.tool_name, parallel)
            case _:
                return ToolChoice("auto", parallel=parallel)

    def _response_format(self, proto: chat_pb2.ResponseFormat) -> ResponseFormat | None:
        match proto.WhichOneof("format"):
            case "json":
                return JsonFormat()
            case "json_schema":
                path = "response_format.json_schema"
                schema = proto.json_schema
                if not _NAME.fullmatch(schema.name):
                    self._report(f"{path}.name", "must be 1 to 64 of a-z A-Z 0-9 _ -")
                before = len(self.violations)
                self._check_schema(schema.schema_json, f"{path}.schema_json")
                is_schema = len(self.violations) == before
                return self._json_schema_format(schema, path, is_schema=is_schema)
            case "regex":
                pattern = proto.regex.pattern
                self._check_length(pattern, "response_format.regex.pattern", MAX_PATTERN_CHARS)
                return RegexFormat(pattern)
            case "grammar":
                grammar = proto.grammar.definition
                self._check_length(grammar, "response_format.grammar.definition", MAX_GRAMMAR_CHARS)
                return GrammarFormat(grammar)
            case _:
                return None

    def _json_schema_format(
        self, proto: chat_pb2.JsonSchemaFormat, path: str, *, is_schema: bool
    ) -> JsonSchemaFormat:
        fails_if_invalid = proto.on_invalid == chat_pb2.ON_INVALID_FAIL
        if proto.on_invalid not in chat_pb2.OnInvalid.values():
            self._report(f"{path}.on_invalid", f"{proto.on_invalid} is not a value of OnInvalid")
        elif fails_if_invalid and not proto.stream_values:
            self._report(f"{path}.on_invalid", "needs stream_values")
        elif proto.stream_values and is_schema:
            try:
                compiled_schema(proto.schema_json)
            except SchemaRefused as refused:
                self._report(f"{path}.schema_json", f"cannot be used with stream_values: {refused}")
        return JsonSchemaFormat(
            proto.name,
            proto.schema_json,
            proto.strict,
            proto.stream_values,
            "fail" if fails_if_invalid else "report",
        )

    def _check_length(self, text: str, path: str, most: int) -> None:
        if not text:
            self._report(path, "is required")
        elif len(text) > most:
            self._report(path, f"is longer than {most} characters")

    def _check_schema(self, text: str, path: str, *, of_type: str | None = None) -> int:
        """Check a JSON Schema; return how many nodes it has. Raises InvalidRequest."""
        fault, nodes = check_json_schema(text, of_type=of_type)
        if fault:
            self._report(path, fault)
        self._take_fields(nodes, path)
        return nodes
