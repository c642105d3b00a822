"""Requests from JSON: the bodies of HTTP requests and the frames of WebSockets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TypeVar

from google.protobuf.message import Message

from tokenwire.v1.chat_pb2 import ROLE_USER, ChatRequest

from .json_text import count_separators, parse_json_object
from .messages import message_of
from .parameters import check_stream_id, message_of_query, refuse_query
from .scalars import string_fault

__all__ = [
    "chat_request_of",
    "check_stream_id",
    "message_of",
    "message_of_query",
    "parse_chat_request",
    "parse_json_object",
    "parse_message",
    "parse_without_blocking",
    "refuse_query",
]

INLINE_BYTES = 512 * 1024
INLINE_SEPARATORS = 2_000
"""Commas, lists and objects in a body that is read without a thread."""

M = TypeVar("M", bound=Message)
T = TypeVar("T")


def parse_message(body: bytes, kind: type[M]) -> M:
    """Return the message that a body contains, in protobuf's JSON mapping. Raises Problem."""
    return message_of(parse_json_object(body), kind)


def parse_chat_request(body: bytes) -> ChatRequest:
    """Return the ChatRequest that a body contains: see `chat_request_of`.

    Raises:
        Problem: 400 INVALID_REQUEST.
    """
    return chat_request_of(parse_json_object(body))


async def parse_without_blocking(parse: Callable[[bytes], T], body: bytes) -> T:
    """Return `parse(body)`, which runs in a thread if it may take more than about 5 ms.

    Messages take 6 ms for each MiB of text and 1 to 3 ms for each thousand values. Cancellation does not
    stop the thread, which ends by itself within 0.5 s.
    """
    if len(body) <= INLINE_BYTES and count_separators(body) <= INLINE_SEPARATORS:
        return parse(body)
    return await asyncio.to_thread(parse, body)


def chat_request_of(value: object, path: str = "") -> ChatRequest:
    """Return a ChatRequest from its JSON, in protobuf's JSON mapping or with `prompt`.

    `prompt` is a string: short for `messages` with one message of the user. All other fields are allowed
    together with it. `path` is the path of the value, for violations.

    Raises:
        Problem: 400 INVALID_REQUEST, with all violations.
    """
    if not isinstance(value, dict) or "prompt" not in value:
        return message_of(value, ChatRequest, path)
    fields = dict(value)
    prompt = fields.pop("prompt")
    fault = "" if prompt is None else _prompt_fault(prompt, fields)
    here = f"{path}.prompt" if path else "prompt"
    request = message_of(fields, ChatRequest, path, found=[(here, fault)] if fault else ())
    if prompt is not None:
        request.messages.add(role=ROLE_USER).parts.add(text=prompt)
    return request


def _prompt_fault(prompt: object, fields: Mapping[str, object]) -> str:
    if fields.get("messages") is not None:
        return "is only allowed without messages"
    return "is empty" if prompt == "" else string_fault(prompt)
