"""A chat request as Tokenwire understands it: validated, and free of any transport.

Indexes are those of the caller's request, so that a path such as `messages[2].parts[0]` means the
same on both sides.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Role = Literal["system", "user", "assistant", "tool"]
Effort = Literal["none", "minimal", "low", "medium", "high"]


class Violation(msgspec.Struct, frozen=True):
    """One thing wrong with a request."""

    field: str
    """Path of the field, such as `messages[2].parts[0].image.media_type`."""
    description: str


class Text(msgspec.Struct, frozen=True):
    text: str
    cache_hint: bool = False


class Image(msgspec.Struct, frozen=True):
    """Exactly one of `uri` and `data` is set; `media_type` comes with `data`."""

    uri: str = ""
    data: bytes = b""
    media_type: str = ""
    cache_hint: bool = False


class ToolCall(msgspec.Struct, frozen=True):
    id: str
    name: str
    arguments_json: str
    """Text of a JSON object, checked. Hand it on as text or as `msgspec.Raw`, never re-encoded:
    decoding would change large numbers."""
    cache_hint: bool = False


class ToolResult(msgspec.Struct, frozen=True):
    tool_call_id: str
    text: str
    is_error: bool = False
    cache_hint: bool = False


class Reasoning(msgspec.Struct, frozen=True):
    text: str
    signature: str = ""
    cache_hint: bool = False


Part = Text | Image | ToolCall | ToolResult | Reasoning


class Message(msgspec.Struct, frozen=True):
    """The kinds of part that stand in it fit its role (proto: Role)."""

    role: Role
    parts: tuple[Part, ...]


class Generation(msgspec.Struct, frozen=True):
    """None: the caller said nothing, and the provider's default holds."""

    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    stop_sequences: tuple[str, ...] = ()
    reasoning_effort: Effort | None = None
    reasoning_budget_tokens: int | None = None


class Tool(msgspec.Struct, frozen=True):
    name: str
    description: str
    parameters_json_schema: str
    """Text of a JSON schema of type object, checked. Empty: no arguments."""


class ToolChoice(msgspec.Struct, frozen=True):
    """`tool_name` is set with mode "tool" only."""

    mode: Literal["auto", "none", "required", "tool"]
    tool_name: str = ""


class JsonFormat(msgspec.Struct, frozen=True):
    """Any JSON object."""


class JsonSchemaFormat(msgspec.Struct, frozen=True):
    name: str
    schema_json: str
    strict: bool = False


class Delivery(msgspec.Struct, frozen=True):
    """How one reader is served. Seconds; None: never."""

    heartbeat_s: float | None = None
    """Longest silence."""
    usage_s: float | None = None


class Retention(msgspec.Struct, frozen=True):
    """What happens to a stream without readers. Seconds."""

    linger_s: float | None = None
    """How long it goes on without a reader. None: it is cancelled when the last one leaves."""
    log_ttl_s: float = 0.0
    """How long it stays readable after its end."""
    soft_deadline_margin_s: float | None = None


class CacheUse(msgspec.Struct, frozen=True):
    """How a request uses the response cache."""

    key: bytes
    """The same for two requests that ask the same."""
    ttl_s: float
    """How old an answer may be to be replayed, and how long this one's may be kept."""
    read: bool
    """An answer may be replayed; otherwise one is only kept."""


class Budget(msgspec.Struct, frozen=True):
    """What one request may take. None: as much as it needs."""

    max_cost_microusd: int | None = None
    max_input_tokens: int | None = None


class ChatRequest(msgspec.Struct, frozen=True):
    model: str
    """As the caller wrote it: `provider/model` or an alias."""
    messages: tuple[Message, ...]
    generation: Generation = Generation()
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    response_format: JsonFormat | JsonSchemaFormat | None = None
    """None: text."""
    provider_options: dict[str, Any] = {}
    """For the top level of the provider's request body."""
    delivery: Delivery = Delivery()
    retention: Retention = Retention()
    budget: Budget = Budget()
    cache: CacheUse | None = None
    request_id: str = ""
    labels: dict[str, str] = {}
    """For the stream's usage record."""
    asks_provider: bool = False
    """Who wants its tokens counted wants the provider to count them."""
    body_hash: bytes = b""
    """Of all that two requests with one `request_id` must share; set with it only."""
