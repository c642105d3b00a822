"""Checks that the dialects share: parts of a request that a provider does not support."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from ..request import (
    Audio,
    ChatRequest,
    Document,
    Image,
    Part,
    Text,
    ToolResult,
    Violation,
)

UNSUPPORTED = "is not supported by this provider"

_NAMES: dict[type[Part], str] = {
    Audio: "audio",
    Document: "document",
    Image: "image",
    Text: "text",
}


def unsupported_parts(
    request: ChatRequest,
    *,
    in_messages: Collection[type[Part]] = (),
    in_results: Collection[type[Part]] = (),
) -> Iterator[Violation]:
    """Yield a violation for each part of a kind that is not supported, in messages or in tool results."""
    for i, message in enumerate(request.messages):
        for j, part in enumerate(message.parts):
            path = f"messages[{i}].parts[{j}]"
            if type(part) in in_messages:
                yield Violation(f"{path}.{_NAMES[type(part)]}", UNSUPPORTED)
            elif isinstance(part, ToolResult):
                for k, piece in enumerate(part.parts):
                    if type(piece) in in_results:
                        path_of_piece = f"{path}.tool_result.parts[{k}].{_NAMES[type(piece)]}"
                        yield Violation(path_of_piece, UNSUPPORTED)
