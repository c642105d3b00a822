"""The messages of a request in Anthropic's Messages format."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from ..request import (
    Audio,
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
from .decode.anthropic.blocks import REDACTED
from .decode.anthropic.carried import caller_in, carried_type

MAX_CACHE_HINTS = 4
IMAGE_MEDIA_TYPES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})

_TOOL_CALL_ID = re.compile(r"(?!tokenwire-)[a-zA-Z0-9_-]+")
"""Ids that are sent unchanged. The provider accepts these characters only."""
_FAILED = "The tool failed."
"""Sent in place of an empty error, and before an error with images or documents. The provider refuses both:
"all content must be type `text` if `is_error` is true".
"""


def system_blocks(messages: tuple[Message, ...]) -> list[dict[str, Any] | msgspec.Raw]:
    """Return the texts of all system messages, in order."""
    return [block for m in messages if m.role == "system" for block in _blocks(m)]


def conversation_messages(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    """Return the messages of the user, the assistant and the tools, in order.

    Messages without a part that is sent are left out. If the assistant's message is the last one, the model
    continues it. The provider refuses white space and thinking at its end.
    """
    conversation: list[dict[str, Any]] = [
        {"role": "assistant" if m.role == "assistant" else "user", "content": blocks}
        for m in messages
        if m.role != "system" and (blocks := _blocks(m))
    ]
    if conversation and conversation[-1]["role"] == "assistant":
        _strip_end(conversation[-1]["content"])
        if not conversation[-1]["content"]:
            conversation.pop()
    return conversation


def check_messages(messages: tuple[Message, ...]) -> Iterator[Violation]:
    parts = (part for m in messages if m.role != "system" for part in m.parts)
    if not any(_is_sent(part) and not isinstance(part, Reasoning) for part in parts):
        yield Violation("messages", "Anthropic requires a message of the user or the assistant")
    hints_count = 0
    for path, part in _parts(messages):
        match part:
            case Image():
                yield from _check_image(part, f"{path}.image")
            case Audio():
                yield Violation(f"{path}.audio", "is not supported by Anthropic")
            case ToolResult():
                for i, piece in enumerate(part.parts):
                    if isinstance(piece, Image):
                        yield from _check_image(piece, f"{path}.tool_result.parts[{i}].image")
        if not part.cache_hint or (isinstance(part, Text) and not _is_sent(part)):
            continue
        if isinstance(part, Reasoning):
            yield Violation(f"{path}.cache_hint", "Anthropic accepts no cache hint on reasoning")
            continue
        hints_count += 1
        if hints_count == MAX_CACHE_HINTS + 1:
            yield Violation(
                f"{path}.cache_hint",
                f"Anthropic accepts at most {MAX_CACHE_HINTS} cache hints in a request",
            )


def _check_image(image: Image, path: str) -> Iterator[Violation]:
    if image.uri:
        if not image.uri.startswith("https://"):
            yield Violation(f"{path}.uri", "Anthropic fetches images over https:// only")
    elif image.media_type not in IMAGE_MEDIA_TYPES:
        yield Violation(
            f"{path}.media_type", f"Anthropic accepts {', '.join(sorted(IMAGE_MEDIA_TYPES))}"
        )


def _parts(messages: tuple[Message, ...]) -> Iterator[tuple[str, Part]]:
    for i, message in enumerate(messages):
        for j, part in enumerate(message.parts):
            yield f"messages[{i}].parts[{j}]", part


def _blocks(message: Message) -> list[dict[str, Any] | msgspec.Raw]:
    parts = message.parts
    if any(_is_fallback(part) for part in parts):
        parts = _after_fallback(parts)
    return [_block(part) for part in parts if _is_sent(part)]


def _is_sent(part: Part) -> bool:
    """Return whether a part is sent.

    The provider refuses blank text, and reasoning without a signature. But servers that do not sign their
    reasoning want it back; then it has a state.
    """
    match part:
        case Text():
            return not _is_blank(part.text)
        case Reasoning(state=bytes(state)) if state:
            return bool(part.text or part.signature or carried_type(state))
        case Reasoning():
            return bool(part.signature or (part.text and part.state is not None))
        case _:
            return True


def _is_fallback(part: Part) -> bool:
    return isinstance(part, Reasoning) and carried_type(part.state or b"") == "fallback"


def _after_fallback(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """Return the parts without reasoning of models that declined: no other model accepts it.

    https://platform.claude.com/docs/en/build-with-claude/refusals-and-fallback#continuing-the-conversation
    """
    last = max(i for i, part in enumerate(parts) if _is_fallback(part))
    return tuple(
        part
        for i, part in enumerate(parts)
        if i >= last or not isinstance(part, Reasoning) or _is_fallback(part)
    )


def _block(part: Part) -> dict[str, Any] | msgspec.Raw:
    block: dict[str, Any]
    match part:
        case Text() | Image() | Document():
            block = _content(part)
        case ToolCall():
            arguments = msgspec.Raw(part.arguments_json or "{}")
            id_ = _tool_call_id(part.id)
            block = {"type": "tool_use", "id": id_, "name": part.name, "input": arguments}
            if part.state and (caller := caller_in(part.state)) is not None:
                block["caller"] = caller
        case ToolResult():
            block = {"type": "tool_result", "tool_use_id": _tool_call_id(part.tool_call_id)}
            content = _result(part)
            if part.is_error and any(not isinstance(piece, Text) for piece in part.parts):
                content = [{"type": "text", "text": _FAILED}, *content]
            elif part.is_error:
                block["is_error"] = True
                content = content or _FAILED
            if content:
                block["content"] = content
        case Reasoning():
            if part.state and carried_type(part.state):
                return msgspec.Raw(part.state)
            block = _reasoning(part)
        case Audio():
            raise ValueError("audio passed the check")
    if part.cache_hint:
        block["cache_control"] = {"type": "ephemeral"}
    return block


def _content(part: Text | Image | Document) -> dict[str, Any]:
    match part:
        case Text():
            return {"type": "text", "text": part.text}
        case Image():
            return {"type": "image", "source": _source(part)}
        case Document():
            title = {"title": part.title} if part.title else {}
            if part.media_type == "text/plain":
                text = part.data.decode(errors="replace")
                source = {"type": "text", "media_type": part.media_type, "data": text}
            else:
                source = _source(part)
            return {"type": "document", "source": source, **title}


def _source(part: Image | Document) -> dict[str, str]:
    if part.uri:
        return {"type": "url", "url": part.uri}
    data = base64.b64encode(part.data).decode("ascii")
    return {"type": "base64", "media_type": part.media_type, "data": data}


def _result(result: ToolResult) -> str | list[dict[str, Any]]:
    """Return the content of a tool result: a text, or blocks if it has parts. Empty if it has none."""
    if not result.parts:
        return "" if _is_blank(result.text) else result.text
    parts = (Text(result.text), *result.parts)
    return [_content(part) for part in parts if _is_sent(part)]


def _reasoning(reasoning: Reasoning) -> dict[str, Any]:
    if not reasoning.text and reasoning.signature.startswith(REDACTED):
        return {
            "type": "redacted_thinking",
            "data": reasoning.signature.removeprefix(REDACTED),
        }
    return {
        "type": "thinking",
        "thinking": reasoning.text,
        "signature": reasoning.signature,
    }


def _tool_call_id(id_: str) -> str:
    """Return the id as the provider accepts it. Different ids stay different."""
    if _TOOL_CALL_ID.fullmatch(id_):
        return id_
    encoded = base64.urlsafe_b64encode(id_.encode()).decode("ascii").rstrip("=")
    return f"tokenwire-{encoded}"


def _is_blank(text: str) -> bool:
    return not text or text.isspace()


def _strip_end(blocks: list[dict[str, Any] | msgspec.Raw]) -> None:
    """Remove thinking at the end, and white space at the end of the last text."""
    while blocks and isinstance(last := blocks[-1], dict):
        if last["type"] == "text":
            last["text"] = last["text"].rstrip()
        if last["type"] not in ("thinking", "redacted_thinking"):
            return
        blocks.pop()
