r"""JSON of providers, UTF-16 surrogates included.

JSON's grammar allows `"\ud83d"`, half of a character, and providers send it: where a tokenizer cuts an
emoji between two tokens, each half travels in its own event (RFC 8259, section 8.2). The fast decoder
refuses such text, so it is read again, slower, by one that does not; halves that belong together are
then joined across events, and those left alone become U+FFFD.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import NoReturn, TypeVar

import msgspec

from ...events import Delta, ReasoningDelta, TextDelta, ToolCall, ToolCallDelta, ToolCallStarted

MAX_LOG_TEXT_BYTES = 2000

_T = TypeVar("_T")

_ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_TO_HALF = re.compile(  # everything before a half alone: text, pairs and other escapes
    rb"((?:[^\\]++"
    rb"|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|\\(?!u[dD][89a-fA-F][0-9a-fA-F]{2})(?:.|\Z))*+)"
    rb"(\\u[dD][89a-fA-F][0-9a-fA-F]{2}|\Z)",
    re.DOTALL,
)


def loads(decoder: msgspec.json.Decoder[_T], data: bytes, *, keeps_halves: bool = True) -> _T:
    """Decode, and let halves of characters pass: strings may then hold lone surrogates.

    Text from it must go through `SurrogateJoiner` or `join_surrogates` before anything encodes it.
    Without `keeps_halves`, and where the type holds `msgspec.Raw`, halves become U+FFFD at once; without it
    that takes 8 ms for 2 MiB, otherwise up to 500 ms. Raises `msgspec.DecodeError` for whatever is wrong
    with the data, `msgspec.ValidationError` of it when it is JSON of another shape.
    """
    try:
        return decoder.decode(data)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if not _ESCAPED_SURROGATE.search(data):
            raise msgspec.DecodeError(str(error)) from error
    if keeps_halves:
        try:
            value = json.loads(data.decode(), parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            raise msgspec.DecodeError(str(error)) from error
        with suppress(
            msgspec.ValidationError, UnicodeEncodeError
        ):  # always if the type contains Raw
            return msgspec.convert(value, decoder.type)
    try:
        return decoder.decode(_TO_HALF.sub(_replace_half, data))
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from error


def join_surrogates(text: str) -> str:
    """Join the halves of characters within a text. Those without their other half become U+FFFD."""
    if is_encodable(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def is_encodable(text: str) -> bool:
    """Whether a text has no surrogates, so that UTF-8 and protobuf can carry it."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def log_text(payload: bytes, error: Exception) -> str:
    """What the log may hold of an event that cannot be read.

    Broken JSON may be a piece of the answer, which no log gets; prose is a server's or a proxy's error.
    """
    if payload.lstrip().startswith(b"{"):
        return f"{len(payload)} bytes: {error}"
    return payload[:MAX_LOG_TEXT_BYTES].decode(errors="replace")


class SurrogateJoiner:
    """Joins the halves of characters across the deltas of one answer.

    A first half at the end of a delta is held until the block's next delta; that is at most one code
    unit for each open block. It becomes U+FFFD when its block ends without the other half, at the
    latest in `flush`.
    """

    __slots__ = ("_held", "_held_text_index")

    def __init__(self) -> None:
        self._held: dict[int, TextDelta | ReasoningDelta | ToolCallDelta] = {}
        """By index: a delta of nothing but the first half."""
        self._held_text_index: int | None = None
        """Index of the only held delta that belongs to no tool call. The next block ends it."""

    def mend(self, deltas: list[Delta]) -> list[Delta]:
        """Return the deltas without surrogates; the same list when there were none."""
        if not self._held and all(map(_is_whole, deltas)):
            return deltas
        mended: list[Delta] = []
        for delta in deltas:
            self._end_others(delta, mended)
            match delta:
                case TextDelta(index=index):
                    if text := self._join(index, delta.text, delta):
                        mended.append(TextDelta(text, index))
                case ReasoningDelta(index=index, signature=""):
                    if text := self._join(index, delta.text, delta):
                        mended.append(ReasoningDelta(text, index))
                case ReasoningDelta(index=index):
                    text = join_surrogates(self._take(index) + delta.text)
                    mended.append(ReasoningDelta(text, index, join_surrogates(delta.signature)))
                case ToolCallDelta(index=index):
                    if text := self._join(index, delta.arguments_json, delta):
                        mended.append(ToolCallDelta(index, text))
                case ToolCallStarted():
                    id_, name = join_surrogates(delta.id), join_surrogates(delta.name)
                    mended.append(ToolCallStarted(delta.index, id_, name))
                case ToolCall():
                    id_, name = join_surrogates(delta.id), join_surrogates(delta.name)
                    arguments = join_surrogates(delta.arguments_json)
                    mended.append(ToolCall(delta.index, id_, name, arguments))
        return mended

    def flush(self) -> list[Delta]:
        """The answer ended: return what is still held."""
        held, self._held = self._held, {}
        self._held_text_index = None
        return [_replacement(delta) for delta in held.values()]

    def _join(
        self, index: int, text: str, delta: TextDelta | ReasoningDelta | ToolCallDelta
    ) -> str:
        text = self._take(index) + text
        if "\ud800" <= text[-1:] <= "\udbff":
            self._held[index] = _with_text(delta, text[-1])
            if not isinstance(delta, ToolCallDelta):
                self._held_text_index = index
            text = text[:-1]
        return join_surrogates(text)

    def _take(self, index: int) -> str:
        held = self._pop(index)
        if held is None:
            return ""
        return held.arguments_json if isinstance(held, ToolCallDelta) else held.text

    def _end_others(self, delta: Delta, mended: list[Delta]) -> None:
        """End the blocks that must have ended before this delta. Only tool calls may be interleaved."""
        if isinstance(delta, ToolCall) and (held := self._pop(delta.index)) is not None:
            mended.append(_replacement(held))
        index = self._held_text_index
        if index is not None and index != delta.index and (held := self._pop(index)) is not None:
            mended.append(_replacement(held))

    def _pop(self, index: int) -> TextDelta | ReasoningDelta | ToolCallDelta | None:
        if index == self._held_text_index:
            self._held_text_index = None
        return self._held.pop(index, None)


def _is_whole(delta: Delta) -> bool:
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


def _replacement(held: TextDelta | ReasoningDelta | ToolCallDelta) -> Delta:
    return _with_text(held, "\ufffd")


def _replace_half(found: re.Match[bytes]) -> bytes:
    return found[1] + rb"\ufffd" if found[2] else found[1]


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
