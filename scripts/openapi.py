"""Write the OpenAPI document of the edge: its routes, and the schemas of the API's messages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from openapi_examples import PROBLEM
from openapi_routes import API, STATUSES, paths

DOCUMENT = Path(__file__).parents[1] / "server" / "tokenwire_edge" / "openapi.json"

DESCRIPTION = """\
Token streams of LLM providers as one typed stream, over HTTP.

JSON is that of protobuf: names in lowerCamelCase, enums by name, 64-bit integers as strings, durations
such as "1.5s", bytes in base64. Fields without a value are missing. Requests may also have names in
snake_case, and integers as numbers. Unknown fields of requests are refused. Responses can have new fields,
enum values and event types: ignore those that you do not recognize.

`/v1/ws` is a WebSocket with the subprotocol `tokenwire.v1`, which is not described here.
"""


def document() -> dict[str, Any]:
    """Return the document."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tokenwire", "version": "v1", "description": DESCRIPTION},
        "security": [{"key": []}, {}],
        "tags": [
            {"name": name} for name in ("Chat", "Streams", "Models", "Usage", "Caller", "Health")
        ],
        "paths": paths(),
        "components": {
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A key of the server. Not needed if the server requires no keys.",
                }
            },
            "schemas": schemas(),
        },
    }


def schemas() -> dict[str, Any]:
    """Return the schemas of all messages that the routes use."""
    responses = [
        "ChatResponse",
        "TokenEvent",
        "StreamInfo",
        "CountTokensResponse",
        "ListModelsResponse",
        "GetUsageSummaryResponse",
        "ListUsageRecordsResponse",
        "Caller",
    ]
    found = API.schemas(["ChatRequest"], responses)
    found["UsageGroup"] = API.schemas(["UsageGroup"], ())["UsageGroup"]
    chat = found["ChatRequest"]
    chat["properties"]["prompt"] = {
        "type": "string",
        "minLength": 1,
        "description": "Short for `messages` with one message of the user. Only over HTTP.",
    }
    chat["required"] = ["model"]
    chat["oneOf"] = [{"required": ["messages"]}, {"required": ["prompt"]}]
    found["Problem"] = problem_schema()
    found["ReadableStream"] = readable_schema()
    return dict(sorted(found.items()))


def problem_schema() -> dict[str, Any]:
    """Return the schema of errors."""
    text = {"type": "string"}
    reasons = ", ".join(f"`{reason}`" for reason in sorted(STATUSES))
    return {
        "type": "object",
        "description": "An error, as in RFC 9457.",
        "required": ["type", "title", "status", "reason", "detail"],
        "properties": {
            "type": text | {"description": "`about:blank`"},
            "title": text | {"description": "Name of the HTTP status."},
            "status": {"type": "integer", "description": "The HTTP status."},
            "reason": text
            | {"description": f"What happened, for programs. New reasons may be added. {reasons}."},
            "detail": text | {"description": "What happened, for people."},
            "facts": {
                "type": "object",
                "additionalProperties": text,
                "description": "Facts about the error, such as `stream_id`.",
            },
            "violations": {
                "type": "array",
                "description": "The invalid fields of the request.",
                "items": {
                    "type": "object",
                    "required": ["field", "description"],
                    "properties": {
                        "field": text | {"description": "Path of the field, in snake_case."},
                        "description": text | {"description": "What is wrong with it."},
                    },
                },
            },
            "retryAfterS": {
                "type": "number",
                "description": "Seconds to wait before another attempt, also in `Retry-After`.",
            },
        },
        "examples": [PROBLEM],
    }


def readable_schema() -> dict[str, Any]:
    """Return the schema of what EventSource needs."""
    text = {"type": "string"}
    return {
        "type": "object",
        "description": "Where the events of a stream can be read with EventSource.",
        "required": ["streamId", "eventsUrl", "ticket", "ticketExpireTime"],
        "properties": {
            "streamId": text | {"description": "Id of the stream."},
            "eventsUrl": text | {"description": "Path of the events, with the ticket."},
            "ticket": text | {"description": "Replaces the key, for this stream only."},
            "ticketExpireTime": text
            | {
                "format": "date-time",
                "description": "When the ticket expires. Connections that are open then stay open.",
            },
        },
    }


def text() -> str:
    """Return the document as it is in the file."""
    return json.dumps(document(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    DOCUMENT.write_text(text())
