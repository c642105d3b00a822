"""Requests of ChatService, from the arguments of the clients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any, Literal, Unpack, cast

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

from .._checks import check_int, check_labels, check_list, check_type
from ..messages import MessageLike, ModelDump
from ..structured.answer_type import AnswerType, answer_type_of
from .generation import GenerationFields, add_generation
from .mappings import message_of
from .spelling import refuse_unknown
from .styles import to_messages, to_response_format, to_tool, to_tool_choice

LINGER_S = 30.0
"""How long a resumable stream continues without a reader, unless its request has another `linger`."""

DeliveryLike = DeliveryOptions | Mapping[str, object]
"""Delivery options: see `tokenwire.delivery`."""

ResponseFormatLike = ResponseFormat | Mapping[str, object] | ModelDump
"""The format of an answer, such as `tokenwire.json_format(...)`. Also in the style of OpenAI."""

ToolChoiceName = Literal["auto", "none", "required"]

ToolLike = Tool | Mapping[str, object] | ModelDump | Callable[..., object]
"""A tool: see `tokenwire.tool`, and `tokenwire.function_tool` for Python functions. Also in the style of
OpenAI or Anthropic."""

_BUDGET_FIELDS: tuple[Literal["max_cost_microusd", "max_input_tokens"], ...] = (
    "max_cost_microusd",
    "max_input_tokens",
)

_OPTIONS = (
    "max_concurrency",
    "max_retries",
    "max_rounds",
    "on_tool_error",
    "timeout",
    "tool_timeout",
)
"""Arguments of the clients' methods that are not fields, to suggest them for misspelled names."""


class RunFields(GenerationFields, total=False):
    """Fields that are the same in all requests of a run with tools: see FieldsWithoutFormat."""

    generation: GenerationConfig | Mapping[str, object]
    tool_choice: ToolChoice | Mapping[str, object] | ModelDump | ToolChoiceName
    """Also in the style of OpenAI or Anthropic."""
    delivery: DeliveryLike
    retention: RetentionOptions | Mapping[str, object]
    budget: Budget | Mapping[str, object]
    max_input_tokens: int | None
    """`budget.max_input_tokens`: largest number of input tokens."""
    cache: CacheOptions | Mapping[str, object]
    fallback_models: Iterable[str]
    """Models that are tried in this order if the model fails before it has sent anything."""
    request_id: str
    labels: Mapping[str, str]
    """Copied to the usage record of the stream. They are not sent to the provider."""
    provider_options: Struct | Mapping[str, Any]


class FieldsWithoutFormat(RunFields, total=False):
    """Fields of ChatRequest and of its `generation` as keyword arguments, without `response_format`.

    A mapping is converted to the message of the field. In a mapping, an enum's value may be a short name,
    such as "high" for REASONING_EFFORT_HIGH.
    """

    tools: Iterable[ToolLike]
    max_cost_microusd: int | None
    """`budget.max_cost_microusd`: largest cost of the stream, in millionths of a US dollar."""


class RequestFields(FieldsWithoutFormat, total=False):
    """Fields of ChatRequest as keyword arguments."""

    response_format: ResponseFormatLike | type[Any] | None
    """A format, such as `json_format(...)`, or the class of the answer. None: text."""


def build_request(
    model: str | ChatRequest,
    messages: MessageLike | Iterable[MessageLike] | None = None,
    **fields: Unpack[RequestFields],
) -> ChatRequest:
    """Return the request for a model and a conversation, or a given request unchanged.

    The server checks the values. This function checks only what the server cannot see.

    Raises:
        TypeError, ValueError: the arguments are not a valid ChatRequest.
        ImportError: `response_format` is a class that needs the extra `structured`.
    """
    if isinstance(model, ChatRequest):
        if messages is not None or fields:
            raise TypeError("a ChatRequest cannot be combined with messages or other fields")
        return model
    if messages is None:
        raise TypeError("messages are missing")
    check_names(fields)
    if model is not None:
        check_type(model, str, "model")
    request = ChatRequest(model=model, messages=to_messages(messages))
    if "generation" in fields:
        request.generation.CopyFrom(
            message_of(GenerationConfig, fields["generation"], "generation")
        )
    add_generation(request, fields)
    if "tools" in fields:
        tools = check_list(fields["tools"], "tools")
        request.tools.extend(to_tool(tool, f"tools[{i}]") for i, tool in enumerate(tools))
    if "tool_choice" in fields:
        request.tool_choice.CopyFrom(to_tool_choice(fields["tool_choice"]))
    if (response_format := fields.get("response_format")) is not None:
        request.response_format.CopyFrom(_response_format(response_format))
    if "delivery" in fields:
        request.delivery.CopyFrom(message_of(DeliveryOptions, fields["delivery"], "delivery"))
    if "retention" in fields:
        request.retention.CopyFrom(message_of(RetentionOptions, fields["retention"], "retention"))
    if "budget" in fields:
        request.budget.CopyFrom(message_of(Budget, fields["budget"], "budget"))
    for name in _BUDGET_FIELDS:
        if (most := fields.get(name)) is not None:
            if request.budget.HasField(name):
                raise ValueError(f"{name} is given twice, also in the budget")
            check_int(most, name)
            setattr(request.budget, name, most)
    if "cache" in fields:
        request.cache.CopyFrom(message_of(CacheOptions, fields["cache"], "cache"))
    if "fallback_models" in fields:
        for model in check_list(fields["fallback_models"], "fallback_models"):
            request.fallback_models.append(check_type(model, str, "fallback_models"))
    if "request_id" in fields:
        request.request_id = check_type(fields["request_id"], str, "request_id")
    if "labels" in fields:
        request.labels.update(check_labels(fields["labels"]))
    if "provider_options" in fields:
        options = fields["provider_options"]
        if isinstance(options, Struct):
            request.provider_options.CopyFrom(options)
        else:
            request.provider_options.update(dict(check_type(options, Mapping, "provider_options")))
    return request


def check_names(fields: Mapping[str, object]) -> None:
    """Check that each keyword is a field of a request.

    Raises:
        TypeError: a keyword is unknown. The error suggests the right one.
    """
    refuse_unknown(fields, RequestFields.__optional_keys__, _OPTIONS)


def conversation_fields(model: str, fields: RequestFields) -> RequestFields:
    """Return the fields for all requests of a conversation, in a form that can be reused.

    Raises:
        TypeError, ValueError: a field is not valid, or belongs to a single request.
    """
    if fields.get("request_id"):
        raise TypeError("request_id: belongs to a single request; give it to chat or chat_stream")
    copy = repeatable(fields)
    build_request(model, (), **copy)
    return copy


def repeatable(fields: RequestFields) -> RequestFields:
    """Return the fields with tuples in place of iterables, which may be readable only once."""
    copy = fields.copy()
    if "tools" in copy:
        copy["tools"] = tuple(copy["tools"])
    if "fallback_models" in copy:
        copy["fallback_models"] = tuple(copy["fallback_models"])
    if (stops := copy.get("stop_sequences")) is not None:
        copy["stop_sequences"] = stops if isinstance(stops, str) else tuple(stops)
    return copy


def request_and_type(
    model: str | ChatRequest,
    messages: MessageLike | Iterable[MessageLike] | None,
    response_format: ResponseFormatLike | type[Any] | None,
    **fields: Unpack[FieldsWithoutFormat],
) -> tuple[ChatRequest, AnswerType[Any] | None]:
    """Return the request, as `build_request` does, and the class of its answer if it has one."""
    if response_format is None:
        return build_request(model, messages, **fields), None
    request = build_request(model, messages, response_format=response_format, **fields)
    return request, answer_type_of(response_format)


def outliving_its_readers(request: ChatRequest) -> ChatRequest:
    """Return a copy with ON_DISCONNECT_CONTINUE, and with `LINGER_S` unless it has another linger.

    Raises:
        ValueError: the request has ON_DISCONNECT_CANCEL.
    """
    if request.retention.on_disconnect == ON_DISCONNECT_CANCEL:
        raise ValueError(
            "a stream with on_disconnect CANCEL cannot be resumable: remove it, or set resumable=False"
        )
    copy = ChatRequest()
    copy.CopyFrom(request)
    copy.retention.on_disconnect = ON_DISCONNECT_CONTINUE
    if not copy.retention.HasField("linger"):
        copy.retention.linger.FromTimedelta(timedelta(seconds=LINGER_S))
    return copy


def outlives_its_readers(request: ChatRequest) -> bool:
    """Return whether the generation continues for a time after its last reader has left."""
    return request.retention.on_disconnect == ON_DISCONNECT_CONTINUE


def linger_s(request: ChatRequest) -> float:
    """Return the linger of the request: how long the stream runs without a reader, in seconds."""
    return request.retention.linger.ToTimedelta().total_seconds()


def build_resume(
    stream_id: str, after_sequence: int, delivery: DeliveryLike | None
) -> ResumeStreamRequest:
    """Return the request to read a stream from a cursor.

    Raises:
        TypeError, ValueError: the arguments are not a valid ResumeStreamRequest.
    """
    if not isinstance(stream_id, str):
        raise TypeError(
            f"stream_id must be a str, not {type(stream_id).__name__}; "
            "pass a cursor as resume(*cursor)"
        )
    return ResumeStreamRequest(
        stream_id=stream_id,
        after_sequence=check_int(after_sequence, "after_sequence"),
        delivery=None if delivery is None else message_of(DeliveryOptions, delivery, "delivery"),
    )


def _response_format(value: ResponseFormatLike | type[Any]) -> ResponseFormat:
    if (kind := answer_type_of(value)) is not None:
        return kind.response_format
    return to_response_format(cast("ResponseFormatLike", value))
