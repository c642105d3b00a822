"""Encoding of conversations as the `input` of the OpenAI Responses API.

Where the API allows a choice:

- Each text of the assistant is a message of its own, with its phase. Empty ones are left out.
- The API has no field for the failure of a tool: its text is sent after "Error: ".
- A text document is a text after its title. Only PDFs are files.
- Ids of messages, reasoning and calls name stored items, which do not exist. Only the id of a reasoning
  item is sent, because the API requires it.
- A `call_id` that is too long, of another provider, is replaced by its hash, alike in calls and results.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from hashlib import blake2s
from typing import Any

from ..config import Quirks
from ..request import Document, Image, Message, Part, Reasoning, Text, ToolCall, ToolResult
from .decode.openai_responses import state

MAX_CALL_ID_CHARS = 64
"""Maximum length of a `call_id`. The API refuses longer ones as `string_above_max_length`."""

_Json = dict[str, Any]


def encode_input(messages: Sequence[Message], quirks: Quirks) -> list[_Json]:
    """Return the conversation as items. Reasoning without a following item of the model is left out.

    The API refuses a reasoning item "without its required following item". An answer that was cut off
    during the reasoning ends with such an item.
    """
    items: list[_Json] = []
    for message in messages:
        if message.role == "assistant":
            items += filter(None, map(_assistant_item, message.parts))
        elif message.role == "tool":
            items += [_result_item(part) for part in message.parts if isinstance(part, ToolResult)]
        else:
            role = quirks.system_role if message.role == "system" else message.role
            items.append({"type": "message", "role": role, "content": _content(message.parts)})
    kept: list[_Json] = []
    is_followed_up = False
    for item in reversed(items):
        is_reasoning = item["type"] == "reasoning"
        if not is_reasoning:
            is_followed_up = item["type"] == "function_call" or item.get("role") == "assistant"
        if is_followed_up or not is_reasoning:
            kept.append(item)
    return kept[::-1]


def is_left_out(part: Part) -> bool:
    """Return whether a part is left out if nothing follows it."""
    return isinstance(part, Reasoning) or (isinstance(part, Text) and not part.text.strip())


def has_encrypted_reasoning(messages: Sequence[Message]) -> bool:
    """Return whether a conversation has encrypted reasoning of this provider."""
    thoughts = (part for m in messages for part in m.parts if isinstance(part, Reasoning))
    wholes = filter(None, map(_state_of, thoughts))
    return any(whole.encrypted_content for whole in wholes)


def _content(parts: tuple[Part, ...]) -> str | list[_Json]:
    if len(parts) == 1 and isinstance(parts[0], Text):
        return parts[0].text
    return [_input_part(part) for part in parts if isinstance(part, Text | Image | Document)]


def _input_part(part: Text | Image | Document) -> _Json:
    match part:
        case Text():
            return {"type": "input_text", "text": part.text}
        case Image():
            url = part.uri or _data_url(part.media_type, part.data)
            return {"type": "input_image", "detail": "auto", "image_url": url}
        case Document() if part.uri:
            return {"type": "input_file", "file_url": part.uri}
        case Document(media_type="text/plain"):
            text = part.data.decode()
            return {"type": "input_text", "text": f"{part.title}\n\n{text}" if part.title else text}
        case Document():
            name = part.title or "document"
            filename = name if name.lower().endswith(".pdf") else f"{name}.pdf"
            data = _data_url(part.media_type, part.data)
            return {"type": "input_file", "filename": filename, "file_data": data}


def _data_url(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"


def _assistant_item(part: Part) -> _Json | None:
    """Return the item for one part. None for an empty text, and for reasoning that the API cannot read."""
    match part:
        case Text(text=text) if text.strip():
            message: _Json = {"type": "message", "role": "assistant", "content": text}
            if (of_text := state.read(state.TextState, part.state)) and of_text.phase:
                message["phase"] = of_text.phase
            return message
        case ToolCall(id=call_id, name=name, arguments_json=arguments):
            call: _Json = {
                "type": "function_call",
                "call_id": _call_id(call_id),
                "name": name,
                "arguments": arguments,
            }
            if (of_call := state.read(state.CallState, part.state)) and of_call.namespace:
                call["namespace"] = of_call.namespace
            return call
        case Reasoning():
            return _reasoning_item(part)
        case _:
            return None


def _reasoning_item(part: Reasoning) -> _Json | None:
    whole = _state_of(part)
    if whole is None:
        return None
    parts: dict[str, list[_Json]] = {"summary_text": [], "reasoning_text": []}
    for part_type, text in whole.split(part.text) if part.text else ():
        parts.setdefault(part_type, []).append({"type": part_type, "text": text})
    item: _Json = {"type": "reasoning", "id": whole.id, "summary": parts["summary_text"]}
    if parts["reasoning_text"]:
        item["content"] = parts["reasoning_text"]
    if whole.encrypted_content:
        item["encrypted_content"] = whole.encrypted_content
    elif not parts["reasoning_text"]:
        return None
    return item


def _state_of(part: Reasoning) -> state.ReasoningState | None:
    return state.read(state.ReasoningState, part.state) or _of_signature(part.signature)


def _of_signature(signature: str) -> state.ReasoningState | None:
    """Return the state that earlier versions wrote into the signature: `rs:ITEM_ID:ENCRYPTED_CONTENT`."""
    kind, _, rest = signature.partition(":")
    item_id, _, encrypted_content = rest.partition(":")
    if kind != "rs" or not item_id or not encrypted_content:
        return None
    return state.ReasoningState(item_id, encrypted_content)


def _result_item(part: ToolResult) -> _Json:
    output: str | list[_Json] = f"Error: {part.text}" if part.is_error else part.text
    if part.parts:
        text = [{"type": "input_text", "text": output}] if output else []
        output = [*text, *map(_input_part, part.parts)]
    return {
        "type": "function_call_output",
        "call_id": _call_id(part.tool_call_id),
        "output": output,
    }


def _call_id(id_: str) -> str:
    if len(id_) <= MAX_CALL_ID_CHARS:
        return id_
    return f"tokenwire-{blake2s(id_.encode(), digest_size=24).hexdigest()}"
