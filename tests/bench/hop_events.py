"""The tokens that hops pass on, and the events in which providers send them. Each event has one token."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from string import ascii_letters

import msgspec

from tokenwire_server.events import TextDelta
from tokenwire_server.simulator import generated_text, varied_text

TOKENS = generated_text(256)
DELTAS = [TextDelta(token, 0) for token in TOKENS]
VARIED_TOKENS = varied_text(20_000, 1)

_CHAT = (
    'data: {"id":"chatcmpl-C1x2y3z4a5b6c7d8e9f0g1h2i3j4k","object":"chat.completion.chunk",'
    '"created":1760000000,"model":"gpt-5-mini-2025-08-07","service_tier":"default",'
    '"system_fingerprint":null,"choices":[{"index":0,"delta":{"content":%s},"finish_reason":null}],'
    '"usage":null%s}\n\n'
)
ANTHROPIC_START = (
    "event: message_start\n"
    'data: {"type":"message_start","message":{"id":"msg_01A","type":"message","role":"assistant",'
    '"model":"claude-sonnet-4-5","content":[],"stop_reason":null,"stop_sequence":null,'
    '"usage":{"input_tokens":10,"output_tokens":1}}}\n\n'
    "event: content_block_start\n"
    'data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}\n\n'
)
_ANTHROPIC = (
    "event: content_block_delta\n"
    'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":%s}}\n\n'
)
RESPONSES_START = (
    "event: response.created\n"
    'data: {"type":"response.created","sequence_number":0,"response":{"id":"resp_01a","object":"response",'
    '"created_at":1760000000,"status":"in_progress","model":"gpt-5-mini","output":[]}}\n\n'
    "event: response.output_item.added\n"
    'data: {"type":"response.output_item.added","sequence_number":1,"output_index":0,'
    '"item":{"id":"msg_01a","type":"message","status":"in_progress","content":[],"role":"assistant"}}\n\n'
    "event: response.content_part.added\n"
    'data: {"type":"response.content_part.added","sequence_number":2,"item_id":"msg_01a",'
    '"output_index":0,"content_index":0,"part":{"type":"output_text","annotations":[],"text":""}}\n\n'
)
_RESPONSES = (
    "event: response.output_text.delta\n"
    'data: {"type":"response.output_text.delta","sequence_number":%d,"item_id":"msg_01a",'
    '"output_index":0,"content_index":0,"delta":%s,"logprobs":[]}\n\n'
)


def chat_events() -> list[bytes]:
    """Return events of Chat Completions that differ only in the token, as most servers send them."""
    return _events(lambda _, token: _CHAT % (token, ""))


def padded_chat_events() -> list[bytes]:
    """Return events of Chat Completions with random padding, as OpenAI sends them."""
    return _events(lambda position, token: _CHAT % (token, _padding(position)))


def anthropic_events() -> list[bytes]:
    """Return events of Messages, which differ only in the token."""
    return _events(lambda _, token: _ANTHROPIC % token)


def responses_events() -> list[bytes]:
    """Return events of Responses, which are numbered. Requests turn their padding off."""
    return _events(lambda position, token: _RESPONSES % (position + 3, token))


def varied_chat_events() -> list[bytes]:
    """Return events of Chat Completions with more different words than the cache of short texts holds."""
    return _events(lambda _, token: _CHAT % (token, ""), VARIED_TOKENS)


def _events(event: Callable[[int, str], str], tokens: Sequence[str] = TOKENS) -> list[bytes]:
    return [
        event(position, msgspec.json.encode(token).decode()).encode()
        for position, token in enumerate(tokens)
    ]


def _padding(position: int) -> str:
    draw = random.Random(position)  # the same padding in each run
    return f',"obfuscation":"{"".join(draw.choices(ascii_letters, k=draw.randint(1, 16)))}"'
