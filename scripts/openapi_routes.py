"""The routes of the edge in the OpenAPI document, with their parameters, responses and errors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from openapi_examples import CHAT_REQUESTS, CHAT_RESPONSE, EVENTS, LINES, STREAM_INFO
from openapi_schemas import Api

from tokenwire.http.problems import MEDIA_TYPE, STATUS_OF_REASON

API = Api()
STATUSES = STATUS_OF_REASON | {
    "BODY_TOO_LARGE": 413,
    "DEADLINE_EXCEEDED": 504,
    "NOT_ACCEPTABLE": 406,
    "REQUEST_TIMEOUT": 408,
    "TICKET_EXPIRED": 401,
    "TICKET_INVALID": 401,
    "UNAVAILABLE": 503,
    "UNKNOWN": 502,
    "UNSUPPORTED_MEDIA_TYPE": 415,
}
CALL = [
    "INVALID_REQUEST",
    "UNAUTHENTICATED",
    "INTERNAL",
    "UNKNOWN",
    "OVERLOADED",
    "STORE_UNAVAILABLE",
    "DRAINING",
    "UNAVAILABLE",
    "DEADLINE_EXCEEDED",
]
BODY = ["REQUEST_TIMEOUT", "BODY_TOO_LARGE", "UNSUPPORTED_MEDIA_TYPE"]
ADMISSION = [
    "BUDGET_EXCEEDED",
    "PERMISSION_DENIED",
    "UNKNOWN_MODEL",
    "REQUEST_ID_REUSED",
    "RATE_LIMITED",
    "TOO_MANY_STREAMS",
    "QUOTA_EXHAUSTED",
    "MODERATION_UNAVAILABLE",
]
UPSTREAM = [
    "CONTEXT_TOO_LONG",
    "UPSTREAM_REJECTED",
    "UPSTREAM_AUTH",
    "UPSTREAM_UNAVAILABLE",
    "UPSTREAM_RATE_LIMITED",
]
BROKEN = ["UPSTREAM_BROKEN", "UPSTREAM_STALLED", "ANSWER_UNCHECKED", "SERVER_STOPPED"]
CURSOR = ["STREAM_NOT_FOUND", "RESUME_POINT_EXPIRED", "RESUME_POINT_AHEAD"]

STREAM_ID = {
    "name": "stream_id",
    "in": "path",
    "required": True,
    "description": "`started.streamId`, or the header `Tokenwire-Stream-Id` of the response.",
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"},
}
TIMEOUT = {
    "name": "grpc-timeout",
    "in": "header",
    "description": "The longest time that the request may take: up to 8 digits and a unit, H, M, S, m "
    "(milliseconds), u or n.",
    "schema": {"type": "string", "pattern": "^[0-9]{1,8}[HMSmun]$", "examples": ["30S"]},
}
EVENT_STREAM = """\
An event for each TokenEvent: `event` is the name of its field in snake_case, `id` its sequence, and `data`
the TokenEvent. If the stream fails, the last event is `error`, with a Problem. A comment is sent if there is
no event for 10 seconds (edge setting)."""
JSON_LINES = """\
A line for each TokenEvent. If the stream fails, the last line is an object with `error`, a Problem."""
PLAIN_TEXT = "The text of the answer. If the stream fails, the response breaks off."
FORMATS = {
    "text/event-stream": (EVENT_STREAM, EVENTS),
    "application/x-ndjson": (JSON_LINES, LINES),
    "text/plain": (PLAIN_TEXT, "Hello there!"),
}


def paths() -> dict[str, Any]:
    """Return the operations of each path."""
    stream = "/v1/streams/{stream_id}"
    return {
        "/v1/chat/stream": {
            "post": operation(
                "Chat",
                "Start a stream and read its events",
                API.comment("ChatService/ChatStream"),
                parameters=[TIMEOUT],
                body=True,
                responses={200: event_responses()},
                reasons=[*CALL, *BODY, *ADMISSION, *UPSTREAM, "NOT_ACCEPTABLE"],
            )
        },
        "/v1/chat": {
            "post": operation(
                "Chat",
                "Get a complete answer",
                API.comment("ChatService/Chat"),
                parameters=[TIMEOUT],
                body=True,
                responses={200: json_response("The answer.", "ChatResponse", CHAT_RESPONSE)},
                reasons=[
                    *CALL,
                    *BODY,
                    *ADMISSION,
                    *UPSTREAM,
                    *BROKEN,
                    "ANSWER_TOO_LARGE",
                    "INVALID_ANSWER",
                ],
            )
        },
        "/v1/chat/streams": {
            "post": operation(
                "Chat",
                "Start a stream for EventSource",
                "Starts a stream that continues without a reader for `retention.linger`, and returns where "
                "its events can be read. The ticket replaces the key there, because EventSource cannot send "
                "headers.",
                parameters=[TIMEOUT],
                body=True,
                responses={201: json_response("The stream has started.", "ReadableStream")},
                reasons=[*CALL, *BODY, *ADMISSION, *UPSTREAM],
            )
        },
        f"{stream}/events": {
            "get": operation(
                "Streams",
                "Read a stream from a position",
                API.comment("ChatService/ResumeStream"),
                parameters=[STREAM_ID, *cursor_parameters(), TIMEOUT],
                responses={
                    200: event_responses(),
                    204: {"description": "The position is the end of a stream that has finished."},
                },
                reasons=[
                    *CALL,
                    *CURSOR,
                    *BROKEN,
                    "PRODUCER_LOST",
                    "NOT_ACCEPTABLE",
                    "TICKET_EXPIRED",
                    "TICKET_INVALID",
                ],
            )
        },
        f"{stream}/ticket": {
            "post": operation(
                "Streams",
                "Get a new ticket for a stream",
                "Returns a new ticket for EventSource, for example before the old one expires.",
                parameters=[STREAM_ID, TIMEOUT],
                responses={200: json_response("The ticket.", "ReadableStream")},
                reasons=[*CALL, "STREAM_NOT_FOUND"],
            )
        },
        stream: {
            "get": operation(
                "Streams",
                "Get the state of a stream",
                API.comment("ChatService/GetStream"),
                parameters=[STREAM_ID, TIMEOUT],
                responses={200: json_response("The stream.", "StreamInfo", STREAM_INFO)},
                reasons=[*CALL, "STREAM_NOT_FOUND"],
            ),
            "delete": operation(
                "Streams",
                "Delete a stream",
                API.comment("ChatService/DeleteStream"),
                parameters=[STREAM_ID, TIMEOUT],
                responses={204: {"description": "The stream is deleted."}},
                reasons=[*CALL, "STREAM_NOT_FOUND"],
            ),
        },
        f"{stream}/cancel": {
            "post": operation(
                "Streams",
                "Cancel a stream",
                API.comment("ChatService/CancelStream"),
                parameters=[STREAM_ID, TIMEOUT],
                responses={200: json_response("The stream after its end.", "StreamInfo")},
                reasons=[*CALL, "STREAM_NOT_FOUND"],
            )
        },
        "/v1/count": {
            "post": operation(
                "Chat",
                "Count tokens",
                API.comment("ChatService/CountTokens"),
                parameters=[TIMEOUT],
                body=True,
                responses={200: json_response("Tokens and cost.", "CountTokensResponse")},
                reasons=[
                    *CALL,
                    *BODY,
                    *UPSTREAM,
                    "PERMISSION_DENIED",
                    "UNKNOWN_MODEL",
                    "RATE_LIMITED",
                ],
            )
        },
        "/v1/models": {
            "get": operation(
                "Models",
                "List models",
                API.comment("ModelService/ListModels"),
                parameters=[TIMEOUT],
                responses={200: json_response("The models.", "ListModelsResponse")},
                reasons=CALL,
            )
        },
        "/v1/models/{id}": {
            "get": operation(
                "Models",
                "Get a model",
                API.comment("ModelService/GetModel"),
                parameters=[model_id(), TIMEOUT],
                responses={200: json_response("The model.", "Model")},
                reasons=[*CALL, "UNKNOWN_MODEL", "PERMISSION_DENIED"],
            )
        },
        "/v1/usage/summary": {
            "get": operation(
                "Usage",
                "Sum usage",
                API.comment("UsageService/GetUsageSummary"),
                parameters=[*query("GetUsageSummaryRequest"), TIMEOUT],
                responses={200: json_response("The sums.", "GetUsageSummaryResponse")},
                reasons=[*CALL, "RATE_LIMITED"],
            )
        },
        "/v1/usage/records": {
            "get": operation(
                "Usage",
                "List usage records",
                API.comment("UsageService/ListUsageRecords"),
                parameters=[*query("ListUsageRecordsRequest"), TIMEOUT],
                responses={200: json_response("A page of records.", "ListUsageRecordsResponse")},
                reasons=[*CALL, "RATE_LIMITED"],
            )
        },
        "/v1/caller": {
            "get": operation(
                "Caller",
                "Get the caller",
                API.comment("CallerService/GetCaller"),
                parameters=[TIMEOUT],
                responses={200: json_response("The caller.", "Caller")},
                reasons=CALL,
            )
        },
        "/healthz": {
            "get": operation(
                "Health",
                "Check that the process is alive",
                "",
                responses={200: {"description": "It is alive."}},
                is_public=True,
            )
        },
        "/readyz": {
            "get": operation(
                "Health",
                "Check that requests can be served",
                "",
                responses={200: {"description": "Requests can be served."}},
                reasons=["DRAINING", "UNAVAILABLE"],
                is_public=True,
            )
        },
    }


def operation(
    tag: str,
    summary: str,
    description: str,
    *,
    responses: dict[int, Any],
    parameters: Iterable[dict[str, Any]] = (),
    body: bool = False,
    reasons: Iterable[str] = (),
    is_public: bool = False,
) -> dict[str, Any]:
    """Return an operation. `reasons` are those of its errors."""
    content: dict[str, Any] = {
        "tags": [tag],
        "summary": summary,
        "operationId": summary.title().replace(" ", ""),
        "description": description,
    }
    if is_public:
        content["security"] = []
    if parameters:
        content["parameters"] = [*parameters]
    if body:
        examples = {name: {"value": value} for name, value in CHAT_REQUESTS.items()}
        schema = {"$ref": "#/components/schemas/ChatRequest"}
        content["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema, "examples": examples}},
        }
    errors: dict[int, list[str]] = {}
    for reason in reasons:
        errors.setdefault(STATUSES[reason], []).append(reason)
    every = responses | {status: error_response(errors[status]) for status in sorted(errors)}
    content["responses"] = {str(status): response for status, response in every.items()}
    return content


def error_response(reasons: list[str]) -> dict[str, Any]:
    """Return the response for some reasons."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        "description": ", ".join(f"`{reason}`" for reason in reasons),
        "content": {MEDIA_TYPE: {"schema": schema}},
    }


def json_response(description: str, schema: str, example: Any = None) -> dict[str, Any]:
    """Return a response with JSON."""
    content: dict[str, Any] = {"schema": {"$ref": f"#/components/schemas/{schema}"}}
    if example is not None:
        content["example"] = example
    return {"description": description, "content": {"application/json": content}}


def event_responses() -> dict[str, Any]:
    """Return the response with events, in each of its formats."""
    return {
        "description": "The events, each sent when it arrives, in the format that `Accept` selects.",
        "headers": {
            "Tokenwire-Stream-Id": {
                "description": "Id of the stream.",
                "schema": {"type": "string"},
            }
        },
        "content": {
            media_type: {
                "schema": {"type": "string", "description": description},
                "example": example,
            }
            for media_type, (description, example) in FORMATS.items()
        },
    }


def cursor_parameters() -> list[dict[str, Any]]:
    """Return what selects the position from which a stream is read."""
    sequence = {"type": "string", "pattern": "^[0-9]{1,19}$"}
    return [
        {
            "name": "Last-Event-ID",
            "in": "header",
            "description": "Sequence of the last event that was received. EventSource sends it.",
            "schema": sequence,
        },
        {
            "name": "after",
            "in": "query",
            "description": "The same, if there is no `Last-Event-ID`. Default: 0, the beginning.",
            "schema": sequence,
        },
        {
            "name": "ticket",
            "in": "query",
            "description": "Ticket of the stream, instead of the key.",
            "schema": {"type": "string"},
        },
    ]


def model_id() -> dict[str, Any]:
    """Return the parameter that names a model."""
    return {
        "name": "id",
        "in": "path",
        "required": True,
        "description": f"{API.comment('GetModelRequest.id')} It may contain slashes.",
        "schema": {"type": "string"},
        "example": "openai/demo",
    }


def query(message: str, prefix: str = "") -> list[dict[str, Any]]:
    """Return a parameter for each field of a message, also of the filter in it."""
    parameters: list[dict[str, Any]] = []
    for field in API.fields(message):
        name = prefix + field.json_name
        if field.type_name == ".tokenwire.v1.UsageFilter":
            parameters += query("UsageFilter", f"{name}.")
            continue
        description = API.comment(f"{message}.{field.name}")
        schema = API.field(field, in_requests=True)
        if schema.get("type") == "object":
            name += ".KEY"
            schema = schema["additionalProperties"]
            description += " The name ends with the key of the label, such as `filter.labels.team`."
        parameters.append(
            {"name": name, "in": "query", "description": description, "schema": schema}
        )
    return parameters
