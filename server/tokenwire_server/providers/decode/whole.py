"""Conversion of whole answers, as providers send them without streaming, to the events of a stream.

Each function returns the body of the stream that the same answer would have been, for the decoder of its
format. None: the JSON object is not an answer in this format.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard


def chat_events(answer: Mapping[str, Any]) -> bytes | None:
    """Convert a `chat.completion`: each message becomes a delta."""
    choices = answer.get("choices")
    if not isinstance(choices, list) or not any(map(_has_message, choices)):
        return None
    chunk = {**answer, "choices": [_chat_choice(choice) for choice in choices]}
    return _event(chunk) + b"data: [DONE]\n\n"


def responses_events(answer: Mapping[str, Any]) -> bytes | None:
    """Convert a `response`: each item is done at once, and then the response ends with its status."""
    output, status = answer.get("output"), answer.get("status")
    if not isinstance(output, list):
        return None
    items = [
        {"type": "response.output_item.done", "output_index": index, "item": item}
        for index, item in enumerate(output)
    ]
    kind = f"response.{status if isinstance(status, str) else 'completed'}"
    return b"".join(map(_event, [*items, {"type": kind, "response": answer}]))


def anthropic_events(answer: Mapping[str, Any]) -> bytes | None:
    """Convert a `message`: each block becomes its start, its deltas and its stop."""
    content = answer.get("content")
    if not isinstance(content, list):
        return None
    start = {**answer, "content": [], "stop_reason": None, "stop_sequence": None}
    names = ("stop_reason", "stop_sequence", "stop_details", "container")
    end = {name: answer[name] for name in names if name in answer}
    return b"".join(
        map(
            _event,
            [
                {"type": "message_start", "message": start},
                *(
                    event
                    for index, block in enumerate(content)
                    for event in _block_events(index, block)
                ),
                {"type": "message_delta", "delta": end, "usage": answer.get("usage")},
                {"type": "message_stop"},
            ],
        )
    )


def _has_message(choice: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(choice, dict) and isinstance(choice.get("message"), dict)


def _chat_choice(choice: object) -> object:
    if not _has_message(choice):
        return choice
    delta = choice["message"]
    if isinstance(calls := delta.get("tool_calls"), list):
        calls = [
            {"index": index, **call} if isinstance(call, dict) else call
            for index, call in enumerate(calls)
        ]
        delta = {**delta, "tool_calls": calls}
    return {**{name: value for name, value in choice.items() if name != "message"}, "delta": delta}


def _block_events(index: int, block: object) -> Iterator[dict[str, Any]]:
    kind = block.get("type") if isinstance(block, dict) else None
    start: Any = block
    deltas: list[dict[str, Any]] = []
    if isinstance(block, dict) and kind == "text":
        start = {**block, "text": "", "citations": None}
        deltas = [{"type": "text_delta", "text": block.get("text")}]
        citations = block.get("citations")
        for citation in citations if isinstance(citations, list) else ():
            deltas.append({"type": "citations_delta", "citation": citation})
    elif isinstance(block, dict) and kind == "thinking":
        start = {**block, "thinking": "", "signature": ""}
        deltas = [{"type": "thinking_delta", "thinking": block.get("thinking")}]
        if block.get("signature"):
            deltas.append({"type": "signature_delta", "signature": block["signature"]})
    elif isinstance(block, dict) and kind == "tool_use":
        start = {**block, "input": {}}
        arguments = json.dumps(block.get("input") or {})
        deltas = [{"type": "input_json_delta", "partial_json": arguments}]
    yield {"type": "content_block_start", "index": index, "content_block": start}
    for delta in deltas:
        yield {"type": "content_block_delta", "index": index, "delta": delta}
    yield {"type": "content_block_stop", "index": index}


def _event(value: object) -> bytes:
    """Return one event. JSON in ASCII, so that lone surrogates arrive at the decoder as they were sent."""
    return b"data: " + json.dumps(value).encode() + b"\n\n"
