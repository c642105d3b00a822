"""Encoding of messages for OpenAI Chat Completions.

Where the format allows a choice:

- The content of a message with one text is a string, which even minimal servers read. Other content is a
  list of parts.
- The format has no field for the failure of a tool: its text is sent after "Error: ".
- A text document is a text after its title.
- Reasoning is left out, because the format has no field for it, and OpenAI does not accept it. It is sent as
  `reasoning_content` with the quirk `send_reasoning`. Provider state is sent as it came: the
  `reasoning_details` of the message, and the `extra_content` of its calls and of the message.
- Cache hints are left out, because these servers cache without them.
- An assistant message without a call or a text that is not blank is left out, because servers refuse it.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from ..config import Quirks
from ..request import (
    Audio,
    ChatRequest,
    Document,
    Image,
    Message,
    Part,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
    Violation,
)
from .unsupported import UNSUPPORTED, unsupported_parts

_AUDIO_FORMATS = {"audio/wav": "wav", "audio/mpeg": "mp3"}

_raw = msgspec.json.Decoder(msgspec.Raw)


def encode_messages(messages: Iterable[Message], quirks: Quirks) -> Iterator[dict[str, Any]]:
    for message in messages:
        match message.role:
            case "tool":
                for part in message.parts:
                    if isinstance(part, ToolResult):
                        yield _tool_message(part)
            case "assistant":
                if written := _assistant_message(message, quirks):
                    yield written
            case "system":
                yield {"role": quirks.system_role, "content": _content(message.parts)}
            case "user":
                yield {"role": "user", "content": _content(message.parts)}


_NO_SIGNATURE = {"google": {"thought_signature": "skip_thought_signature_validator"}}
"""Gemini accepts this for a tool call that it did not make. It checks the first call of an answer:
https://ai.google.dev/gemini-api/docs/thought-signatures"""


def check_messages(request: ChatRequest, quirks: Quirks) -> Iterator[Violation]:
    """Yield a violation for each part that this format cannot express."""
    yield from unsupported_parts(request, in_results=() if quirks.tool_images else (Image,))
    for i, message in enumerate(request.messages):
        for j, part in enumerate(message.parts):
            path = f"messages[{i}].parts[{j}]"
            if isinstance(part, Document) and part.uri:
                yield Violation(f"{path}.document.uri", f"{UNSUPPORTED}; use data")
            elif isinstance(part, ToolResult):
                for k, piece in enumerate(part.parts):
                    if isinstance(piece, Document) and (piece.uri or not _is_text(piece)):
                        yield Violation(f"{path}.tool_result.parts[{k}].document", UNSUPPORTED)
    if not any(encode_messages(request.messages, quirks)):
        yield Violation("messages", "must contain more than reasoning and blank answers")


def _tool_message(result: ToolResult) -> dict[str, Any]:
    text = f"Error: {result.text}" if result.is_error else result.text
    parts = [Text(text), *result.parts] if text or not result.parts else result.parts
    return {"role": "tool", "tool_call_id": result.tool_call_id, "content": _content(parts)}


def _assistant_message(message: Message, quirks: Quirks) -> dict[str, Any] | None:
    texts = [part for part in message.parts if isinstance(part, Text) and part.text]
    calls = [_tool_call(part) for part in message.parts if isinstance(part, ToolCall)]
    if not calls and not any(part.text.strip() for part in texts):
        return None
    written: dict[str, Any] = {"role": "assistant", "content": _content(texts) if texts else None}
    if calls:
        if quirks.call_signatures:
            calls[0].setdefault("extra_content", _NO_SIGNATURE)
        written["tool_calls"] = calls
    reasoning = [part for part in message.parts if isinstance(part, Reasoning)]
    if quirks.send_reasoning and (calls or reasoning):
        written["reasoning_content"] = "".join(part.text for part in reasoning)
    arrays = (_state_json(part.state, b"[") for part in reasoning)
    if details := [array[1:-1] for array in arrays if array]:
        written["reasoning_details"] = msgspec.Raw(b"[" + b",".join(details) + b"]")
    for part in message.parts:
        if isinstance(part, Text) and (extra := _state_json(part.state, b"{")):
            written["extra_content"] = msgspec.Raw(extra)
    return written


def _tool_call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments_json}
    written = {"id": call.id, "type": "function", "function": function}
    extra = _state_json(call.state, b"{")
    return {**written, "extra_content": msgspec.Raw(extra)} if extra else written


def _state_json(state: bytes | None, opening: bytes) -> bytes:
    """Return the JSON array or object in a state. Empty if it has no elements, or if the caller changed it.

    It is checked, but not decoded, because a changed state may have millions of elements.
    """
    text = (state or b"").strip()
    if not text.startswith(opening) or not text[1:-1].strip():
        return b""
    try:
        text.decode()
        _raw.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return b""
    return text


def _content(parts: Sequence[Part]) -> str | list[dict[str, Any]]:
    match parts:
        case [Text(text=text)]:
            return text
        case _:
            return [_content_part(part) for part in parts]


def _content_part(part: Part) -> dict[str, Any]:
    match part:
        case Image(uri=""):
            url = _data_url(part.media_type, part.data)
            return {"type": "image_url", "image_url": {"url": url}}
        case Image():
            return {"type": "image_url", "image_url": {"url": part.uri}}
        case Document() if _is_text(part):
            text = part.data.decode()
            return {"type": "text", "text": f"{part.title}\n\n{text}" if part.title else text}
        case Document():
            name = part.title or "document"
            filename = name if name.lower().endswith(".pdf") else f"{name}.pdf"
            data = _data_url(part.media_type, part.data)
            return {"type": "file", "file": {"filename": filename, "file_data": data}}
        case Audio():
            audio = {"data": _base64(part.data), "format": _AUDIO_FORMATS[part.media_type]}
            return {"type": "input_audio", "input_audio": audio}
        case Text():
            return {"type": "text", "text": part.text}
        case _:
            raise TypeError(f"{type(part).__name__} is not content")


def _is_text(document: Document) -> bool:
    return document.media_type == "text/plain"


def _data_url(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{_base64(data)}"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
