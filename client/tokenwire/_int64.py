"""Integers in metadata: int64 values as decimal text."""

from __future__ import annotations

MAX_DIGITS = 18


def parse_int64(text: str | None) -> int | None:
    """Return the integer, or None if the text is missing or not an integer."""
    if text is None:
        return None
    digits = text.removeprefix("-")
    if not digits.isascii() or not digits.isdecimal() or len(digits) > MAX_DIGITS:
        return None
    return int(text)


def parse_count(text: str | None) -> int | None:
    """Return the integer, or None if the text is missing, not an integer, or negative."""
    number = parse_int64(text)
    return None if number is None or number < 0 else number
