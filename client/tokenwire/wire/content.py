"""The content of a message in any style: text, parts, and the blocks of that style."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from tokenwire.v1.chat_pb2 import Part, ToolResult

from .fields import Fields, as_mapping

BlockReader = Callable[[Fields], Part]
"""A function that reads one block, except `type` and `cache_control`."""


def read_parts(value: object, path: str, readers: Mapping[str, BlockReader]) -> list[Part]:
    """Return the parts of a text, a part, a block, or a list of these.

    Raises:
        TypeError, ValueError: a field cannot be sent. The error begins with its path.
    """
    if value is None:
        return []
    if isinstance(value, str | Part):
        return [_read_part(value, path, readers)]
    if isinstance(value, Mapping | bytes) or not isinstance(value, Iterable):
        raise TypeError(f"{path}: must be text or parts, not {type(value).__name__}")
    return [_read_part(each, f"{path}[{i}]", readers) for i, each in enumerate(value)]


def read_text_block(block: Fields) -> Part:
    """Read a block of text, which has the same form in all styles."""
    return Part(text=block.text("text"))


def without_empty_text(parts: Iterable[Part]) -> list[Part]:
    """Return the parts of an answer without empty texts, which the server refuses."""
    return [
        part
        for part in parts
        if part.WhichOneof("content") != "text" or part.text or part.provider_state
    ]


def tool_result_part(
    tool_call_id: str, parts: Sequence[Part], path: str, *, is_error: bool = False
) -> Part:
    """Return the result of a tool call. A text at the beginning becomes its text."""
    for i, part in enumerate(parts):
        if part.cache_hint:
            raise ValueError(
                f"{path}[{i}].cache_control: a part of a tool result has none; mark the whole result"
            )
    text = ""
    if parts and parts[0].WhichOneof("content") == "text":
        text, parts = parts[0].text, parts[1:]
    result = ToolResult(tool_call_id=tool_call_id, text=text, is_error=is_error, parts=parts)
    return Part(tool_result=result)


def _read_part(value: object, path: str, readers: Mapping[str, BlockReader]) -> Part:
    if isinstance(value, Part):
        return value
    if isinstance(value, str):
        return Part(text=value)
    mapping = as_mapping(value)
    if mapping is None:
        raise TypeError(f"{path}: must be a str, a Part or a mapping, not {type(value).__name__}")
    block = Fields(mapping, path)
    kind = block.text("type")
    if kind not in readers:
        raise block.fault(
            "type", f"{kind!r} cannot be sent; here it must be one of {', '.join(readers)}"
        )
    has_hint = _read_cache_control(block)
    part = readers[kind](block)
    block.end()
    part.cache_hint = has_hint
    return part


def _read_cache_control(block: Fields) -> bool:
    """Return whether a block marks the end of a static prefix."""
    if "cache_control" not in block:
        return False
    control = block.inner("cache_control")
    control.choice("type", ["ephemeral"])
    control.only("ttl", "5m", "a cache hint has no ttl; omit it")
    control.end()
    return True
