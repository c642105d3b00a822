"""The `reasoning_details` of OpenRouter and MiniMax: reasoning that the provider needs back unchanged."""

from __future__ import annotations

from typing import Any

from ..json import dumps

MAX_DETAILS_CHARS = 2 * 2**20
"""Maximum size of the details of one block as JSON."""
MAX_DETAILS = 4096

_TEXT_KEYS = {"reasoning.text": "text", "reasoning.summary": "summary"}


class ReasoningDetails:
    """Collects the details of one block of reasoning.

    A stream contains a text in pieces, which are joined: consecutive details of one type with the same
    `index` and `id` are one. Of their other keys, such as `signature`, the last value counts. Above the
    maximum size there is no state at all, because an incomplete one is useless.
    """

    __slots__ = ("_chars", "_details")

    def __init__(self) -> None:
        self._details: list[tuple[dict[str, Any], list[str]]] = []
        """Each detail, and the pieces of its text."""
        self._chars = 0

    def add(self, pieces: list[Any]) -> None:
        for piece in pieces:
            if not isinstance(piece, dict):
                continue
            size = len(dumps(piece))
            self._chars += size or MAX_DETAILS_CHARS + 1  # 0: nested too deeply to be sent back
            if self._chars > MAX_DETAILS_CHARS or len(self._details) == MAX_DETAILS:
                self._chars = MAX_DETAILS_CHARS + 1
                self._details.clear()
                return
            text = _text(piece)
            if self._details and _is_same(self._details[-1][0], piece):
                detail, texts = self._details[-1]
                detail.update((key, value) for key, value in piece.items() if value is not None)
                texts.append(text)
            else:
                self._details.append((dict(piece), [text]))

    def take(self) -> bytes:
        """Return the details as a JSON array, and remove them. Empty if there are none."""
        details = []
        for detail, texts in self._details:
            if len(texts) > 1 and any(texts):
                detail[_TEXT_KEYS[detail["type"]]] = "".join(texts)
            details.append(detail)
        self._details = []
        self._chars = 0
        return dumps(details) if details else b""


def text_of(pieces: list[Any]) -> str:
    """Return the text that details show."""
    return "".join(_text(piece) for piece in pieces if isinstance(piece, dict))


def _text(detail: dict[str, Any]) -> str:
    type_ = detail.get("type")
    text = detail.get(_TEXT_KEYS.get(type_, "") if isinstance(type_, str) else "")
    return text if isinstance(text, str) else ""


def _is_same(last: dict[str, Any], piece: dict[str, Any]) -> bool:
    """Return whether a piece continues a detail. Its text may be missing: the signature comes alone."""
    type_ = piece.get("type")
    key = _TEXT_KEYS.get(type_) if isinstance(type_, str) else None
    return (
        key is not None
        and isinstance(piece.get(key), str | None)
        and last.get("type") == type_
        and last.get("index") == piece.get("index")
        and (last.get("id") == piece.get("id") or piece.get("id") is None)
    )
