"""Blocks of Anthropic's answers that are not content for the caller, but must be sent back unchanged.

Summaries of a compacted conversation, marks of a fallback to another model, and the calls and results of
tools that the provider runs: after a pause, the provider continues from them, and it refuses thinking
around them if they are missing. They are carried as provider state: the JSON of the block.
"""

from __future__ import annotations

import msgspec

from ..json import join_surrogates, loads
from . import wire

CARRIED = frozenset(
    {
        "advisor_tool_result",
        "bash_code_execution_tool_result",
        "code_execution_tool_result",
        "compaction",
        "container_upload",
        "fallback",
        "mcp_tool_listing",
        "mcp_tool_result",
        "mcp_tool_use",
        "server_tool_use",
        "text_editor_code_execution_tool_result",
        "tool_search_tool_result",
        "web_fetch_tool_result",
        "web_search_tool_result",
    }
)
"""Types of blocks that are carried: all of the SDK's `BetaContentBlock` that are not content."""
MAX_CARRIED_CHARS = 2 * 2**20
"""Maximum length of all blocks of an answer that are carried, about 50 web searches. Others are dropped."""
MAX_CALLER_BYTES = 1024
"""Maximum size of the field `caller` of a tool call."""


class _Typed(msgspec.Struct):
    type: str = ""


class _Start(msgspec.Struct):
    content_block: dict[str, msgspec.Raw]


_starts = msgspec.json.Decoder(_Start)
_typed = msgspec.json.Decoder(_Typed)
_objects = msgspec.json.Decoder(dict[str, msgspec.Raw])


class CarriedBlock:
    """A block that is carried, between its start and its stop."""

    __slots__ = ("_fields", "_fragments", "chars")

    def __init__(self, payload: bytes) -> None:
        """`payload` is the event that starts the block."""
        try:
            self._fields = loads(_starts, _valid_utf8(payload), keep_surrogates=False).content_block
        except msgspec.DecodeError:
            self._fields = {}
        self._fragments: list[str] = []
        self.chars = sum(len(bytes(field)) for field in self._fields.values())
        """Length of what is kept."""

    def add(self, delta: wire.Delta) -> int:
        """Add a delta. Returns the number of characters by which it makes the block longer."""
        before = self.chars
        match delta.type:
            case "input_json_delta":
                fragment = delta.partial_json or ""
                self._fragments.append(fragment)
                self.chars += len(fragment)
            case "compaction_delta":
                self._set("content", delta.content)
                self._set("encrypted_content", delta.encrypted_content)
            case "signature_delta":
                self._set("signature", delta.signature)
            case _:
                pass  # unknown deltas
        return self.chars - before

    def state(self) -> bytes:
        """Return the JSON of the whole block, or b"" if it is incomplete."""
        if not self._fields:
            return b""
        if arguments := join_surrogates("".join(self._fragments)):
            self._fields["input"] = msgspec.Raw(arguments.encode())
            try:
                loads(_objects, arguments.encode(), keep_surrogates=False)
            except msgspec.DecodeError:
                return b""
        return msgspec.json.encode(self._fields)

    def _set(self, field: str, value: str | None) -> None:
        if value is not None:
            text = join_surrogates(value)
            self.chars += len(text)
            self._fields[field] = msgspec.Raw(msgspec.json.encode(text))


class _Caller(msgspec.Struct):
    caller: msgspec.Raw


_callers = msgspec.json.Decoder(_Caller)


def caller_state(caller: msgspec.Raw) -> bytes:
    """Return the state of a tool call that another tool made, or b"" if the model itself made it."""
    text = _valid_utf8(bytes(caller))
    if len(text) > MAX_CALLER_BYTES or _type_in(text) in ("", "direct"):
        return b""
    return msgspec.json.encode(_Caller(msgspec.Raw(text)))


def caller_in(state: bytes) -> msgspec.Raw | None:
    """Return the caller in the state of a tool call, or None if there is none."""
    try:
        caller = _callers.decode(state.decode()).caller
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return caller if caller_state(caller) else None


def carried_type(state: bytes) -> str:
    """Return the type of the block that a state carries, or "" if it carries none."""
    type_ = _type_in(state)
    return type_ if type_ in CARRIED else ""


def _type_in(state: bytes) -> str:
    """Return the `type` of a JSON object, or "" if it has none.

    A state is UTF-8 and has no lone surrogates, unless its caller changed it. Then it is ignored, because to
    replace surrogates takes up to 90 ms a MiB.
    """
    try:
        return _typed.decode(state.decode()).type
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""


def _valid_utf8(data: bytes) -> bytes:
    """Return the data with U+FFFD for what is not UTF-8. The provider would refuse it."""
    return data.decode(errors="replace").encode()
