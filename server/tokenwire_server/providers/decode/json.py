r"""Decoding of providers' JSON, including lone UTF-16 surrogates.

JSON allows `"\ud83d"`, one half of a surrogate pair (RFC 8259, section 8.2). Providers send it: if a
tokenizer cuts an emoji between two tokens, each half arrives in a separate event. The fast decoder refuses
such text, so it is decoded again by a slower decoder that accepts it. Halves that belong together are then
joined across events. Other halves become U+FFFD.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NoReturn, TypeVar, cast

import msgspec

from ...events import (
    Citation,
    Delta,
    InvalidToolCall,
    Logprobs,
    Notice,
    ReasoningDelta,
    TextDelta,
    TextInfo,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
    ToolCallStarted,
)

MAX_LOG_TEXT_BYTES = 2000

_T = TypeVar("_T")

_ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_TO_LONE_SURROGATE = re.compile(  # all before a lone surrogate: text, pairs and other escapes
    rb"((?:[^\\]++"
    rb"|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|\\(?!u[dD][89a-fA-F][0-9a-fA-F]{2})(?:.|\Z))*+)"
    rb"(\\u[dD][89a-fA-F][0-9a-fA-F]{2}|\Z)",
    re.DOTALL,
)


def loads(decoder: msgspec.json.Decoder[_T], data: bytes, *, keep_surrogates: bool = True) -> _T:
    """Decode JSON. Strings in the result may contain lone surrogates.

    Pass them through `SurrogateJoiner` or `join_surrogates` before they are encoded. Without
    `keep_surrogates`, or if the type contains `msgspec.Raw`, lone surrogates become U+FFFD here. For 2 MiB
    this takes up to 200 ms without `keep_surrogates`, otherwise up to 500 ms. Raises `msgspec.DecodeError`
    for invalid data, and its subclass `msgspec.ValidationError` for JSON of another type.
    """
    try:
        return decoder.decode(data)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if not _ESCAPED_SURROGATE.search(data):
            raise msgspec.DecodeError(str(error)) from error
    if keep_surrogates:
        try:
            value = json.loads(data.decode(), parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            raise msgspec.DecodeError(str(error)) from error
        with suppress(
            msgspec.ValidationError, UnicodeEncodeError
        ):  # always if the type contains Raw
            return msgspec.convert(value, decoder.type)
    try:
        return decoder.decode(_TO_LONE_SURROGATE.sub(_replace_surrogate, data))
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from error


def dumps(value: Any) -> bytes:
    """Encode a decoded value as JSON. Lone surrogates become U+FFFD. Empty if it is nested too deeply."""
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except RecursionError:
        return b""
    return join_surrogates(text).encode()


def join_surrogates(text: str) -> str:
    """Join surrogate pairs within a text. Lone surrogates become U+FFFD."""
    if is_encodable(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def is_encodable(text: str) -> bool:
    """Return whether a text has no surrogates, so that it can be encoded as UTF-8."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def log_text(payload: bytes, error: Exception) -> str:
    """Return a description, for the log, of an event that cannot be decoded.

    Invalid JSON may be a piece of the answer, which must not be logged. Other text is the error message of
    a server or a proxy.
    """
    if payload.lstrip().startswith((b"{", b"[", b'"')):
        return f"{len(payload)} bytes: {error}"
    return payload[:MAX_LOG_TEXT_BYTES].decode(errors="replace")


class SurrogateJoiner:
    """Joins surrogate pairs across the deltas of one answer.

    If a delta ends with the first half of a pair, the half is kept until the block's next delta. That is at
    most one code unit for each open block. It becomes U+FFFD if its block ends without the other half, at
    the latest in `flush`.
    """

    __slots__ = ("_text_half_index", "halves")

    def __init__(self) -> None:
        self.halves: dict[int, TextDelta | ReasoningDelta | ToolCallDelta] = {}
        """Deltas of only a first half, by index."""
        self._text_half_index: int | None = None
        """Index of the only half that does not belong to a tool call. The next block ends it."""

    def join(self, deltas: list[Delta]) -> list[Delta]:
        """Return the deltas without surrogates. Without changes, it is the same list."""
        if not self.halves and all(map(_has_no_surrogates, deltas)):
            return deltas
        joined: list[Delta] = []
        for delta in deltas:
            self._end_others(delta, joined)
            match delta:
                case TextDelta(index=index):
                    if text := self._join_text(index, delta.text, delta):
                        joined.append(TextDelta(text, index))
                case ReasoningDelta(index=index, signature="", provider_state=b""):
                    if text := self._join_text(index, delta.text, delta):
                        joined.append(ReasoningDelta(text, index))
                case ReasoningDelta(index=index):
                    text = join_surrogates(self._take(index) + delta.text)
                    signature = join_surrogates(delta.signature)
                    joined.append(ReasoningDelta(text, index, signature, delta.provider_state))
                case ToolCallDelta(index=index):
                    if text := self._join_text(index, delta.arguments_json, delta):
                        joined.append(ToolCallDelta(index, text))
                case ToolCallStarted():
                    id_, name = join_surrogates(delta.id), join_surrogates(delta.name)
                    joined.append(ToolCallStarted(delta.index, id_, name))
                case ToolCall():
                    id_, name = join_surrogates(delta.id), join_surrogates(delta.name)
                    arguments = join_surrogates(delta.arguments_json)
                    joined.append(ToolCall(delta.index, id_, name, arguments, delta.provider_state))
                case InvalidToolCall() | Citation() | Logprobs() | Notice():
                    joined.append(_without_surrogates(delta))
                case TextInfo():
                    joined.append(delta)
        return joined

    def flush(self) -> list[Delta]:
        """Return replacements for the halves that are left at the end of the answer."""
        halves, self.halves = self.halves, {}
        self._text_half_index = None
        return [_replacement(half) for half in halves.values()]

    def _join_text(
        self, index: int, text: str, delta: TextDelta | ReasoningDelta | ToolCallDelta
    ) -> str:
        text = self._take(index) + text
        if "\ud800" <= text[-1:] <= "\udbff":
            self.halves[index] = _with_text(delta, text[-1])
            if not isinstance(delta, ToolCallDelta):
                self._text_half_index = index
            text = text[:-1]
        return join_surrogates(text)

    def _take(self, index: int) -> str:
        half = self._pop(index)
        if half is None:
            return ""
        return half.arguments_json if isinstance(half, ToolCallDelta) else half.text

    def _end_others(self, delta: Delta, joined: list[Delta]) -> None:
        """End the blocks that must have ended before this delta. Only tool calls may be interleaved."""
        if isinstance(delta, Logprobs | Notice):
            return  # they do not belong to the sequence of blocks
        if (
            isinstance(delta, ToolCall | InvalidToolCall)
            and (half := self._pop(delta.index)) is not None
        ):
            joined.append(_replacement(half))
        index = self._text_half_index
        if index is not None and index != delta.index and (half := self._pop(index)) is not None:
            joined.append(_replacement(half))

    def _pop(self, index: int) -> TextDelta | ReasoningDelta | ToolCallDelta | None:
        if index == self._text_half_index:
            self._text_half_index = None
        return self.halves.pop(index, None)


def _has_no_surrogates(delta: Delta) -> bool:
    match delta:
        case TextDelta():
            return is_encodable(delta.text)
        case ReasoningDelta():
            return is_encodable(delta.text) and is_encodable(delta.signature)
        case ToolCallDelta():
            return is_encodable(delta.arguments_json)
        case ToolCallStarted():
            return is_encodable(delta.id) and is_encodable(delta.name)
        case ToolCall():
            return (
                is_encodable(delta.id)
                and is_encodable(delta.name)
                and is_encodable(delta.arguments_json)
            )
        case InvalidToolCall() | Citation() | Logprobs() | Notice():
            return all(map(is_encodable, _texts(delta)))
        case TextInfo():
            return True


def _texts(value: InvalidToolCall | Citation | Logprobs | Notice | TokenLogprob) -> Iterator[str]:
    """Yield all texts of a delta."""
    for field in msgspec.structs.astuple(value):
        if isinstance(field, str):
            yield field
        elif isinstance(field, tuple):
            for token in field:
                yield from _texts(token)


def _without_surrogates(value: _T) -> _T:
    """Return a struct without surrogates in its texts."""
    if isinstance(value, tuple):
        return cast("_T", tuple(map(_without_surrogates, value)))
    if isinstance(value, str):
        return cast("_T", join_surrogates(value))
    if isinstance(value, msgspec.Struct):
        return cast("_T", type(value)(*map(_without_surrogates, msgspec.structs.astuple(value))))
    return value


def _with_text(
    delta: TextDelta | ReasoningDelta | ToolCallDelta, text: str
) -> TextDelta | ReasoningDelta | ToolCallDelta:
    match delta:
        case TextDelta():
            return TextDelta(text, delta.index)
        case ReasoningDelta():
            return ReasoningDelta(text, delta.index)
        case ToolCallDelta():
            return ToolCallDelta(delta.index, text)


def _replacement(half: TextDelta | ReasoningDelta | ToolCallDelta) -> Delta:
    return _with_text(half, "\ufffd")


def _replace_surrogate(found: re.Match[bytes]) -> bytes:
    return found[1] + rb"\ufffd" if found[2] else found[1]


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
