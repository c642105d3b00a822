"""A validated chat request, independent of the transport.

Messages and parts have the same indexes as in the caller's request, so that a path such as
`messages[2].parts[0]` is valid for both.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Role = Literal["system", "user", "assistant", "tool"]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
ReasoningSummary = Literal["none", "auto", "concise", "detailed"]


class Violation(msgspec.Struct, frozen=True):
    """One invalid field of a request."""

    field: str
    """Path of the field, such as `messages[2].parts[0].image.media_type`."""
    description: str


class Text(msgspec.Struct, frozen=True):
    text: str
    """Empty only in a message of the assistant that came with a state. Do not send an empty text."""
    cache_hint: bool = False
    state: bytes | None = None
    """Provider state, see `providers.state`. None: there is none."""


class Image(msgspec.Struct, frozen=True):
    """An image. Exactly one of `uri` and `data` is set; `media_type` is set with `data`."""

    uri: str = ""
    data: bytes = b""
    media_type: str = ""
    cache_hint: bool = False


class Document(msgspec.Struct, frozen=True):
    """A PDF or a text. Exactly one of `uri` and `data` is set; `media_type` is set with `data`."""

    uri: str = ""
    data: bytes = b""
    media_type: str = ""
    """ "application/pdf" or "text/plain"; text is UTF-8, checked."""
    title: str = ""
    cache_hint: bool = False


class Audio(msgspec.Struct, frozen=True):
    data: bytes
    media_type: str
    """ "audio/wav" or "audio/mpeg"."""
    cache_hint: bool = False


class ToolCall(msgspec.Struct, frozen=True):
    id: str
    name: str
    arguments_json: str
    """A JSON object as text, checked. Pass it on as text or as `msgspec.Raw`: decoding and encoding it would
    change large numbers."""
    cache_hint: bool = False
    state: bytes | None = None
    """Provider state, see `providers.state`. None: there is none."""


class ToolResult(msgspec.Struct, frozen=True):
    tool_call_id: str
    text: str
    is_error: bool = False
    cache_hint: bool = False
    parts: tuple[Text | Image | Document, ...] = ()
    """More of the result, after `text`. Their cache hints are not set."""


class Reasoning(msgspec.Struct, frozen=True):
    text: str
    signature: str = ""
    cache_hint: bool = False
    state: bytes | None = None
    """Provider state, see `providers.state`. None: there is none."""


Part = Text | Image | Document | Audio | ToolCall | ToolResult | Reasoning


class Message(msgspec.Struct, frozen=True):
    """One message. All parts are of kinds that its role allows (see Role in the proto).

    Only a message of the assistant may have no parts. It is not sent.
    """

    role: Role
    parts: tuple[Part, ...]


class Generation(msgspec.Struct, frozen=True):
    """How to generate. A field is None if the caller did not set it; the provider's default then applies."""

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
    reasoning_summary: ReasoningSummary | None = None
    top_logprobs: int | None = None
    """Number of most likely tokens at each position, 0 to 20. None: no log probabilities."""
    service_tier: str = ""
    """Passed to the provider unchanged. Empty: the provider's default."""

    @property
    def asks_for_reasoning(self) -> bool:
        """Whether the caller asks the model to reason, in any of the three ways."""
        return (
            self.reasoning_effort not in (None, "none")
            or bool(self.reasoning_budget_tokens)
            or self.reasoning_summary not in (None, "none")
        )


class Tool(msgspec.Struct, frozen=True):
    name: str
    description: str
    parameters_json_schema: str
    """A JSON schema of type object as text, checked. Empty if the tool has no arguments."""


class ToolChoice(msgspec.Struct, frozen=True):
    """Whether the model must call a tool. `tool_name` is set only with mode "tool"."""

    mode: Literal["auto", "none", "required", "tool"]
    tool_name: str = ""
    parallel: bool | None = None
    """Whether the model may call several tools at once. None: the provider's default."""


class JsonFormat(msgspec.Struct, frozen=True):
    """Any JSON object."""


class JsonSchemaFormat(msgspec.Struct, frozen=True):
    name: str
    schema_json: str
    strict: bool = False
    stream_values: bool = False
    """Whether the stream also carries the values of the answer, and whether it follows the schema."""
    on_invalid: Literal["report", "fail"] = "report"
    """With `stream_values`: what an answer that does not follow the schema leads to."""


class RegexFormat(msgspec.Struct, frozen=True):
    pattern: str


class GrammarFormat(msgspec.Struct, frozen=True):
    definition: str


ResponseFormat = JsonFormat | JsonSchemaFormat | RegexFormat | GrammarFormat


class Delivery(msgspec.Struct, frozen=True):
    """How events are delivered to one reader."""

    heartbeat_s: float | None = None
    """A heartbeat is sent after this long without another event. None: no heartbeats."""
    usage_s: float | None = None
    """Interval of usage events. None: no usage events."""


class Retention(msgspec.Struct, frozen=True):
    """When a stream without readers is cancelled, and how long it stays readable."""

    linger_s: float | None = None
    """How long the stream continues without a reader. None: it is cancelled when the last one leaves."""
    log_ttl_s: float = 0.0
    """How long the stream stays readable after its end."""
    soft_deadline_margin_s: float | None = None
    """How long before the call's deadline the stream ends with TIME_LIMIT. None: it does not."""


class CacheUse(msgspec.Struct, frozen=True):
    """How a request uses the response cache."""

    key: bytes
    """Hash of the request. Equal for requests that may share an answer."""
    ttl_s: float
    """Maximum age of an answer that is replayed, and how long the answer to this request may be cached."""
    read: bool
    """Whether a cached answer may be replayed. Otherwise the answer to this request replaces it."""


class Budget(msgspec.Struct, frozen=True):
    """Limits on the cost and the size of one request. None: no limit."""

    max_cost_microusd: int | None = None
    max_input_tokens: int | None = None


class ChatRequest(msgspec.Struct, frozen=True):
    model: str
    """The model as the caller named it: `provider/model` or an alias."""
    messages: tuple[Message, ...]
    fallback_models: tuple[str, ...] = ()
    """Models that are tried in this order if `model` fails, named likewise. Empty: those of the
    configuration."""
    generation: Generation = Generation()
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    response_format: ResponseFormat | None = None
    """None for text."""
    provider_options: dict[str, Any] = {}
    """Keys for the top level of the provider's request body."""
    delivery: Delivery = Delivery()
    retention: Retention = Retention()
    budget: Budget = Budget()
    cache: CacheUse | None = None
    request_id: str = ""
    labels: dict[str, str] = {}
    """Labels for the stream's usage record."""
    asks_provider: bool = False
    """For CountTokens: whether the provider should count the tokens."""
    body_hash: bytes = b""
    """Hash of the fields that two requests with the same `request_id` must share. Set only with an id."""
