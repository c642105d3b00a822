"""The JSON of requests as messages of the API."""

from __future__ import annotations

from google.protobuf import json_format

from tokenwire.v1.chat_pb2 import ROLE_USER, ChatRequest, Message, Part

from .problems import Problem


def parse_chat_request(body: bytes) -> ChatRequest:
    """Return the request of a JSON body. Raises Problem."""
    import json

    try:
        fields = json.loads(body)
        prompt = fields.pop("prompt", None)
        chat = json_format.ParseDict(fields, ChatRequest())
    except (ValueError, AttributeError, json_format.ParseError) as error:
        raise Problem(400, "INVALID_REQUEST", str(error)) from None
    if prompt is not None:
        chat.messages.append(Message(role=ROLE_USER, parts=[Part(text=prompt)]))
    return chat
