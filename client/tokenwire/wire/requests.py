"""Building a ChatRequest from what is convenient to write."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, Literal, TypedDict, TypeVar, Unpack

from google.protobuf.message import Message as ProtoMessage
from google.protobuf.struct_pb2 import Struct

from tokenwire.v1.chat_pb2 import (
    ON_DISCONNECT_CANCEL,
    ON_DISCONNECT_CONTINUE,
    Budget,
    CacheOptions,
    ChatRequest,
    DeliveryOptions,
    GenerationConfig,
    ResponseFormat,
    ResumeStreamRequest,
    RetentionOptions,
    Tool,
    ToolChoice,
)

from ..messages import MessageLike, to_messages

LINGER_S = 30.0
"""How long a resumable stream runs on without its reader, unless its request has another linger."""

DeliveryLike = DeliveryOptions | Mapping[str, object]
"""How a reader wants to be served: see `options.delivery`."""

_ProtoT = TypeVar("_ProtoT", bound=ProtoMessage)

_BUDGET_FIELDS: tuple[Literal["max_cost_microusd", "max_input_tokens"], ...] = (
    "max_cost_microusd",
    "max_input_tokens",
)


class RequestFields(TypedDict, total=False):
    """Fields of ChatRequest, as keywords. A mapping stands for the message with those fields."""

    generation: GenerationConfig | Mapping[str, object]
    tools: Iterable[Tool | Mapping[str, object]]
    tool_choice: ToolChoice | Mapping[str, object]
    response_format: ResponseFormat | Mapping[str, object]
    delivery: DeliveryLike
    retention: RetentionOptions | Mapping[str, object]
    budget: Budget | Mapping[str, object]
    max_cost_microusd: int | None
    """`budget.max_cost_microusd`: most that the stream may cost, in millionths of a US dollar."""
    max_input_tokens: int | None
    """`budget.max_input_tokens`."""
    cache: CacheOptions | Mapping[str, object]
    request_id: str
    labels: Mapping[str, str]
    """Copied to the stream's usage record; the provider does not see them."""
    provider_options: Struct | Mapping[str, Any]


def build_request(
    model: str | ChatRequest,
    messages: MessageLike | Iterable[MessageLike] | None = None,
    **fields: Unpack[RequestFields],
) -> ChatRequest:
    """The request for a model and a conversation, or the given request as it is.

    Only what the server cannot see is checked here; what a provider takes, the server says.

    Raises:
        TypeError, ValueError: the arguments do not make a ChatRequest.
    """
    if isinstance(model, ChatRequest):
        if messages is not None or fields:
            raise TypeError("a ChatRequest is sent as it is: give no messages or fields with it")
        return model
    if messages is None:
        raise TypeError("messages are missing")
    unknown = fields.keys() - RequestFields.__annotations__.keys()
    if unknown:
        raise TypeError(f"ChatRequest has no field {', '.join(sorted(unknown))}")
    request = ChatRequest(model=model, messages=to_messages(messages))
    if "generation" in fields:
        request.generation.CopyFrom(_as(GenerationConfig, fields["generation"]))
    if "tools" in fields:
        request.tools.extend(_as(Tool, tool) for tool in fields["tools"])
    if "tool_choice" in fields:
        request.tool_choice.CopyFrom(_as(ToolChoice, fields["tool_choice"]))
    if "response_format" in fields:
        request.response_format.CopyFrom(_as(ResponseFormat, fields["response_format"]))
    if "delivery" in fields:
        request.delivery.CopyFrom(_as(DeliveryOptions, fields["delivery"]))
    if "retention" in fields:
        request.retention.CopyFrom(_as(RetentionOptions, fields["retention"]))
    if "budget" in fields:
        request.budget.CopyFrom(_as(Budget, fields["budget"]))
    for name in _BUDGET_FIELDS:
        if (most := fields.get(name)) is not None:
            if request.budget.HasField(name):
                raise ValueError(f"{name} stands in the budget too: give it once")
            setattr(request.budget, name, most)
    if "cache" in fields:
        request.cache.CopyFrom(_as(CacheOptions, fields["cache"]))
    if "request_id" in fields:
        request.request_id = fields["request_id"]
    if "labels" in fields:
        request.labels.update(fields["labels"])
    if "provider_options" in fields:
        options = fields["provider_options"]
        if isinstance(options, Struct):
            request.provider_options.CopyFrom(options)
        else:
            request.provider_options.update(dict(options))
    return request


def outliving_its_readers(request: ChatRequest) -> ChatRequest:
    """A copy that asks to CONTINUE without readers, for `LINGER_S` unless the request says how long.

    Raises:
        ValueError: the request asks for CANCEL, which contradicts it.
    """
    if request.retention.on_disconnect == ON_DISCONNECT_CANCEL:
        raise ValueError(
            "a stream that is cancelled when its reader leaves cannot be resumed: "
            "ask for no CANCEL, or give resumable=False"
        )
    copy = ChatRequest()
    copy.CopyFrom(request)
    copy.retention.on_disconnect = ON_DISCONNECT_CONTINUE
    if not copy.retention.HasField("linger"):
        copy.retention.linger.FromTimedelta(timedelta(seconds=LINGER_S))
    return copy


def linger_s(request: ChatRequest) -> float:
    """How long the request asks the stream to go on without a reader, in seconds."""
    return request.retention.linger.ToTimedelta().total_seconds()


def build_resume(
    stream_id: str, after_sequence: int, delivery: DeliveryLike | None
) -> ResumeStreamRequest:
    """The request to read a stream from a cursor.

    Raises:
        TypeError, ValueError: the arguments do not make a ResumeStreamRequest.
    """
    return ResumeStreamRequest(
        stream_id=stream_id,
        after_sequence=after_sequence,
        delivery=None if delivery is None else _as(DeliveryOptions, delivery),
    )


def _as(kind: type[_ProtoT], value: _ProtoT | Mapping[str, object]) -> _ProtoT:
    return kind(**value) if isinstance(value, Mapping) else value
